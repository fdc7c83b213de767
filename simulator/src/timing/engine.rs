//! The exact engine: every wavelet of a set of tiles, moved run by run.
//!
//! * A core executes its steps in order. A wavelet received at cycle a is done at
//!   `max(a, previous) + wavelet_cycles`; a relay puts its result on the ramp in that cycle; a send
//!   started at s puts wavelet i on the ramp at s + i (i from 1).
//! * Ramp and hops take T_R and h cycles. A link carries one wavelet per cycle; wavelets that arrive
//!   at a router in one cycle are served lower color first, later ones queue. The ramp up follows the
//!   core's demand: a core takes one wavelet per cycle from the queue it reads, whatever waits in
//!   others. Queues are not bounded: `plan::verify` proves that no plan needs them to be.
//!
//! Where no link ever has two wavelets at once, a flow only shifts what enters it ([`super::flows`]),
//! and cores are processes that exchange runs: their result does not depend on the order in which
//! they run. [`run`] computes under that assumption and then proves it, pair by pair of the flows
//! that share a link. If it does not hold the job is run again by [`super::wavelets`], event by event.

use std::collections::BTreeMap;

use super::cores::Cores;
use super::domain::{Domain, NONE, Stuck};
use super::wavelets;

/// Wavelets that enter the domain from outside, or leave it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crossing {
    /// Tile at the border.
    pub tile: u32,
    /// Port of that tile's router.
    pub port: u8,
    /// Color.
    pub color: u8,
    /// Cycle at which each wavelet enters the router (entering) or leaves it (leaving).
    pub times: Vec<u64>,
}

/// What to run.
pub struct Job<'a> {
    /// Routers and programs.
    pub domain: &'a Domain,
    /// The tiles that take part.
    pub tiles: &'a [u32],
    /// Which phases of their programs.
    pub phases: std::ops::Range<usize>,
    /// When each of them starts.
    pub starts: &'a [u64],
    /// Wavelets from outside.
    pub entering: &'a [Crossing],
}

impl Job<'_> {
    /// First step and end of a tile's part of its program, by job index.
    pub fn steps(&self, tile: usize) -> (u32, u32) {
        let program = self.domain.program(self.tiles[tile]);
        let all = program.steps.len() as u32;
        let start = |phase: usize| program.phase_starts.get(phase).copied().unwrap_or(all);
        (start(self.phases.start), start(self.phases.end))
    }

    /// Job index per domain tile, [`NONE`] for those that do not take part.
    pub fn index(&self) -> Vec<u32> {
        let mut index = vec![NONE; self.domain.len()];
        self.tiles.iter().enumerate().for_each(|(i, &t)| index[t as usize] = i as u32);
        index
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// When each tile ended.
    pub ends: Vec<u64>,
    /// Per group and phase ([`Domain::phase_slot`]): when the last tile ended it, 0 when none did.
    pub phase_ends: Vec<u64>,
    /// Per group: first cycle in which a wavelet entered it from another one; `u64::MAX` when none.
    pub entered: Vec<u64>,
    /// Per tile of the job and mesh port: first and last cycle in which its link carried a wavelet.
    pub links: Vec<Option<(u64, u64)>>,
    /// What left the domain, by tile, port and color.
    pub leaving: Vec<Crossing>,
    /// Tiles that still wait, and where; empty when all have ended.
    pub waiting: Vec<(u32, Stuck)>,
    /// What it took.
    pub work: Work,
}

/// How much was simulated, for speed figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Wavelets times links.
    pub hops: u64,
    /// Cycles that cores spent on instructions and wavelets, waiting not counted.
    pub active_cycles: u64,
    /// Whether links were contended for, so that every wavelet was an event.
    pub contended: bool,
}

impl Outcome {
    /// Nothing yet, for `tiles` tiles.
    pub(super) fn empty(domain: &Domain, tiles: usize) -> Self {
        Outcome {
            links: vec![None; tiles * 4],
            entered: vec![u64::MAX; domain.groups()],
            phase_ends: vec![0; domain.phase_slots()],
            ..Outcome::default()
        }
    }

    /// Takes what left the domain, by (tile, port, color).
    pub(super) fn leave(&mut self, leaving: BTreeMap<(u32, u8, u8), Vec<u64>>) {
        let crossing = |((tile, port, color), times)| Crossing { tile, port, color, times };
        self.leaving = leaving.into_iter().map(crossing).collect();
    }
}

/// Runs a job to its end.
pub fn run(job: &Job<'_>) -> Outcome {
    Cores::run(job).unwrap_or_else(|| wavelets::run(job))
}
