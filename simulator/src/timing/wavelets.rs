//! The same engine event by event: every wavelet at every router, for jobs with contended links.
//!
//! Rules and results are those of [`super::engine`], which calls this when two wavelets want one link in
//! one cycle: the lower color goes first and the others queue. The order in which events of one cycle
//! are handled on *different* tiles cannot matter.

use std::collections::{BTreeMap, VecDeque};

use super::domain::{NONE, StepKind, Stuck};
use super::engine::{Job, Outcome, Work};
use super::flows::RAMP;

/// Cycles that the event ring spans; later events wait in a map.
const RING: u64 = 4096;

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
    let index = job.index();
    let mut engine = Engine {
        job,
        index,
        cores: vec![Core::default(); n],
        queues: vec![VecDeque::new(); n * job.domain.colors],
        free: vec![0; n * 4],
        out: Outcome {
            work: Work { contended: true, ..Work::default() },
            ..Outcome::empty(job.domain, n)
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
            self.cores[i].step = self.job.steps(i).0;
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
            self.out.work.hops += 1;
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
        let end = self.job.steps(tile as usize).1;
        let mut core = self.cores[tile as usize];
        while core.step < end {
            let step = program.steps[core.step as usize];
            if !core.started {
                core.now += step.cycles;
                self.out.work.active_cycles += step.cycles;
                core.started = true;
            }
            match step.kind {
                StepKind::Local => {}
                StepKind::Send(color) => {
                    for i in 1..=u64::from(step.wavelets) {
                        self.emit(tile, color, core.now + i);
                    }
                    core.now += u64::from(step.wavelets);
                    self.out.work.active_cycles += u64::from(step.wavelets);
                }
                StepKind::Recv(color) | StepKind::Relay(color, _) => {
                    let queue = tile as usize * domain.colors + color as usize;
                    while core.done < step.wavelets
                        && let Some(arrival) = self.queues[queue].pop_front()
                    {
                        core.now = core.now.max(arrival) + domain.wavelet;
                        self.out.work.active_cycles += domain.wavelet;
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
            let end = self.job.steps(i).1;
            self.out.ends.push(core.now);
            if core.step < end {
                self.out.waiting.push((global, Stuck { step: core.step, done: core.done }));
            }
        }
        self.out.leave(self.leaving);
        self.out
    }
}
