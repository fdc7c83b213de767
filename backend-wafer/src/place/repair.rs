//! The grid that a plan is written for when PEs are dead, and how it lies on the wafer.
//!
//! In: a target with dead PEs. Out: a perfect target some columns narrower ([`grid`]), and for the
//! plan made on it the `plan::Repair` that skips the dead ([`repair`]). Every row skips the same
//! number of columns; what a row skips follows from the row above: dead PEs are matched in order to
//! the nearest spares, the others stay where they are, so that few neighbours come apart.
//! Paths of links are the usual ones where these are healthy and have a lane left, else shortest
//! paths. Where a dead PE is added later, [`amend`] bends one spare in one row and leaves all else.
//! A column that is dead from end to end cuts a wafer in two; the wider part is used.
//! Does not move regions: they know nothing of it.

use std::collections::{BTreeMap, VecDeque};

use plan::{Axis, Bend, Detour, Plan, Point, Port, Repair, RepairMap, Spares, Target};

use crate::WaferError;

/// Links that pass a physical link beside its own. Our assumption: wafers are built with redundant
/// links; how many is not published.
const SPARE_LANES: u32 = 3;
/// How often more spares are tried.
const ATTEMPTS: u32 = 4;
/// Hops around a blocked path at most, in each direction from its ends.
const REACH: u32 = 40;
/// Rows above a bend in which it may be made instead, where too many meet.
const LOOKAHEAD: u32 = 12;
/// Columns by which neighbours of one column come apart at most before bends are spread.
const SHIFT: i32 = 2;

/// A target without dead PEs on which `target` can be planned, and the columns it gives up.
///
/// Fewer spares make every bend long, more make every row long: with a share p of dead PEs among W
/// columns the hops balance at W sqrt(p / 3) spares. No row can have more dead PEs than spares; where
/// paths run out, more spares leave more room for them.
///
/// # Errors
/// `Unrepairable` when too few columns are left, or no path.
pub fn grid(target: &Target) -> Result<(Target, u32), WaferError> {
    let wafers = target.dead.iter().map(|d| d.0 / target.width + 1).max().unwrap_or(1);
    let needed = |index: u32| {
        let wafer = Wafer::new(target, index);
        let pes = f64::from(wafer.width.max(1)) * f64::from(wafer.height);
        let share = wafer.dead.iter().map(Vec::len).sum::<usize>() as f64 / pes;
        let balance = (f64::from(wafer.width) * (share / 3.0).sqrt()).round() as u32;
        target.width - wafer.width + balance.max(wafer.fullest_row() + 1)
    };
    let mut spares = (0..wafers).map(needed).max().unwrap_or(0);
    let mut last = Wafer::new(target, 0).stuck(target, 0);
    for _ in 0..ATTEMPTS {
        let Some(width) = target.width.checked_sub(spares).filter(|&w| w > 0) else { break };
        match repair(target, wafers, spares) {
            Ok(_) => return Ok((Target { width, dead: Vec::new(), ..target.clone() }, spares)),
            Err(error) => last = error,
        }
        spares += spares / 4 + 1;
    }
    Err(last)
}

/// How the grid of `spares` columns less lies on `wafers` wafers of `target`.
///
/// # Errors
/// `Unrepairable` where no path around dead PEs is left.
pub fn repair(target: &Target, wafers: u32, spares: u32) -> Result<Repair, WaferError> {
    let mut repair = Repair {
        width: target.width,
        spare_lanes: SPARE_LANES,
        dead: target.dead.iter().copied().filter(|d| d.0 / target.width < wafers).collect(),
        wafers: Vec::new(),
        detours: Vec::new(),
    };
    for w in 0..wafers {
        let wafer = Wafer::new(target, w);
        let inside = spares.checked_sub(target.width - wafer.width);
        let rows = inside.and_then(|n| wafer.skips(n)).ok_or_else(|| wafer.stuck(target, 0))?;
        repair.wafers.push(spares_of(&wafer.on_wafer(&rows, target.width)));
        let found = Paths::new(&wafer, &rows).detours(&BTreeMap::new());
        let found = found.map_err(|y| wafer.stuck(target, y))?;
        let west = w * (target.width - spares);
        repair.detours.extend(found.into_iter().map(|((y, x, axis), steps)| Detour {
            at: Point { x: west + x, y },
            axis,
            steps,
        }));
    }
    repair.detours.sort_by_key(|d| (d.at.y, d.at.x, d.axis));
    Ok(repair)
}

