//! Pins: slices in range, and every weight element pinned exactly as often as declared.
//!
//! Exact for any number of PEs without listing them: where the two tensor axes follow different
//! grid axes, a pin is a product of two lists of intervals, one per column and one per row.

use std::collections::BTreeMap;

use super::{LISTED, Violation};
use crate::buffer::Role;
use crate::expand::{Mask, PlanMap, TemplateMap};
use crate::index::Span;
use crate::pin::Pin;
use crate::plan::{Plan, WeightDecl};
use crate::template::Template;

/// Half-open interval of tensor indices.
type Interval = (u64, u64);

/// Products over some piece of axis 0, with how many of their intervals lie over it.
type Active = Vec<(usize, i64)>;

/// Tensor rectangles: every interval of `axis0` with every one of `axis1`, `times` times.
#[derive(Clone, Debug)]
struct Product {
    axis0: Vec<Interval>,
    axis1: Vec<Interval>,
    times: u64,
}

/// (rows, columns) of a weight: rank 1 has one row.
fn dims(decl: &WeightDecl) -> (u64, u64) {
    match decl.shape[..] {
        [n] => (1, u64::from(n)),
        [n, k] => (u64::from(n), u64::from(k)),
        _ => (0, 0),
    }
}

/// The declaration a template's weight resolves to in the first region of that template.
fn any_decl<'a>(plan: &'a Plan, t: &Template, weight: u32) -> Option<&'a WeightDecl> {
    let region =
        plan.regions.iter().find(|r| plan.template_of(r).is_some_and(|u| u.name == t.name))?;
    let name = Plan::weight_name(&t.weights[weight as usize].name, region.layer);
    plan.weight(&name).map(|(_, decl)| decl)
}

/// Slices inside weights and buffers; no two pins over the same buffer elements.
pub(super) fn check_template(plan: &Plan, map: &TemplateMap<'_>, found: &mut Vec<Violation>) {
    let t = map.template;
    for (i, pin) in t.pins.iter().enumerate() {
        let weight = &t.weights[pin.weight as usize].name;
        let mut bad = |what: String| {
            let (template, weight) = (t.name.clone(), weight.clone());
            found.push(Violation::Pin { template, pin: i, weight, what });
        };
        let buffer = &t.buffers[pin.buffer.0 as usize];
        if buffer.role != Role::Weights {
            bad(format!("fills `{}`, which is not a weight buffer", buffer.name));
        }
        let (rows, cols) = pin.extent();
        let fits = |at: u32, n: u32, limit: u32| u64::from(at) + u64::from(n) <= u64::from(limit);
        if !fits(pin.at.0, rows, buffer.rows) || !fits(pin.at.1, cols, buffer.cols) {
            bad(format!(
                "{rows} x {cols} at {:?} of `{}`, which is {} x {}",
                pin.at, buffer.name, buffer.rows, buffer.cols
            ));
        }
        let Some(decl) = any_decl(plan, t, pin.weight) else { continue };
        let (n, k) = dims(decl);
        if buffer.storage.is_quantized() && !k.is_multiple_of(32) {
            bad(format!("last axis {k} is not a multiple of 32, as {:?} needs", buffer.storage));
        }
        if let Some(gain) = pin.gain.and_then(|g| any_decl(plan, t, g.weight))
            && dims(gain) != (1, k)
        {
            bad(format!("gain `{}` of shape {:?} for a last axis of {k}", gain.name, gain.shape));
        }
        match products(t, pin) {
            None => bad("a slice starts below zero".into()),
            Some(list) => {
                let end = |f: fn(&Product) -> &Vec<Interval>| {
                    list.iter().flat_map(f).filter(|i| i.0 < i.1).map(|i| i.1).max().unwrap_or(0)
                };
                let (end0, end1) = (end(|p| &p.axis0), end(|p| &p.axis1));
                if end0 > n || end1 > k {
                    bad(format!("slices reach [{end0}, {end1}] of a weight of [{n}, {k}]"));
                }
            }
        }
    }
    overlaps(t, found);
}

