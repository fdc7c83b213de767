//! Large planes and lines of PEs with loops, folded: of rows and columns that repeat only a few are run.
//!
//! A loop over a ring of PEs makes every PE depend on every other, so lines cannot be told apart; but
//! columns at one distance modulo a small period have equal programs and routes. Away from the ends one
//! column per remainder stands for all of them, and hears from the column that stands for its sender.
//! Each such equation is that of the whole plane but where a column behind the end hears from one
//! before it: there the two histories are compared, message by message. Equal histories make the fold
//! exact; otherwise times are off by about the largest difference, because a core's times never move
//! by more than its inputs do. Rows likewise. All start together. Links are taken to be free.

use std::collections::BTreeMap;

use super::domain::NONE;
use super::engine::{Fabric, Job};
use super::flows::{Flows, RAMP};
use super::runs::Run;

/// Columns at either end that are always run, so that the ends' effects die out.
const MARGIN: u32 = 4;
/// Longest period looked for.
const PERIOD_MAX: u32 = 12;

/// Along one axis: which place stands for each.
struct Fold {
    /// Per place: its representative.
    standing: Vec<u32>,
    /// Representatives, ascending.
    kept: Vec<u32>,
}

/// What came of a folded job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// When the last tile ended.
    pub end: u64,
    /// Cycles by which that may be off; 0 when it is exact.
    pub off_by: u64,
    /// Tiles that were run.
    pub tiles: usize,
}

/// Runs a job whose tiles lie in rows of `width`, or in one line of that length, and all start in cycle 0;
/// `classes` are numbers per tile of the job that equal steps and routes of `colors`, those it uses, share.
/// `None` when it cannot be folded.
pub fn run(job: &Job<'_>, width: u32, (classes, colors): (&[u32], &[u8])) -> Option<Folded> {
    let n = job.tiles.len() as u32;
    if n == 0 || !n.is_multiple_of(width) || !job.entering.is_empty() || job.domain.wavelet == 0 {
        return None;
    }
    let plane = Plane::fold(job, width, classes)?;
    let tiles = plane.tiles();
    let small = Job {
        domain: job.domain,
        tiles: &tiles,
        phases: job.phases.clone(),
        starts: &vec![0; tiles.len()],
        entering: &[],
    };
    let (flows, seams) = plane.flows(&tiles, colors)?;
    let mut logged = vec![false; flows.count()];
    seams.iter().for_each(|s| (logged[s.0 as usize], logged[s.1 as usize]) = (true, true));
    let mut fabric = Fabric::new(&small, flows, logged);
    fabric.drain_turns();
    let off_by = largest_difference(&fabric.sent_by_flow(), &seams)?;
    let outcome = fabric.into_outcome();
    if outcome.exhausted || !outcome.waiting.is_empty() {
        return None;
    }
    let end = outcome.ends.iter().max().copied().unwrap_or(0);
    Some(Folded { end, off_by, tiles: tiles.len() })
}

impl Fold {
    /// Of places with these classes: the longest stretch that repeats, if it is most of them.
    fn find(classes: &[u32]) -> Option<Fold> {
        let n = classes.len() as u32;
        let stretch = |period: u32| {
            let same = |i: u32| classes[i as usize] == classes[(i + period) as usize];
            let (mut best, mut from) = ((0, 0), 0);
            for i in 0..n - period {
                if !same(i) {
                    from = i + 1;
                } else if i + 1 - from > best.1 - best.0 {
                    best = (from, i + 1);
                }
            }
            (period, best.0 + MARGIN, (best.1 + period).saturating_sub(MARGIN))
        };
        let mut periods = (1..=PERIOD_MAX.min(n.saturating_sub(1))).map(stretch);
        let (period, from, to) =
            periods.find(|&(p, from, to)| to > from && to - from > (n / 2).max(6 * p))?;
        // Deep inside, so that senders of representatives are inside too.
        let middle = from + (to - from) / period / 2 * period;
        let stands = |i: u32| if i < from || i >= to { i } else { middle + (i - from) % period };
        Some(Fold::of((0..n).map(stands).collect()))
    }

    /// Every place for itself.
    fn none(n: u32) -> Fold {
        Fold::of((0..n).collect())
    }

    fn of(standing: Vec<u32>) -> Fold {
        let mut kept = standing.clone();
        kept.sort_unstable();
        kept.dedup();
        Fold { standing, kept }
    }

    /// Index among the kept of the place that stands for `place`.
    fn index(&self, place: u32) -> u32 {
        let stands = self.standing[place as usize];
        self.kept.binary_search(&stands).unwrap_or(0) as u32
    }
}

/// Numbers that equal lists share.
fn numbers<T: Ord>(lists: impl Iterator<Item = Vec<T>>) -> Vec<u32> {
    let mut known = BTreeMap::new();
    let class = |list| {
        let next = known.len() as u32;
        *known.entry(list).or_insert(next)
    };
    lists.map(class).collect()
}

/// Two flows that should have sent the same, by index: one that is heard, one that stands for it.
type Seam = (u32, u32);

