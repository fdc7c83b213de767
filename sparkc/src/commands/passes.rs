//! `sparkc passes`: every pass with its options, the pipelines of the optimisation levels, and every
//! rewrite rule.

mod bound;
mod extract;
mod fuzz;
mod verify_rules;

use anyhow::Result;
use passes::{Level, PassInfo, RuleInfo};
use serde_json::{Value, json};

use crate::cli::{PassesArgs, PassesCommand};
use crate::output;
use crate::report::table::Table;
use crate::report::{self, Style};

/// Runs it.
///
/// # Errors
/// What a subcommand finds wrong.
pub fn run(args: &PassesArgs) -> Result<()> {
    match &args.command {
        Some(PassesCommand::Extract(args)) => return extract::run(args),
        Some(PassesCommand::VerifyRules(args)) => return verify_rules::run(args),
        Some(PassesCommand::Fuzz(args)) => return fuzz::run(args),
        Some(PassesCommand::Bound(args)) => return bound::run(args),
        None => {}
    }
    if args.json {
        let passes: Vec<Value> = passes::passes().iter().map(as_json).collect();
        let levels: Vec<Value> = Level::ALL
            .iter()
            .map(|level| json!({ "name": format!("{level:?}"), "pipeline": level.pipeline() }))
            .collect();
        let rules: Vec<Value> = passes::rewrite_rules().iter().map(rule_json).collect();
        let object = json!({ "passes": passes, "levels": levels, "rewrites": rules });
        return output::print_json(&object);
    }
    let colored = report::stdout_colored();
    let mut text = String::new();
    for pass in passes::passes() {
        text.push_str(&format!(
            "{} {}\n  {}\n",
            Style::Bold.paint(pass.name, colored),
            Style::Dim.paint(&format!("({})", pass.tier), colored),
            pass.summary
        ));
        for option in pass.options {
            let default = if option.default.is_empty() { "\"\"" } else { option.default };
            let name = Style::Accent.paint(&format!("{}={default}", option.name), colored);
            text.push_str(&format!("    {name}  {}\n", option.summary));
        }
    }
    text.push_str(&format!("\n{}\n", Style::Bold.paint("Pipelines", colored)));
    for level in Level::ALL {
        text.push_str(&format!("  {level:?}  {}\n", level.pipeline()));
    }
    text.push_str(&format!("\n{}\n", Style::Bold.paint("Rewrites", colored)));
    let mut table = Table::new(&["name", "tier", "because"]);
    for rule in passes::rewrite_rules() {
        table.row([rule.name, rule.tier.name(), rule.why]);
    }
    text.push_str(&table.render(colored));
    output::print(&text)
}

fn rule_json(rule: &RuleInfo) -> Value {
    json!({
        "name": rule.name,
        "tier": rule.tier.name(),
        "why": rule.why,
        "from": rule.lhs,
        "to": rule.rhs,
        "condition": rule.condition,
    })
}

fn as_json(pass: &PassInfo) -> Value {
    let options: Vec<Value> = pass
        .options
        .iter()
        .map(|o| json!({ "name": o.name, "default": o.default, "summary": o.summary }))
        .collect();
    json!({
        "name": pass.name,
        "summary": pass.summary,
        "tier": pass.tier.name(),
        "options": options,
    })
}
