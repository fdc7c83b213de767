//! Level L1: messages as bursts between merge points.
//!
//! A burst is n wavelets from a first to a last cycle, evenly spread. Along a route it only shifts by
//! ramp and hops; at a core the recurrences of the wavelet engine are solved for its two ends:
//! `first' = max(first, ready) + w`, `last' = max(last + w, first' + (n - 1) w)`. Links are not
//! contended for. Cost per message, not per wavelet and hop.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::domain::{Domain, NONE, StepKind, Stuck};
use super::engine::{Crossing, Outcome};

/// Port number of the ramp.
const RAMP: u8 = 4;

/// Evenly spread wavelets.
#[derive(Clone, Copy, Debug)]
struct Burst {
    first: u64,
    last: u64,
    n: u32,
}

impl Burst {
    fn later(self, cycles: u64) -> Self {
        Burst { first: self.first + cycles, last: self.last + cycles, n: self.n }
    }

    /// The cycle of wavelet `i`.
    fn time(&self, i: u32) -> u64 {
        let steps = u64::from(self.n.max(2)) - 1;
        self.first + (self.last - self.first) * u64::from(i) / steps
    }
}

/// Where a flow ends: tile and cycles after it has entered its first router, or a border.
#[derive(Clone, Copy, Debug)]
enum End {
    Core(u32, u64),
    Border { tile: u32, port: u8, cycles: u64 },
}

#[derive(Clone, Copy, Default)]
struct Core {
    step: u32,
    started: bool,
    now: u64,
}

struct Bursts<'a> {
    domain: &'a Domain,
    cores: Vec<Core>,
    /// Per tile and color.
    queues: Vec<VecDeque<Burst>>,
    /// Per tile and color that has sent.
    ends: Vec<Option<Rc<[End]>>>,
    ready: VecDeque<u32>,
    leaving: BTreeMap<(u32, u8, u8), Vec<u64>>,
    out: Outcome,
}

/// Runs all tiles and phases of a domain.
pub fn run(domain: &Domain, starts: &[u64], entering: &[Crossing]) -> Outcome {
    let core = |&now: &u64| Core { now, ..Core::default() };
    let mut b = Bursts {
        domain,
        cores: starts.iter().map(core).collect(),
        queues: vec![VecDeque::new(); domain.len() * domain.colors],
        ends: vec![None; domain.len() * domain.colors],
        ready: (0..domain.len() as u32).collect(),
        leaving: BTreeMap::new(),
        out: Outcome { phase_ends: vec![0; domain.phase_slots()], ..Outcome::default() },
    };
    for c in entering {
        let ends = b.trace(c.tile, c.color, c.port);
        for burst in bursts(&c.times) {
            b.deliver(&ends, c.color, burst);
        }
    }
    while let Some(tile) = b.ready.pop_front() {
        b.advance(tile);
    }
    b.finish()
}

/// Cuts a list of times into runs of one wavelet per cycle.
fn bursts(times: &[u64]) -> Vec<Burst> {
    let mut list: Vec<Burst> = Vec::new();
    for &t in times {
        match list.last_mut() {
            Some(b) if b.last + 1 == t => (b.last, b.n) = (t, b.n + 1),
            _ => list.push(Burst { first: t, last: t, n: 1 }),
        }
    }
    list
}

