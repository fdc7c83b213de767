//! Repair: how the perfect grid of a plan lies on wafers with dead PEs.
//!
//! A plan is written for a rectangle without holes. On a wafer with dead PEs every row of that grid
//! lies on the row of the same number and skips the same count of columns, all dead ones among them:
//! grid column c is the c-th column that is not skipped. So a *spare* is a path from the northern to
//! the southern edge that bends through dead PEs, and what lies beside a bend moves by one column.
//!
//! A link of the grid is a path of hops over healthy PEs: straight over skipped columns; south by way
//! of its own row; or as listed where that is blocked. Paths pass routers on bypass lanes, which are
//! set once and carry all colors of their link: besides its own link, a physical link carries at
//! most `spare_lanes` others. Does not change what a plan computes, only how long its hops are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::geometry::{Axis, Point, Port};

/// How the grid of a plan lies on its wafers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Columns of a wafer, skipped ones included; the grid's are the target's.
    pub width: u32,
    /// Links that pass a physical link beside its own, at most.
    pub spare_lanes: u32,
    /// Dead PEs as (column of all wafers, row), sorted by (row, column).
    pub dead: Vec<(u32, u32)>,
    /// Per wafer: what is skipped.
    pub wafers: Vec<Spares>,
    /// Paths that are not the usual ones, sorted by (y, x, axis).
    pub detours: Vec<Detour>,
}

/// The skipped columns of one wafer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spares {
    /// Columns skipped in row 0, ascending.
    pub first: Vec<u32>,
    /// Where they change, sorted by (row, spare).
    pub bends: Vec<Bend>,
}

/// From row `row` on, spare `spare` lies in column `column`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bend {
    /// First row.
    pub row: u32,
    /// Index into [`Spares::first`].
    pub spare: u32,
    /// New column.
    pub column: u32,
}

/// The path of one link, from the west or north end of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detour {
    /// The end it starts at, in the grid.
    pub at: Point,
    /// `X`: to the PE at x + 1; `Y`: to the one at y + 1.
    pub axis: Axis,
    /// Hops, as mesh ports.
    pub steps: Vec<Port>,
}

/// A repair with its rows looked up.
#[derive(Clone, Debug)]
pub struct RepairMap<'a> {
    /// The repair.
    pub repair: &'a Repair,
    /// Columns of a wafer of the grid.
    grid_width: u32,
    height: u32,
    /// Per wafer and row: the skipped columns, ascending.
    skips: Vec<Vec<u32>>,
    detours: BTreeMap<(u32, u32, Axis), &'a [Port]>,
}

impl<'a> RepairMap<'a> {
    /// Looks up `repair` for a grid of `grid_width` columns per wafer and `height` rows. Out-of-range
    /// bends are ignored; `verify` reports them.
    pub fn new(repair: &'a Repair, grid_width: u32, height: u32) -> Self {
        let mut skips = Vec::with_capacity(repair.wafers.len() * height as usize);
        for wafer in &repair.wafers {
            let mut row = wafer.first.clone();
            let mut bends = wafer.bends.iter().peekable();
            for y in 0..height {
                while let Some(bend) = bends.next_if(|b| b.row <= y) {
                    if let Some(column) = row.get_mut(bend.spare as usize) {
                        *column = bend.column;
                    }
                }
                skips.push(row.clone());
            }
        }
        let detours = repair.detours.iter().map(|d| ((d.at.y, d.at.x, d.axis), &*d.steps));
        RepairMap { repair, grid_width, height, skips, detours: detours.collect() }
    }

    /// The columns of one wafer that row `y` skips; empty out of range.
    pub fn skipped(&self, wafer: u32, y: u32) -> &[u32] {
        let row = wafer as usize * self.height as usize + y as usize;
        if y < self.height { self.skips.get(row).map_or(&[], Vec::as_slice) } else { &[] }
    }

