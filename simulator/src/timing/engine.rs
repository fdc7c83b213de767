//! The wavelet-level engine: every wavelet on every link of a set of tiles, event by event.
//!
//! * A core executes its steps in order. A wavelet received at cycle a is done at
//!   `max(a, previous) + wavelet_cycles`; a relay puts its result on the ramp in that cycle; a send
//!   started at s puts wavelet i on the ramp at s + i (i from 1).
//! * Ramp and hops take T_R and h cycles. A link carries one wavelet per cycle; wavelets that arrive
//!   at a router in one cycle are served lower color first, later ones queue. The ramp up follows the
//!   core's demand: a core takes one wavelet per cycle from the queue it reads, whatever waits in
//!   others. Queues are not bounded: `plan::verify` proves that no plan needs them to be.
//!
//! Level L3 runs it on all tiles, level L2 on one line of tiles at a time. The order in which events
//! of one cycle are handled on *different* tiles cannot matter, so both see the same cycles.

use std::collections::{BTreeMap, VecDeque};

use super::domain::{Domain, NONE, StepKind, Stuck};

/// Cycles that the event ring spans; later events wait in a map.
const RING: u64 = 4096;
/// Port number of the ramp.
const RAMP: u8 = 4;

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
}

/// A wavelet at a router (from a port) or, coming up the ramp, at a core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    tile: u32,
    at_core: bool,
    color: u8,
    port: u8,
}

#[derive(Clone, Copy, Default)]
struct Core {
    step: u32,
    /// Wavelets of the current step done.
    done: u32,
    /// Started: the software cost of the current step is in `now`.
    started: bool,
    now: u64,
}

struct Engine<'a> {
    job: &'a Job<'a>,
    /// Job index per domain tile.
    index: Vec<u32>,
    cores: Vec<Core>,
    /// Per job tile and color: arrivals that wait at the core.
    queues: Vec<VecDeque<u64>>,
    /// Per job tile and mesh port: first free cycle.
    free: Vec<u64>,
    out: Outcome,
    leaving: BTreeMap<(u32, u8, u8), Vec<u64>>,
    ring: Vec<Vec<Event>>,
    far: BTreeMap<u64, Vec<Event>>,
    now: u64,
    /// Events in `ring` and in `far`.
    pending: (usize, usize),
}

/// Runs a job to its end.
pub fn run(job: &Job<'_>) -> Outcome {
    let n = job.tiles.len();
    let mut index = vec![NONE; job.domain.len()];
    job.tiles.iter().enumerate().for_each(|(i, &t)| index[t as usize] = i as u32);
    let mut engine = Engine {
        job,
        index,
        cores: vec![Core::default(); n],
        queues: vec![VecDeque::new(); n * job.domain.colors],
        free: vec![0; n * 4],
        out: Outcome {
            links: vec![None; n * 4],
            entered: vec![u64::MAX; job.domain.groups()],
            phase_ends: vec![0; job.domain.phase_slots()],
            ..Outcome::default()
        },
        leaving: BTreeMap::new(),
        ring: vec![Vec::new(); RING as usize],
        far: BTreeMap::new(),
        now: 0,
        pending: (0, 0),
    };
    engine.start();
    engine.drain();
    engine.finish()
}

