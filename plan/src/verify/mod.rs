//! Proves a plan legal, independently of whatever made it. Returns all violations.
//!
//! What is checked, by file:
//!
//! * `structure` — the target makes sense; ids, ranks, names and divisors are in range; weights are sorted
//!   by name; constants are finite.
//! * `layout` — regions have their template's size, lie on one wafer, are disjoint and free of dead PEs;
//!   in every phase every position is covered by exactly one role.
//! * `repair` — no PE of the grid lies on a dead one; every link of it is a path over healthy PEs of its wafer;
//!   no physical link carries more paths than it has lanes.
//! * `memory` — every buffer is large enough, aligned, inside usable SRAM and disjoint from all others live
//!   at the same phase; weights and caches live through all phases; the KV cache holds the context.
//! * `pins` — slices lie inside their weights and buffers; pins of one buffer do not overlap; every element of
//!   every declared weight is pinned exactly as often as declared.
//! * `operands` — operands lie inside buffers that are live; lengths agree; no writes to weights.
//! * `control` — microthreads are started, joined and left alone in between; loops are whole and bounded.
//! * `routes` — colors are within the budget; at one router a color has at most one input, but for those that
//!   broadcast; wires and regions do not use a color on the same router.
//! * `broadcasts` — roots that move sweep up their line, everybody takes part, and routers merge as they need.
//! * `flows` — every send is received, element for element, by every core its flow reaches; every receive has
//!   its send; nothing is routed into a router that does not take it; queues suffice; streams are declared.
//! * `waits` — there is no cyclic wait, even if no queue could hold a single wavelet.
//! * `outputs` — the logits are covered exactly once; outputs are live at the end.
//!
//! Checks of a later file may rely on those before it: when ids or layout are broken, only those
//! violations are returned. Nothing here panics on any plan, nor takes memory out of proportion to
//! the largest template and the wafer's PEs.

mod broadcasts;
mod control;
mod flows;
mod layout;
mod memory;
mod operands;
mod outputs;
mod pins;
mod repair;
mod routes;
mod structure;
mod violation;
mod waits;

pub use violation::Violation;

use crate::expand::{PlanMap, TemplateMap};
use crate::parallel;
use crate::plan::Plan;

/// Most violations of one check of one template that are listed.
const LISTED: usize = 50;

/// Checks how the grid of a plan lies on its wafers, and nothing else. No other property depends on that, so
/// a plan that was legal stays legal when only its repair changed and this holds.
///
/// # Errors
/// All violations; never an empty list.
pub fn verify_repair(plan: &Plan) -> Result<(), Vec<Violation>> {
    let mut found = Vec::new();
    repair::check(plan, &mut found);
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// Checks every property of the list above.
///
/// # Errors
/// All violations, in the order of the checks; never an empty list.
pub fn verify(plan: &Plan) -> Result<(), Vec<Violation>> {
    let mut found = Vec::new();
    structure::check(plan, &mut found);
    if found.is_empty() {
        layout::check(plan, &mut found);
        repair::check(plan, &mut found);
    }
    if !found.is_empty() {
        return Err(found);
    }
    let map = PlanMap::new(plan);
    let of_template = |template: &TemplateMap<'_>| {
        let mut found = Vec::new();
        layout::check_roles(template, &mut found);
        memory::check(plan, template.template, &mut found);
        pins::check_template(plan, template, &mut found);
        operands::check(plan, template, &mut found);
        control::check(plan, template, &mut found);
        routes::check_template(template, &mut found);
        broadcasts::check(template, &mut found);
        found
    };
    found.extend(parallel::map(&map.templates, of_template).into_iter().flatten());
    pins::check_coverage(plan, &map, &mut found);
    routes::check_plan(plan, &map, &mut found);
    outputs::check(plan, &mut found);
    // Flows cannot be followed where routes or roles are ambiguous.
    if found.is_empty() {
        let flows = flows::Flows::new(plan, &map, &mut found);
        if found.is_empty() {
            waits::check(plan, &flows, &mut found);
        }
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}