fn overlaps(t: &Template, found: &mut Vec<Violation>) {
    let masks: Vec<Mask> =
        t.pins.iter().map(|p| Mask::new(&p.predicate, t.width, t.height)).collect();
    for (i, a) in t.pins.iter().enumerate() {
        for (j, b) in t.pins.iter().enumerate().skip(i + 1).filter(|(_, b)| b.buffer == a.buffer) {
            let meet =
                |a: u32, n: u32, b: u32, m: u32| a < b.saturating_add(m) && b < a.saturating_add(n);
            let (ea, eb) = (a.extent(), b.extent());
            let shared = meet(a.at.0, ea.0, b.at.0, eb.0) && meet(a.at.1, ea.1, b.at.1, eb.1);
            if shared && masks_meet(&masks[i], &masks[j], t) {
                found.push(Violation::Pin {
                    template: t.name.clone(),
                    pin: j,
                    weight: t.weights[b.weight as usize].name.clone(),
                    what: format!("fills the same elements of the buffer as pin {i}"),
                });
            }
        }
    }
}

fn masks_meet(a: &Mask, b: &Mask, t: &Template) -> bool {
    let both = |a: &[bool], b: &[bool]| a.iter().zip(b).any(|(a, b)| *a && *b);
    let separable = a.diagonals.is_none() && b.diagonals.is_none();
    both(&a.x, &b.x)
        && both(&a.y, &b.y)
        && (separable
            || (0..t.height).any(|y| (0..t.width).any(|x| a.holds(x, y) && b.holds(x, y))))
}

/// What a pin covers; `None` when a slice cannot be evaluated or starts below zero.
fn products(t: &Template, pin: &Pin) -> Option<Vec<Product>> {
    let mask = Mask::new(&pin.predicate, t.width, t.height);
    let xs: Vec<u32> = (0..t.width).filter(|&x| mask.x[x as usize]).collect();
    let ys: Vec<u32> = (0..t.height).filter(|&y| mask.y[y as usize]).collect();
    let uses =
        |s: &Span| (s.start.uses_x() || s.limit.uses_x(), s.start.uses_y() || s.limit.uses_y());
    let (u0, u1) = (uses(&pin.axis0), uses(&pin.axis1));
    let users = |a: bool, b: bool| u32::from(a) + u32::from(b);
    let one_axis_each = users(u0.0, u0.1) <= 1 && users(u1.0, u1.1) <= 1;
    let separate = one_axis_each && users(u0.0, u1.0) <= 1 && users(u0.1, u1.1) <= 1;
    if mask.diagonals.is_none() && separate {
        let list = |span: &Span, (x, y): (bool, bool)| -> Option<Vec<Interval>> {
            match (x, y) {
                (true, _) => xs.iter().map(|&x| span.at((x, 0), t.cell)).collect(),
                (_, true) => ys.iter().map(|&y| span.at((0, y), t.cell)).collect(),
                _ => Some(vec![span.at((0, 0), t.cell)?]),
            }
        };
        let free = |used: bool, n: usize| if used { 1 } else { n as u64 };
        let times = free(u0.0 || u1.0, xs.len()) * free(u0.1 || u1.1, ys.len());
        if xs.is_empty() || ys.is_empty() {
            return Some(vec![]);
        }
        let (axis0, axis1) = (list(&pin.axis0, u0)?, list(&pin.axis1, u1)?);
        return Some(vec![Product { axis0, axis1, times }]);
    }
    let mut by_axis0: BTreeMap<Interval, Vec<Interval>> = BTreeMap::new();
    for &y in &ys {
        for &x in xs.iter().filter(|&&x| mask.holds(x, y)) {
            let axis0 = pin.axis0.at((x, y), t.cell)?;
            by_axis0.entry(axis0).or_default().push(pin.axis1.at((x, y), t.cell)?);
        }
    }
    let one = |(a, axis1)| Product { axis0: vec![a], axis1, times: 1 };
    Some(by_axis0.into_iter().map(one).collect())
}

/// Every declared weight is pinned exactly as often as declared, over all regions.
pub(super) fn check_coverage(plan: &Plan, map: &PlanMap<'_>, found: &mut Vec<Violation>) {
    let mut gains = vec![false; plan.weights.len()];
    let per_template: Vec<Vec<Option<Vec<Product>>>> = map
        .templates
        .iter()
        .map(|m| m.template.pins.iter().map(|p| products(m.template, p)).collect())
        .collect();
    // Regions of one template share its slices: of hundreds of layers they are held once.
    let mut pinned: Vec<Vec<&Product>> = vec![Vec::new(); plan.weights.len()];
    for region in &plan.regions {
        let Some(t) = plan.template_of(region) else { continue };
        let ids: Vec<Option<usize>> =
            t.weights.iter().map(|w| resolve(plan, t, region, &w.name, found)).collect();
        for (pin, products) in t.pins.iter().zip(&per_template[region.template.0 as usize]) {
            if let Some(gain) = pin.gain.and_then(|g| ids[g.weight as usize]) {
                gains[gain] = true;
            }
            if let (Some(id), Some(products)) = (ids[pin.weight as usize], products) {
                pinned[id].extend(products);
            }
        }
    }
    for (i, decl) in plan.weights.iter().enumerate() {
        if decl.copies == 0 && pinned[i].is_empty() && gains[i] {
            continue;
        }
        coverage(decl, &pinned[i], found);
    }
}