struct Plane<'a> {
    job: &'a Job<'a>,
    /// Job index per tile of the domain.
    index: Vec<u32>,
    width: u32,
    columns: Fold,
    rows: Fold,
}

impl<'a> Plane<'a> {
    /// `None` when neither columns nor rows repeat.
    fn fold(job: &'a Job<'a>, width: u32, classes: &[u32]) -> Option<Self> {
        let height = job.tiles.len() as u32 / width;
        let tile = |x: u32, y: u32| classes[(y * width + x) as usize];
        let columns = (0..width).map(|x| (0..height).map(|y| tile(x, y)).collect());
        let columns = Fold::find(&numbers(columns));
        let rows = (0..height).map(|y| (0..width).map(|x| tile(x, y)).collect());
        let rows = if height == 1 { None } else { Fold::find(&numbers(rows)) };
        if columns.is_none() && rows.is_none() {
            return None;
        }
        let columns = columns.unwrap_or_else(|| Fold::none(width));
        let rows = rows.unwrap_or_else(|| Fold::none(height));
        Some(Plane { job, index: job.index(), width, columns, rows })
    }

    /// Tiles that are run, in the order of the job.
    fn tiles(&self) -> Vec<u32> {
        let row = |&y: &u32| self.columns.kept.iter().map(move |x| y * self.width + x);
        self.rows.kept.iter().flat_map(row).map(|i| self.job.tiles[i as usize]).collect()
    }

    /// The tile that stands for a tile, by its index among those that are run.
    fn standing(&self, tile: u32) -> u32 {
        let at = self.index[tile as usize];
        let (x, y) = (self.columns.index(at % self.width), self.rows.index(at / self.width));
        y * self.columns.kept.len() as u32 + x
    }

    /// Who sends what a tile receives on a color: tile, cycles from its router to this one.
    fn source(&self, tile: u32, color: u8) -> Option<(u32, u32)> {
        let domain = self.job.domain;
        let routes = |tile: u32| domain.routes[tile as usize * domain.colors + color as usize];
        let (mut at, mut cycles) = (tile, 0u32);
        for _ in 0..self.job.tiles.len() {
            let port = routes(at).0.trailing_zeros() as u8;
            if port == RAMP {
                return Some((at, cycles));
            }
            let near = *domain.neighbors[at as usize].get(port as usize)?;
            let back = (port + 2) % 4;
            let inside = near != NONE && self.index[near as usize] != NONE;
            if !inside || routes(near).1 & (1 << back) == 0 {
                return None;
            }
            cycles += domain.hop_cycles(near, back) as u32;
            at = near;
        }
        None
    }

    /// The flows between the tiles that are run, and where they differ from those of all tiles. `None`
    /// when a tile hears from another distance than the one that stands for it.
    fn flows(&self, tiles: &[u32], colors: &[u8]) -> Option<(Flows, Vec<Seam>)> {
        let domain = self.job.domain;
        let slot = |i: u32, color: u8| i as usize * domain.colors + color as usize;
        let mut heard = vec![None; tiles.len() * domain.colors];
        let hears = |tile: u32, color: u8| {
            domain.routes[tile as usize * domain.colors + color as usize].1 & (1 << RAMP) != 0
        };
        let mut flows = Flows::unconnected(self.job.domain, tiles);
        for (i, &tile) in (0u32..).zip(tiles) {
            for color in colors.iter().copied().filter(|&c| hears(tile, c)) {
                // Not sent in this job's phases, perhaps; then nobody receives it either.
                let Some((from, cycles)) = self.source(tile, color) else { continue };
                let from = self.standing(from);
                heard[slot(i, color)] = Some((from, cycles));
                flows.connect(slot(from, color), (i, cycles));
            }
        }
        let flows = flows.finish();
        let mut seams = Vec::new();
        for &tile in self.job.tiles {
            for color in colors.iter().copied().filter(|&c| hears(tile, c)) {
                let Some((from, cycles)) = self.source(tile, color) else { continue };
                let (from, rep) = (self.standing(from), heard[slot(self.standing(tile), color)]?);
                if cycles != rep.1 {
                    return None;
                }
                if from != rep.0 {
                    let flow = |i| flows.of_core(slot(i, color));
                    seams.push((flow(from)?, flow(rep.0)?));
                }
            }
        }
        seams.sort_unstable();
        seams.dedup();
        Some((flows, seams))
    }
}

/// The largest difference between the histories of two flows that should be equal; `None` when they
/// are of different length.
fn largest_difference(sent: &[Vec<Run>], seams: &[Seam]) -> Option<u64> {
    let mut largest = 0;
    for &(a, b) in seams {
        let (a, b) = (&sent[a as usize], &sent[b as usize]);
        if a.len() != b.len() {
            return None;
        }
        for (a, b) in a.iter().zip(b) {
            if a.n != b.n {
                return None;
            }
            largest = largest.max(a.first.abs_diff(b.first)).max(a.last().abs_diff(b.last()));
        }
    }
    Some(largest)
}
