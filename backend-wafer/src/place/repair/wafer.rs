//! One wafer with its dead PEs: what is skipped in each row.
//!
//! Every row skips the same number of columns, all dead PEs among them. What a row skips follows from the row
//! above: dead PEs are matched in order to the nearest spares, the others stay where they are, so that
//! few neighbours come apart; bends are made earlier where many meet.
//! Does not look for paths (`paths`).

use plan::{Bend, Port, Spares, Target};

use super::paths::{Paths, Stuck};
use super::{Detours, SHIFT};
use crate::WaferError;

/// Rows above a bend in which it may be made instead, where too many meet.
const LOOKAHEAD: u32 = 12;
/// Skipped neighbours that make a PE useless: more ways are left for paths, or more PEs.
pub(super) const CROWDS: [usize; 2] = [2, 3];
/// How often PEs around a spot without paths are given up.
const GIVEN_UP: u32 = 12;

/// One wafer with its dead PEs; columns count from the first one used.
#[derive(Clone)]
pub(super) struct Wafer {
    pub(super) index: u32,
    /// Columns not used west of the others.
    west: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    /// Per row: dead columns, ascending.
    pub(super) dead: Vec<Vec<u32>>,
    /// The same, and PEs that have too few living neighbours to be of use.
    pub(super) useless: Vec<Vec<u32>>,
    /// PEs beside so many skipped ones are skipped too.
    crowd: usize,
}

impl Wafer {
    pub(super) fn new(target: &Target, index: u32) -> Self {
        let (width, height) = (target.built_width(), target.height);
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
        let mut wafer = Wafer { index, west, width: used, height, dead, useless, crowd: CROWDS[0] };
        wafer.find_useless();
        wafer
    }

    /// The first `columns` columns of the part used, with nothing given up but PEs beside `crowd` skipped
    /// ones.
    pub(super) fn cut(&self, columns: u32, crowd: usize) -> Self {
        let inside = |row: &Vec<u32>| row.iter().copied().filter(|&x| x < columns).collect();
        let dead: Vec<Vec<u32>> = self.dead.iter().map(inside).collect();
        let mut wafer = Wafer { width: columns, useless: dead.clone(), dead, crowd, ..*self };
        wafer.find_useless();
        wafer
    }

    /// What each row skips with `spares` spares, and the paths; where too many paths meet, the PEs there
    /// are skipped as well. The error is a row without a way.
    pub(super) fn lay(&mut self, spares: u32) -> Result<(Vec<Vec<u32>>, Detours), u32> {
        let mut row = 0;
        for _ in 0..GIVEN_UP {
            let Some(rows) = self.skips(spares) else { return Err(self.fullest_row().1) };
            match Paths::new(self, &rows).detours(&Detours::new()) {
                Ok(found) => return Ok((rows, found)),
                Err(stuck) if self.give_up(&stuck) => row = stuck.row,
                Err(stuck) => return Err(stuck.row),
            }
        }
        Err(row)
    }

    /// Skips the PEs around which too many paths meet; whether any was not skipped before.
    fn give_up(&mut self, stuck: &Stuck) -> bool {
        let mut any = false;
        for &(x, y) in &stuck.around {
            if let Err(i) = self.useless[y as usize].binary_search(&x) {
                self.useless[y as usize].insert(i, x);
                any = true;
            }
        }
        self.find_useless();
        any
    }

    /// Skipped columns as columns of the wafer, those outside of the part used included.
    pub(super) fn on_wafer(&self, rows: &[Vec<u32>], width: u32) -> Vec<Vec<u32>> {
        let row = |row: &Vec<u32>| {
            let inside = row.iter().map(|x| x + self.west);
            (0..self.west).chain(inside).chain(self.west + self.width..width).collect()
        };
        rows.iter().map(row).collect()
    }