impl Bursts<'_> {
    /// Where wavelets of a color that enter a tile's router through a port end.
    fn trace(&self, tile: u32, color: u8, port: u8) -> Vec<End> {
        let domain = self.domain;
        let mut ends = Vec::new();
        let mut open = vec![(tile, port, 0u64)];
        while let Some((at, from, cycles)) = open.pop() {
            let slot = at as usize * domain.colors + color as usize;
            let (input, outputs) = domain.routes[slot];
            if input != 1 << from {
                continue;
            }
            for port in (0..5u8).filter(|p| outputs & (1 << p) != 0) {
                if port == RAMP {
                    ends.push(End::Core(at, cycles + domain.ramp));
                    continue;
                }
                match domain.neighbors[at as usize][port as usize] {
                    NONE => ends.push(End::Border { tile: at, port, cycles }),
                    next => open.push((next, (port + 2) % 4, cycles + domain.hop_cycles(at, port))),
                }
            }
        }
        ends
    }

    fn deliver(&mut self, ends: &[End], color: u8, burst: Burst) {
        for &end in ends {
            match end {
                End::Core(tile, cycles) => {
                    let slot = tile as usize * self.domain.colors + color as usize;
                    self.queues[slot].push_back(burst.later(cycles));
                    self.ready.push_back(tile);
                }
                End::Border { tile, port, cycles } => {
                    let moved = burst.later(cycles);
                    let times = (0..burst.n).map(|i| moved.time(i));
                    self.leaving.entry((tile, port, color)).or_default().extend(times);
                }
            }
        }
    }

    fn send(&mut self, tile: u32, color: u8, burst: Burst) {
        let slot = tile as usize * self.domain.colors + color as usize;
        let ends = match &self.ends[slot] {
            Some(ends) => Rc::clone(ends),
            None => {
                let ends: Rc<[End]> = self.trace(tile, color, RAMP).into();
                self.ends[slot] = Some(Rc::clone(&ends));
                ends
            }
        };
        self.deliver(&ends, color, burst.later(self.domain.ramp));
    }

    /// Takes `n` wavelets off a queue as one burst; `None` when there are fewer.
    fn take(&mut self, tile: u32, color: u8, n: u32) -> Option<Burst> {
        let queue = self.queues.get_mut(tile as usize * self.domain.colors + color as usize)?;
        if queue.iter().map(|b| u64::from(b.n)).sum::<u64>() < u64::from(n) {
            return None;
        }
        let mut taken: Option<Burst> = None;
        let mut left = n;
        while left > 0 {
            let head = queue.front_mut()?;
            let count = head.n.min(left);
            let part = Burst { first: head.first, last: head.time(count - 1), n: count };
            if count == head.n {
                queue.pop_front();
            } else {
                *head = Burst { first: head.time(count), last: head.last, n: head.n - count };
            }
            taken =
                Some(Burst { first: taken.map_or(part.first, |t| t.first), last: part.last, n });
            left -= count;
        }
        taken
    }

    fn advance(&mut self, tile: u32) {
        let domain = self.domain;
        let group = domain.group[tile as usize];
        let program = Rc::clone(&domain.table[domain.programs[tile as usize] as usize]);
        let mut core = self.cores[tile as usize];
        while let Some(step) = program.steps.get(core.step as usize) {
            if !core.started {
                core.now += step.cycles;
                core.started = true;
            }
            match step.kind {
                StepKind::Local => {}
                _ if step.wavelets == 0 => {}
                StepKind::Send(color) => {
                    let n = step.wavelets;
                    let first = core.now + 1;
                    core.now += u64::from(n);
                    self.send(tile, color, Burst { first, last: core.now, n });
                }
                StepKind::Recv(color) | StepKind::Relay(color, _) => {
                    let Some(b) = self.take(tile, color, step.wavelets) else { break };
                    let w = domain.wavelet;
                    let first = b.first.max(core.now) + w;
                    let last = (b.last + w).max(first + u64::from(b.n - 1) * w);
                    core.now = last;
                    if let StepKind::Relay(_, output) = step.kind {
                        self.send(tile, output, Burst { first, last, n: b.n });
                    }
                }
            }
            let latest = &mut self.out.phase_ends[domain.phase_slot(group, step.phase)];
            *latest = (*latest).max(core.now);
            core.started = false;
            core.step += 1;
        }
        self.cores[tile as usize] = core;
    }

    fn finish(mut self) -> Outcome {
        for (tile, core) in self.cores.iter().enumerate() {
            self.out.ends.push(core.now);
            let program = self.domain.program(tile as u32);
            if (core.step as usize) < program.steps.len() {
                self.out.waiting.push((tile as u32, Stuck { step: core.step, done: 0 }));
            }
        }
        let leaving = self.leaving.into_iter();
        self.out.leaving = leaving
            .map(|((tile, port, color), times)| Crossing { tile, port, color, times })
            .collect();
        self.out
    }
}
