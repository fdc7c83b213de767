//! The rewrites of a model as one offline page: per target and graph, every step of its proof in order.
//!
//! A step shows the rule, why it is true, what was there, what it equals, and what the cheapest graph costs that the
//! steps so far allow. Shared parts are folded to `...`. No script: folding is HTML's own.

use backend_wafer::report::escape;
use passes::{Cost, ProofStep, Report, RuleInfo};

const STYLE: &str = "\
:root { color-scheme: light dark; --line: #8884; --accent: #2a7; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid var(--line); padding: .35em .6em; text-align: left; vertical-align: top; }
code { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.bar { background: var(--accent); height: .5em; min-width: 1px; }
.falls { font-weight: 600; color: var(--accent); }
small { opacity: .75; }
";

/// The page.
pub(super) fn page(model: &str, reports: &[(&str, &Report)]) -> String {
    let name = escape(model);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>Rewrites of {name}</title>\n<style>\n{STYLE}</style>\n<h1>Rewrites of {name}</h1>\n"
    );
    for (target, report) in reports {
        out.push_str(&format!("<h2>{}</h2>\n", escape(target)));
        if report.proof.graphs.is_empty() {
            out.push_str("<p>No rewrite was needed.</p>\n");
        }
        for (graph, steps) in &report.proof.graphs {
            let search = report.searches.iter().find(|s| s.graph == *graph);
            let before = search.map(|s| s.cost.0);
            section(&mut out, graph, before, steps);
        }
    }
    out.push_str("</html>\n");
    out
}

fn section(out: &mut String, graph: &str, before: Option<Cost>, steps: &[ProofStep]) {
    let count = steps.len();
    out.push_str(&format!(
        "<details open><summary><b>@{}</b>: {count} steps</summary>\n<table>\n\
         <tr><th>#<th>rule<th>before<th>after<th class=\"n\">cost, of before<th>\n",
        escape(graph)
    ));
    let rules = passes::rewrite_rules();
    let whole = before.map_or(0.0, |c| c.units() as f64);
    let mut last = before;
    for (i, step) in steps.iter().enumerate() {
        let rule = rules.iter().find(|r| r.name == step.rule);
        let falls = step.cost < last;
        out.push_str(&row(i + 1, step, rule, whole, falls));
        last = step.cost;
    }
    out.push_str("</table></details>\n");
}

fn row(
    number: usize,
    step: &ProofStep,
    rule: Option<&RuleInfo>,
    whole: f64,
    falls: bool,
) -> String {
    let (why, tier) = rule.map_or(("", ""), |r| (r.why, r.tier.name()));
    let share = match step.cost {
        Some(cost) if cost < Cost::INFINITE && whole > 0.0 => {
            Some(100.0 * cost.units() as f64 / whole)
        }
        _ => None,
    };
    let text = share.map_or("cannot run yet".to_string(), |s| format!("{s:.2} %"));
    let width = share.unwrap_or(0.0).clamp(0.0, 100.0);
    let class = if falls { "n falls" } else { "n" };
    format!(
        "<tr><td class=\"n\">{number}<td><b>{}</b> <small>{tier}</small><br><small>{}</small>\
         <td><code>{}</code><td><code>{}</code><td class=\"{class}\">{text}\
         <td style=\"width:8em\"><div class=\"bar\" style=\"width:{width:.1}%\"></div>\n",
        escape(step.rule),
        escape(why),
        escape(&step.before),
        escape(&step.after),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        let step = ProofStep {
            rule: "silu",
            before: "<script>".to_string(),
            after: "a & b".to_string(),
            cost: Some(Cost::new(50)),
        };
        let mut report = Report::default();
        report.proof.graphs.push(("<main>".to_string(), vec![step]));
        let page = page("<x>", &[("cpu", &report)]);
        assert!(!page.contains("<script>") && !page.contains("<x>") && !page.contains("<main>"));
        assert!(page.contains("&lt;script&gt;") && page.contains("a &amp; b"));
        assert!(page.contains("x sigmoid(x)") || page.contains("silu"));
    }
}
