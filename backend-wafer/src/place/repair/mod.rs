//! The grid that a plan is written for when PEs are dead, and how it lies on the wafer.
//!
//! In: a target with dead PEs. Out: [`Around`]: a target without, as wide where the spare columns of the wafer
//! suffice, else narrower; and for the plan made on it the `plan::Repair` that skips the dead. Rows skip
//! columns (`wafer`), links become paths (`paths`). Where a dead PE is added later, [`amend`] bends one spare
//! in one row and leaves all else.
//! A column that is dead from end to end cuts a wafer in two; the wider part is used.
//! Does not move regions: they know nothing of it.

mod paths;
mod wafer;

use std::collections::BTreeMap;
use std::ops::Range;

use plan::{Axis, Detour, Plan, Point, Port, Repair, RepairMap, Spares, Target};

use crate::WaferError;
use paths::{Link, Paths, SPARE_LANES};
use wafer::{CROWDS, Wafer, spares_of};

/// How often a narrower grid is tried.
const ATTEMPTS: u32 = 5;
/// Columns by which neighbours of one column come apart at most before bends are spread.
const SHIFT: i32 = 2;
/// Spares of a row that are tried for one more dead PE, nearest first.
const CHOICES: usize = 4;

/// Unusual paths by link.
type Detours = BTreeMap<Link, Vec<Port>>;

/// A grid around dead PEs.
#[derive(Clone, Debug)]
pub struct Around {
    /// The target without dead PEs that plans are made for.
    pub grid: Target,
    /// Columns of a wafer, skipped ones included.
    built: u32,
    dead: Vec<(u32, u32)>,
    /// Of each wafer with dead PEs, and all before it: skipped columns and unusual paths.
    wafers: Vec<(Spares, Detours)>,
}

/// Finds a grid of `target` around its dead PEs. Fewer spares make every bend long, more make every row
/// long; no row can have more dead PEs than spares, and where paths run out, more spares leave more room
/// for them. The grid is narrower than the target only where its spare columns do not suffice.
///
/// # Errors
/// `Unrepairable` when too few columns are left, or no path.
pub fn around(target: &Target) -> Result<Around, WaferError> {
    let built = target.built_width();
    let count = target.dead.iter().map(|d| d.0 / built + 1).max().unwrap_or(0);
    let wafers: Vec<Wafer> = (0..count).map(|index| Wafer::new(target, index)).collect();
    let needed = |wafer: &Wafer| wafer.cut(wafer.width, CROWDS[1]).spares_needed();
    let room = |wafer: &Wafer| wafer.width.saturating_sub(needed(wafer));
    let mut width = wafers.iter().map(room).min().unwrap_or(target.width).min(target.width);
    let tightest = wafers.iter().min_by_key(|w| room(w));
    let mut last = tightest.map_or(Wafer::new(target, 0).stuck(target, 0), |w| w.stuck(target, 0));
    for _ in 0..ATTEMPTS {
        if width == 0 {
            break;
        }
        let lay = |wafer: &Wafer| lay(wafer, width, built).map_err(|y| wafer.stuck(target, y));
        match wafers.iter().map(lay).collect() {
            Ok(wafers) => {
                let grid = Target { width, dead: Vec::new(), ..target.clone() };
                let grid = Target { spare_columns: built - width, ..grid };
                return Ok(Around { grid, built, dead: target.dead.clone(), wafers });
            }
            Err(error) => last = error,
        }
        let spares = built - width;
        width = width.saturating_sub(spares / 4 + 1);
    }
    Err(last)
}

