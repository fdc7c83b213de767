//! Ids, names, ranks and constants: what every other check relies on.

use std::collections::BTreeSet;

use super::Violation;
use crate::index::{Predicate, Term};
use crate::plan::{Plan, WeightData};
use crate::program::Instr;
use crate::template::Template;

pub(super) fn check(plan: &Plan, found: &mut Vec<Violation>) {
    if let Err(e) = plan.target.check() {
        found.push(e.into());
        return;
    }
    let context = plan.model.context;
    if context == 0 || context > 1 << 28 {
        malformed(found, "model", format!("context {context} is outside of 1..=2^28"));
    }
    weights(plan, found);
    names(found, "region", plan.regions.iter().map(|r| r.name.as_str()));
    names(found, "template", plan.templates.iter().map(|t| t.name.as_str()));
    for t in &plan.templates {
        let wafer = (plan.target.width, plan.target.height);
        if t.width > wafer.0 || t.height > wafer.1 {
            let what =
                format!("{} x {} PEs, a wafer has {} x {}", t.width, t.height, wafer.0, wafer.1);
            malformed(found, &format!("template `{}`", t.name), what);
        } else {
            template(t, found);
        }
    }
    for r in &plan.regions {
        let place = format!("region `{}`", r.name);
        if plan.template_of(r).is_none() {
            dangling(found, &place, "template", u64::from(r.template.0), plan.templates.len());
        }
    }
    for (i, s) in plan.streams.iter().enumerate() {
        for id in [s.from, s.to] {
            if id.0 as usize >= plan.regions.len() {
                dangling(
                    found,
                    &format!("stream {i}"),
                    "region",
                    u64::from(id.0),
                    plan.regions.len(),
                );
            }
        }
    }
}

fn malformed(found: &mut Vec<Violation>, place: &str, what: String) {
    found.push(Violation::Malformed { place: place.to_owned(), what });
}

fn dangling(found: &mut Vec<Violation>, place: &str, what: &'static str, id: u64, count: usize) {
    found.push(Violation::DanglingId { place: place.to_owned(), what, id, count });
}

fn names<'a>(found: &mut Vec<Violation>, kind: &str, names: impl Iterator<Item = &'a str>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            malformed(found, kind, format!("the name `{name}` is used twice"));
        }
    }
}

fn weights(plan: &Plan, found: &mut Vec<Violation>) {
    for pair in plan.weights.windows(2) {
        if pair[0].name >= pair[1].name {
            let what = format!("`{}` does not come before `{}`", pair[0].name, pair[1].name);
            malformed(found, "weights", what);
        }
    }
    for w in &plan.weights {
        let place = format!("weight `{}`", w.name);
        if !(1..=2).contains(&w.shape.len()) || w.shape.contains(&0) {
            malformed(found, &place, format!("shape {:?} is not of rank 1 or 2", w.shape));
            continue;
        }
        let elements: u64 = w.shape.iter().map(|&d| u64::from(d)).product();
        if let WeightData::Inline(values) = &w.data
            && values.len() as u64 != elements
        {
            let what = format!("{} inline values for {elements} elements", values.len());
            malformed(found, &place, what);
        }
    }
}

fn template(t: &Template, found: &mut Vec<Violation>) {
    let place = format!("template `{}`", t.name);
    if t.width == 0 || t.height == 0 {
        malformed(found, &place, format!("{} x {} PEs", t.width, t.height));
        return;
    }
    if t.cell.0 == 0 || t.cell.1 == 0 {
        malformed(found, &place, format!("cell {:?} has a zero", t.cell));
    }
    if t.phases.is_empty() {
        malformed(found, &place, "no phases".into());
    }
    names(found, &format!("{place}: buffer"), t.buffers.iter().map(|b| b.name.as_str()));
    names(found, &format!("{place}: phase"), t.phases.iter().map(|p| p.name.as_str()));
    for (i, pin) in t.pins.iter().enumerate() {
        let place = format!("{place}, pin {i}");
        let uses = [Some(pin.weight), pin.gain.map(|g| g.weight)];
        for id in uses.into_iter().flatten() {
            if id as usize >= t.weights.len() {
                dangling(found, &place, "weight", u64::from(id), t.weights.len());
            }
        }
        if pin.buffer.0 as usize >= t.buffers.len() {
            dangling(found, &place, "buffer", u64::from(pin.buffer.0), t.buffers.len());
        }
        if !pin.scale.is_finite() {
            malformed(found, &place, format!("scale {}", pin.scale));
        }
        predicate(&pin.predicate, &place, found);
    }
    for (i, route) in t.routes.iter().enumerate() {
        predicate(&route.predicate, &format!("{place}, route {i}"), found);
    }
    for phase in &t.phases {
        for role in &phase.roles {
            let place = format!("{place}, phase `{}`, role `{}`", phase.name, role.name);
            predicate(&role.predicate, &place, found);
            for (i, instr) in role.program.iter().enumerate() {
                for buffer in buffers(instr) {
                    if buffer.0 as usize >= t.buffers.len() {
                        let place = format!("{place}, instruction {i}");
                        dangling(found, &place, "buffer", u64::from(buffer.0), t.buffers.len());
                    }
                }
            }
        }
    }
}

fn predicate(p: &Predicate, place: &str, found: &mut Vec<Violation>) {
    for clause in p.x.iter().chain(&p.y) {
        let zero = match clause.term {
            Term::Pos => false,
            Term::Rem(m) | Term::Quot(m) => m == 0,
            Term::RemRem(m, n) | Term::QuotRem(m, n) => m == 0 || n == 0,
        };
        if zero {
            malformed(found, place, format!("{:?} divides by zero", clause.term));
        }
    }
}

/// Every buffer an instruction names.
fn buffers(instr: &Instr) -> Vec<crate::BufferId> {
    let operands = super::operands::Operands::of(instr);
    let mut ids: Vec<_> = operands.slices().map(|s| s.buffer).collect();
    ids.extend(operands.matrix.map(|m| m.buffer));
    ids.extend(operands.cache);
    ids
}
