//! The repair of a wafer with dead PEs: nothing lies on a dead PE or passes one, and no physical link
//! carries more paths than it has lanes. Every link of the grid is followed, used or not.

use super::{LISTED, Violation};
use crate::geometry::{Axis, Point, Port};
use crate::plan::Plan;
use crate::repair::{Repair, RepairMap};

pub(super) fn check(plan: &Plan, found: &mut Vec<Violation>) {
    let Some(repair) = &plan.repair else { return };
    shape(plan, repair, found);
    if !found.is_empty() {
        return;
    }
    let target = &plan.target;
    let map = RepairMap::new(repair, target.width, target.height);
    rows(&map, target.height, found);
    if found.is_empty() {
        Lanes::new(repair, target.height).follow(&map, (target.width, target.height), found);
    }
}

fn malformed(found: &mut Vec<Violation>, what: String) {
    found.push(Violation::Malformed { place: "repair".into(), what });
}

/// Counts and ranges: what the other checks rely on.
fn shape(plan: &Plan, repair: &Repair, found: &mut Vec<Violation>) {
    let target = &plan.target;
    let pes = u64::from(repair.width) * u64::from(target.height);
    if pes > 1 << 22 || repair.width < target.width || repair.wafers.len() != target.wafers as usize
    {
        let (w, n) = (repair.width, repair.wafers.len());
        let what = format!(
            "{n} wafers of {w} columns for {} of {} grid columns",
            target.wafers, target.width
        );
        return malformed(found, what);
    }
    if !target.dead.is_empty() {
        malformed(found, format!("{} PEs of the repaired grid are dead", target.dead.len()));
    }
    let spares = repair.width - target.width;
    for (i, wafer) in repair.wafers.iter().enumerate() {
        if wafer.first.len() != spares as usize {
            let what = format!("wafer {i} has {} spares, not {spares}", wafer.first.len());
            malformed(found, what);
        }
        let outside = |b: &&crate::repair::Bend| {
            b.row == 0 || b.row >= target.height || b.spare >= spares || b.column >= repair.width
        };
        if let Some(bend) = wafer.bends.iter().find(outside) {
            malformed(found, format!("wafer {i}: {bend:?}"));
        }
        let key = |b: &crate::repair::Bend| (b.row, b.spare);
        if !wafer.bends.windows(2).all(|b| key(&b[0]) < key(&b[1])) {
            malformed(found, format!("wafer {i}: bends are not sorted by row and spare"));
        }
    }
    let all = repair.width.saturating_mul(target.wafers);
    if let Some(pe) = repair.dead.iter().find(|d| d.0 >= all || d.1 >= target.height) {
        malformed(found, format!("dead PE {pe:?} is on no wafer"));
    }
    if !repair.dead.windows(2).all(|d| (d[0].1, d[0].0) < (d[1].1, d[1].0)) {
        malformed(found, "dead PEs are not sorted by row and column".into());
    }
    let key = |d: &crate::repair::Detour| (d.at.y, d.at.x, d.axis);
    if !repair.detours.windows(2).all(|d| key(&d[0]) < key(&d[1])) {
        malformed(found, "detours are not sorted by y, x and axis".into());
    }
    let grid = target.total_width();
    let ends = |d: &&crate::repair::Detour| match d.axis {
        Axis::X => {
            d.at.y >= target.height || d.at.x >= grid || (d.at.x + 1).is_multiple_of(target.width)
        }
        Axis::Y => d.at.x >= grid || d.at.y.saturating_add(1) >= target.height,
    };
    if let Some(d) = repair.detours.iter().find(ends) {
        malformed(found, format!("a detour of ({}, {}), which has no such link", d.at.x, d.at.y));
    }
}

/// Each row skips distinct columns of its wafer, all dead ones among them.
fn rows(map: &RepairMap<'_>, height: u32, found: &mut Vec<Violation>) {
    let repair = map.repair;
    for wafer in 0..repair.wafers.len() as u32 {
        for y in 0..height {
            let skipped = map.skipped(wafer, y);
            let ascend = skipped.windows(2).all(|s| s[0] < s[1]);
            if (!ascend || skipped.last().is_some_and(|&s| s >= repair.width))
                && found.len() < LISTED
            {
                malformed(found, format!("wafer {wafer}, row {y} skips {skipped:?}"));
            }
        }
    }
    for &(x, y) in &repair.dead {
        let (wafer, column) = (x / repair.width, x % repair.width);
        if map.skipped(wafer, y).binary_search(&column).is_err() && found.len() < LISTED {
            found.push(Violation::DeadPe { user: "the grid".into(), x, y });
        }
    }
}

/// Use of the physical links of all wafers, both directions alike.
struct Lanes<'a> {
    repair: &'a Repair,
    /// Columns of all wafers.
    columns: u32,
    height: u32,
    /// Per PE: paths over its eastern and its southern link.
    used: Vec<[u8; 2]>,
}

impl<'a> Lanes<'a> {
    fn new(repair: &'a Repair, height: u32) -> Self {
        let columns = repair.width * repair.wafers.len() as u32;
        let pes = columns as usize * height as usize;
        Lanes { repair, columns, height, used: vec![[0; 2]; pes] }
    }