/// What `width` columns skip on one wafer; the error is a row without a way.
fn lay(wafer: &Wafer, width: u32, built: u32) -> Result<(Spares, Detours), u32> {
    let most = wafer.width.checked_sub(width).ok_or(0u32)?;
    let mut last = 0;
    for crowd in CROWDS {
        let mut spares = wafer.cut(wafer.width, crowd).spares_wanted().min(most);
        loop {
            let mut used = wafer.cut(width + spares, crowd);
            match used.lay(spares) {
                Ok((rows, paths)) => return Ok((spares_of(&used.on_wafer(&rows, built)), paths)),
                Err(row) => last = row,
            }
            if spares == most {
                break;
            }
            spares = (spares + spares / 4 + 1).min(most);
        }
    }
    Err(last)
}

impl Around {
    /// How a plan for the grid lies on `wafers` wafers.
    pub fn repair(&self, wafers: u32) -> Repair {
        let here = |d: &(u32, u32)| d.0 / self.built < wafers;
        let mut repair = unbent(self.grid.width, self.built, wafers);
        repair.dead = self.dead.iter().copied().filter(here).collect();
        for (i, (spares, detours)) in self.wafers.iter().enumerate().take(wafers as usize) {
            repair.wafers[i] = spares.clone();
            repair.detours.extend(listed(detours.clone(), i as u32 * self.grid.width));
        }
        repair.detours.sort_by_key(|d| (d.at.y, d.at.x, d.axis));
        repair
    }
}

/// Wafers without dead PEs: all spares lie unused in the east.
fn unbent(width: u32, built: u32, wafers: u32) -> Repair {
    let spares = Spares { first: (width..built).collect(), bends: Vec::new() };
    Repair {
        width: built,
        spare_lanes: SPARE_LANES,
        dead: Vec::new(),
        wafers: vec![spares; wafers as usize],
        detours: Vec::new(),
    }
}

/// Paths of a wafer whose first grid column is `west`, as a plan lists them.
fn listed(detours: Detours, west: u32) -> impl Iterator<Item = Detour> {
    let detour = move |((y, x, axis), steps)| Detour { at: Point { x: west + x, y }, axis, steps };
    detours.into_iter().map(detour)
}

/// What [`amend`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amendment {
    /// PEs of the grid that now lie on another PE; their weights have to be loaded there.
    pub moved: Vec<Point>,
    /// Paths that changed.
    pub paths: usize,
}

/// Marks one more PE dead, in columns of all wafers: the nearest spare of its row bends through it, in
/// that row only. Regions, programs and all other PEs stay. A plan for wafers without dead PEs takes its
/// first spare from the target's spare columns.
///
/// # Errors
/// `Unrepairable` where the PE is on no wafer, the row has no spare left, or there is no path.
pub fn amend(plan: &mut Plan, dead: Point) -> Result<Amendment, WaferError> {
    let target = &plan.target;
    let fresh = || unbent(target.width, target.built_width(), target.wafers);
    let old = plan.repair.clone().unwrap_or_else(fresh);
    let mut physical = Target { width: old.width, spare_columns: 0, ..target.clone() };
    physical.dead.clone_from(&old.dead);
    if let Err(i) = physical.dead.binary_search_by(|&(x, y)| (y, x).cmp(&(dead.y, dead.x))) {
        physical.dead.insert(i, (dead.x, dead.y));
    }
    let index = dead.x / old.width;
    let before = Wafer::new(&Target { dead: old.dead.clone(), ..physical.clone() }, index);
    if index >= target.wafers || dead.y >= target.height {
        return Err(WaferError::NoSuchPe {
            x: dead.x,
            y: dead.y,
            target: target.name.clone(),
            columns: target.total_width(),
        });
    }
    let wafer = Wafer::new(&physical, index);
    let map = RepairMap::new(&old, target.width, target.height);
    let rows: Vec<Vec<u32>> = (0..target.height).map(|y| map.skipped(index, y).to_vec()).collect();
    let west = index * target.width;
    let of_wafer = |d: &&Detour| d.at.x / target.width == index;
    let known = old.detours.iter().filter(of_wafer);
    let known = known.map(|d| ((d.at.y, d.at.x - west, d.axis), d.steps.clone())).collect();
    let stuck = || wafer.stuck(&physical, dead.y);
    let (rows, found) = bend(&wafer, &before, &rows, &known, old.width).ok_or_else(stuck)?;
    let mut repair = Repair { dead: physical.dead.clone(), ..old.clone() };
    repair.wafers[index as usize] = spares_of(&rows);
    repair.detours.retain(|d| d.at.x / target.width != index);
    let changed = found.iter().filter(|(key, steps)| known.get(key) != Some(steps)).count();
    repair.detours.extend(listed(found, west));
    repair.detours.sort_by_key(|d| (d.at.y, d.at.x, d.axis));
    let after = RepairMap::new(&repair, target.width, target.height);
    let row_changed = |y: &u32| map.skipped(index, *y) != after.skipped(index, *y);
    let pes = (0..target.height).filter(row_changed);
    let pes = pes.flat_map(|y| (west..west + target.width).map(move |x| Point { x, y }));
    let moved = pes.filter(|&p| map.physical(p) != after.physical(p)).collect();
    let before = detour_cycles(plan);
    plan.repair = Some(repair);
    let cycles = plan.claims.token_cycles.saturating_sub(before);
    plan.claims.token_cycles = cycles + detour_cycles(plan);
    Ok(Amendment { moved, paths: changed })
}

