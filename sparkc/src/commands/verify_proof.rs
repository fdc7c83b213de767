//! `sparkc verify-proof`: checks a certificate of the optimiser with the independent checker.

use std::path::Path;

use anyhow::{Context, Result};
use frontend::OpenOptions;
use passes::{Level, NeutralCost, RunOptions};
use proof::Checked;
use serde_json::{Value, json};

use crate::cli::VerifyProofArgs;
use crate::exit::Exit;
use crate::report::{self, Style};
use crate::{driver, input, output};

/// Runs it; the exit code says whether the certificate proves what it says.
///
/// # Errors
/// A file that cannot be read.
pub fn run(args: &VerifyProofArgs) -> Result<Exit> {
    let text = input::read_text(&args.file, input::TEXT)
        .with_context(|| format!("certificate `{}`", args.file.display()))?;
    let found = proof::check(&text).map_err(|e| (e.code(), e.to_string()));
    let found = match (found, &args.model) {
        (Ok(checked), Some(model)) => match other_model(&checked, model, args)? {
            None => Ok(checked),
            Some(why) => Err(("SPK3308", why)),
        },
        (found, _) => found,
    };
    if args.json {
        output::print_json(&match &found {
            Ok(checked) => as_json(checked),
            Err((code, error)) => json!({ "proven": false, "code": code, "error": error }),
        })?;
        return Ok(if found.is_ok() { Exit::Ok } else { Exit::BadInput });
    }
    match found {
        Ok(checked) => {
            let proven = Style::Advice.paint("proven", report::stdout_colored());
            let mut text = format!("{proven}, numbers at {}\n", checked.tier);
            for graph in &checked.graphs {
                let rules = graph.rules.join(", ");
                text.push_str(&format!("  @{}: {} steps ({rules})\n", graph.name, graph.steps));
            }
            output::print(&text)?;
            Ok(Exit::Ok)
        }
        Err((code, error)) => {
            crate::say(&format!("error [{code}]: refused: {error}\n"));
            Ok(Exit::BadInput)
        }
    }
}

/// Why a certificate is not about a model: it starts from other graphs than the clean-up passes make of it.
fn other_model(checked: &Checked, path: &Path, args: &VerifyProofArgs) -> Result<Option<String>> {
    let options =
        OpenOptions { context: args.context.map(|c| c as usize), ..OpenOptions::default() };
    let model = frontend::open(path, &options)?;
    let mut module = model.module;
    let pipeline = Level::O2.pipeline();
    let steps = passes::pipeline::parse(pipeline)?;
    let run_options = RunOptions {
        tier: checked.tier.to_string().parse()?,
        quant: driver::quant(args.quant),
        stop_after: steps.iter().position(|s| s.name == "egraph"),
        ..RunOptions::default()
    };
    passes::run(pipeline, &mut module, &NeutralCost, run_options)?;
    let count = module.graphs().count();
    if count != checked.graphs.len() {
        let found = checked.graphs.len();
        return Ok(Some(format!("it is about {found} graphs, the model has {count}")));
    }
    for graph in module.graphs() {
        let name = &graph.name;
        let Some(proven) = checked.graphs.iter().find(|g| g.name == *name) else {
            return Ok(Some(format!("it says nothing about graph {name}")));
        };
        let expected = passes::statement(graph)?;
        let lines = expected.lines().zip(proven.before.lines());
        if let Some((wanted, found)) = lines.into_iter().find(|(a, b)| a != b) {
            return Ok(Some(format!(
                "graph {name}: it is about `{found}`, the model has `{wanted}`"
            )));
        }
        if expected != proven.before {
            return Ok(Some(format!("graph {name}: it is about a graph of another length")));
        }
    }
    Ok(None)
}

fn as_json(checked: &Checked) -> Value {
    let graphs: Vec<Value> = checked
        .graphs
        .iter()
        .map(|g| {
            json!({
                "graph": g.name,
                "steps": g.steps,
                "rules": g.rules,
                "before": g.before,
                "after": g.after,
            })
        })
        .collect();
    json!({ "proven": true, "tier": checked.tier.to_string(), "graphs": graphs })
}