    /// The inverse of [`Wafer::on_wafer`].
    pub(super) fn in_window(&self, rows: &[Vec<u32>], width: u32) -> Vec<Vec<u32>> {
        debug_assert!(self.west + self.width <= width);
        let used = self.west..self.west + self.width;
        let row = |row: &Vec<u32>| {
            row.iter().filter(|x| used.contains(x)).map(|x| x - self.west).collect()
        };
        rows.iter().map(row).collect()
    }

    pub(super) fn neighbors(&self, x: u32, y: u32) -> impl Iterator<Item = (Port, u32, u32)> {
        let (width, height) = (self.width, self.height);
        [Port::East, Port::West, Port::South, Port::North].into_iter().filter_map(move |port| {
            let (dx, dy) = port.step();
            let (nx, ny) = (x.checked_add_signed(dx as i32)?, y.checked_add_signed(dy as i32)?);
            (nx < width && ny < height).then_some((port, nx, ny))
        })
    }

    /// A PE with two dead neighbours or more has few ways out for its own four links and those that pass
    /// around the dead: it is skipped like them, and its router is free for paths. So are PEs beside two
    /// skipped ones: bays between dead PEs fill up, and what is left has room around it. Where rows have
    /// too few spares for that, three neighbours count.
    fn find_useless(&mut self) {
        let mut open: Vec<(u32, u32)> = Vec::new();
        for (y, row) in (0..).zip(&self.useless) {
            open.extend(row.iter().map(|&x| (x, y)));
        }
        while let Some((x, y)) = open.pop() {
            let around: Vec<_> = self.neighbors(x, y).collect();
            for (_, nx, ny) in around {
                let skipped = |x: u32, y: u32| self.useless[y as usize].binary_search(&x);
                let beside = self.neighbors(nx, ny).filter(|&(_, x, y)| skipped(x, y).is_ok());
                if beside.count() < self.crowd {
                    continue;
                }
                if let Err(i) = skipped(nx, ny) {
                    self.useless[ny as usize].insert(i, nx);
                    open.push((nx, ny));
                }
            }
        }
    }

    /// The most PEs that a row has to skip, and the row.
    pub(super) fn fullest_row(&self) -> (u32, u32) {
        let counts = (0..).zip(&self.useless).map(|(y, row)| (row.len() as u32, y));
        counts.max_by_key(|&(n, y)| (n, std::cmp::Reverse(y))).unwrap_or_default()
    }

    /// Spares that balance the hops over them against those along bends: with a share p of PEs skipped
    /// among W columns, W sqrt(p / 3); and no fewer than the fullest row needs.
    pub(super) fn spares_wanted(&self) -> u32 {
        let pes = f64::from(self.width.max(1)) * f64::from(self.height);
        let share = self.useless.iter().map(Vec::len).sum::<usize>() as f64 / pes;
        let balance = (f64::from(self.width) * (share / 3.0).sqrt()).round() as u32;
        balance.max(self.spares_needed())
    }

    /// One more than the fullest row skips.
    pub(super) fn spares_needed(&self) -> u32 {
        self.fullest_row().0 + 1
    }

    pub(super) fn stuck(&self, target: &Target, y: u32) -> WaferError {
        let here = |d: &&(u32, u32)| d.0 / target.built_width() == self.index;
        let count = target.dead.iter().filter(here).count();
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
pub(super) fn assign(row: &[u32], dead: &[u32], width: u32) -> Option<Vec<usize>> {
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
pub(super) fn settle(row: &[u32], dead: &[u32], taken: &[usize], width: u32) -> Vec<u32> {
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

/// The rows of a wafer as the plan stores them.
pub(super) fn spares_of(rows: &[Vec<u32>]) -> Spares {
    let mut spares = Spares { first: rows[0].clone(), bends: Vec::new() };
    for (y, pair) in (1..).zip(rows.windows(2)) {
        let moved = (0..).zip(pair[0].iter().zip(&pair[1])).filter(|(_, (a, b))| a != b);
        spares.bends.extend(moved.map(|(spare, (_, &column))| Bend { row: y, spare, column }));
    }
    spares
}
