//! Paths of all links of one wafer's grid, by negotiated congestion.
//!
//! In: a wafer and what each row skips. Out: the paths that are not the usual ones (straight along the row,
//! then one hop south). Links between neighbours take their own wire. The others first take the usual
//! path wherever it is healthy, whoever else does; then those that meet on an overfull physical link
//! take cheapest paths again and again, while overfull links grow dearer (McMurchie and Ebeling,
//! PathFinder, FPGA 1995). Order and ties are by link and PE, rounds are counted: the same input gives the same
//! paths. What stays overfull after the last round is reported as [`Stuck`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use plan::{Axis, Port};

use super::wafer::Wafer;

/// Links that pass a physical link beside its own (docs/machine-model.md).
pub(super) const SPARE_LANES: u32 = 3;
/// Hops around a blocked path at most, in each direction from its ends.
const REACH: u32 = 40;
/// Rounds of negotiation.
const ROUNDS: u32 = 40;
/// Cost of a hop.
const HOP: u32 = 16;
/// What one path too many costs in the first round; it doubles every `DOUBLE` rounds.
const OVERFULL: u32 = 12;
const DOUBLE: u32 = 4;

/// A link of one wafer: row, grid column, axis.
pub(super) type Link = (u32, u32, Axis);
/// A PE of one wafer: column, row.
type Pe = (u32, u32);

/// Where no paths were found.
#[derive(Debug)]
pub(super) struct Stuck {
    /// Row of the first link without a path.
    pub(super) row: u32,
    /// PEs around which too many paths meet.
    pub(super) around: Vec<Pe>,
}

/// A link that is more than a wire between neighbours.
struct Route {
    link: Link,
    from: Pe,
    to: Pe,
    /// Empty until a path is found.
    steps: Vec<Port>,
}

/// Paths of all links of one wafer.
pub(super) struct Paths<'a> {
    wafer: &'a Wafer,
    /// Per row: physical column of each grid column.
    columns: Vec<Vec<u32>>,
    /// Per PE: whether it is dead.
    dead: Vec<bool>,
    /// Per PE: paths over its eastern and its southern link.
    used: Vec<[u8; 2]>,
    /// Per PE: rounds in which these links were overfull.
    history: Vec<[u8; 2]>,
    routes: Vec<Route>,
    /// Search marks per PE: search, cost from the start, port by which it was reached.
    seen: Vec<(u32, u32, u8)>,
    searches: u32,
}

impl<'a> Paths<'a> {
    pub(super) fn new(wafer: &'a Wafer, rows: &[Vec<u32>]) -> Self {
        let of = |skipped: &Vec<u32>| {
            let mut skipped = skipped.iter().peekable();
            (0..wafer.width).filter(|x| skipped.next_if_eq(&x).is_none()).collect()
        };
        let pes = wafer.width as usize * wafer.height as usize;
        let mut dead = vec![false; pes];
        for (row, columns) in wafer.dead.iter().enumerate() {
            columns.iter().for_each(|&x| dead[row * wafer.width as usize + x as usize] = true);
        }
        Paths {
            wafer,
            columns: rows.iter().map(of).collect(),
            dead,
            used: vec![[0; 2]; pes],
            history: vec![[0; 2]; pes],
            routes: Vec::new(),
            seen: vec![(0, 0, 0); pes],
            searches: 0,
        }
    }

    /// The paths that are not the usual ones; those `known` are kept where they still lead from end to
    /// end and leave room for the others.
    pub(super) fn detours(
        mut self,
        known: &BTreeMap<Link, Vec<Port>>,
    ) -> Result<BTreeMap<Link, Vec<Port>>, Stuck> {
        self.take_first(known);
        self.negotiate()?;
        let unusual = |r: &Route| r.steps != usual(r.from, r.to);
        Ok(self.routes.into_iter().filter(unusual).map(|r| (r.link, r.steps)).collect())
    }