/// The rows of a wafer with what became dead or useless since `before` skipped too, and its paths: of the
/// nearest spares the first that leaves paths for all.
fn bend(
    wafer: &Wafer,
    before: &Wafer,
    rows: &[Vec<u32>],
    known: &Detours,
    built: u32,
) -> Option<(Vec<Vec<u32>>, Detours)> {
    let on_wafer = |wafer: &Wafer, rows| wafer.on_wafer(rows, built);
    let useless = on_wafer(wafer, &wafer.useless);
    let dead = on_wafer(wafer, &wafer.dead);
    let old = on_wafer(before, &before.useless);
    // A dead neighbour can make PEs useless that were not: these are skipped too, or else left as they are.
    let choices = [&useless, &dead];
    for (skipped, choice) in choices.into_iter().flat_map(|s| (0..CHOICES).map(move |c| (s, c))) {
        let mut rows = rows.to_vec();
        for (y, row) in rows.iter_mut().enumerate() {
            let is_new =
                |x: &&u32| old[y].binary_search(x).is_err() || dead[y].binary_search(x).is_ok();
            for x in skipped[y].iter().filter(is_new) {
                let Err(_) = row.binary_search(x) else { continue };
                let free = (0..row.len()).filter(|&i| useless[y].binary_search(&row[i]).is_err());
                let mut free: Vec<usize> = free.collect();
                free.sort_by_key(|&i| (row[i].abs_diff(*x), i));
                row[*free.get(choice).or(free.last())?] = *x;
                row.sort_unstable();
            }
        }
        let inside = wafer.in_window(&rows, built);
        if let Ok(found) = Paths::new(wafer, &inside).detours(known) {
            return Some((rows, found));
        }
    }
    None
}

/// Cycles that longer links add to a token at most: in each region every phase takes its longest row or
/// column.
pub fn detour_cycles(plan: &Plan) -> u64 {
    let Some(repair) = &plan.repair else { return 0 };
    let target = &plan.target;
    let map = RepairMap::new(repair, target.width, target.height);
    let extra = |hops: Vec<u32>| -> Vec<u32> { hops.iter().map(|h| h.saturating_sub(1)).collect() };
    let hops: Vec<[Vec<u32>; 2]> = (0..target.height).map(|y| map.row_hops(y).map(extra)).collect();
    let mut cycles = 0;
    for region in &plan.regions {
        let Some(template) = plan.template_of(region) else { continue };
        let r = region.rect;
        let along = |axis: usize, x: Range<u32>, y: Range<u32>| -> u64 {
            let rows = y.map(|y| &hops[y as usize][axis][x.start as usize..x.end as usize]);
            rows.flatten().map(|&hops| u64::from(hops)).sum()
        };
        let (right, bottom) = (r.x + r.w, r.y + r.h);
        let rows = (r.y..bottom).map(|y| along(0, r.x..right - 1, y..y + 1)).max().unwrap_or(0);
        let column = |x: u32| along(1, x..x + 1, r.y..bottom - 1);
        let columns = (r.x..right).map(column).max().unwrap_or(0);
        for phase in &template.phases {
            let Some(comm) = &phase.comm else { continue };
            let (longest, links) = match axis_of(template, phase) {
                Axis::X => (rows, r.w),
                Axis::Y => (columns, r.h),
            };
            cycles += u64::from(comm.hops) * longest / u64::from(links.max(2) - 1);
        }
    }
    cycles * u64::from(target.fabric.hop_cycles)
}

