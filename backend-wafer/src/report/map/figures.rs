//! What every map says in words: totals of a plan, and the part of the wafer worth showing.
//!
//! Counts with `u64` and never trusts a rectangle to lie on the machine. Cycles are the plan's claims.

use plan::{BufferRole, Plan, Point, Rect, RepairMap, Template};

use crate::program::builder::sram_by_role;

/// Share of the wafer below which the used part is shown instead of the whole.
const CROP_BELOW: f64 = 0.35;

/// PEs in all regions.
pub(super) fn pes_used(plan: &Plan) -> u64 {
    plan.regions.iter().map(|r| r.rect.area()).fold(0, u64::saturating_add)
}

/// PEs of the machine.
pub(super) fn pes_all(plan: &Plan) -> u64 {
    u64::from(plan.target.total_width()) * u64::from(plan.target.height)
}

/// Claimed tokens per second of decode; `None` when the plan claims nothing.
pub(super) fn tokens_per_second(plan: &Plan) -> Option<f64> {
    let cycles = plan.claims.token_cycles;
    (cycles > 0).then(|| 1.0 / plan.target.seconds(cycles))
}

/// SRAM bytes of a PE by contributor at the fullest phase, in the order in which bars show them.
pub(super) fn contributors(template: &Template) -> Vec<(BufferRole, u64)> {
    let mut parts = sram_by_role(template);
    parts.sort();
    parts
}

/// Dead PEs where the grid closes over them, as (column of all wafers, row).
pub(super) fn dead(plan: &Plan) -> Vec<(u32, u32)> {
    let Some(repair) = &plan.repair else { return plan.target.dead.clone() };
    let map = RepairMap::new(repair, plan.target.width.max(1), plan.target.height);
    repair.dead.iter().map(|&(x, y)| (map.grid_column(Point { x, y }), y)).collect()
}

/// The repair in a sentence; `None` without one.
pub(super) fn repair(plan: &Plan) -> Option<String> {
    let repair = plan.repair.as_ref()?;
    let longest = repair.detours.iter().map(|d| d.steps.len()).max().unwrap_or(0);
    Some(format!(
        "{} dead PEs replaced by {} spare columns of {} a wafer; {} links take detours, the longest of {longest} hops",
        grouped(repair.dead.len() as u64),
        repair.width.saturating_sub(plan.target.width),
        grouped(u64::from(repair.width)),
        grouped(repair.detours.len() as u64),
    ))
}

/// The whole machine.
pub(super) fn machine(plan: &Plan) -> Rect {
    Rect { x: 0, y: 0, w: plan.target.total_width().max(1), h: plan.target.height.max(1) }
}

/// The part to show: the machine, or the rectangle around all regions when that is a small part.
pub(super) fn focus(plan: &Plan) -> Rect {
    let whole = machine(plan);
    let end = |start: u32, length: u32| start.saturating_add(length);
    let x0 = plan.regions.iter().map(|r| r.rect.x).min().unwrap_or(0);
    let y0 = plan.regions.iter().map(|r| r.rect.y).min().unwrap_or(0);
    let x1 = plan.regions.iter().map(|r| end(r.rect.x, r.rect.w)).max().unwrap_or(0);
    let y1 = plan.regions.iter().map(|r| end(r.rect.y, r.rect.h)).max().unwrap_or(0);
    let used = Rect { x: x0, y: y0, w: x1.saturating_sub(x0), h: y1.saturating_sub(y0) };
    let off_machine = x1 > whole.w || y1 > whole.h;
    let small = (used.area() as f64) < CROP_BELOW * whole.area() as f64;
    if used.area() > 0 && (small || off_machine) { used } else { whole }
}

/// The model in a sentence: layers, context, share of the machine, claimed speed.
pub(super) fn summary(plan: &Plan) -> String {
    let (used, all) = (pes_used(plan), pes_all(plan));
    let speed = match tokens_per_second(plan) {
        Some(rate) => format!(
            "{} tokens/s claimed at position {}",
            if rate >= 100.0 { grouped(rate as u64) } else { format!("{rate:.1}") },
            grouped(u64::from(plan.claims.at_pos))
        ),
        None => "no speed claimed".to_string(),
    };
    format!(
        "{} layer{}, context {}, {} of {} PEs ({:.1} %), {speed}",
        plan.model.layers,
        if plan.model.layers == 1 { "" } else { "s" },
        grouped(u64::from(plan.model.context)),
        grouped(used),
        grouped(all),
        100.0 * used as f64 / all.max(1) as f64,
    )
}

/// A number with its thousands apart: `883,350`.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes for people: `768 B`, `22.1 KiB`.
pub(super) fn bytes(n: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match n {
        0..KIB => format!("{n} B"),
        KIB..MIB => format!("{:.1} KiB", n as f64 / KIB as f64),
        _ => format!("{:.1} MiB", n as f64 / MIB as f64),
    }
}