    fn follow(
        &mut self,
        map: &RepairMap<'_>,
        (width, height): (u32, u32),
        found: &mut Vec<Violation>,
    ) {
        let mut listed = self.repair.detours.iter().peekable();
        let mut below = map.columns(0);
        for y in 0..height {
            let row = std::mem::replace(&mut below, map.columns(y + 1));
            for x in 0..row.len() as u32 {
                let from = row[x as usize];
                for axis in [Axis::X, Axis::Y] {
                    let to = match axis {
                        Axis::X if (x + 1).is_multiple_of(width) => continue,
                        Axis::X => Point { x: row[x as usize + 1], y },
                        Axis::Y if y + 1 == height => continue,
                        Axis::Y => Point { x: below[x as usize], y: y + 1 },
                    };
                    let at = Point { x, y };
                    let listed = listed.next_if(|d| (d.at, d.axis) == (at, axis));
                    let ends = (Point { x: from, y }, to);
                    let result = match listed {
                        Some(detour) => self.walk(ends, &detour.steps),
                        None if from.abs_diff(to.x) + u32::from(axis == Axis::Y) == 1 => {
                            self.take(from, y, axis == Axis::Y)
                        }
                        None => self.walk(ends, &map.path(at, axis).unwrap_or_default()),
                    };
                    if let Err(what) = result
                        && found.len() < LISTED
                    {
                        let axis = if axis == Axis::X { "east" } else { "south" };
                        found.push(Violation::RepairPath { x, y, axis, what });
                    }
                }
            }
        }
    }

    /// Takes a lane of the link from PE (x, y) to the east or south.
    fn take(&mut self, x: u32, y: u32, south: bool) -> Result<(), String> {
        let pe = y as usize * self.columns as usize + x as usize;
        let lanes = &mut self.used[pe][usize::from(south)];
        *lanes = lanes.saturating_add(1);
        if u32::from(*lanes) > 1 + self.repair.spare_lanes {
            let side = if south { "south" } else { "east" };
            return Err(format!("has no lane left {side} of PE ({x}, {y})"));
        }
        Ok(())
    }

    /// Follows one path and takes a lane of every link on it.
    fn walk(&mut self, (from, to): (Point, Point), steps: &[Port]) -> Result<(), String> {
        let west = from.x / self.repair.width * self.repair.width;
        let (mut x, mut y) = (from.x, from.y);
        let dead = &self.repair.dead;
        for (i, &port) in steps.iter().enumerate() {
            let (dx, dy) = port.step();
            let (nx, ny) = (i64::from(x) + dx, i64::from(y) + dy);
            let columns = i64::from(west)..i64::from(west + self.repair.width);
            if !columns.contains(&nx) || !(0..i64::from(self.height)).contains(&ny) {
                return Err(format!("leaves the wafer at PE ({x}, {y})"));
            }
            let (nx, ny) = (nx as u32, ny as u32);
            if port == Port::Ramp {
                return Err(format!("stops at PE ({x}, {y})"));
            }
            self.take(x.min(nx), y.min(ny), dx == 0)?;
            if dead.binary_search_by(|&(x, y)| (y, x).cmp(&(ny, nx))).is_ok() {
                return Err(format!("passes dead PE ({nx}, {ny}) at hop {}", i + 1));
            }
            (x, y) = (nx, ny);
        }
        if (x, y) == (to.x, to.y) { Ok(()) } else { Err(format!("ends at PE ({x}, {y})")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::{Bend, Detour, Spares};
    use crate::samples::{Collective, line};

    /// A row of 6 PEs on a wafer of 7 columns and 3 rows whose PE (3, 0) is dead.
    fn repaired() -> Plan {
        let mut target = crate::Target::preset("tiny").expect("preset");
        (target.width, target.height) = (6, 3);
        let mut plan = line(Collective::Chain, Axis::X, 6, 4, target);
        let around = vec![Port::South, Port::East, Port::East, Port::North];
        let at = Point { x: 2, y: 0 };
        plan.repair = Some(Repair {
            width: 7,
            spare_lanes: 1,
            dead: vec![(3, 0)],
            wafers: vec![Spares { first: vec![3], bends: Vec::new() }],
            detours: vec![Detour { at, axis: Axis::X, steps: around }],
        });
        plan
    }

    fn violations(change: impl FnOnce(&mut Repair)) -> Vec<String> {
        let mut plan = repaired();
        change(plan.repair.as_mut().expect("repaired"));
        let mut found = Vec::new();
        check(&plan, &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sound_repair_passes_and_broken_ones_are_named() {
        assert_eq!(violations(|_| {}), Vec::<String>::new());
        assert_eq!(crate::verify(&repaired()), Ok(()));
        type Change = fn(&mut Repair);
        let cases: [(Change, &str); 7] = [
            (|r| r.detours.clear(), "passes dead PE (3, 0)"),
            (|r| r.wafers[0].first[0] = 2, "PLN1103"),
            (|r| r.spare_lanes = 0, "has no lane left"),
            (|r| r.detours[0].steps.truncate(3), "ends at PE (4, 1)"),
            (|r| r.detours[0].steps[0] = Port::North, "leaves the wafer"),
            (|r| r.dead.push((9, 9)), "PLN1003"),
            (|r| r.wafers[0].bends.push(Bend { row: 0, spare: 0, column: 1 }), "PLN1003"),
        ];
        for (change, expected) in cases {
            let found = violations(change);
            assert!(found.iter().any(|v| v.contains(expected)), "{expected}: {found:?}");
        }
    }
}
