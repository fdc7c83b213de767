//! `sparkc opt`: chosen passes on a .spark file.

use anyhow::Result;
use frontend::OpenOptions;
use passes::{Level, NeutralCost, Report, RunOptions};
use serde_json::{Value, json};

use crate::cli::OptArgs;
use crate::{driver, output};

/// Runs it.
///
/// # Errors
/// A file that is no module, a pipeline that does not parse, a pass that fails.
pub fn run(args: &OptArgs) -> Result<()> {
    let options = OpenOptions { weights: args.weights.clone(), ..OpenOptions::default() };
    let model = frontend::open(&args.file, &options)?;
    let mut module = model.module;
    let report = {
        let dump = |index: usize, pass: &'static str, changed: bool, module: &ir::Module| {
            let note = if changed { "" } else { " (no change)" };
            crate::say(&format!("// after {index}: {pass}{note}\n{module}\n"));
        };
        let run_options = RunOptions {
            tier: driver::tier(args.numerics),
            observe: args.print_after.then(|| Box::new(dump) as _),
            weights: model.weights.as_ref().map(|w| w as &dyn ir::WeightSource),
            ..RunOptions::default()
        };
        passes::run(pipeline(&args.passes), &mut module, &NeutralCost, run_options)?
    };
    let text = module.compact().to_string();
    if let Some(path) = &args.output {
        output::write_file(path, text.as_bytes())?;
    }
    match (args.json, &args.output) {
        (true, _) => output::print_json(&as_json(&report, &text)),
        (false, None) => output::print(&text),
        (false, Some(_)) => Ok(()),
    }
}

/// The pipeline of a level, or the list as it was given.
fn pipeline(list: &str) -> &str {
    match Level::ALL.into_iter().find(|level| format!("{level:?}") == list) {
        Some(level) => level.pipeline(),
        None => list,
    }
}

fn as_json(report: &Report, text: &str) -> Value {
    let passes: Vec<Value> = report
        .passes
        .iter()
        .map(|pass| {
            let warnings: Vec<Value> =
                pass.warnings.iter().map(|w| json!({ "code": w.code, "text": w.text })).collect();
            json!({
                "name": pass.name,
                "changed": pass.changed,
                "nodes_before": pass.nodes.0,
                "nodes_after": pass.nodes.1,
                "warnings": warnings,
            })
        })
        .collect();
    json!({ "module": text, "passes": passes })
}
