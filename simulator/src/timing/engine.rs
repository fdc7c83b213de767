//! The exact engine: every wavelet of a set of tiles, moved run by run.
//!
//! * A core executes its steps in order, messages of microthreads beside them ([`super::cores`]). A wavelet received at cycle a is done at
//!   `max(a, previous) + wavelet_cycles`; a relay puts its result on the ramp in that cycle; a send
//!   started at s puts wavelet i on the ramp at s + i (i from 1). Sends of one core share its ramp in
//!   the order in which they start.
//! * Ramp and hops take T_R and h cycles. A link carries one wavelet per cycle; wavelets that arrive
//!   at a router in one cycle are served lower color first, later ones queue. The ramp up follows the
//!   core's demand: a core takes one wavelet per cycle from the queue it reads, whatever waits in
//!   others. Queues are not bounded: `plan::verify` proves that no plan needs them to be.
//!
//! Where no link ever has two wavelets at once, a flow only shifts what enters it ([`super::flows`]),
//! so n wavelets over L hops cost one step per receiver. [`run`] computes under that assumption and then proves it, pair by pair of the flows
//! that share a link. If it does not hold the job is run again by [`super::wavelets`], event by event.

use std::collections::BTreeMap;

use super::budget::RUNS_MAX;
use super::cores::{Cores, Emitted};
use super::domain::{Domain, NONE, Stuck};
use super::flows::{Flows, Sharing};
use super::runs::{self, Run};
use super::wavelets;

/// Turns after which a loop that does not repeat itself is simply run.
const TURNS_WATCHED: u32 = 48;
/// Longest period looked for, in turns.
const PERIOD_MAX: usize = 6;

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
    /// More runs or events were under way than [`super::budget`] allows: nothing here is complete.
    pub exhausted: bool,
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
    run_free(job).unwrap_or_else(|| wavelets::run(job))
}

/// Runs a job whose links are not contended for; `None` for others.
pub fn run_free(job: &Job<'_>) -> Option<Outcome> {
    // Rows share the links between wafers: there wavelets queue.
    if job.domain.wavelet == 0 || !job.domain.crossings.is_empty() {
        return None;
    }
    let index = job.index();
    let mut flows = Flows::new(job, &index);
    let mut entering = Vec::new();
    for crossing in job.entering {
        let place = (index[crossing.tile as usize], crossing.color, crossing.port);
        entering.push((flows.follow(job, &index, place), runs::of_times(&crossing.times)?));
    }
    let sharing = flows.sharing(job.tiles.len())?;
    // Of flows that share a link everything they send is kept.
    let mut shares = vec![false; flows.count()];
    for pair in &sharing {
        shares[pair.a as usize] = true;
        shares[pair.b as usize] = true;
    }
    let mut fabric = Fabric { sharing, ..Fabric::new(job, flows, shares) };
    for (flow, runs) in entering {
        runs.into_iter().for_each(|run| fabric.enter(flow, run));
    }
    fabric.drain();
    fabric.finish()
}

/// Cores connected by flows without contention.
pub struct Fabric<'a> {
    job: &'a Job<'a>,
    cores: Cores<'a>,
    flows: Flows,
    sharing: Vec<Sharing>,
    /// Per flow: first and last cycle in which a wavelet entered it; the first above the last when none.
    pub windows: Vec<(u64, u64)>,
    /// Per flow: whether its runs are kept in `sent`.
    logged: Vec<bool>,
    sent: Vec<(u32, Run)>,
    ready: Vec<u32>,
    leaving: BTreeMap<(u32, u8, u8), Vec<u64>>,
}

impl<'a> Fabric<'a> {
    /// All cores at their first step; of the flows marked in `logged` everything sent is kept.
    pub fn new(job: &'a Job<'a>, flows: Flows, logged: Vec<bool>) -> Self {
        Fabric {
            job,
            cores: Cores::new(job),
            windows: vec![(u64::MAX, 0); flows.count()],
            flows,
            sharing: Vec::new(),
            logged,
            sent: Vec::new(),
            ready: (0..job.tiles.len() as u32).rev().collect(),
            leaving: BTreeMap::new(),
        }
    }

    /// The runs of each flow, in order, of those that are kept.
    pub fn sent_by_flow(&self) -> Vec<Vec<Run>> {
        let mut by_flow = vec![Vec::new(); self.flows.count()];
        self.sent.iter().for_each(|&(flow, run)| by_flow[flow as usize].push(run));
        by_flow
    }

    /// The outcome but for links and borders.
    pub fn into_outcome(self) -> Outcome {
        self.cores.finish()
    }

    /// Lets cores go on until all wait or have ended.
    pub fn drain(&mut self) {
        let mut emitted = Emitted::new();
        while let Some(tile) = self.ready.pop() {
            if self.sent.len() + self.cores.runs() > RUNS_MAX {
                self.cores.out.exhausted = true;
                return;
            }
            self.cores.advance(tile, &mut emitted);
            for (color, run) in emitted.drain(..) {
                let slot = tile as usize * self.job.domain.colors + color as usize;
                if let Some(flow) = self.flows.of_core(slot) {
                    // From the ramp it enters the router T_R later.
                    self.enter(flow, run.later(self.job.domain.ramp));
                }
            }
        }
    }

