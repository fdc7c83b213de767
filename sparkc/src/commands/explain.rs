//! `sparkc explain`: one rewrite, for people.

use anyhow::Result;
use serde_json::json;

use crate::cli::ExplainArgs;
use crate::exit::Fault;
use crate::output;
use crate::report::{self, Style};

/// Runs it.
///
/// # Errors
/// A name that no rewrite has.
pub fn run(args: &ExplainArgs) -> Result<()> {
    let rules = passes::rewrite_rules();
    let Some(rule) = rules.iter().find(|r| r.name == args.rule) else {
        let fault = Fault::bad_input("SPK5020", format!("no rewrite is called `{}`", args.rule));
        return Err(fault.advise(nearest(&args.rule, &rules)).into());
    };
    if args.json {
        return output::print_json(&json!({
            "name": rule.name,
            "tier": rule.tier.name(),
            "numbers": meaning(rule.tier),
            "why": rule.why,
            "from": rule.lhs,
            "to": rule.rhs,
            "condition": rule.condition,
            "fires": rule.fires,
            "refuses": rule.misses,
        }));
    }
    let colored = report::stdout_colored();
    let title = Style::Bold.paint(rule.name, colored);
    let condition =
        if rule.condition.is_empty() { "both sides have a type" } else { rule.condition };
    let to = if rule.rhs.is_empty() { "as many terms as there are operands" } else { rule.rhs };
    let mut text = format!("{title}: {}\n", rule.why);
    for (key, value) in [("from", rule.lhs), ("to", to), ("when", condition)] {
        text.push_str(&format!("  {key:<8} {value}\n"));
    }
    text.push_str(&format!("  numbers  {}: {}\n", rule.tier, meaning(rule.tier)));
    for (key, cases) in [("fires", rule.fires), ("refuses", rule.misses)] {
        for (i, case) in cases.iter().enumerate() {
            text.push_str(&format!("  {:<8} {case}\n", if i == 0 { key } else { "" }));
        }
    }
    output::print(&text)
}

fn meaning(tier: passes::Tier) -> &'static str {
    match tier {
        passes::Tier::Exact => "the same bits, given each op's order of accumulation",
        passes::Tier::Reassoc => {
            "the same real value in another order of operations; how far apart f32 may be, \
             for a model and a prompt: `sparkc passes bound MODEL`"
        }
        passes::Tier::Reround => "a stored value may be rounded differently",
        passes::Tier::Lossy => "information is dropped",
    }
}

/// The names that share a word with what was typed, or where to look.
fn nearest(typed: &str, rules: &[passes::RuleInfo]) -> String {
    let words: Vec<&str> = typed.split('-').filter(|w| w.len() > 2).collect();
    let near = rules.iter().filter(|r| words.iter().any(|w| r.name.contains(w)));
    let near: Vec<&str> = near.map(|r| r.name).take(6).collect();
    if near.is_empty() { "`sparkc passes` lists them".to_string() } else { near.join(", ") }
}