    /// Wires between neighbours, and first paths of all other links.
    fn take_first(&mut self, known: &BTreeMap<Link, Vec<Port>>) {
        for y in 0..self.wafer.height {
            for x in 0..self.columns[0].len() as u32 {
                for axis in [Axis::X, Axis::Y] {
                    let Some((from, to)) = self.ends(x, y, axis) else { continue };
                    let link = (y, x, axis);
                    let known = if known.is_empty() { None } else { known.get(&link) };
                    if known.is_none() && from.0.abs_diff(to.0) + (to.1 - from.1) == 1 {
                        let wire = self.wire(from, to);
                        self.used[wire.0][wire.1] = self.used[wire.0][wire.1].saturating_add(1);
                        continue;
                    }
                    let first = [known.cloned(), Some(usual(from, to))].into_iter().flatten();
                    let steps = first.into_iter().find(|s| self.leads(from, to, s));
                    let steps = steps.unwrap_or_default();
                    self.count(from, &steps, true);
                    self.routes.push(Route { link, from, to, steps });
                }
            }
        }
    }

    fn negotiate(&mut self) -> Result<(), Stuck> {
        for round in 0..ROUNDS {
            let mut overfull = Vec::new();
            for i in 0..self.routes.len() {
                let Route { link, from, to, ref steps } = self.routes[i];
                if !steps.is_empty() && !self.passes_overfull(from, steps) {
                    continue;
                }
                let old = std::mem::take(&mut self.routes[i].steps);
                self.count(from, &old, false);
                let Some(steps) = self.search(from, to, round) else {
                    return Err(Stuck { row: link.0, around: vec![from, to] });
                };
                self.count(from, &steps, true);
                overfull.push(i);
                self.routes[i].steps = steps;
            }
            if !self.remember(&overfull) {
                return Ok(());
            }
        }
        let stuck = self.routes.iter().filter(|r| self.passes_overfull(r.from, &r.steps));
        let row = stuck.clone().map(|r| r.link.0).next().unwrap_or(0);
        let mut around: Vec<Pe> = Vec::new();
        for route in stuck {
            let mut at = route.from;
            for &port in &route.steps {
                let next = step(at, port);
                let (pe, side) = self.wire(at, next);
                if self.excess(pe, side) > 0 {
                    around.extend([at, next]);
                }
                at = next;
            }
        }
        Err(Stuck { row, around })
    }

    /// Makes the overfull links of the routes just laid dearer; whether there are any.
    fn remember(&mut self, routes: &[usize]) -> bool {
        let mut full: Vec<(usize, usize)> = Vec::new();
        for &i in routes {
            let mut at = self.routes[i].from;
            for &port in &self.routes[i].steps {
                let next = step(at, port);
                let wire = self.wire(at, next);
                if self.excess(wire.0, wire.1) > 0 {
                    full.push(wire);
                }
                at = next;
            }
        }
        full.sort_unstable();
        full.dedup();
        for &(pe, side) in &full {
            self.history[pe][side] = self.history[pe][side].saturating_add(1);
        }
        !full.is_empty()
    }

    fn ends(&self, x: u32, y: u32, axis: Axis) -> Option<(Pe, Pe)> {
        let row = self.columns.get(y as usize)?;
        let from = (*row.get(x as usize)?, y);
        let to = match axis {
            Axis::X => (*row.get(x as usize + 1)?, y),
            Axis::Y => (*self.columns.get(y as usize + 1)?.get(x as usize)?, y + 1),
        };
        Some((from, to))
    }

    fn index(&self, (x, y): Pe) -> usize {
        y as usize * self.wafer.width as usize + x as usize
    }

    /// The physical link between two neighbours: the PE at its west or north end, and 1 for a southern one.
    fn wire(&self, (x, y): Pe, (nx, ny): Pe) -> (usize, usize) {
        (self.index((x.min(nx), y.min(ny))), usize::from(x == nx))
    }

    /// Paths too many on a physical link.
    fn excess(&self, pe: usize, side: usize) -> u32 {
        u32::from(self.used[pe][side]).saturating_sub(1 + SPARE_LANES)
    }

