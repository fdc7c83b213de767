//! Where the wavelets of each sender go: the static routes of a set of tiles, followed once.
//!
//! A color has one input per router, so what a core sends spreads over a tree: it passes every link
//! and reaches every receiver of that tree a fixed number of cycles after it entered the first router.
//! That holds as long as no link has to carry wavelets of two flows in one cycle; which pairs of flows
//! share a link, and with what offset, is listed here so that the engine can prove it.

use std::ops::Range;

use super::domain::{Domain, NONE};
use super::engine::Job;

/// Port number of the ramp.
pub const RAMP: u8 = 4;

/// Something along a flow, and the cycles until a wavelet is there.
pub type After = (u32, u32);

/// A border that a flow leaves the job over.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Index of the tile in the job.
    pub tile: u32,
    /// Port it leaves through.
    pub port: u8,
    /// Cycles from entering the flow to leaving that router.
    pub cycles: u32,
}

/// One tree, as ranges of the lists in [`Flows`].
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its color.
    pub color: u8,
    receivers: Range<u32>,
    links: Range<u32>,
    exits: Range<u32>,
    entries: Range<u32>,
}

/// Two flows on one link: wavelets that enter the first at t and the second at `t + delta` collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sharing {
    /// A flow.
    pub a: u32,
    /// Another one.
    pub b: u32,
    /// Cycles.
    pub delta: i64,
}

/// Flows that are given their receivers one by one.
pub struct Connecting {
    /// Per tile and color: the color when the core sends on it.
    senders: Vec<Option<u8>>,
    receivers: Vec<(u32, After)>,
}

impl Connecting {
    /// Adds a receiver to what the core of a (tile, color) sends.
    pub fn connect(&mut self, slot: usize, receiver: After) {
        self.receivers.push((slot as u32, receiver));
    }

    /// The flows, without links.
    pub fn finish(mut self) -> Flows {
        self.receivers.sort_unstable();
        let mut flows = Flows { of_core: vec![NONE; self.senders.len()], ..Flows::default() };
        let mut open = self.receivers.into_iter().peekable();
        for (slot, sender) in self.senders.iter().enumerate() {
            let Some(color) = *sender else { continue };
            let from = flows.receivers.len() as u32;
            while let Some((_, receiver)) = open.next_if(|r| r.0 as usize <= slot) {
                flows.receivers.push(receiver);
            }
            flows.of_core[slot] = flows.flows.len() as u32;
            let receivers = from..flows.receivers.len() as u32;
            let (links, exits, entries) = (0..0, 0..0, 0..0);
            flows.flows.push(Flow { color, receivers, links, exits, entries });
        }
        flows
    }
}

/// All flows of a job.
#[derive(Default)]
pub struct Flows {
    flows: Vec<Flow>,
    /// Per job tile and color: the flow of what the core sends, or `NONE`.
    of_core: Vec<u32>,
    /// Job tiles.
    receivers: Vec<After>,
    /// Job tile * 4 + port.
    links: Vec<After>,
    exits: Vec<Exit>,
    /// Groups entered.
    entries: Vec<After>,
}

impl Flows {
    /// Follows what every core of the job can send. `index` is the job index per domain tile.
    pub fn new(job: &Job<'_>, index: &[u32]) -> Self {
        let colors = job.domain.colors;
        let mut flows = Flows { of_core: vec![NONE; job.tiles.len() * colors], ..Flows::default() };
        for (i, &tile) in job.tiles.iter().enumerate() {
            for color in 0..colors {
                if job.domain.routes[tile as usize * colors + color].0 == 1 << RAMP {
                    let flow = flows.follow(job, index, (i as u32, color as u8, RAMP));
                    flows.of_core[i * colors + color] = flow;
                }
            }
        }
        flows
    }

    /// A flow of every core that can send on a color, that reaches nobody yet.
    pub fn unconnected(domain: &Domain, tiles: &[u32]) -> Connecting {
        let colors = domain.colors;
        let sends = |&t: &u32| (0..colors).map(move |c| (t as usize * colors + c, c as u8));
        let routes = tiles.iter().flat_map(sends);
        Connecting {
            senders: routes
                .map(|(slot, color)| (domain.routes[slot].0 == 1 << RAMP).then_some(color))
                .collect(),
            receivers: Vec::new(),
        }
    }

