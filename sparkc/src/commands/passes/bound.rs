//! `sparkc passes bound`: what the numeric tiers promise, for one model and one prompt.

use anyhow::Result;
use backend_cpu::CpuCost;
use backend_wafer::WaferCost;
use ir::eval::{EvalOptions, eval_module};
use passes::{CostModel, Level, Moved, RunOptions, Tier};
use serde_json::{Value, json};

use crate::cli::BoundArgs;
use crate::commands::differential::{prompt, random_weights};
use crate::exit::Fault;
use crate::report::progress::Progress;
use crate::report::table::Table;
use crate::report::{self, Style};
use crate::{driver, output};

/// One target: the tier exact bit by bit, the tier reassoc with its bound.
struct Row {
    target: String,
    exact: bool,
    /// Whether what the tier allows beyond `exact` changed nothing.
    unused: bool,
    moved: Moved,
}

/// Runs it.
///
/// # Errors
/// A model that cannot be opened or evaluated; logits that differ by more than the tier allows, which is a
/// bug in sparkc.
pub(super) fn run(args: &BoundArgs) -> Result<()> {
    let model = driver::open(&args.model, None)?;
    let module = &model.module;
    let random = model.weights.is_none().then(|| random_weights(module));
    let given = driver::weight_source(&model);
    let weights = given.or(random.as_ref().map(|w| w as &dyn ir::WeightSource));
    let weights = weights.ok_or_else(|| Fault::internal("neither weights nor random ones"))?;
    let (default, rows) =
        prompt(module).ok_or_else(|| Fault::bad_input("SPK5028", "the model returns no logits"))?;
    let tokens = if args.tokens.is_empty() { default } else { args.tokens.clone() };
    let rows = rows.min(tokens.len());
    let target = driver::target(&args.target)?;
    let wafer = WaferCost::new(&target);
    let costs: [(&str, &dyn CostModel); 2] = [("cpu", &CpuCost), ("wafer", &wafer)];
    let logits = |m: &ir::Module| eval_module(m, weights, &tokens, rows, EvalOptions::default());
    let progress = Progress::new();
    let expected = progress.stage("evaluate", |_| Ok::<_, anyhow::Error>(logits(module)?))?;
    let mut found = Vec::new();
    for (name, cost) in costs {
        let optimised = |tier| -> Result<ir::Module> {
            let mut after = module.clone();
            let options = RunOptions { tier, weights: given, ..RunOptions::default() };
            passes::run(Level::O2.pipeline(), &mut after, cost, options)?;
            Ok(after)
        };
        found.push(progress.stage(&format!("bound {name}"), |_| -> Result<Row> {
            let strict = optimised(Tier::Exact)?;
            let exact = logits(&strict)?;
            let check = tensor::compare::check(
                &exact.to_f32(),
                &expected.to_f32(),
                Tier::Exact.tolerance(),
            );
            let after = optimised(Tier::Reassoc)?;
            let unused = after == strict;
            let moved = passes::distance(module, &after, weights, &tokens, rows)?;
            Ok(Row { target: name.to_string(), exact: check.is_ok(), unused, moved })
        })?);
    }
    progress.finish();
    if args.json {
        let targets: Vec<Value> = found.iter().map(as_json).collect();
        let weights = if random.is_some() { "random" } else { "given" };
        output::print_json(&json!({ "tokens": tokens, "weights": weights, "targets": targets }))?;
    } else {
        output::print(&render(&found, &tokens, random.is_some()))?;
    }
    match found.iter().find(|row| !row.exact || !row.moved.holds()) {
        None => Ok(()),
        Some(row) => {
            let why = format!("for {} the optimised model computes another function", row.target);
            Err(Fault::internal(why).into())
        }
    }
}

fn render(rows: &[Row], tokens: &[u32], random: bool) -> String {
    let colored = report::stdout_colored();
    let mut table =
        Table::new(&["target", "exact", ">reassoc: bound", ">found", ">function known to"]);
    for Row { target, exact, unused, moved } in rows {
        table.row([
            target.clone(),
            if *exact { "same bits" } else { "DIFFERS" }.to_string(),
            if *unused { "0: all exact".to_string() } else { fraction(moved.bound()) },
            format!("{:.1e}", moved.found),
            fraction(moved.function.bound),
        ]);
    }
    let prompt: Vec<String> = tokens.iter().map(u32::to_string).collect();
    let weights = if random { ", random weights" } else { "" };
    let title = format!("Logits after optimising, prompt {}{weights}", prompt.join(","));
    let title = Style::Bold.paint(&title, colored);
    format!("{title}; fractions of the largest logit\n{}", table.render(colored))
}

/// A bound of the logits' own size says nothing: errors are carried through too many layers.
fn fraction(bound: f64) -> String {
    if bound < 1.0 { format!("{bound:.1e}") } else { "none below 1".to_string() }
}

fn as_json(row: &Row) -> Value {
    let Row { target, exact, unused, moved } = row;
    json!({
        "target": target,
        "exact_same_bits": exact,
        "reassoc": {
            "only_exact_rewrites": unused,
            "bound": if *unused { 0.0 } else { moved.bound() },
            "running_bound": moved.bound(),
            "found": moved.found,
            "error_before": moved.before,
            "error_after": moved.after,
            "function_bound_f64": moved.function.bound,
            "function_found_f64": moved.function.found,
            "running_bound_f32": moved.running.bound,
            "holds": moved.holds(),
        },
    })
}
