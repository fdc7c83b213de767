//! The same engine event by event: every wavelet at every router, for jobs with contended links.
//!
//! Rules and results are those of [`super::engine`], which calls this when two wavelets want one link in
//! one cycle: the lower color goes first and the others queue. The order in which events of one cycle
//! are handled on *different* tiles cannot matter.

use std::collections::BTreeMap;

use super::cores::{Cores, Emitted};
use super::domain::{NONE, SharedLink};
use super::engine::{Job, Outcome};
use super::flows::RAMP;
use super::runs::Run;

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

struct Engine<'a> {
    job: &'a Job<'a>,
    /// Job index per domain tile.
    index: Vec<u32>,
    cores: Cores<'a>,
    emitted: Emitted,
    /// Per job tile and mesh port: first free cycle.
    free: Vec<u64>,
    /// Links between wafers.
    shared: BTreeMap<(u32, u8), SharedLink>,
    leaving: BTreeMap<(u32, u8, u8), Vec<u64>>,
    ring: Vec<Vec<Event>>,
    far: BTreeMap<u64, Vec<Event>>,
    now: u64,
    /// Events in `ring` and in `far`.
    pending: (usize, usize),
}

/// Runs a job to its end.
pub fn run(job: &Job<'_>) -> Outcome {
    let mut engine = Engine {
        job,
        index: job.index(),
        cores: Cores::new(job),
        emitted: Emitted::new(),
        free: vec![0; job.tiles.len() * 4],
        shared: BTreeMap::new(),
        leaving: BTreeMap::new(),
        ring: vec![Vec::new(); RING as usize],
        far: BTreeMap::new(),
        now: 0,
        pending: (0, 0),
    };
    engine.cores.out.work.contended = true;
    engine.start();
    engine.drain();
    let mut out = engine.cores.finish();
    out.leave(engine.leaving);
    out
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
        for tile in 0..self.job.tiles.len() as u32 {
            self.advance(tile);
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
                if event.at_core {
                    if self.cores.deliver(event.tile, event.color, Run::dense(self.now, 1)) {
                        self.advance(event.tile);
                    }
                } else {
                    self.route(event);
                }
            }
            // Nothing is ever scheduled for the current cycle: give the allocation back.
            events.clear();
            self.ring[slot] = events;
            self.now += 1;
        }
    }

    /// When a wavelet departs that is ready at `time`: later where all rows share a link.
    fn share(&mut self, tile: u32, port: u8, time: u64) -> u64 {
        match self.job.domain.crossings.get(&(tile, port)) {
            Some(&link) => {
                self.shared.entry(link).or_default().take(time, self.job.domain.link_rate)
            }
            None => time,
        }
    }

    /// A wavelet at a router.
    fn route(&mut self, event: Event) {
        let domain = self.job.domain;
        let (tile, color) = (event.tile as usize, event.color as usize);
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
            let out = &mut self.cores.out;
            out.work.hops += 1;
            let window = out.links[link].get_or_insert((depart, depart));
            window.1 = depart;
            let next = domain.neighbors[global as usize][port as usize];
            let next = if next == NONE { NONE } else { self.index[next as usize] };
            if next == NONE {
                let key = (global, port, event.color);
                self.leaving.entry(key).or_default().push(depart);
            } else {
                let depart = self.share(global, port, depart);
                let hop = domain.hop_cycles(global, port);
                let out = &mut self.cores.out;
                let to = domain.group[self.job.tiles[next as usize] as usize];
                if to != domain.group[global as usize]
                    && let Some(entered) = out.entered.get_mut(to as usize)
                {
                    *entered = (*entered).min(depart + hop);
                }
                let event = Event { tile: next, port: (port + 2) % 4, ..event };
                self.push(depart + hop, event);
            }
        }
    }

    /// Lets a core go on; its wavelets enter its own router T_R after they are on the ramp.
    fn advance(&mut self, tile: u32) {
        let mut emitted = std::mem::take(&mut self.emitted);
        self.cores.advance(tile, &mut emitted);
        for (color, run) in emitted.drain(..) {
            for i in 0..run.n {
                let event = Event { tile, at_core: false, color, port: RAMP };
                self.push(run.time(i) + self.job.domain.ramp, event);
            }
        }
        self.emitted = emitted;
    }
}