/// The axis along which a phase sends.
fn axis_of(template: &plan::Template, phase: &plan::Phase) -> Axis {
    let programs = phase.roles.iter().flat_map(|r| &r.program);
    let mut colors = programs.filter_map(|i| i.communication()).flat_map(|c| [c.output, c.input]);
    let color = colors.find_map(|c| c);
    let mut routes = template.routes.iter().filter(|r| Some(r.color) == color);
    let axis = routes.find_map(|r| r.outputs.iter().find_map(Port::axis).or(r.input.axis()));
    axis.unwrap_or(Axis::X)
}

#[cfg(test)]
mod tests {
    use tensor::Rng;

    use super::wafer::{assign, settle};
    use super::*;

    /// `count` dead PEs, in clusters of up to `most`.
    fn dead((width, height): (u32, u32), count: usize, most: usize, seed: u64) -> Vec<(u32, u32)> {
        let mut rng = Rng::new(seed);
        let mut dead = std::collections::BTreeSet::new();
        while dead.len() < count {
            let (x, y) = (rng.below(width as usize) as u32, rng.below(height as usize) as u32);
            let (mut x, mut y) = (x, y);
            for _ in 0..1 + rng.below(most) {
                dead.insert((y, x));
                match rng.below(4) {
                    0 => x = (x + 1).min(width - 1),
                    1 => x = x.saturating_sub(1),
                    2 => y = (y + 1).min(height - 1),
                    _ => y = y.saturating_sub(1),
                }
            }
        }
        dead.into_iter().map(|(y, x)| (x, y)).collect()
    }

    #[test]
    fn a_whole_wafer_is_repaired_with_few_spares() {
        let wse3 = Target::preset("wse3").expect("preset");
        let size = (wse3.width, wse3.height);
        for (count, most, spares) in [(883, 1, 30), (8833, 1, 60), (883, 12, 40), (8833, 12, 90)] {
            for seed in 0..3 {
                let target = Target { dead: dead(size, count, most, seed), ..wse3.clone() };
                let around = around(&target).unwrap_or_else(|e| panic!("{count} {most}: {e}"));
                assert_eq!(around.grid.width, wse3.width, "the wafer's own spares suffice");
                let repair = around.repair(1);
                let used = repair.wafers[0].first.iter().filter(|&&x| x < wse3.width).count();
                assert!(used <= spares, "{used} spares for {count} in clusters of {most}");
            }
        }
    }

    #[test]
    fn dead_pes_go_to_the_nearest_spares_in_order() {
        assert_eq!(assign(&[10, 20, 30], &[12, 29], 40), Some(vec![0, 2]));
        // Three neighbours take three spares; none is left between.
        assert_eq!(assign(&[10, 20, 30], &[20, 21, 22], 40), Some(vec![0, 1, 2]));
        assert_eq!(assign(&[10], &[1, 2], 40), None);
        assert_eq!(settle(&[10, 20, 30], &[12, 29], &[0, 2], 40), [12, 20, 29]);
        // A spare in the way is pushed aside.
        assert_eq!(settle(&[10, 20, 30], &[25], &[0], 40), [25, 26, 30]);
    }
}