    /// As [`Fabric::drain`], but loops that all cores run in step are not run to their end: when all stand
    /// before a turn as they stood before an earlier one, only later, the turns between repeat, because
    /// nothing that cores do depends on time itself. They are skipped; work is not counted there.
    pub fn drain_turns(&mut self) {
        let mut known: Vec<(u64, Vec<u64>)> = Vec::new();
        for turn in 1..=TURNS_WATCHED {
            self.cores.pause_at(turn);
            self.wake();
            let Some(here) = self.cores.standstill() else { break };
            let same = known.iter().rev().position(|(_, state)| *state == here.1);
            if let Some(back) = same {
                let period = back as u32 + 1;
                let cycles = here.0 - known[known.len() - period as usize].0;
                let periods = self.cores.turns_left() / period;
                self.cores.skip(periods * period, u64::from(periods) * cycles);
                break;
            }
            known.push(here);
            if known.len() > PERIOD_MAX {
                known.remove(0);
            }
        }
        self.cores.pause_at(u32::MAX);
        self.wake();
    }

    /// Lets all cores go on.
    fn wake(&mut self) {
        self.ready = (0..self.job.tiles.len() as u32).rev().collect();
        self.drain();
    }

    /// A run enters a flow's first router.
    fn enter(&mut self, flow: u32, run: Run) {
        let window = &mut self.windows[flow as usize];
        *window = (window.0.min(run.first), window.1.max(run.last()));
        if self.logged[flow as usize] {
            self.sent.push((flow, run));
        }
        self.cores.out.work.hops += self.flows.link_count(flow) as u64 * u64::from(run.n);
        for exit in self.flows.exits(flow) {
            let key = (self.job.tiles[exit.tile as usize], exit.port, self.flows.color(flow));
            let times = (0..run.n).map(|i| run.time(i) + u64::from(exit.cycles));
            self.leaving.entry(key).or_default().extend(times);
        }
        let color = self.flows.color(flow);
        for (tile, cycles) in self.flows.receivers(flow) {
            let there = run.later(u64::from(cycles) + self.job.domain.ramp);
            if self.cores.deliver(tile, color, there) {
                self.ready.push(tile);
            }
        }
    }

    /// Whether no two flows have met on a link.
    fn is_free_of_contention(&self) -> bool {
        let sent = self.sent_by_flow();
        self.sharing.iter().all(|s| {
            let (a, b) = (self.windows[s.a as usize], self.windows[s.b as usize]);
            let moved = |t: u64| t as i64 + s.delta;
            let used = a.0 <= a.1 && b.0 <= b.1;
            let apart = used && (moved(a.1) < b.0 as i64 || moved(a.0) > b.1 as i64);
            !used || apart || !meet(&sent[s.a as usize], &sent[s.b as usize], s.delta)
        })
    }

    fn finish(self) -> Option<Outcome> {
        if self.cores.out.exhausted {
            return Some(self.cores.finish());
        }
        if !self.is_free_of_contention() {
            return None;
        }
        let mut out = self.cores.finish();
        // What branches carry counts for all of the flow they are branches of.
        let mut windows = vec![(u64::MAX, 0); self.windows.len()];
        for (flow, &(first, last)) in self.windows.iter().enumerate().filter(|(_, w)| w.0 <= w.1) {
            let (trunk, later) = self.flows.trunk(flow as u32);
            let window: &mut (u64, u64) = &mut windows[trunk as usize];
            *window = (window.0.min(first.saturating_sub(later.into())), window.1.max(last));
        }
        for (flow, &(first, last)) in windows.iter().enumerate().filter(|(_, w)| w.0 <= w.1) {
            for (link, cycles) in self.flows.links(flow as u32) {
                let (first, last) = (first + u64::from(cycles), last + u64::from(cycles));
                let window = out.links[link as usize].get_or_insert((first, last));
                *window = (window.0.min(first), window.1.max(last));
            }
            for (group, cycles) in self.flows.entries(flow as u32) {
                let entered = &mut out.entered[group as usize];
                *entered = (*entered).min(first + u64::from(cycles));
            }
        }
        out.leave(self.leaving);
        Some(out)
    }
}

/// Whether two lists of runs, each in order of time, have a wavelet in one cycle when those of `a`
/// are `delta` later.
fn meet(a: &[Run], b: &[Run], delta: i64) -> bool {
    // Shift the list that must become later.
    let (by_a, by_b) = if delta >= 0 { (delta as u64, 0) } else { (0, delta.unsigned_abs()) };
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let (x, y) = (x.later(by_a), y.later(by_b));
        if x.meets(&y) {
            return true;
        }
        if x.last() < y.last() {
            i += 1;
        } else {
            j += 1;
        }
    }
    false
}