    /// Forgets all flows but not what they take to store.
    pub fn clear(&mut self) {
        self.flows.clear();
        self.receivers.clear();
        self.links.clear();
        self.exits.clear();
        self.entries.clear();
    }

    /// Number of flows.
    pub fn count(&self) -> usize {
        self.flows.len()
    }

    /// The flow of what a core sends.
    pub fn of_core(&self, slot: usize) -> Option<u32> {
        Some(self.of_core[slot]).filter(|&f| f != NONE)
    }

    /// The color of a flow.
    pub fn color(&self, flow: u32) -> u8 {
        self.flows[flow as usize].color
    }

    /// The receivers of a flow: job tile, cycles until its router.
    pub fn receivers(&self, flow: u32) -> &[After] {
        let r = &self.flows[flow as usize].receivers;
        &self.receivers[r.start as usize..r.end as usize]
    }

    /// The links of a flow.
    pub fn links(&self, flow: u32) -> &[After] {
        let r = &self.flows[flow as usize].links;
        &self.links[r.start as usize..r.end as usize]
    }

    /// The borders of a flow.
    pub fn exits(&self, flow: u32) -> &[Exit] {
        let r = &self.flows[flow as usize].exits;
        &self.exits[r.start as usize..r.end as usize]
    }

    /// The groups that a flow enters from others.
    pub fn entries(&self, flow: u32) -> &[After] {
        let r = &self.flows[flow as usize].entries;
        &self.entries[r.start as usize..r.end as usize]
    }

    /// Adds the flow that enters a tile's router through a port.
    pub fn follow(
        &mut self,
        job: &Job<'_>,
        index: &[u32],
        (tile, color, port): (u32, u8, u8),
    ) -> u32 {
        let domain = job.domain;
        let mark = |f: &Flows| {
            [f.receivers.len(), f.links.len(), f.exits.len(), f.entries.len()].map(|n| n as u32)
        };
        let from = mark(self);
        let mut open = vec![(tile, port, 0u32)];
        while let Some((at, port, cycles)) = open.pop() {
            let global = job.tiles[at as usize];
            let slot = global as usize * domain.colors + color as usize;
            let (input, outputs) = domain.routes[slot];
            if input != 1 << port {
                continue;
            }
            if outputs & (1 << RAMP) != 0 {
                self.receivers.push((at, cycles));
            }
            for out in (0..4u8).filter(|p| outputs & (1 << p) != 0) {
                self.links.push((at * 4 + u32::from(out), cycles));
                let next = domain.neighbors[global as usize][out as usize];
                let inside = if next == NONE { NONE } else { index[next as usize] };
                if inside == NONE {
                    self.exits.push(Exit { tile: at, port: out, cycles });
                    continue;
                }
                let there = cycles + domain.hop_cycles(global, out) as u32;
                let group = domain.group[next as usize];
                if group != domain.group[global as usize] && (group as usize) < domain.groups() {
                    self.entries.push((group, there));
                }
                open.push((inside, (out + 2) % 4, there));
            }
        }
        let to = mark(self);
        let range = |i: usize| from[i]..to[i];
        self.flows.push(Flow {
            color,
            receivers: range(0),
            links: range(1),
            exits: range(2),
            entries: range(3),
        });
        self.flows.len() as u32 - 1
    }

    /// All pairs of flows that share a link, each once; `tiles` is the number of tiles.
    pub fn sharing(&self, tiles: usize) -> Vec<Sharing> {
        let mut users = vec![0u8; tiles * 4];
        for &(link, _) in &self.links {
            users[link as usize] = users[link as usize].saturating_add(1);
        }
        let mut shared: Vec<(u32, u32, u32)> = Vec::new();
        for flow in 0..self.flows.len() as u32 {
            let links = self.links(flow).iter().filter(|(link, _)| users[*link as usize] > 1);
            shared.extend(links.map(|&(link, cycles)| (link, flow, cycles)));
        }
        shared.sort_unstable();
        let mut pairs = Vec::new();
        for link in shared.chunk_by(|a, b| a.0 == b.0) {
            for (i, &(_, a, of_a)) in link.iter().enumerate() {
                for &(_, b, of_b) in &link[i + 1..] {
                    pairs.push(Sharing { a, b, delta: i64::from(of_a) - i64::from(of_b) });
                }
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }
}