    fn passes_overfull(&self, from: Pe, steps: &[Port]) -> bool {
        let mut at = from;
        steps.iter().any(|&port| {
            let next = step(at, port);
            let (pe, side) = self.wire(at, next);
            at = next;
            self.excess(pe, side) > 0
        })
    }

    /// Whether hops over healthy PEs lead from one PE to another.
    fn leads(&self, from: Pe, to: Pe, steps: &[Port]) -> bool {
        let mut at = from;
        for &port in steps {
            at = step(at, port);
            if at.0 >= self.wafer.width || at.1 >= self.wafer.height || self.dead[self.index(at)] {
                return false;
            }
        }
        at == to
    }

    /// Takes (or gives back) a lane of every link of a path.
    fn count(&mut self, from: Pe, steps: &[Port], take: bool) {
        let mut at = from;
        for &port in steps {
            let next = step(at, port);
            let (pe, side) = self.wire(at, next);
            let used = &mut self.used[pe][side];
            *used = if take { used.saturating_add(1) } else { used.saturating_sub(1) };
            at = next;
        }
    }

    /// What one more path costs on a link.
    fn cost(&self, (pe, side): (usize, usize), round: u32) -> u32 {
        let more = (u32::from(self.used[pe][side]) + 1).saturating_sub(1 + SPARE_LANES);
        let dear = OVERFULL << (round / DOUBLE).min(10);
        HOP + more * dear + if more > 0 { HOP * u32::from(self.history[pe][side]) } else { 0 }
    }

    /// A cheapest path over healthy PEs (A*); ties by distance left, then by PE.
    fn search(&mut self, from: Pe, to: Pe, round: u32) -> Option<Vec<Port>> {
        self.searches += 1;
        let near = |(x, y): Pe| {
            let inside = x + REACH >= from.0.min(to.0) && x <= from.0.max(to.0) + REACH;
            inside && y.abs_diff(from.1) <= REACH
        };
        let left = |(x, y): Pe| HOP * (x.abs_diff(to.0) + y.abs_diff(to.1));
        let start = self.index(from);
        self.seen[start] = (self.searches, 0, u8::MAX);
        let mut open = BinaryHeap::from([Reverse((left(from), left(from), from))]);
        while let Some(Reverse((sum, rest, at))) = open.pop() {
            if at == to {
                break;
            }
            let here = self.seen[self.index(at)].1;
            if sum > here + rest {
                continue;
            }
            for (port, x, y) in self.wafer.neighbors(at.0, at.1) {
                let i = self.index((x, y));
                if self.dead[i] || !near((x, y)) {
                    continue;
                }
                let cost = here + self.cost(self.wire(at, (x, y)), round);
                let (search, known, _) = self.seen[i];
                if search != self.searches || cost < known {
                    self.seen[i] = (self.searches, cost, port as u8);
                    open.push(Reverse((cost + left((x, y)), left((x, y)), (x, y))));
                }
            }
        }
        if self.seen[self.index(to)].0 != self.searches {
            return None;
        }
        let mut steps = Vec::new();
        let mut at = to;
        while at != from {
            let port = Port::ALL[usize::from(self.seen[self.index(at)].2)];
            steps.push(port);
            at = step(at, port.opposite());
        }
        steps.reverse();
        Some(steps)
    }
}

/// Straight along the row, then one hop south where the link leads there.
fn usual(from: Pe, to: Pe) -> Vec<Port> {
    let side = if to.0 >= from.0 { Port::East } else { Port::West };
    let mut steps = vec![side; from.0.abs_diff(to.0) as usize];
    if to.1 > from.1 {
        steps.push(Port::South);
    }
    steps
}

/// The PE behind a port; far outside where there is none.
fn step((x, y): Pe, port: Port) -> Pe {
    let (dx, dy) = port.step();
    (x.wrapping_add_signed(dx as i32), y.wrapping_add_signed(dy as i32))
}
