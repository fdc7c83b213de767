//! Where the wavelets of each sender go: the static routes of a set of tiles, followed once.
//!
//! A color has one input per router, so what a core sends spreads over a tree: it passes every link
//! and reaches every receiver of that tree a fixed number of cycles after it entered the first router.
//! That holds as long as no link has to carry wavelets of two flows in one cycle; which pairs of flows
//! share a link, and with what offset, is listed here so that the engine can prove it.
//!
//! Where routers merge what comes along a line with what their core sends (broadcasts), the flow of such a core is
//! a branch of the tree that starts at the end of the line, and is stored as that. `plan::verify` has
//! proven that the senders of one tree never meet; links that such a tree shares with others are left to
//! [`super::wavelets`].

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
    /// Cycles in the lists until this flow starts: not 0 for a branch of another flow.
    base: u32,
    /// The flow that this is a branch of, or itself.
    trunk: u32,
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
            let (base, trunk) = (0, flows.flows.len() as u32);
            flows.flows.push(Flow { color, base, trunk, receivers, links, exits, entries });
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
        // Those whose tree starts outside of the job.
        for (i, &tile) in job.tiles.iter().enumerate() {
            for color in 0..colors {
                let sends = job.domain.routes[tile as usize * colors + color].0 & (1 << RAMP) != 0;
                if sends && flows.of_core[i * colors + color] == NONE {
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
    pub fn receivers(&self, flow: u32) -> impl Iterator<Item = After> {
        let flow = &self.flows[flow as usize];
        let r = &flow.receivers;
        self.receivers[r.start as usize..r.end as usize].iter().map(|a| (a.0, a.1 - flow.base))
    }

    /// The flow that a flow is a branch of, and how much later than there its lists begin; itself and 0
    /// for others.
    pub fn trunk(&self, flow: u32) -> After {
        let flow = &self.flows[flow as usize];
        (flow.trunk, flow.base)
    }

    /// Number of links of a flow.
    pub fn link_count(&self, flow: u32) -> usize {
        self.flows[flow as usize].links.len()
    }

    /// The links of a flow.
    pub fn links(&self, flow: u32) -> impl Iterator<Item = After> {
        let flow = &self.flows[flow as usize];
        let r = &flow.links;
        self.links[r.start as usize..r.end as usize].iter().map(|a| (a.0, a.1 - flow.base))
    }

    /// The borders of a flow.
    pub fn exits(&self, flow: u32) -> impl Iterator<Item = Exit> {
        let flow = &self.flows[flow as usize];
        let r = &flow.exits;
        let exits = self.exits[r.start as usize..r.end as usize].iter();
        exits.map(|e| Exit { cycles: e.cycles - flow.base, ..*e })
    }

    /// The groups that a flow enters from others.
    pub fn entries(&self, flow: u32) -> impl Iterator<Item = After> {
        let flow = &self.flows[flow as usize];
        let r = &flow.entries;
        self.entries[r.start as usize..r.end as usize].iter().map(|a| (a.0, a.1 - flow.base))
    }

    /// Adds the flow that enters a tile's router through a port.
    pub fn follow(
        &mut self,
        job: &Job<'_>,
        index: &[u32],
        (tile, color, port): (u32, u8, u8),
    ) -> u32 {
        let domain = job.domain;
        let (from, first) = (self.mark(), self.flows.len());
        let mut open = vec![(tile, port, 0u32)];
        // A legal flow passes a router once.
        let mut left = job.tiles.len();
        // Branches under way: how many other places were open, whose they are, where they begin.
        let mut branches: Vec<(usize, usize, u32, [u32; 4])> = Vec::new();
        while let Some((at, port, cycles)) = open.pop() {
            // All that was behind a branch has been followed.
            while let Some((_, slot, base, from)) = branches.pop_if(|b| b.0 > open.len()) {
                self.of_core[slot] = self.add((color, base), from);
            }
            let global = job.tiles[at as usize];
            let slot = global as usize * domain.colors + color as usize;
            let (input, outputs) = domain.routes[slot];
            if input & (1 << port) == 0 || left == 0 {
                continue;
            }
            left -= 1;
            // Nothing goes back to where it came from.
            let outputs = outputs & !(1 << port);
            if outputs & (1 << RAMP) != 0 {
                self.receivers.push((at, cycles));
            }
            if port != RAMP && input & (1 << RAMP) != 0 {
                let slot = at as usize * domain.colors + color as usize;
                branches.push((open.len(), slot, cycles, self.mark()));
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
        while let Some((_, slot, base, from)) = branches.pop() {
            self.of_core[slot] = self.add((color, base), from);
        }
        let trunk = self.flows.len() as u32;
        self.flows[first..].iter_mut().for_each(|f| f.trunk = trunk);
        self.add((color, 0), from)
    }

    /// Where the lists end.
    fn mark(&self) -> [u32; 4] {
        [self.receivers.len(), self.links.len(), self.exits.len(), self.entries.len()]
            .map(|n| n as u32)
    }

    /// A flow of what the lists hold behind a mark.
    fn add(&mut self, (color, base): (u8, u32), from: [u32; 4]) -> u32 {
        let to = self.mark();
        let [receivers, links, exits, entries] = [0, 1, 2, 3].map(|i| from[i]..to[i]);
        let trunk = self.flows.len() as u32;
        self.flows.push(Flow { color, base, trunk, receivers, links, exits, entries });
        trunk
    }

    /// All pairs of flows that share a link, each once, branches and what they are branches of aside; `tiles` is
    /// the number of tiles. `None` when a flow with branches shares a link with another one.
    pub fn sharing(&self, tiles: usize) -> Option<Vec<Sharing>> {
        let mut users = vec![0u8; tiles * 4];
        for &(link, _) in &self.links {
            users[link as usize] = users[link as usize].saturating_add(1);
        }
        let ids = 0..self.flows.len() as u32;
        let (whole, branches): (Vec<u32>, Vec<u32>) = ids.partition(|&f| self.trunk(f).0 == f);
        let mut trunks: Vec<u32> = branches.into_iter().map(|f| self.trunk(f).0).collect();
        trunks.dedup();
        let mut links = trunks.into_iter().flat_map(|f| self.links(f));
        if links.any(|(link, _)| users[link as usize] > 1) {
            return None;
        }
        let mut shared: Vec<(u32, u32, u32)> = Vec::new();
        for flow in whole {
            let links = self.links(flow).filter(|(link, _)| users[*link as usize] > 1);
            shared.extend(links.map(|(link, cycles)| (link, flow, cycles)));
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
        Some(pairs)
    }
}
