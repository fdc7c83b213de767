//! The same engine event by event: every wavelet at every router, for jobs with contended links.
//!
//! Rules and results are those of [`super::engine`], which calls this when two wavelets want one link in
//! one cycle: the lower color goes first and the others queue. The order in which events of one cycle
//! are handled on *different* tiles cannot matter, except on the links between wafers, so events of a cycle are
//! only brought into the order of colors. A core hears of a wavelet when it leaves the last router, with
//! the cycle in which it will arrive: cores care for times, not for the order of calls ([`super::cores`]).

use std::collections::BTreeMap;

use super::budget::EVENTS_MAX;
use super::cores::{Cores, Emitted};
use super::domain::{NONE, SharedLink};
use super::engine::{Job, Outcome};
use super::flows::RAMP;
use super::runs::Run;

/// Cycles that the event ring spans; later events wait in a map.
const RING: u64 = 4096;

/// A wavelet at a router, from a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    tile: u32,
    color: u8,
    port: u8,
}

/// The link from a tile through a mesh port.
#[derive(Clone, Copy)]
struct Wire {
    /// First free cycle: one past the last in which it carried a wavelet.
    free: u64,
    /// First cycle in which it did.
    first: u64,
    /// Job index of the tile at its end, or [`NONE`].
    next: u32,
    /// Cycles of the hop.
    hop: u32,
    /// The group that it enters, or [`NONE`] within one.
    enters: u32,
    /// All rows share it: it leads to another wafer.
    shared: bool,
}

struct Engine<'a> {
    job: &'a Job<'a>,
    /// Job index per domain tile.
    index: Vec<u32>,
    cores: Cores<'a>,
    emitted: Emitted,
    /// Per job tile and mesh port.
    wires: Vec<Wire>,
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
    let index = job.index();
    let mut engine = Engine {
        job,
        wires: wires(job, &index),
        index,
        cores: Cores::new(job),
        emitted: Emitted::new(),
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
    for (link, wire) in out.links.iter_mut().zip(&engine.wires).filter(|(_, w)| w.free > 0) {
        *link = Some((wire.first, wire.free - 1));
    }
    out.leave(engine.leaving);
    out
}

fn wires(job: &Job<'_>, index: &[u32]) -> Vec<Wire> {
    let domain = job.domain;
    let ports = job.tiles.iter().flat_map(|&tile| (0..4u8).map(move |port| (tile, port)));
    let wire = |(tile, port): (u32, u8)| {
        let next = domain.neighbors[tile as usize][port as usize];
        let (from, to) = (domain.group[tile as usize], domain.group.get(next as usize));
        Wire {
            free: 0,
            first: 0,
            next: index.get(next as usize).copied().unwrap_or(NONE),
            hop: domain.hop_cycles(tile, port) as u32,
            enters: to.copied().filter(|&to| to != from).unwrap_or(NONE),
            shared: domain.crossings.contains_key(&(tile, port)),
        }
    };
    ports.map(wire).collect()
}

impl Engine<'_> {
    fn start(&mut self) {
        for crossing in self.job.entering {
            let tile = self.index[crossing.tile as usize];
            for &time in &crossing.times {
                self.push(time, Event { tile, color: crossing.color, port: crossing.port });
            }
        }
        for tile in 0..self.job.tiles.len() as u32 {
            self.advance(tile);
        }
    }

    fn push(&mut self, time: u64, event: Event) {
        if self.pending.0 + self.pending.1 + self.cores.runs() > EVENTS_MAX {
            self.cores.out.exhausted = true;
            return;
        }
        if time < self.now + RING {
            self.pending.0 += 1;
            self.ring[(time % RING) as usize].push(event);
        } else {
            self.pending.1 += 1;
            self.far.entry(time).or_default().push(event);
        }
    }

    fn drain(&mut self) {
        let mut sorted = Vec::new();
        while self.pending != (0, 0) && !self.cores.out.exhausted {
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
            self.pending.0 -= events.len();
            if self.job.domain.crossings.is_empty() {
                by_color(&events, &mut sorted);
                sorted.iter().for_each(|&event| self.route(event));
            } else {
                events.sort_unstable();
                events.iter().for_each(|&event| self.route(event));
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
        if input & (1 << event.port) == 0 {
            return;
        }
        // Nothing goes back to where it came from.
        let outputs = outputs & !(1 << event.port);
        let mut open = outputs & ((1 << RAMP) - 1);
        while open != 0 {
            let port = open.trailing_zeros() as u8;
            open &= open - 1;
            let wire = &mut self.wires[tile * 4 + port as usize];
            let depart = self.now.max(wire.free);
            if wire.free == 0 {
                wire.first = depart;
            }
            wire.free = depart + 1;
            let Wire { next, hop, enters, shared, .. } = *wire;
            self.cores.out.work.hops += 1;
            if next == NONE {
                let key = (global, port, event.color);
                self.leaving.entry(key).or_default().push(depart);
                continue;
            }
            let depart = if shared { self.share(global, port, depart) } else { depart };
            let there = depart + u64::from(hop);
            if let Some(entered) = self.cores.out.entered.get_mut(enters as usize) {
                *entered = (*entered).min(there);
            }
            self.push(there, Event { tile: next, port: (port + 2) % 4, ..event });
        }
        if outputs & (1 << RAMP) != 0 {
            let there = Run::dense(self.now + domain.ramp, 1);
            if self.cores.deliver(event.tile, event.color, there) {
                self.advance(event.tile);
            }
        }
    }

    /// Lets a core go on; its wavelets enter its own router T_R after they are on the ramp.
    fn advance(&mut self, tile: u32) {
        let mut emitted = std::mem::take(&mut self.emitted);
        self.cores.advance(tile, &mut emitted);
        for (color, run) in emitted.drain(..) {
            for i in 0..run.n {
                let event = Event { tile, color, port: RAMP };
                self.push(run.time(i) + self.job.domain.ramp, event);
            }
        }
        self.emitted = emitted;
    }
}

/// The same events in the order of their colors, those of one color as they were.
fn by_color(events: &[Event], sorted: &mut Vec<Event>) {
    let mut starts = [0usize; 256];
    events.iter().for_each(|event| starts[event.color as usize] += 1);
    let mut sum = 0;
    for start in &mut starts {
        sum += std::mem::replace(start, sum);
    }
    sorted.clear();
    sorted.resize(events.len(), Event { tile: 0, color: 0, port: 0 });
    for &event in events {
        let start = &mut starts[event.color as usize];
        sorted[*start] = event;
        *start += 1;
    }
}
