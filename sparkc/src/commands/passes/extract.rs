//! `sparkc passes extract`: the exact extractor on an e-graph of somebody else.

use anyhow::{Context, Result};
use passes::extract::Limits;
use passes::extract::gym::Gym;
use serde_json::{Map, Value, json};

use crate::cli::ExtractArgs;
use crate::report;
use crate::{input, output};

/// Most bytes read: the largest public e-graphs have a tenth of it.
const LIMIT: u64 = 1 << 30;

/// Runs it.
///
/// # Errors
/// A file that is no e-graph, or one whose roots cannot be extracted.
pub(super) fn run(args: &ExtractArgs) -> Result<()> {
    let name = || format!("e-graph `{}`", args.file.display());
    let text = input::read_text(&args.file, LIMIT).with_context(name)?;
    let egraph = Gym::parse(&text).with_context(name)?;
    let found = egraph.solve(Limits { work: args.work }).with_context(name)?;
    let (nodes, classes) = egraph.size();
    let gap = found.cost - found.bound;
    if args.json {
        let choices: Map<String, Value> =
            found.choices.into_iter().map(|(class, node)| (class, json!(node))).collect();
        return output::print_json(&json!({
            "e_nodes": nodes,
            "e_classes": classes,
            "cost": found.cost,
            "bound": found.bound,
            "gap": gap,
            "optimal": gap == 0.0,
            "work": found.work,
            "choices": choices,
        }));
    }
    let proven = if gap == 0.0 {
        "optimal".to_string()
    } else {
        format!("at most {} too dear", number(gap))
    };
    output::print(&format!(
        "{} e-nodes in {} e-classes: cost {}, {proven}; {} classes picked\n",
        report::grouped(nodes as u64),
        report::grouped(classes as u64),
        number(found.cost),
        report::grouped(found.choices.len() as u64)
    ))
}

/// A cost for people: with an exponent where it would be a long row of digits.
fn number(cost: f64) -> String {
    let short = cost == 0.0 || (1e-4..1e15).contains(&cost);
    if short { format!("{cost}") } else { format!("{cost:e}") }
}
