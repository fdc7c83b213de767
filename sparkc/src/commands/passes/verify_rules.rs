//! `sparkc passes verify-rules`: the scoreboard of the rewrite rules.

use anyhow::Result;
use passes::RuleVerdict;
use serde_json::{Value, json};

use crate::cli::VerifyRulesArgs;
use crate::exit::Fault;
use crate::output;
use crate::report;
use crate::report::table::Table;

/// Runs it.
///
/// # Errors
/// When something speaks against a rule: that is a bug in sparkc.
pub(super) fn run(args: &VerifyRulesArgs) -> Result<()> {
    let verdicts = passes::verify_rules();
    let proven = verdicts.iter().filter(|v| v.is_proven()).count();
    let unsound: Vec<&str> = verdicts.iter().filter(|v| !v.is_sound()).map(|v| v.rule).collect();
    if args.json {
        let rules: Vec<Value> = verdicts.iter().map(as_json).collect();
        output::print_json(&json!({
            "rules": rules,
            "proven": proven,
            "unsound": unsound,
        }))?;
    } else {
        let header =
            ["rule", "tier", "proven", ">theorems", ">numbers", ">mutants", ">near misses"];
        let mut table = Table::new(&header);
        let of = |(all, ok): (usize, usize)| {
            if all == 0 { "-".to_string() } else { format!("{ok}/{all}") }
        };
        for v in &verdicts {
            table.row([
                v.rule.to_string(),
                v.tier.to_string(),
                if v.is_proven() { "for all sizes" } else { "numbers only" }.to_string(),
                of(v.theorems),
                of(v.numbers),
                of(v.mutants),
                of(v.misses),
            ]);
        }
        let share = 100.0 * proven as f64 / verdicts.len().max(1) as f64;
        output::print(&format!(
            "{}{proven} of {} rules proven for all sizes ({share:.0} %)\n",
            table.render(report::stdout_colored()),
            verdicts.len()
        ))?;
    }
    if unsound.is_empty() {
        return Ok(());
    }
    Err(Fault::internal(format!("these rules failed: {}", unsound.join(", "))).into())
}

fn as_json(v: &RuleVerdict) -> Value {
    let of = |(all, ok): (usize, usize)| json!({ "all": all, "passed": ok });
    json!({
        "rule": v.rule,
        "tier": v.tier.name(),
        "proven_for_all_sizes": v.is_proven(),
        "theorems": of(v.theorems),
        "numbers": of(v.numbers),
        "mutants": of(v.mutants),
        "near_misses": of(v.misses),
    })
}
