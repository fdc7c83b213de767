//! Colors and routes: the budget, well-formed rules, and one rule per color and router; one per input for
//! colors of broadcasts.

use std::collections::{BTreeMap, BTreeSet};

use super::{LISTED, Violation};
use crate::expand::{Mask, PlanMap, TemplateMap};
use crate::geometry::{Point, Port, Ports};
use crate::plan::{Plan, Region, Wire};
use crate::program::broadcast_colors;
use crate::route::Color;

pub(super) fn check_template(map: &TemplateMap<'_>, found: &mut Vec<Violation>) {
    let t = map.template;
    let masks: Vec<Mask> =
        t.routes.iter().map(|r| Mask::new(&r.predicate, t.width, t.height)).collect();
    let programs = t.phases.iter().flat_map(|p| &p.roles).flat_map(|r| &r.program);
    let merging = broadcast_colors(programs);
    for (i, route) in t.routes.iter().enumerate() {
        let user = || format!("template `{}`, route {i} of color {}", t.name, route.color.0);
        if let Some(what) = malformed(route.input, route.outputs) {
            found.push(Violation::Route { user: user(), what });
        }
        for (j, other) in t.routes.iter().enumerate().skip(i + 1) {
            let merged = other.input != route.input && merging.contains(&route.color);
            if other.color == route.color
                && !merged
                && let Some((x, y)) = meeting(&masks[i], &masks[j], t.width, t.height)
            {
                let color = route.color.0;
                let second = format!("route {j}");
                found.push(Violation::ColorClash { color, x, y, first: user(), second });
            }
        }
    }
}

fn malformed(input: Port, outputs: Ports) -> Option<String> {
    if outputs.is_empty() || outputs.0 > 31 {
        return Some(format!("outputs {:#b} are no set of ports", outputs.0));
    }
    outputs.contains(input).then(|| format!("{input:?} is both input and output"))
}

/// First position where both hold.
fn meeting(a: &Mask, b: &Mask, w: u32, h: u32) -> Option<(u32, u32)> {
    let both = |a: &[bool], b: &[bool]| -> Vec<u32> {
        (0u32..).zip(a.iter().zip(b)).filter(|(_, (a, b))| **a && **b).map(|(i, _)| i).collect()
    };
    let (xs, ys) = (both(&a.x, &b.x), both(&a.y, &b.y));
    debug_assert!(xs.len() <= w as usize && ys.len() <= h as usize);
    ys.iter()
        .flat_map(|&y| xs.iter().map(move |&x| (x, y)))
        .find(|&(x, y)| a.holds(x, y) && b.holds(x, y))
}

pub(super) fn check_plan(plan: &Plan, map: &PlanMap<'_>, found: &mut Vec<Violation>) {
    for region in &plan.regions {
        if let Some(t) = map.templates.get(region.template.0 as usize) {
            region_colors(plan, region, t, found);
        }
    }
    for (i, wire) in plan.wires.iter().enumerate() {
        check_wire(plan, i, wire, found);
        for (j, other) in plan.wires.iter().enumerate().skip(i + 1) {
            if wire.color == other.color && wire.rect.intersects(&other.rect) {
                found.push(Violation::ColorClash {
                    color: wire.color.0,
                    x: wire.rect.x.max(other.rect.x),
                    y: wire.rect.y.max(other.rect.y),
                    first: format!("wire {i}"),
                    second: format!("wire {j}"),
                });
            }
        }
        for region in plan.regions.iter().filter(|r| r.rect.intersects(&wire.rect)) {
            wire_in_region(map, i, wire, region, found);
        }
    }
}

fn region_colors(plan: &Plan, region: &Region, map: &TemplateMap<'_>, found: &mut Vec<Violation>) {
    let usable = plan.target.usable_colors();
    let user = format!("region `{}`", region.name);
    let mut sources = BTreeSet::new();
    for (from, _) in &region.colors {
        if !sources.insert(*from) {
            let what = format!("template color {} is mapped twice", from.0);
            found.push(Violation::Route { user: user.clone(), what });
        }
    }
    let mut used: BTreeMap<Color, Color> = BTreeMap::new();
    for color in map.colors() {
        let wafer = region.color(color);
        if u32::from(wafer.0) >= usable {
            found.push(Violation::ColorBudget { user: user.clone(), color: wafer.0, usable });
        }
        if let Some(other) = used.insert(wafer, color) {
            let what =
                format!("template colors {} and {} both become {}", other.0, color.0, wafer.0);
            found.push(Violation::Route { user: user.clone(), what });
        }
    }
}

fn check_wire(plan: &Plan, i: usize, wire: &Wire, found: &mut Vec<Violation>) {
    let user = format!("wire {i}");
    let usable = plan.target.usable_colors();
    if u32::from(wire.color.0) >= usable {
        found.push(Violation::ColorBudget { user: user.clone(), color: wire.color.0, usable });
    }
    if let Some(what) = malformed(wire.input, wire.outputs) {
        found.push(Violation::Route { user: user.clone(), what });
    }
    if wire.input == Port::Ramp || wire.outputs.contains(Port::Ramp) {
        let what = "a wire neither starts nor ends at a core".to_owned();
        found.push(Violation::Route { user: user.clone(), what });
    }
    let r = wire.rect;
    let right = u64::from(r.x) + u64::from(r.w);
    let bottom = u64::from(r.y) + u64::from(r.h);
    let t = &plan.target;
    if r.area() == 0 || right > u64::from(t.total_width()) || bottom > u64::from(t.height) {
        let what = format!("{} x {} PEs at ({}, {})", r.w, r.h, r.x, r.y);
        found.push(Violation::Route { user, what });
    }
}

/// A wire may cross a region only where the region does not use its color.
fn wire_in_region(
    map: &PlanMap<'_>,
    i: usize,
    wire: &Wire,
    region: &Region,
    found: &mut Vec<Violation>,
) {
    let Some(t) = map.templates.get(region.template.0 as usize) else { return };
    let colors: Vec<Color> = t.colors().filter(|&c| region.color(c) == wire.color).collect();
    let (a, b) = (wire.rect, region.rect);
    let mut listed = 0;
    for y in a.y.max(b.y)..(a.y.saturating_add(a.h)).min(b.y.saturating_add(b.h)) {
        for x in a.x.max(b.x)..(a.x.saturating_add(a.w)).min(b.x.saturating_add(b.w)) {
            let Some((px, py)) = region.position(Point { x, y }) else { continue };
            if colors.iter().any(|&c| t.route(c, px, py).is_some()) && listed < LISTED {
                listed += 1;
                let (first, second) = (format!("wire {i}"), format!("region `{}`", region.name));
                found.push(Violation::ColorClash { color: wire.color.0, x, y, first, second });
            }
        }
    }
}
