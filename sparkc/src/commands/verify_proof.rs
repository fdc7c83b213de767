//! `sparkc verify-proof`: checks a certificate of the optimiser with the independent checker.

use anyhow::{Context, Result};
use proof::Checked;
use serde_json::{Value, json};

use crate::cli::VerifyProofArgs;
use crate::exit::Exit;
use crate::output;
use crate::report::{self, Style};

/// Most bytes read: certificates of the largest blocks have a hundredth of it.
const LIMIT: u64 = 256 << 20;

/// Runs it; the exit code says whether the certificate proves what it says.
///
/// # Errors
/// A file that cannot be read.
pub fn run(args: &VerifyProofArgs) -> Result<Exit> {
    let text = output::read_text(&args.file, LIMIT)
        .with_context(|| format!("certificate `{}`", args.file.display()))?;
    let found = proof::check(&text);
    if args.json {
        output::print_json(&match &found {
            Ok(checked) => as_json(checked),
            Err(error) => {
                json!({ "proven": false, "code": error.code(), "error": error.to_string() })
            }
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
        Err(error) => {
            crate::say(&format!("error [{}]: refused: {error}\n", error.code()));
            Ok(Exit::BadInput)
        }
    }
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
