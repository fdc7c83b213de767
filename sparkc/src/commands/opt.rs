//! `sparkc opt`: chosen passes on a .spark file.

use anyhow::Result;
use frontend::OpenOptions;
use passes::{Level, NeutralCost, RunOptions};
use serde_json::json;

use crate::cli::OptArgs;
use crate::exit::Fault;
use crate::report::built::pass_list_json;
use crate::{driver, output};

/// Runs it.
///
/// # Errors
/// A file that is no module, a pipeline that does not parse, a pass that fails.
pub fn run(args: &OptArgs) -> Result<()> {
    let options = OpenOptions { weights: args.weights.clone(), ..OpenOptions::default() };
    let model = frontend::open(&args.file, &options)?;
    let mut module = model.module;
    let list = pipeline(&args.passes);
    if let Some(only) = args.print_after.as_deref().filter(|&only| only != "all") {
        position(list, only, "--print-after")?;
    }
    let report = {
        let dump = |index: usize, pass: &'static str, changed: bool, module: &ir::Module| {
            if !args.print_after.as_ref().is_some_and(|only| only == "all" || only == pass) {
                return;
            }
            let note = if changed { "" } else { " (no change)" };
            crate::say(&format!("// after {index}: {pass}{note}\n{module}\n"));
        };
        let run_options = RunOptions {
            tier: driver::tier(args.numerics),
            stop_after: args.stop_after.as_ref().map(|stop| last_pass(list, stop)).transpose()?,
            prove: args.proof.is_some(),
            observe: Some(Box::new(dump)),
            weights: model.weights.as_ref().map(|w| w as &dyn ir::WeightSource),
            ..RunOptions::default()
        };
        passes::run(list, &mut module, &NeutralCost, run_options)?
    };
    if let Some(path) = &args.proof {
        if report.proof.text.is_empty() {
            let fault = Fault::bad_input(
                "SPK5023",
                "these passes search no e-graph, there is nothing to prove",
            );
            return Err(fault.advise("--passes O2, or a list with egraph in it").into());
        }
        output::write_named(path, report.proof.text.as_bytes())?;
    }
    let text = module.compact().to_string();
    if let Some(path) = &args.output {
        output::write_named(path, text.as_bytes())?;
    }
    match (args.json, &args.output) {
        (true, _) => {
            let passes = pass_list_json(&report);
            output::print_json(&json!({ "module": text, "passes": passes }))
        }
        (false, None) => output::print(&text),
        (false, Some(_)) => Ok(()),
    }
}

/// The pipeline of a level, or the list as it was given.
pub(super) fn pipeline(list: &str) -> &str {
    match Level::ALL.into_iter().find(|level| format!("{level:?}") == list) {
        Some(level) => level.pipeline(),
        None => list,
    }
}

/// How many passes to run: a number, or up to the first of a name.
fn last_pass(list: &str, stop: &str) -> Result<usize> {
    if let Ok(count) = stop.parse() {
        return Ok(count);
    }
    Ok(position(list, stop, "--stop-after")? + 1)
}

/// Where a pass stands in a list; an option asks.
fn position(list: &str, name: &str, option: &str) -> Result<usize> {
    let steps = passes::pipeline::parse(list)?;
    steps.iter().position(|step| step.name == name).ok_or_else(|| {
        let names: Vec<&str> = steps.iter().map(|s| s.name.as_str()).collect();
        let message = format!("{option}: `{name}` is not among the passes");
        let fault = Fault::bad_input("SPK5024", message);
        fault.advise(format!("one of {}", names.join(", "))).into()
    })
}