/// The declaration of a template's weight in a region.
fn resolve(
    plan: &Plan,
    t: &Template,
    region: &crate::Region,
    name: &str,
    found: &mut Vec<Violation>,
) -> Option<usize> {
    let full = Plan::weight_name(name, region.layer);
    let mut bad = |what: &str| {
        let (region, weight) = (region.name.clone(), full.clone());
        found.push(Violation::Weight { region, weight, what: what.to_owned() });
    };
    if full.contains(crate::plan::LAYER) {
        bad("the region has no layer index");
        return None;
    }
    let Some((id, decl)) = plan.weight(&full) else {
        bad("not declared");
        return None;
    };
    let index = t.weights.iter().position(|w| w.name == name)? as u32;
    if let Some(first) = any_decl(plan, t, index)
        && first.shape != decl.shape
    {
        bad(&format!("shape {:?}, in other regions of its template {:?}", decl.shape, first.shape));
        return None;
    }
    Some(id.0 as usize)
}

/// Sweeps axis 0; between two cuts the multiset of axis-1 intervals is constant.
fn coverage(decl: &WeightDecl, products: &[&Product], found: &mut Vec<Violation>) {
    let (n, k) = dims(decl);
    let mut events: Vec<(u64, i64, usize)> = vec![(0, 0, 0), (n, 0, 0)];
    for (i, p) in products.iter().enumerate() {
        for &(from, to) in p.axis0.iter().filter(|v| v.0 < v.1) {
            events.push((from, 1, i));
            events.push((to, -1, i));
        }
    }
    events.sort_unstable();
    let mut active: BTreeMap<usize, i64> = BTreeMap::new();
    let mut known: BTreeMap<Active, Vec<(Interval, u64)>> = BTreeMap::new();
    let mut listed = 0;
    let mut i = 0;
    while i < events.len() {
        let at = events[i].0;
        while i < events.len() && events[i].0 == at {
            let (_, change, product) = events[i];
            if change != 0 {
                let count = active.entry(product).or_insert(0);
                *count += change;
                if *count == 0 {
                    active.remove(&product);
                }
            }
            i += 1;
        }
        let Some(next) = events.get(i).map(|e| e.0).filter(|_| at < n) else { break };
        let key: Active = active.iter().map(|(&p, &c)| (p, c)).collect();
        let wrong = known.entry(key).or_insert_with_key(|key| {
            let parts = key.iter().map(|&(p, c)| (products[p], c.unsigned_abs()));
            wrong_counts(parts, k, u64::from(decl.copies))
        });
        for &((from, to), count) in wrong.iter() {
            listed += 1;
            if listed > LISTED {
                return;
            }
            found.push(Violation::Coverage {
                weight: decl.name.clone(),
                axis0: at..next,
                axis1: from..to,
                found: count,
                declared: decl.copies,
            });
        }
    }
}

/// Intervals of `0..k` that are not covered `expected` times, with their count.
fn wrong_counts<'a>(
    parts: impl Iterator<Item = (&'a Product, u64)>,
    k: u64,
    expected: u64,
) -> Vec<(Interval, u64)> {
    let mut cuts: BTreeMap<u64, i128> = BTreeMap::from([(0, 0), (k, 0)]);
    for (product, count) in parts {
        let weight = i128::from(count) * i128::from(product.times);
        for &(from, to) in product.axis1.iter().filter(|v| v.0 < v.1) {
            *cuts.entry(from).or_insert(0) += weight;
            *cuts.entry(to).or_insert(0) -= weight;
        }
    }
    let mut wrong: Vec<(Interval, u64)> = Vec::new();
    let mut count = 0i128;
    let points: Vec<(u64, i128)> = cuts.into_iter().collect();
    for pair in points.windows(2) {
        count += pair[0].1;
        if count != i128::from(expected) && pair[0].0 < k {
            let found = u64::try_from(count).unwrap_or(u64::MAX);
            match wrong.last_mut() {
                Some((range, n)) if range.1 == pair[0].0 && *n == found => range.1 = pair[1].0,
                _ => wrong.push(((pair[0].0, pair[1].0), found)),
            }
        }
    }
    wrong
}
