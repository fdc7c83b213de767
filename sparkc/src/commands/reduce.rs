//! `sparkc reduce`: the smallest module in which passes still do what they do to this one.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use frontend::OpenOptions;
use ir::{Module, WeightSource};
use serde_json::json;

use super::differential::outcome;
use super::opt::pipeline;
use crate::cli::ReduceArgs;
use crate::exit::Fault;
use crate::report::progress::Progress;
use crate::{driver, output};

/// Runs it.
///
/// # Errors
/// A file that is no module, a pipeline that does not parse, a module that shows nothing.
pub fn run(args: &ReduceArgs) -> Result<()> {
    let options = OpenOptions { weights: args.weights.clone(), ..OpenOptions::default() };
    let model = frontend::open(&args.file, &options)?;
    let (module, list, tier) = (model.module, pipeline(&args.passes), driver::tier(args.numerics));
    for step in passes::pipeline::parse(list)? {
        passes::find_pass(&step.name)?;
    }
    let weights = model.weights.as_ref().map(|w| w as &dyn WeightSource);
    // Panics are what is looked for: their messages are not for the terminal.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let before = outcome(&module, list, tier, weights);
    let progress = Progress::new();
    let size = |m: &Module| m.graphs().map(|g| g.order().len()).sum::<usize>();
    let reduced = match &args.command {
        Some(command) => Asker::new(command).and_then(|mut asker| {
            if !asker.ask(&module)? {
                let message = format!("`{command}` fails on the whole module");
                return Err(Fault::bad_input(message).advise("it must exit with 0 there").into());
            }
            let mut shows = |m: &Module| asker.ask(m).unwrap_or(false);
            Ok(passes::reduce(module.clone(), args.limit, &mut shows)?)
        }),
        None if !before.is_fault() => {
            let fault = Fault::bad_input(format!("nothing to reduce: after {list} it {before}"));
            Err(fault.advise("other --passes or --numerics, or --command").into())
        }
        None => {
            let mut shows = |m: &Module| outcome(m, list, tier, weights).is_like(&before);
            passes::reduce(module.clone(), args.limit, &mut shows).map_err(Into::into)
        }
    };
    std::panic::set_hook(hook);
    progress.finish();
    let reduced = reduced?;
    let text = reduced.module.compact().to_string();
    if let Some(path) = &args.output {
        output::write_file(path, text.as_bytes())?;
    }
    let sizes = (size(&module), size(&reduced.module));
    let shows = match &args.command {
        Some(command) => command.clone(),
        None => before.to_string(),
    };
    if args.json {
        return output::print_json(&json!({
            "module": text,
            "shows": shows,
            "nodes_before": sizes.0,
            "nodes_after": sizes.1,
            "asked": reduced.asked,
        }));
    }
    let asked = reduced.asked;
    crate::say(&format!("{} of {} nodes left, {asked} tries: {shows}\n", sizes.1, sizes.0));
    if args.output.is_some() { Ok(()) } else { output::print(&text) }
}

/// Asks a command about modules, through a file.
struct Asker<'a> {
    command: &'a str,
    folder: tempfile::TempDir,
}

impl<'a> Asker<'a> {
    fn new(command: &'a str) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        Ok(Asker { command, folder })
    }

    /// Whether the command exits with 0.
    fn ask(&mut self, module: &Module) -> Result<bool> {
        let file = self.folder.path().join("case.spark");
        std::fs::write(&file, module.compact().to_string())
            .with_context(|| format!("cannot write `{}`", file.display()))?;
        let quoted = format!("'{}'", file.display().to_string().replace('\'', r"'\''"));
        let command = self.command.replace("{}", &quoted);
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).stdin(Stdio::null());
        let status = shell.stdout(Stdio::null()).stderr(Stdio::null()).status();
        Ok(status.with_context(|| format!("cannot run `{command}`"))?.success())
    }
}
