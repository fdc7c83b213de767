//! Regions on the wafer, and roles in the region.

use std::collections::BTreeMap;

use super::Violation;
use crate::expand::{Mask, TemplateMap};
use crate::plan::Plan;

pub(super) fn check(plan: &Plan, found: &mut Vec<Violation>) {
    let target = &plan.target;
    for region in &plan.regions {
        let Some(template) = plan.template_of(region) else { continue };
        let r = region.rect;
        let mut bad = |what: String| {
            found.push(Violation::RegionPlacement { region: region.name.clone(), what });
        };
        if (r.w, r.h) != (template.width, template.height) {
            let (w, h) = (template.width, template.height);
            bad(format!("is {} x {}, its template `{}` {w} x {h}", r.w, r.h, template.name));
        }
        let (right, bottom) = (u64::from(r.x) + u64::from(r.w), u64::from(r.y) + u64::from(r.h));
        let (width, height) = (u64::from(target.total_width()), u64::from(target.height));
        if right > width || bottom > height {
            bad(format!("ends at ({right}, {bottom}), the machine at ({width}, {height})"));
        } else if r.x / target.width != (r.x + r.w - 1) / target.width {
            bad(format!("columns {}..{right} cross wafers of {} columns", r.x, target.width));
        }
    }
    for (i, a) in plan.regions.iter().enumerate() {
        for b in plan.regions[i + 1..].iter().filter(|b| a.rect.intersects(&b.rect)) {
            let (first, second) = (a.name.clone(), b.name.clone());
            found.push(Violation::RegionsOverlap { first, second });
        }
    }
    for &(x, y) in &target.dead {
        let p = crate::Point { x, y };
        let regions = plan.regions.iter().filter(|r| r.rect.contains(p));
        let users = regions.map(|r| format!("region `{}`", r.name));
        let wires = plan.wires.iter().enumerate().filter(|(_, w)| w.rect.contains(p));
        for user in users.chain(wires.map(|(i, _)| format!("wire {i}"))) {
            found.push(Violation::DeadPe { user, x, y });
        }
    }
}

/// Every position has exactly one role in every phase.
pub(super) fn check_roles(map: &TemplateMap<'_>, found: &mut Vec<Violation>) {
    let t = map.template;
    for (i, phase) in t.phases.iter().enumerate() {
        let bad = miscovered(map.role_masks(i), t.width, t.height);
        if let Some(((x, y), roles, others)) = bad {
            let (template, phase) = (t.name.clone(), phase.name.clone());
            found.push(Violation::RoleCover { template, phase, x, y, others, roles });
        }
    }
}

/// First position not covered exactly once, its count, and how many more there are.
fn miscovered(masks: &[Mask], w: u32, h: u32) -> Option<((u32, u32), usize, u64)> {
    // Columns that the same masks hold on behave alike, and rows likewise, but for diagonals.
    let xs = classes(masks, w, |m| &m.x);
    let ys = classes(masks, h, |m| &m.y);
    let mut first = None;
    let mut count = 0u64;
    let mut report = |at: (u32, u32), roles: usize, size: u64| {
        count += size;
        if first.is_none_or(|((x, y), _)| (at.1, at.0) < (y, x)) {
            first = Some((at, roles));
        }
    };
    for (x_set, columns) in &xs {
        for (y_set, rows) in &ys {
            let both: Vec<usize> = (0..masks.len()).filter(|&i| x_set[i] && y_set[i]).collect();
            let diagonal = both.iter().any(|&i| masks[i].diagonals.is_some());
            if !diagonal && both.len() != 1 {
                report((columns[0], rows[0]), both.len(), columns.len() as u64 * rows.len() as u64);
            } else if diagonal {
                for &y in rows {
                    for &x in columns {
                        let n = both.iter().filter(|&&i| masks[i].holds(x, y)).count();
                        if n != 1 {
                            report((x, y), n, 1);
                        }
                    }
                }
            }
        }
    }
    first.map(|(at, roles)| (at, roles, count - 1))
}

/// Coordinates grouped by the set of masks that hold on them.
fn classes<'a>(
    masks: &'a [Mask],
    n: u32,
    axis: impl Fn(&'a Mask) -> &'a [bool],
) -> BTreeMap<Vec<bool>, Vec<u32>> {
    let mut groups: BTreeMap<Vec<bool>, Vec<u32>> = BTreeMap::new();
    for p in 0..n {
        let key = masks.iter().map(|m| axis(m)[p as usize]).collect();
        groups.entry(key).or_default().push(p);
    }
    groups
}
