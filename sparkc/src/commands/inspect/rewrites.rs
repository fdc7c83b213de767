//! What the optimiser does to a model, for each target: which rewrites, where, what each saves.

use anyhow::Result;
use backend_cpu::CpuCost;
use backend_wafer::WaferCost;
use passes::{CostModel, Report};
use serde_json::json;

use super::rewrites_page::page;
use crate::cli::{InspectArgs, ModelArgs};
use crate::driver::{self, Ask};
use crate::output;
use crate::report::built::{passes_json, saving};
use crate::report::progress::Progress;
use crate::report::table::Table;
use crate::report::{self, Style};

/// Shows it.
pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let (model, weights) = (args.path.clone(), args.weights.clone());
    let model_args = ModelArgs { model, weights, kv_cache: None };
    let model = driver::open(&model_args, args.build.context)?;
    let target = driver::target(&args.build.target)?;
    let progress = Progress::new();
    let ask = Ask { attribution: true, proof: args.html.is_some(), ..Ask::default() };
    let optimise = |name: &str, cost: &dyn CostModel| {
        progress.stage(&format!("optimise for {name}"), |_| {
            driver::optimise(&model, &args.build, cost, ask).map(|(_, report)| report)
        })
    };
    let cpu = optimise("cpu", &CpuCost)?;
    let wafer = optimise("wafer", &WaferCost::new(&target))?;
    progress.finish();
    if let Some(path) = &args.html {
        let page = page(&model.info.name, &[("cpu", &cpu), ("wafer", &wafer)]);
        output::write_named(path, page.as_bytes())?;
    }
    if args.json {
        let object = json!({ "cpu": passes_json(&cpu), "wafer": passes_json(&wafer) });
        return output::print_json(&object);
    }
    let colored = report::stdout_colored();
    let mut text = render("cpu", &cpu, colored);
    text.push('\n');
    text.push_str(&render("wafer", &wafer, colored));
    output::print(&text)
}

const LEGEND: &str = "  \
nodes: of the result, written by this rewrite (step: others went on from what it wrote)
  saves: how much dearer the result is without it; rewrites need each other, so this does not add up
";

fn render(target: &str, report: &Report, colored: bool) -> String {
    let title = Style::Bold.paint(&format!("{target} ({})", report.model), colored);
    let mut text = format!("{title}: {}\n", saving(report));
    let mut table = Table::new(&["rewrite", "tier", "where", ">nodes", ">saves", "because"]);
    for rewrite in &report.rewrites {
        // Of what the model costs after optimising.
        let whole = (report.cost.1.units() as f64).max(1.0);
        let share = |saved: i64| match saved.saturating_mul(rewrite.layers as i64) {
            i64::MAX => "needed".to_string(),
            saved => format!("{:.2} %", 100.0 * saved as f64 / whole),
        };
        table.row([
            rewrite.rule.to_string(),
            rewrite.tier.name().to_string(),
            format!("@{} x{}", rewrite.graph, rewrite.layers),
            match rewrite.nodes.len() {
                0 => "step".to_string(),
                n => n.to_string(),
            },
            rewrite.saved.map_or("-".to_string(), share),
            rewrite.why.to_string(),
        ]);
    }
    text.push_str(&table.render(colored));
    if !report.rewrites.is_empty() {
        text.push_str(LEGEND);
    }
    for search in &report.searches {
        text.push_str(&format!(
            "  searched @{}: {} nodes in {} classes, {} iterations, {}\n",
            search.graph, search.size.0, search.size.1, search.iterations, search.stop
        ));
    }
    text
}
