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
        let header = [
            "rule",
            "tier",
            "proven",
            ">theorems",
            ">fields",
            ">numbers",
            ">mutants",
            ">near misses",
        ];
        let mut table = Table::new(&header);
        let of = |(all, ok): (usize, usize)| {
            if all == 0 { "-".to_string() } else { format!("{ok}/{all}") }
        };
        for v in &verdicts {
            table.row([
                v.rule.to_string(),
                v.tier.to_string(),
                if v.is_proven() { "for all sizes" } else { "finite fields" }.to_string(),
                of(v.theorems),
                of(v.fields),
                of(v.numbers),
                of((v.conditions.len(), v.conditions.len() - v.survivors.len())),
                of(v.misses),
            ]);
        }
        let share = 100.0 * proven as f64 / verdicts.len().max(1) as f64;
        let total = |of: fn(&RuleVerdict) -> (usize, usize)| {
            let sum = verdicts.iter().map(of).fold((0, 0), |s, v| (s.0 + v.0, s.1 + v.1));
            format!("{}/{}", sum.1, sum.0)
        };
        let mutants = total(|v| (v.conditions.len(), v.conditions.len() - v.survivors.len()));
        output::print(&format!(
            "{}{proven} of {} rules proven for all sizes of their axes ({share:.0} %), the others tried over \
             finite fields\n{mutants} mutants that lack a side condition caught, {} near misses refused, {} \
             comparisons of numbers agree\n",
            table.render(report::stdout_colored()),
            verdicts.len(),
            total(|v| v.misses),
            total(|v| v.numbers),
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
        "finite_fields": of(v.fields),
        "numbers": of(v.numbers),
        "conditions": v.conditions,
        "mutants": of((v.conditions.len(), v.conditions.len() - v.survivors.len())),
        "survivors": v.survivors,
        "near_misses": of(v.misses),
    })
}