/// What [`amend`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amendment {
    /// PEs of the grid that now lie one column further; their weights have to be loaded again.
    pub moved: Vec<Point>,
    /// Paths that changed.
    pub paths: usize,
}

/// Marks one more PE dead, in columns of all wafers: the nearest spare of its row bends through it, in
/// that row only. Regions, programs and all other PEs stay.
///
/// # Errors
/// `Unrepairable` where the row has no spare left, or no path.
pub fn amend(plan: &mut Plan, dead: Point) -> Result<Amendment, WaferError> {
    let target = plan.target.clone();
    let Some(old) = plan.repair.clone() else {
        let (target, count) = (target.name, 1);
        return Err(WaferError::Unrepairable { target, wafer: 0, row: dead.y, count });
    };
    let before = detour_cycles(plan);
    let mut physical = Target { width: old.width, dead: old.dead.clone(), ..target.clone() };
    if let Err(i) = physical.dead.binary_search_by(|&(x, y)| (y, x).cmp(&(dead.y, dead.x))) {
        physical.dead.insert(i, (dead.x, dead.y));
    }
    let index = dead.x / old.width;
    let wafer = Wafer::new(&physical, index);
    let stuck = || wafer.stuck(&physical, dead.y);
    let map = RepairMap::new(&old, target.width, target.height);
    let mut rows: Vec<Vec<u32>> =
        (0..target.height).map(|y| map.skipped(index, y).to_vec()).collect();
    // A dead neighbour can make PEs useless that were not: each has to be skipped now.
    for (y, useless) in wafer.on_wafer(&wafer.useless, old.width).iter().enumerate() {
        for &x in useless {
            let row = &mut rows[y];
            let Err(_) = row.binary_search(&x) else { continue };
            let free = (0..row.len()).filter(|&i| useless.binary_search(&row[i]).is_err());
            let nearest = free.min_by_key(|&i| (row[i].abs_diff(x), i)).ok_or_else(stuck)?;
            row[nearest] = x;
            row.sort_unstable();
        }
    }
    let west = index * target.width;
    let of_wafer = |d: &&Detour| d.at.x / target.width == index;
    let known = old.detours.iter().filter(of_wafer);
    let known = known.map(|d| ((d.at.y, d.at.x - west, d.axis), d.steps.clone())).collect();
    let inside = wafer.in_window(&rows, old.width);
    let found = Paths::new(&wafer, &inside).detours(&known).map_err(|_| stuck())?;
    let mut repair = Repair { dead: physical.dead.clone(), ..old.clone() };
    repair.wafers[index as usize] = spares_of(&rows);
    repair.detours.retain(|d| d.at.x / target.width != index);
    let changed = found.iter().filter(|(key, steps)| known.get(key) != Some(steps)).count();
    repair.detours.extend(found.into_iter().map(|((y, x, axis), steps)| Detour {
        at: Point { x: west + x, y },
        axis,
        steps,
    }));
    repair.detours.sort_by_key(|d| (d.at.y, d.at.x, d.axis));
    let after = RepairMap::new(&repair, target.width, target.height);
    let row_changed = |y: &u32| map.skipped(index, *y) != after.skipped(index, *y);
    let pes = (0..target.height).filter(row_changed);
    let pes = pes.flat_map(|y| (west..west + target.width).map(move |x| Point { x, y }));
    let moved = pes.filter(|&p| map.physical(p) != after.physical(p)).collect();
    plan.repair = Some(repair);
    let cycles = plan.claims.token_cycles.saturating_sub(before);
    plan.claims.token_cycles = cycles + detour_cycles(plan);
    Ok(Amendment { moved, paths: changed })
}

