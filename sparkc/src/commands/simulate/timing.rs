//! The time of a plan: cycles, tokens per second, and where the cycles go.

use anyhow::{Context, Result};
use plan::Plan;
use serde_json::{Value, json};
use simulator::{Level, TimingReport};

use crate::cli::SimulateArgs;
use crate::output;
use crate::report::table::Table;
use crate::report::{self, Style};

/// Tiles of a bare kernel up to which it is verified before it is timed.
const VERIFIED_TILES: u64 = 64 * 64;

/// Times the last token that the command line asks for after a prompt of so many, and writes the trace.
///
/// # Errors
/// A plan that cannot be executed, a trace that cannot be written.
pub(super) fn time(args: &SimulateArgs, plan: &Plan, prompt: usize) -> Result<TimingReport> {
    let fed = prompt.max(1) as u32 + args.n.unwrap_or(0).saturating_sub(1);
    let pos = (fed - 1).min(plan.model.context.saturating_sub(1));
    let level = Level::from_number(args.level).context("levels are 0 to 3")?;
    let report = simulator::time(plan, level, pos)?;
    trace(args, plan, &report)?;
    Ok(report)
}

/// As [`time`] for a bare kernel, whose legality tests prove on grids of every kind: it is verified here too
/// unless that takes longer than timing it.
///
/// # Errors
/// As [`time`].
pub(super) fn time_kernel(args: &SimulateArgs, plan: &Plan) -> Result<TimingReport> {
    let tiles: u64 = plan.regions.iter().map(|r| r.rect.area()).sum();
    if tiles <= VERIFIED_TILES {
        return time(args, plan, 0);
    }
    let level = Level::from_number(args.level).context("levels are 0 to 3")?;
    let mut report = simulator::timing::time_unchecked(plan, level, 0)?;
    report.notes.push(format!("not verified: more than {VERIFIED_TILES} tiles"));
    trace(args, plan, &report)?;
    Ok(report)
}

fn trace(args: &SimulateArgs, plan: &Plan, report: &TimingReport) -> Result<()> {
    if let Some(path) = &args.trace {
        let names = |region: usize| -> Vec<String> {
            let template = plan.regions.get(region).and_then(|r| plan.template_of(r));
            template.map_or(Vec::new(), |t| t.phases.iter().map(|p| p.name.clone()).collect())
        };
        let trace = simulator::timing::trace::chrome_trace(report, &names);
        output::write_named(path, serde_json::to_string(&trace)?.as_bytes())?;
    }
    Ok(())
}

/// The fields that simulation adds to `--json`.
pub(super) fn as_json(report: &TimingReport, prompt: usize) -> Value {
    json!({
        "cycles": report.token_cycles,
        "tokens_per_second": report.tokens_per_second,
        "breakdown": report.breakdown,
        "level": report.level,
        "position": report.pos,
        "prefill_cycles": report.prefill_cycles(prompt as u32),
        "prefill_interval_cycles": report.prefill_interval_cycles,
        "prefill_tokens_per_second": report.prefill_tokens_per_second,
        "templates": report.templates,
        "notes": report.notes,
    })
}

/// The report of a model for people.
pub(super) fn render(report: &TimingReport) -> String {
    format!(
        "{}  {} tokens/s decode: {} cycles for the token at position {}\n  \
         {} tokens/s prefill: {} cycles between tokens\n\n{}",
        title(report),
        report::grouped(report.tokens_per_second as u64),
        report::grouped(report.token_cycles),
        report.pos,
        report::grouped(report.prefill_tokens_per_second as u64),
        report::grouped(report.prefill_interval_cycles),
        tables(report)
    )
}

/// The report of a bare kernel for people: it has no tokens, only cycles.
pub(super) fn render_kernel(report: &TimingReport) -> String {
    let cycles = report::grouped(report.token_cycles);
    format!("{}  {cycles} cycles\n\n{}", title(report), tables(report))
}

fn title(report: &TimingReport) -> String {
    let text = format!("{} at level {:?}", report.target, report.level);
    Style::Bold.paint(&text, report::stdout_colored()) + "\n"
}

/// Where the cycles go, by cause and by template.
fn tables(report: &TimingReport) -> String {
    let colored = report::stdout_colored();
    let mut text = String::new();
    let b = report.breakdown;
    let parts = [
        ("compute", b.compute as i64),
        ("payload", b.payload as i64),
        ("distance", b.distance as i64),
        ("relay", b.relay as i64),
        ("fixed", b.fixed as i64),
        ("contention", b.contention as i64),
        ("overlap", -(b.overlap as i64)),
    ];
    let mut table = Table::new(&["where the cycles go", ">cycles", ">share"]);
    for (name, cycles) in parts {
        let share = 100.0 * cycles as f64 / (report.token_cycles as f64).max(1.0);
        table.row([name.to_string(), cycles.to_string(), format!("{share:.1} %")]);
    }
    text.push_str(&table.render(colored));
    let mut table = Table::new(&["template", ">regions", ">cycles", ">phases"]);
    for template in &report.templates {
        table.row([
            template.name.clone(),
            template.regions.to_string(),
            report::grouped(template.cycles),
            template.phases.len().to_string(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render(colored));
    text
}
