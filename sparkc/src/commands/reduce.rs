//! `sparkc reduce`: the smallest module in which passes still do what they do to this one.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
        Some(command) => Asker::new(command, args.timeout).and_then(|mut asker| {
            if !asker.ask(&module)? {
                let message = format!("`{command}` fails on the whole module");
                let advice =
                    format!("it must exit with 0 there, within {} s (--timeout)", args.timeout);
                return Err(Fault::bad_input("SPK5019", message).advise(advice).into());
            }
            let mut shows = |m: &Module| asker.ask(m).unwrap_or(false);
            Ok(passes::reduce(module.clone(), args.limit, &mut shows)?)
        }),
        None if !before.is_fault() => {
            let fault =
                Fault::bad_input("SPK5019", format!("nothing to reduce: after {list} it {before}"));
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
        output::write_named(path, text.as_bytes())?;
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
    /// The most that one answer takes.
    limit: Duration,
    folder: tempfile::TempDir,
}

impl<'a> Asker<'a> {
    fn new(command: &'a str, seconds: u64) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        Ok(Asker { command, limit: Duration::from_secs(seconds), folder })
    }

    /// Whether the command exits with 0 in time.
    fn ask(&mut self, module: &Module) -> Result<bool> {
        let file = self.folder.path().join("case.spark");
        std::fs::write(&file, module.compact().to_string())
            .with_context(|| format!("cannot write `{}`", file.display()))?;
        let quoted = format!("'{}'", file.display().to_string().replace('\'', r"'\''"));
        let command = self.command.replace("{}", &quoted);
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).stdin(Stdio::null());
        // A group of its own, so that what the shell starts ends with it.
        shell.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = shell.spawn().with_context(|| format!("cannot run `{command}`"))?;
        let (end, mut pause) = (Instant::now() + self.limit, Duration::from_micros(200));
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            if Instant::now() >= end {
                let group = format!("-{}", child.id());
                let killed = Command::new("kill").args(["-KILL", "--", &group]).status();
                if !killed.is_ok_and(|s| s.success()) {
                    child.kill()?;
                }
                child.wait()?;
                return Ok(false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}
