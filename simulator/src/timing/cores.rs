//! Cores as processes that exchange runs of wavelets over flows without contention.
//!
//! Each core goes on until it lacks a wavelet; delivering a run wakes whom it reaches. Every queue has
//! one writer and one reader, so the result is the same in whatever order cores are woken (a Kahn
//! network). State lies in arrays by tile and by (tile, color); runs in one pool.
//!
//! [`Cores::run`] gives up with `None` when two flows meet on a link: then times would be wrong.

use std::collections::BTreeMap;

use super::domain::{NONE, StepKind, Stuck};
use super::engine::{Job, Outcome};
use super::flows::{Flows, Sharing};
use super::runs::{self, Run};

/// A core that waits for no color.
const AWAKE: u8 = u8::MAX;

#[derive(Clone, Copy)]
struct Core {
    /// Free for the next step.
    now: u64,
    step: u32,
    /// One past its last step.
    end: u32,
    /// Wavelets of the current step done.
    done: u32,
    /// Started: the software cost of the current step is in `now`.
    started: bool,
    /// The color it waits for, or [`AWAKE`].
    waits: u8,
}

/// Queues of runs in one pool, linked by index.
struct Queues {
    /// Per (tile, color): first and last node, or [`NONE`].
    ends: Vec<(u32, u32)>,
    nodes: Vec<(Run, u32)>,
    free: u32,
}

impl Queues {
    fn new(queues: usize) -> Self {
        Queues { ends: vec![(NONE, NONE); queues], nodes: Vec::new(), free: NONE }
    }

    fn push(&mut self, queue: usize, run: Run) {
        let (_, last) = self.ends[queue];
        if last != NONE && self.nodes[last as usize].0.join(run) {
            return;
        }
        let node = match self.free {
            NONE => {
                self.nodes.push((run, NONE));
                self.nodes.len() as u32 - 1
            }
            node => {
                self.free = self.nodes[node as usize].1;
                self.nodes[node as usize] = (run, NONE);
                node
            }
        };
        match last {
            NONE => self.ends[queue] = (node, node),
            last => {
                self.nodes[last as usize].1 = node;
                self.ends[queue].1 = node;
            }
        }
    }

    /// Takes at most `most` wavelets that are one run.
    fn pop(&mut self, queue: usize, most: u32) -> Option<Run> {
        let (first, last) = self.ends[queue];
        if first == NONE {
            return None;
        }
        let (run, next) = self.nodes[first as usize];
        if run.n > most {
            let (taken, left) = run.split(most);
            self.nodes[first as usize].0 = left;
            return Some(taken);
        }
        self.nodes[first as usize].1 = self.free;
        self.free = first;
        self.ends[queue] = if next == NONE { (NONE, NONE) } else { (next, last) };
        Some(run)
    }
}

/// The processes of a job.
pub struct Cores<'a> {
    job: &'a Job<'a>,
    flows: Flows,
    sharing: Vec<Sharing>,
    /// Per flow: first and last cycle in which a wavelet entered it; the first above the last when none.
    windows: Vec<(u64, u64)>,
    /// Per flow: whether it shares a link; then its runs are kept in `sent`.
    shares: Vec<bool>,
    sent: Vec<(u32, Run)>,
    cores: Vec<Core>,
    queues: Queues,
    ready: Vec<u32>,
    out: Outcome,
    leaving: BTreeMap<(u32, u8, u8), Vec<u64>>,
}

impl<'a> Cores<'a> {
    /// Runs a job; `None` where a link is contended for.
    pub fn run(job: &'a Job<'a>) -> Option<Outcome> {
        if job.domain.wavelet == 0 {
            return None;
        }
        let index = job.index();
        let mut flows = Flows::new(job, &index);
        let mut entering = Vec::new();
        for crossing in job.entering {
            let place = (index[crossing.tile as usize], crossing.color, crossing.port);
            entering.push((flows.follow(job, &index, place), runs::of_times(&crossing.times)?));
        }
        let sharing = flows.sharing(job.tiles.len());
        let mut shares = vec![false; flows.len()];
        for pair in &sharing {
            shares[pair.a as usize] = true;
            shares[pair.b as usize] = true;
        }
        let core = |i: usize| {
            let (step, end) = job.steps(i);
            Core { now: job.starts[i], step, end, done: 0, started: false, waits: AWAKE }
        };
        let mut cores = Cores {
            job,
            windows: vec![(u64::MAX, 0); flows.len()],
            flows,
            sharing,
            shares,
            sent: Vec::new(),
            cores: (0..job.tiles.len()).map(core).collect(),
            queues: Queues::new(job.tiles.len() * job.domain.colors),
            ready: (0..job.tiles.len() as u32).rev().collect(),
            out: Outcome::empty(job.domain, job.tiles.len()),
            leaving: BTreeMap::new(),
        };
        for (flow, runs) in entering {
            runs.into_iter().for_each(|run| cores.enter(flow, run));
        }
        while let Some(tile) = cores.ready.pop() {
            cores.advance(tile);
        }
        cores.finish()
    }

    /// A run enters a flow's first router.
    fn enter(&mut self, flow: u32, run: Run) {
        let window = &mut self.windows[flow as usize];
        *window = (window.0.min(run.first), window.1.max(run.last()));
        if self.shares[flow as usize] {
            self.sent.push((flow, run));
        }
        self.out.work.hops += self.flows.links(flow).len() as u64 * u64::from(run.n);
        for exit in self.flows.exits(flow) {
            let key = (self.job.tiles[exit.tile as usize], exit.port, self.flows.color(flow));
            let times = (0..run.n).map(|i| run.time(i) + u64::from(exit.cycles));
            self.leaving.entry(key).or_default().extend(times);
        }
        let colors = self.job.domain.colors as u32;
        for i in self.flows.receiver_range(flow) {
            let (slot, cycles) = self.flows.receiver(i);
            self.queues.push(slot as usize, run.later(u64::from(cycles) + self.job.domain.ramp));
            let core = &mut self.cores[(slot / colors) as usize];
            if u32::from(core.waits) == slot % colors {
                core.waits = AWAKE;
                self.ready.push(slot / colors);
            }
        }
    }

