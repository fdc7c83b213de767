//! `sparkc simulate --requests N`: the wafer under load.

use anyhow::{Context, Result};
use plan::Plan;
use simulator::serving::Percentiles;
use simulator::{Level, Load, ServingReport, serve};

use crate::cli::SimulateArgs;
use crate::exit::Fault;
use crate::output;
use crate::report::progress::Progress;
use crate::report::table::Table;
use crate::report::{self, Style};

/// Prompt and generated tokens of a request when nothing else is said.
const TOKENS: u32 = 64;

/// Runs it.
///
/// # Errors
/// An illegal plan, requests longer than the context.
pub(super) fn run(args: &SimulateArgs, requests: u32, plan: &Plan) -> Result<()> {
    let given = (!args.tokens.is_empty()).then_some(args.tokens.len() as u32);
    if args.n == Some(0) {
        return Err(Fault::usage("-n 0: a request generates at least one token").into());
    }
    let load = Load {
        requests,
        prompt: args.prompt_length.or(given).unwrap_or(TOKENS),
        generated: args.n.unwrap_or(TOKENS),
    };
    let level = Level::from_number(args.level).context("levels are 0 to 3")?;
    let report = Progress::new().stage("count cycles", |_| serve(plan, level, load))?;
    if args.json {
        return output::print_json(&serde_json::to_value(&report)?);
    }
    output::print(&render(plan, &report))
}

/// The report for people.
fn render(plan: &Plan, report: &ServingReport) -> String {
    let colored = report::stdout_colored();
    let load = report.load;
    let title = format!(
        "{}  {} requests of {} + {} tokens",
        plan.target.name, load.requests, load.prompt, load.generated
    );
    let mut text = Style::Bold.paint(&title, colored) + "\n";
    let rate = |r: f64| report::grouped(r as u64);
    text += &format!(
        "  {} tokens/s generated, {} tokens/s with prompts; {} requests in flight\n",
        rate(report.tokens_per_second),
        rate(report.all_tokens_per_second),
        report.in_flight
    );
    text += &format!(
        "  the busiest region works {:.1} % of the time\n",
        100.0 * report.busiest_region_share
    );
    if let Some(kv) = report.kv {
        text += &format!(
            "  KV caches hold {} tokens: {} requests of {} tokens\n",
            report::grouped(kv.tokens),
            report::grouped(kv.requests),
            report::grouped(u64::from(load.prompt) + u64::from(load.generated))
        );
        if u64::from(load.requests) > kv.requests {
            text +=
                "  the caches limit what is in flight: compile with a smaller --context for more\n";
        }
    }
    text += &format!(
        "  at most {:.3} J/token; {}\n\n",
        report.joules_per_token_max, report.energy_source
    );
    let mut table = Table::new(&["latency in ms", ">p50", ">p95", ">p99"]);
    let row = |name: &str, p: Percentiles| {
        let ms = |s: f64| format!("{:.3}", s * 1e3);
        [name.to_string(), ms(p.p50), ms(p.p95), ms(p.p99)]
    };
    table.row(row("first token", report.first_token_seconds));
    table.row(row("between tokens", report.token_seconds));
    text + &table.render(colored)
}