    /// Where the PEs of row `y` lie, in columns of all wafers, by grid column.
    pub fn columns(&self, y: u32) -> Vec<u32> {
        let mut columns = Vec::with_capacity(self.repair.wafers.len() * self.grid_width as usize);
        for wafer in 0..self.repair.wafers.len() as u32 {
            let mut skipped = self.skipped(wafer, y).iter().peekable();
            for column in 0..self.repair.width {
                if skipped.next_if(|&&s| s == column).is_none() {
                    columns.push(wafer * self.repair.width + column);
                }
            }
        }
        columns
    }

    /// Where a PE of the grid lies, in columns of all wafers.
    pub fn physical(&self, p: Point) -> Point {
        let (wafer, column) = (p.x / self.grid_width, p.x % self.grid_width);
        let skipped = self.skipped(wafer, p.y);
        // Skips before it: the number of s_k with s_k - k <= column.
        let (mut low, mut high) = (0, skipped.len());
        while low < high {
            let middle = (low + high) / 2;
            if skipped[middle].saturating_sub(middle as u32) <= column {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Point { x: wafer * self.repair.width + column + low as u32, y: p.y }
    }

    /// The grid column, over all wafers, that a PE has; of a skipped one that of the next PE to its east, or
    /// the last where there is none.
    pub fn grid_column(&self, p: Point) -> u32 {
        let width = self.repair.width.max(1);
        let (wafer, column) = (p.x / width, p.x % width);
        let before = self.skipped(wafer, p.y).partition_point(|&s| s < column) as u32;
        let last = self.grid_width.saturating_sub(1);
        wafer
            .saturating_mul(self.grid_width)
            .saturating_add(column.saturating_sub(before).min(last))
    }

    /// The path of the link from `at` along `axis`, as hops; `None` at the end of the grid and
    /// between two wafers, where there is no path on the mesh.
    pub fn path(&self, at: Point, axis: Axis) -> Option<Vec<Port>> {
        if let Some(steps) = self.detours.get(&(at.y, at.x, axis)) {
            return Some(steps.to_vec());
        }
        let next = self.next(at, axis)?;
        let (from, to) = (self.physical(at), self.physical(next));
        let side = if to.x >= from.x { Port::East } else { Port::West };
        let mut steps = vec![side; from.x.abs_diff(to.x) as usize];
        if axis == Axis::Y {
            steps.push(Port::South);
        }
        Some(steps)
    }

    fn next(&self, at: Point, axis: Axis) -> Option<Point> {
        match axis {
            Axis::X if (at.x + 1).is_multiple_of(self.grid_width) => None,
            Axis::X => Some(Point { x: at.x + 1, y: at.y }),
            Axis::Y if at.y + 1 >= self.height => None,
            Axis::Y => Some(Point { x: at.x, y: at.y + 1 }),
        }
    }

    /// Hops of the links of row `y` to the east and to the south, by grid column; 1 where there is none.
    pub fn row_hops(&self, y: u32) -> [Vec<u32>; 2] {
        let (row, below) = (self.columns(y), self.columns(y + 1));
        let mut east = vec![1; row.len()];
        for (x, pair) in row.windows(2).enumerate() {
            east[x] = pair[1] - pair[0];
        }
        let mut south = vec![1; row.len()];
        if y + 1 < self.height {
            south = row.iter().zip(&below).map(|(a, b)| a.abs_diff(*b) + 1).collect();
        }
        for (&(_, x, axis), steps) in self.detours.range((y, 0, Axis::X)..(y + 1, 0, Axis::X)) {
            let hops = if axis == Axis::X { &mut east } else { &mut south };
            if let Some(hops) = hops.get_mut(x as usize) {
                *hops = steps.len() as u32;
            }
        }
        [east, south]
    }

    /// Hops of the link from grid PE `p` through `port`: 1 on a wafer without repairs. Between wafers:
    /// the hop of the link itself and the skipped columns at both edges.
    pub fn hops(&self, p: Point, port: Port) -> u32 {
        let (at, axis) = match port {
            Port::East => (p, Axis::X),
            Port::South => (p, Axis::Y),
            Port::West => (Point { x: p.x.wrapping_sub(1), y: p.y }, Axis::X),
            Port::North => (Point { x: p.x, y: p.y.wrapping_sub(1) }, Axis::Y),
            Port::Ramp => return 0,
        };
        if at.x == u32::MAX || at.y == u32::MAX {
            return 1;
        }
        if let Some(steps) = self.detours.get(&(at.y, at.x, axis)) {
            return steps.len() as u32;
        }
        let Some(next) = self.next(at, axis) else {
            if axis == Axis::Y {
                return 1;
            }
            let edge = self.repair.width - 1 - self.physical(at).x % self.repair.width;
            return 1 + edge + self.physical(Point { x: at.x + 1, y: at.y }).x % self.repair.width;
        };
        let (from, to) = (self.physical(at), self.physical(next));
        from.x.abs_diff(to.x) + u32::from(axis == Axis::Y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bent() -> Repair {
        // Five columns, one spare: column 3 in row 0, column 1 from row 1 on.
        let bends = vec![Bend { row: 1, spare: 0, column: 1 }];
        let wafers = vec![Spares { first: vec![3], bends }];
        Repair { width: 5, spare_lanes: 1, dead: vec![(1, 1)], wafers, detours: Vec::new() }
    }

    #[test]
    fn a_bend_moves_what_lies_beside_it() {
        let repair = bent();
        let map = RepairMap::new(&repair, 4, 3);
        let row = |y| (0..4).map(|x| map.physical(Point { x, y }).x).collect::<Vec<u32>>();
        assert_eq!(
            (row(0), row(1), row(2)),
            (vec![0, 1, 2, 4], vec![0, 2, 3, 4], vec![0, 2, 3, 4])
        );
        let at = |x, y, port| map.hops(Point { x, y }, port);
        assert_eq!(
            [at(0, 0, Port::South), at(1, 0, Port::South), at(3, 0, Port::South)],
            [1, 2, 1]
        );
        let column = |x, y| map.grid_column(Point { x, y });
        assert_eq!((0..5).map(|x| column(x, 0)).collect::<Vec<u32>>(), [0, 1, 2, 3, 3]);
        assert_eq!((0..5).map(|x| column(x, 1)).collect::<Vec<u32>>(), [0, 1, 1, 2, 3]);
        assert_eq!([at(2, 0, Port::East), at(0, 1, Port::East), at(1, 1, Port::West)], [2, 2, 2]);
        assert_eq!([at(1, 1, Port::North), at(0, 0, Port::North), at(0, 0, Port::Ramp)], [2, 1, 0]);
        assert_eq!(map.path(Point { x: 1, y: 0 }, Axis::Y), Some(vec![Port::East, Port::South]));
    }

    #[test]
    fn listed_paths_replace_the_usual_ones() {
        let mut repair = bent();
        let steps = vec![Port::South, Port::East, Port::East, Port::North];
        let at = Point { x: 0, y: 1 };
        repair.detours.push(Detour { at, axis: Axis::X, steps: steps.clone() });
        let map = RepairMap::new(&repair, 4, 3);
        assert_eq!((map.path(at, Axis::X), map.hops(at, Port::East)), (Some(steps), 4));
        assert_eq!(map.hops(Point { x: 1, y: 1 }, Port::West), 4);
        for y in 0..3 {
            let [east, south] = map.row_hops(y);
            let map = &map;
            let of = |port| move |x| map.hops(Point { x, y }, port);
            assert_eq!(east[..3], (0..3).map(of(Port::East)).collect::<Vec<u32>>()[..]);
            assert_eq!(south, (0..4).map(of(Port::South)).collect::<Vec<u32>>());
        }
    }
}