    /// A core puts a run on its ramp; it enters the router T_R later.
    fn emit(&mut self, tile: u32, color: u8, run: Run) {
        let slot = tile as usize * self.job.domain.colors + color as usize;
        if let Some(flow) = self.flows.of_core(slot) {
            self.enter(flow, run.later(self.job.domain.ramp));
        }
    }

    /// Lets a core go on as far as it can.
    fn advance(&mut self, tile: u32) {
        let domain = self.job.domain;
        let program = domain.program(self.job.tiles[tile as usize]);
        let group = domain.group[self.job.tiles[tile as usize] as usize];
        let mut core = self.cores[tile as usize];
        while core.step < core.end {
            let step = program.steps[core.step as usize];
            if !core.started {
                core.now += step.cycles;
                self.out.work.active_cycles += step.cycles;
                core.started = true;
            }
            match step.kind {
                StepKind::Local => {}
                StepKind::Send(color) => {
                    if step.wavelets > 0 {
                        self.emit(tile, color, Run::dense(core.now + 1, step.wavelets));
                    }
                    core.now += u64::from(step.wavelets);
                    self.out.work.active_cycles += u64::from(step.wavelets);
                }
                StepKind::Recv(color) | StepKind::Relay(color, _) => {
                    let output = match step.kind {
                        StepKind::Relay(_, output) => Some(output),
                        _ => None,
                    };
                    if !self.receive(tile, &mut core, (color, output), step.wavelets) {
                        core.waits = color;
                        self.cores[tile as usize] = core;
                        return;
                    }
                }
            }
            let latest = &mut self.out.phase_ends[domain.phase_slot(group, step.phase)];
            *latest = (*latest).max(core.now);
            (core.done, core.started) = (0, false);
            core.step += 1;
        }
        self.cores[tile as usize] = core;
    }

    /// Takes what has arrived; whether the message is complete.
    fn receive(
        &mut self,
        tile: u32,
        core: &mut Core,
        (color, output): (u8, Option<u8>),
        wavelets: u32,
    ) -> bool {
        let domain = self.job.domain;
        let w = domain.wavelet as u32;
        let queue = tile as usize * domain.colors + color as usize;
        while core.done < wavelets
            && let Some(run) = self.queues.pop(queue, wavelets - core.done)
        {
            core.done += run.n;
            self.out.work.active_cycles += u64::from(run.n) * u64::from(w);
            let mut parts = [None; 2];
            let mut n = 0;
            core.now = run.served(core.now, w, |part| {
                parts[n] = Some(part);
                n += 1;
            });
            if let Some(output) = output {
                for part in parts.into_iter().flatten() {
                    self.emit(tile, output, part);
                }
            }
        }
        core.done == wavelets
    }

    /// Whether no two flows have met on a link.
    fn is_free_of_contention(&self) -> bool {
        let mut starts = vec![0usize; self.flows.len() + 1];
        self.sent.iter().for_each(|(flow, _)| starts[*flow as usize + 1] += 1);
        for i in 0..self.flows.len() {
            starts[i + 1] += starts[i];
        }
        let mut by_flow = vec![Run::dense(0, 1); self.sent.len()];
        let mut next = starts.clone();
        for &(flow, run) in &self.sent {
            by_flow[next[flow as usize]] = run;
            next[flow as usize] += 1;
        }
        let of = |flow: u32| &by_flow[starts[flow as usize]..starts[flow as usize + 1]];
        self.sharing.iter().all(|s| {
            let (a, b) = (self.windows[s.a as usize], self.windows[s.b as usize]);
            let moved = |t: u64| (i128::from(t) + i128::from(s.delta)) as i64;
            // Strictly apart, or compared run by run.
            a.0 > a.1
                || b.0 > b.1
                || moved(a.1) < b.0 as i64
                || moved(a.0) > b.1 as i64
                || !meet(of(s.a), of(s.b), s.delta)
        })
    }

    fn finish(mut self) -> Option<Outcome> {
        if !self.is_free_of_contention() {
            return None;
        }
        for (flow, &(first, last)) in self.windows.iter().enumerate().filter(|(_, w)| w.0 <= w.1) {
            for &(link, cycles) in self.flows.links(flow as u32) {
                let (first, last) = (first + u64::from(cycles), last + u64::from(cycles));
                let window = self.out.links[link as usize].get_or_insert((first, last));
                *window = (window.0.min(first), window.1.max(last));
            }
            for &(group, cycles) in self.flows.entries(flow as u32) {
                let entered = &mut self.out.entered[group as usize];
                *entered = (*entered).min(first + u64::from(cycles));
            }
        }
        for (i, core) in self.cores.iter().enumerate() {
            self.out.ends.push(core.now);
            if core.step < core.end {
                let stuck = Stuck { step: core.step, done: core.done };
                self.out.waiting.push((self.job.tiles[i], stuck));
            }
        }
        self.out.leave(self.leaving);
        Some(self.out)
    }
}

/// Whether two lists of runs, each in order of time, have a wavelet in one cycle when those of `a`
/// are `delta` later.
fn meet(a: &[Run], b: &[Run], delta: i64) -> bool {
    // Times stay far below 2^62; shift the list that must become later.
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