impl Engine<'_> {
    fn start(&mut self) {
        for crossing in self.job.entering {
            let tile = self.index[crossing.tile as usize];
            for &time in &crossing.times {
                let event =
                    Event { tile, at_core: false, color: crossing.color, port: crossing.port };
                self.push(time, event);
            }
        }
        for i in 0..self.job.tiles.len() {
            let program = self.job.domain.program(self.job.tiles[i]);
            let first = program.phase_starts.get(self.job.phases.start);
            self.cores[i].step = first.copied().unwrap_or(program.steps.len() as u32);
            self.cores[i].now = self.job.starts[i];
            self.advance(i as u32);
        }
    }

    fn push(&mut self, time: u64, event: Event) {
        if time < self.now + RING {
            self.pending.0 += 1;
            self.ring[(time % RING) as usize].push(event);
        } else {
            self.pending.1 += 1;
            self.far.entry(time).or_default().push(event);
        }
    }

    fn drain(&mut self) {
        while self.pending != (0, 0) {
            if self.pending.0 == 0
                && let Some((&time, _)) = self.far.first_key_value()
            {
                self.now = self.now.max(time);
            }
            while let Some(entry) = self.far.first_entry()
                && *entry.key() < self.now + RING
            {
                let (time, events) = entry.remove_entry();
                self.pending = (self.pending.0 + events.len(), self.pending.1 - events.len());
                self.ring[(time % RING) as usize].extend(events);
            }
            let slot = (self.now % RING) as usize;
            let mut events = std::mem::take(&mut self.ring[slot]);
            events.sort_unstable();
            self.pending.0 -= events.len();
            for &event in &events {
                self.handle(event);
            }
            // Nothing is ever scheduled for the current cycle: give the allocation back.
            events.clear();
            self.ring[slot] = events;
            self.now += 1;
        }
    }

    fn handle(&mut self, event: Event) {
        let domain = self.job.domain;
        let (tile, color) = (event.tile as usize, event.color as usize);
        if event.at_core {
            self.queues[tile * domain.colors + color].push_back(self.now);
            self.advance(event.tile);
            return;
        }
        let global = self.job.tiles[tile];
        let (input, outputs) = domain.routes[global as usize * domain.colors + color];
        if input != 1 << event.port {
            return;
        }
        for port in 0..5u8 {
            if outputs & (1 << port) == 0 {
                continue;
            }
            if port == RAMP {
                self.push(self.now + domain.ramp, Event { at_core: true, ..event });
                continue;
            }
            let link = tile * 4 + port as usize;
            let depart = self.now.max(self.free[link]);
            self.free[link] = depart + 1;
            let window = self.out.links[link].get_or_insert((depart, depart));
            window.1 = depart;
            let next = domain.neighbors[global as usize][port as usize];
            let next = if next == NONE { NONE } else { self.index[next as usize] };
            if next == NONE {
                let key = (global, port, event.color);
                self.leaving.entry(key).or_default().push(depart);
            } else {
                let hop = domain.hop_cycles(global, port);
                let to = domain.group[self.job.tiles[next as usize] as usize];
                if to != domain.group[global as usize]
                    && let Some(entered) = self.out.entered.get_mut(to as usize)
                {
                    *entered = (*entered).min(depart + hop);
                }
                let event = Event { tile: next, port: (port + 2) % 4, ..event };
                self.push(depart + hop, event);
            }
        }
    }

    /// Lets a core go on as far as it can.
    fn advance(&mut self, tile: u32) {
        let domain = self.job.domain;
        let program = domain.program(self.job.tiles[tile as usize]);
        let group = domain.group[self.job.tiles[tile as usize] as usize];
        let end = program.phase_starts.get(self.job.phases.end);
        let end = end.copied().unwrap_or(program.steps.len() as u32);
        let mut core = self.cores[tile as usize];
        while core.step < end {
            let step = program.steps[core.step as usize];
            if !core.started {
                core.now += step.cycles;
                core.started = true;
            }
            match step.kind {
                StepKind::Local => {}
                StepKind::Send(color) => {
                    for i in 1..=u64::from(step.wavelets) {
                        self.emit(tile, color, core.now + i);
                    }
                    core.now += u64::from(step.wavelets);
                }
                StepKind::Recv(color) | StepKind::Relay(color, _) => {
                    let queue = tile as usize * domain.colors + color as usize;
                    while core.done < step.wavelets
                        && let Some(arrival) = self.queues[queue].pop_front()
                    {
                        core.now = core.now.max(arrival) + domain.wavelet;
                        core.done += 1;
                        if let StepKind::Relay(_, output) = step.kind {
                            self.emit(tile, output, core.now);
                        }
                    }
                    if core.done < step.wavelets {
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

    /// A wavelet on the ramp at `time` enters its own router T_R later.
    fn emit(&mut self, tile: u32, color: u8, time: u64) {
        let event = Event { tile, at_core: false, color, port: RAMP };
        self.push(time + self.job.domain.ramp, event);
    }

    fn finish(mut self) -> Outcome {
        for (i, core) in self.cores.iter().enumerate() {
            let global = self.job.tiles[i];
            let program = self.job.domain.program(global);
            let end = program.phase_starts.get(self.job.phases.end);
            let end = end.copied().unwrap_or(program.steps.len() as u32);
            self.out.ends.push(core.now);
            if core.step < end {
                self.out.waiting.push((global, Stuck { step: core.step, done: core.done }));
            }
        }
        let leaving = self.leaving.into_iter();
        self.out.leaving = leaving
            .map(|((tile, port, color), times)| Crossing { tile, port, color, times })
            .collect();
        self.out
    }
}