/// Cycles that longer links add to a token at most: in each region every phase takes its longest row or
/// column.
pub fn detour_cycles(plan: &Plan) -> u64 {
    let Some(repair) = &plan.repair else { return 0 };
    let target = &plan.target;
    let map = RepairMap::new(repair, target.width, target.height);
    let extra = |p: Point, port: Port| u64::from(map.hops(p, port).saturating_sub(1));
    let mut cycles = 0;
    for region in &plan.regions {
        let Some(template) = plan.template_of(region) else { continue };
        let r = region.rect;
        let row = |y: u32| (r.x..r.x + r.w - 1).map(|x| extra(Point { x, y }, Port::East)).sum();
        let column =
            |x: u32| (r.y..r.y + r.h - 1).map(|y| extra(Point { x, y }, Port::South)).sum();
        let rows: u64 = (r.y..r.y + r.h).map(row).max().unwrap_or(0);
        let columns: u64 = (r.x..r.x + r.w).map(column).max().unwrap_or(0);
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

/// The rows of a wafer as the plan stores them.
fn spares_of(rows: &[Vec<u32>]) -> Spares {
    let mut spares = Spares { first: rows[0].clone(), bends: Vec::new() };
    for (y, pair) in (1..).zip(rows.windows(2)) {
        let moved = (0..).zip(pair[0].iter().zip(&pair[1])).filter(|(_, (a, b))| a != b);
        spares.bends.extend(moved.map(|(spare, (_, &column))| Bend { row: y, spare, column }));
    }
    spares
}

/// One wafer with its dead PEs; columns count from the first one used.
struct Wafer {
    index: u32,
    /// Columns not used west of the others.
    west: u32,
    width: u32,
    height: u32,
    /// Per row: dead columns, ascending.
    dead: Vec<Vec<u32>>,
    /// The same, and PEs that have too few living neighbours to be of use.
    useless: Vec<Vec<u32>>,
}

impl Wafer {
    fn new(target: &Target, index: u32) -> Self {
        let (width, height) = (target.width, target.height);
        let here =
            || target.dead.iter().filter(|d| d.0 / width == index).map(|d| (d.0 % width, d.1));
        let mut dead_in = vec![0; width as usize];
        here().for_each(|(x, _)| dead_in[x as usize] += 1);
        let (mut west, mut used, mut from) = (0, 0, 0);
        for x in 0..=width {
            if x == width || dead_in[x as usize] == height {
                if x - from > used {
                    (west, used) = (from, x - from);
                }
                from = x + 1;
            }
        }
        let mut dead = vec![Vec::new(); height as usize];
        for (x, y) in here().filter(|(x, _)| (west..west + used).contains(x)) {
            dead[y as usize].push(x - west);
        }
        let useless = dead.clone();
        let mut wafer = Wafer { index, west, width: used, height, dead, useless };
        wafer.find_useless();
        wafer
    }

    /// Skipped columns as columns of the wafer, those outside of the part used included.
    fn on_wafer(&self, rows: &[Vec<u32>], width: u32) -> Vec<Vec<u32>> {
        let row = |row: &Vec<u32>| {
            let inside = row.iter().map(|x| x + self.west);
            (0..self.west).chain(inside).chain(self.west + self.width..width).collect()
        };
        rows.iter().map(row).collect()
    }

    /// The inverse of [`Wafer::on_wafer`].
    fn in_window(&self, rows: &[Vec<u32>], width: u32) -> Vec<Vec<u32>> {
        debug_assert!(self.west + self.width <= width);
        let used = self.west..self.west + self.width;
        let row = |row: &Vec<u32>| {
            row.iter().filter(|x| used.contains(x)).map(|x| x - self.west).collect()
        };
        rows.iter().map(row).collect()
    }

    fn is_dead(&self, x: u32, y: u32) -> bool {
        self.dead[y as usize].binary_search(&x).is_ok()
    }

    fn neighbors(&self, x: u32, y: u32) -> impl Iterator<Item = (Port, u32, u32)> {
        let (width, height) = (self.width, self.height);
        [Port::East, Port::West, Port::South, Port::North].into_iter().filter_map(move |port| {
            let (dx, dy) = port.step();
            let (nx, ny) = (x.checked_add_signed(dx as i32)?, y.checked_add_signed(dy as i32)?);
            (nx < width && ny < height).then_some((port, nx, ny))
        })
    }

    /// A PE with two dead neighbours or more has too few ways out for its own four links and those
    /// that pass around the dead: it is skipped like them, and its router is free for paths. So are PEs
    /// beside two skipped ones: bays between dead PEs fill up, and what is left has room around it.
    fn find_useless(&mut self) {
        let mut open: Vec<(u32, u32)> = Vec::new();
        for (y, row) in (0..).zip(&self.dead) {
            open.extend(row.iter().map(|&x| (x, y)));
        }
        while let Some((x, y)) = open.pop() {
            let around: Vec<_> = self.neighbors(x, y).collect();
            for (_, nx, ny) in around {
                let skipped = |x: u32, y: u32| self.useless[y as usize].binary_search(&x);
                let beside = self.neighbors(nx, ny).filter(|&(_, x, y)| skipped(x, y).is_ok());
                if beside.count() < 2 {
                    continue;
                }
                if let Err(i) = skipped(nx, ny) {
                    self.useless[ny as usize].insert(i, nx);
                    open.push((nx, ny));
                }
            }
        }
    }

    fn fullest_row(&self) -> u32 {
        self.useless.iter().map(|row| row.len() as u32).max().unwrap_or(0)
    }

    fn stuck(&self, target: &Target, y: u32) -> WaferError {
        let count = self.dead.iter().map(Vec::len).sum();
        WaferError::Unrepairable { target: target.name.clone(), wafer: self.index, row: y, count }
    }

    /// Per row the skipped columns; `None` when a row has more to skip than there are spares.
    fn skips(&self, spares: u32) -> Option<Vec<Vec<u32>>> {
        let even = |i: u32| ((2 * i + 1) * self.width) / (2 * spares);
        let mut row: Vec<u32> = (0..spares).map(even).collect();
        let mut rows = Vec::with_capacity(self.height as usize);
        let mut forced = Vec::with_capacity(self.height as usize);
        for dead in &self.useless {
            let taken = assign(&row, dead, self.width)?;
            row = settle(&row, dead, &taken, self.width);
            let mut fixed = vec![false; spares as usize];
            taken.iter().for_each(|&i| fixed[i] = true);
            rows.push(row.clone());
            forced.push(fixed);
        }
        self.spread(&mut rows, &forced);
        Some(rows)
    }

    /// Makes bends earlier where so many meet that neighbours would come far apart.
    fn spread(&self, rows: &mut [Vec<u32>], forced: &[Vec<bool>]) {
        for y in (1..rows.len()).rev() {
            for i in 0..rows[y].len() {
                let (from, to) = (rows[y - 1][i], rows[y][i]);
                if from == to || widest_shift(&rows[y - 1], &rows[y], (from, to)) <= SHIFT {
                    continue;
                }
                // The bend of spare i moves up to the first row above where it fits.
                let mut t = y;
                let mut best = None;
                while t > 1 && y - t < LOOKAHEAD as usize {
                    t -= 1;
                    let row = &rows[t];
                    let right = i + 1 < row.len() && row[i + 1] <= to;
                    let left = i > 0 && row[i - 1] >= to;
                    if forced[t][i] || row[i] != from || right || left {
                        break;
                    }
                    let mut moved = row.clone();
                    moved[i] = to;
                    if widest_shift(&rows[t - 1], &moved, (from, to)) <= SHIFT {
                        best = Some(t);
                        break;
                    }
                }
                if let Some(t) = best {
                    rows[t..y].iter_mut().for_each(|row| row[i] = to);
                }
            }
        }
    }
}

/// The largest distance by which neighbours between two columns come apart between two rows.
fn widest_shift(above: &[u32], below: &[u32], (a, b): (u32, u32)) -> i32 {
    let count = |row: &[u32], x: u32| row.partition_point(|&s| s <= x) as i32;
    let columns = a.min(b)..=a.max(b);
    columns.map(|x| (count(above, x) - count(below, x)).abs()).max().unwrap_or(0)
}

/// For each of `dead` the spare that takes it: ascending, the sum of the distances least, room left
/// for the spares between.
fn assign(row: &[u32], dead: &[u32], width: u32) -> Option<Vec<usize>> {
    let (n, m) = (row.len(), dead.len());
    if m > n {
        return None;
    }
    // cost[j][i]: dead 0..=j taken, j by spare i.
    let mut cost = vec![vec![u64::MAX; n]; m];
    let mut came = vec![vec![0usize; n]; m];
    for j in 0..m {
        // Of equal costs the nearest index to the left, which needs least room between.
        for i in 0..n {
            let here = u64::from(row[i].abs_diff(dead[j]));
            let before = if j == 0 {
                (dead[0] as usize >= i).then_some((0, 0))
            } else {
                let room = (dead[j] - dead[j - 1]) as usize;
                let from = i.saturating_sub(room).max(j - 1);
                (from..i).map(|p| (cost[j - 1][p], p)).filter(|c| c.0 != u64::MAX).min()
            };
            if let Some((sum, p)) = before {
                cost[j][i] = sum + here;
                came[j][i] = p;
            }
        }
    }
    let Some(last) = m.checked_sub(1) else { return Some(Vec::new()) };
    let right = |i: usize| (width - 1 - dead[last]) as usize >= n - 1 - i;
    let ends = (0..n).filter(|&i| cost[last][i] != u64::MAX && right(i));
    let mut i = ends.min_by_key(|&i| (cost[last][i], i))?;
    let mut taken = vec![0; m];
    for j in (0..m).rev() {
        taken[j] = i;
        i = came[j][i];
    }
    Some(taken)
}

/// The spares of the next row: those taken at their dead PE, the others as near as can be to where
/// they were.
fn settle(row: &[u32], dead: &[u32], taken: &[usize], width: u32) -> Vec<u32> {
    let n = row.len();
    let mut next = row.to_vec();
    let fixed = |i: usize| taken.binary_search(&i).ok().map(|j| dead[j]);
    let mut bound = vec![width; n + 1];
    for i in (0..n).rev() {
        // First column that spare i may not take, for those after it to have room.
        bound[i] = fixed(i).map_or(bound[i + 1] - 1, |x| x);
    }
    let mut low = 0;
    for i in 0..n {
        let high = if i + 1 < n { bound[i + 1] } else { width };
        next[i] = fixed(i).unwrap_or_else(|| row[i].min(high - 1).max(low));
        low = next[i] + 1;
    }
    next
}

/// A link of one wafer: row, grid column, axis.
type Link = (u32, u32, Axis);

/// Whether hops lead from one PE to another.
fn leads(from: (u32, u32), to: (u32, u32), steps: &[Port]) -> bool {
    let end = steps.iter().fold((i64::from(from.0), i64::from(from.1)), |(x, y), port| {
        let (dx, dy) = port.step();
        (x + dx, y + dy)
    });
    end == (i64::from(to.0), i64::from(to.1))
}

/// Paths of all links of one wafer.
struct Paths<'a> {
    wafer: &'a Wafer,
    /// Per row: physical column of each grid column.
    columns: Vec<Vec<u32>>,
    /// Per PE: paths over its eastern and its southern link.
    used: Vec<[u8; 2]>,
    /// Search marks: (round, port by which a PE was reached).
    seen: Vec<(u32, u8)>,
    round: u32,
}

impl<'a> Paths<'a> {
    fn new(wafer: &'a Wafer, rows: &[Vec<u32>]) -> Self {
        let of = |skipped: &Vec<u32>| {
            (0..wafer.width).filter(|x| skipped.binary_search(x).is_err()).collect()
        };
        let pes = wafer.width as usize * wafer.height as usize;
        Paths {
            wafer,
            columns: rows.iter().map(of).collect(),
            used: vec![[0; 2]; pes],
            seen: vec![(0, 0); pes],
            round: 0,
        }
    }

    /// Takes lanes for all links; the paths that are not the usual ones, kept from `known` where they
    /// still lead from end to end. The error is the row of a link without a path.
    fn detours(
        mut self,
        known: &BTreeMap<Link, Vec<Port>>,
    ) -> Result<BTreeMap<Link, Vec<Port>>, u32> {
        let mut blocked = Vec::new();
        for y in 0..self.wafer.height {
            for x in 0..self.columns[0].len() as u32 {
                for axis in [Axis::X, Axis::Y] {
                    let link = (y, x, axis);
                    let Some((from, to)) = self.ends(x, y, axis) else { continue };
                    if known.contains_key(&link) || !self.take_usual(from, to, axis) {
                        blocked.push((link, from, to));
                    }
                }
            }
        }
        let mut found = BTreeMap::new();
        let (kept, open): (Vec<_>, Vec<_>) =
            blocked.into_iter().partition(|(link, ..)| known.contains_key(link));
        let mut lost = Vec::new();
        for (link, from, to) in kept {
            let steps = &known[&link];
            if leads(from, to, steps)
                && self.walk(from, steps, false)
                && self.walk(from, steps, true)
            {
                found.insert(link, steps.clone());
            } else if !self.take_usual(from, to, link.2) {
                lost.push((link, from, to));
            }
        }
        for (link, from, to) in open.into_iter().chain(lost) {
            let steps = self.search(from, to).ok_or(link.0)?;
            self.walk(from, &steps, true);
            found.insert(link, steps);
        }
        Ok(found)
    }

    fn ends(&self, x: u32, y: u32, axis: Axis) -> Option<((u32, u32), (u32, u32))> {
        let row = self.columns.get(y as usize)?;
        let from = (*row.get(x as usize)?, y);
        let to = match axis {
            Axis::X => (*row.get(x as usize + 1)?, y),
            Axis::Y => (*self.columns.get(y as usize + 1)?.get(x as usize)?, y + 1),
        };
        Some((from, to))
    }

    /// Takes the usual path where it is free: straight along the row, then one hop south.
    fn take_usual(&mut self, from: (u32, u32), to: (u32, u32), axis: Axis) -> bool {
        if from.0 == to.0 && axis == Axis::Y || from.0 + 1 == to.0 && axis == Axis::X {
            return self.walk(
                from,
                &[if axis == Axis::Y { Port::South } else { Port::East }],
                true,
            );
        }
        let side = if to.0 >= from.0 { Port::East } else { Port::West };
        let mut steps = vec![side; from.0.abs_diff(to.0) as usize];
        if axis == Axis::Y {
            steps.push(Port::South);
        }
        self.walk(from, &steps, false) && self.walk(from, &steps, true)
    }

    fn lane(&self, (x, y): (u32, u32), (nx, ny): (u32, u32)) -> (usize, usize) {
        let pe = y.min(ny) as usize * self.wafer.width as usize + x.min(nx) as usize;
        (pe, usize::from(x == nx))
    }

    fn is_free(&self, at: (u32, u32), next: (u32, u32)) -> bool {
        let (pe, side) = self.lane(at, next);
        u32::from(self.used[pe][side]) <= SPARE_LANES && !self.wafer.is_dead(next.0, next.1)
    }

    /// Whether a path is free; with `take`, takes its lanes as far as it is.
    fn walk(&mut self, from: (u32, u32), steps: &[Port], take: bool) -> bool {
        let mut at = from;
        for port in steps {
            let (dx, dy) = port.step();
            let next = (at.0.wrapping_add_signed(dx as i32), at.1.wrapping_add_signed(dy as i32));
            if !self.is_free(at, next) {
                return false;
            }
            if take {
                let (pe, side) = self.lane(at, next);
                self.used[pe][side] += 1;
            }
            at = next;
        }
        true
    }

    /// A shortest free path; ties by the order of ports.
    fn search(&mut self, from: (u32, u32), to: (u32, u32)) -> Option<Vec<Port>> {
        self.round += 1;
        let index = |(x, y): (u32, u32)| y as usize * self.wafer.width as usize + x as usize;
        let near = |(x, y): (u32, u32)| {
            x.abs_diff(from.0).min(x.abs_diff(to.0)) <= REACH && y.abs_diff(from.1) <= REACH
        };
        let mut open = VecDeque::from([from]);
        self.seen[index(from)] = (self.round, u8::MAX);
        while let Some(at) = open.pop_front() {
            if at == to {
                break;
            }
            for (port, x, y) in self.wafer.neighbors(at.0, at.1) {
                let next = (x, y);
                if near(next) && self.seen[index(next)].0 != self.round && self.is_free(at, next) {
                    self.seen[index(next)] = (self.round, port as u8);
                    open.push_back(next);
                }
            }
        }
        if self.seen[index(to)].0 != self.round {
            return None;
        }
        let mut steps = Vec::new();
        let mut at = to;
        while at != from {
            let port = Port::ALL[usize::from(self.seen[index(at)].1)];
            steps.push(port);
            let (dx, dy) = port.opposite().step();
            at = (at.0.wrapping_add_signed(dx as i32), at.1.wrapping_add_signed(dy as i32));
        }
        steps.reverse();
        Some(steps)
    }
}

#[cfg(test)]
mod tests {
    use tensor::Rng;

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
                let (narrow, used) =
                    grid(&target).unwrap_or_else(|e| panic!("{count} {most}: {e}"));
                assert_eq!(narrow.width + used, wse3.width);
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
