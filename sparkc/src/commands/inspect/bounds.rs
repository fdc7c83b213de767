//! How far a plan is from its lower bounds, where the rest goes, and what would help.
//!
//! Bounds and cycles are the plan's claims; `backend_wafer::bounds` says how they come about. The rest of a
//! template is what its phases claim above the bound of the same kind: arithmetic above the work,
//! communication above distance, ingress and reduction.

use anyhow::Result;
use plan::{Plan, TemplateId};
use serde_json::{Value, json};

use crate::output;
use crate::report::table::Table;
use crate::report::{self, Style, grouped};

/// A template against its bounds.
struct Row<'a> {
    name: &'a str,
    regions: usize,
    claim: u64,
    compute: u64,
    communication: u64,
    work: u64,
    distance: u64,
    ingress: u64,
    reduction: u64,
    critical: u64,
    pes: u64,
    area: u64,
    colors: (u64, usize),
    /// Phase with the most claimed cycles.
    longest: (&'a str, u64),
}

fn rows(plan: &Plan) -> Vec<Row<'_>> {
    let row = |(i, template): (usize, &'_ plan::Template)| {
        let id = TemplateId(i as u32);
        let bound = |name: &str| plan.claims.bound(Some(id), name).unwrap_or(0);
        let phases = || plan.claims.phases.iter().filter(move |p| p.template == id);
        let longest = phases().max_by_key(|p| p.compute_cycles + p.comm_cycles);
        let mut colors: Vec<_> = template.routes.iter().map(|r| r.color).collect();
        colors.sort_unstable();
        colors.dedup();
        Row {
            name: &plan.templates[i].name,
            regions: plan.regions.iter().filter(|r| r.template == id).count(),
            claim: plan.claims.template_cycles(id),
            compute: phases().map(|p| p.compute_cycles).sum(),
            communication: phases().map(|p| p.comm_cycles).sum(),
            work: bound("work"),
            distance: bound("distance"),
            ingress: bound("ingress"),
            reduction: bound("reduction"),
            critical: bound("critical path"),
            pes: u64::from(template.width) * u64::from(template.height),
            area: bound("area PEs"),
            colors: (bound("colors"), colors.len()),
            longest: longest.map_or(("-", 0), |p| {
                let name = plan.templates[i].phases.get(p.phase as usize);
                (name.map_or("-", |p| p.name.as_str()), p.compute_cycles + p.comm_cycles)
            }),
        }
    };
    plan.templates.iter().enumerate().map(row).collect()
}

impl Row<'_> {
    fn gap(&self) -> f64 {
        self.claim as f64 / self.critical.max(1) as f64
    }

    /// Where the cycles above the bounds go, and what would help.
    fn advice(&self) -> String {
        let arithmetic = self.compute.saturating_sub(self.work);
        let messages =
            self.communication.saturating_sub(self.distance + self.ingress + self.reduction);
        let (name, cycles) = self.longest;
        let longest = format!("longest phase `{name}`, {} cycles", grouped(cycles));
        if arithmetic >= messages {
            format!(
                "{} cycles of instruction overhead and short vectors: fewer PEs, or taller regions with \
                 longer vectors; {longest}",
                grouped(arithmetic)
            )
        } else {
            format!(
                "{} cycles of relays and serial messages: smaller regions, fewer reductions, or half \
                 formats on the wire; {longest}",
                grouped(messages)
            )
        }
    }
}

/// Shows all bounds of a plan.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn run(plan: &Plan, as_json: bool) -> Result<()> {
    let rows = rows(plan);
    if as_json {
        return output::print_json(&to_json(plan, &rows));
    }
    let colored = report::stdout_colored();
    let token = plan.claims.bound(None, "critical path").unwrap_or(0);
    let mut text = format!(
        "{}: {} cycles claimed for a token, at least {} needed: {:.2}x\n",
        Style::Bold.paint(&plan.model.name, colored),
        grouped(plan.claims.token_cycles),
        grouped(token),
        plan.claims.token_cycles as f64 / token.max(1) as f64
    );
    let mut table = Table::new(&[
        "template",
        ">regions",
        ">claim",
        ">bound",
        ">gap",
        ">work",
        ">distance",
        ">ingress",
        ">reduction",
        ">PEs",
        ">PEs needed",
        ">colors",
        ">at least",
    ]);
    for r in &rows {
        table.row([
            r.name.to_string(),
            r.regions.to_string(),
            grouped(r.claim),
            grouped(r.critical),
            format!("{:.2}x", r.gap()),
            grouped(r.work),
            grouped(r.distance),
            grouped(r.ingress),
            grouped(r.reduction),
            grouped(r.pes),
            grouped(r.area),
            r.colors.1.to_string(),
            r.colors.0.to_string(),
        ]);
    }
    text.push_str(&table.render(colored));
    text.push_str("\nwhere the rest goes\n");
    for r in &rows {
        text.push_str(&format!("  {}: {}\n", r.name, r.advice()));
    }
    text.push_str(&stages(plan, &rows));
    output::print(&text)
}

/// How evenly the stages of the pipeline are loaded.
fn stages(plan: &Plan, rows: &[Row<'_>]) -> String {
    let of = |r: &plan::Region| rows.get(r.template.0 as usize).map_or(0, |row| row.claim);
    let layers: Vec<u64> = plan.regions.iter().filter(|r| r.layer.is_some()).map(of).collect();
    let mean = layers.iter().sum::<u64>() as f64 / layers.len().max(1) as f64;
    let slowest = plan.regions.iter().max_by_key(|r| of(r));
    let Some(slowest) = slowest else { return String::new() };
    format!(
        "\nslowest stage {} with {} cycles, {:+.1} % against the mean layer\n",
        slowest.name,
        grouped(of(slowest)),
        100.0 * (of(slowest) as f64 / mean.max(1.0) - 1.0)
    )
}

fn to_json(plan: &Plan, rows: &[Row<'_>]) -> Value {
    let templates: Vec<Value> = rows
        .iter()
        .map(|r| {
            json!({
                "name": r.name,
                "regions": r.regions,
                "cycles": r.claim,
                "critical_path": r.critical,
                "gap": r.gap(),
                "work": r.work,
                "distance": r.distance,
                "ingress": r.ingress,
                "reduction": r.reduction,
                "pes": r.pes,
                "pes_needed": r.area,
                "colors": r.colors.1,
                "colors_at_least": r.colors.0,
                "advice": r.advice(),
            })
        })
        .collect();
    let token = plan.claims.bound(None, "critical path");
    json!({ "token_cycles": plan.claims.token_cycles, "token_bound": token, "templates": templates })
}
