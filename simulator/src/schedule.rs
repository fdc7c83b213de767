//! The order in which the tiles of a template execute, found once and followed for every region,
//! token and request.
//!
//! A plan is a Kahn process network, so any order that respects its messages gives the same bits. In
//! each phase the tiles fall into *sets* that exchange messages only among themselves: columns, rows,
//! head groups. Sets that are translations of one another run the same steps, so a step is one
//! instruction on one tile of the set, for all sets of a [`Group`] (its *lanes*) at once. Messages
//! become slots: the sender writes once, however many receive.
//!
//! Invariant used (`plan::verify` proves it): inside a region a message is sent and received in the
//! same phase. Knows nothing of values; [`crate::functional`] executes.

use std::collections::{BTreeMap, VecDeque};

use plan::{Axis, Instr, Len, Port, Ports, Template, TemplateMap};

/// No tile.
pub const NOWHERE: u32 = u32::MAX;
/// The sender is in another region.
pub const IMPORT: u32 = u32::MAX - 1;

/// Where the message that a step receives lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The step receives nothing.
    None,
    /// Slot of the group, written by an earlier step.
    Slot(u32),
    /// The next message that enters the region at this tile, on this template color.
    Import(u8),
}

/// Where the message that a step sends goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Slot of the group.
    pub slot: u32,
    /// The template color, when the flow also leaves the region.
    pub export: Option<u8>,
}

/// One instruction of one tile of a set.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The tile, counted from the first of its set.
    pub tile: u32,
    /// Index of the role in its phase.
    pub role: u16,
    /// Index of the instruction in its program.
    pub instruction: u32,
    /// What it receives.
    pub input: Input,
    /// What it sends.
    pub output: Option<Output>,
}

/// A tile that waits for ever.
#[derive(Clone, Copy, Debug)]
pub struct Stuck {
    /// The tile, counted from the first of its set.
    pub tile: u32,
    /// Index of the role in its phase.
    pub role: u16,
    /// Index of the instruction that waits.
    pub instruction: u32,
    /// The template color it waits for.
    pub color: u8,
}

/// Sets of tiles that are translations of one another.
#[derive(Clone, Debug)]
pub struct Group {
    /// The first tile of every set.
    pub lanes: Vec<u32>,
    /// What each set does, in order.
    pub steps: Vec<Step>,
    /// Length of the message in each slot.
    pub slots: Vec<Len>,
    /// Empty in a legal plan.
    pub stuck: Vec<Stuck>,
}

/// A message that somebody sends and a core that it reaches does not receive.
#[derive(Clone, Copy, Debug)]
pub struct Unreceived {
    /// Where it lies.
    pub tile: u32,
    /// The template color.
    pub color: u8,
    /// Its length.
    pub len: Len,
}

/// One phase.
#[derive(Clone, Debug)]
pub struct PhaseSchedule {
    /// In any order: groups do not depend on one another.
    pub groups: Vec<Group>,
    /// Empty in a legal plan.
    pub unreceived: Vec<Unreceived>,
}

/// The schedule of a template.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// In program order.
    pub phases: Vec<PhaseSchedule>,
    /// (tile, template color) pairs that receive from other regions, ascending.
    pub imports: Vec<(u32, u8)>,
    /// (tile, template color) pairs that send to other regions, ascending.
    pub exports: Vec<(u32, u8)>,
}

/// What a role of a phase does to the fabric: per color, how many messages.
#[derive(Clone, Debug, Default)]
struct Traffic {
    received: Vec<(u8, u32)>,
    sent: Vec<(u8, u32)>,
}

/// The flows of a template, for the whole token.
struct Flows {
    colors: usize,
    /// Per tile and color: who sends what arrives at the core.
    source: Vec<u32>,
    imports: Vec<(u32, u8)>,
    exports: Vec<(u32, u8)>,
}

impl Schedule {
    /// Schedules every phase of a template. An illegal template gives what can be scheduled, and
    /// says what is stuck.
    pub fn new(map: &TemplateMap<'_>) -> Self {
        let phases = map.template.phases.len();
        let roles: Vec<Vec<u16>> = (0..phases).map(|p| map.role_table(p)).collect();
        let traffic: Vec<Vec<Traffic>> = map
            .template
            .phases
            .iter()
            .map(|p| p.roles.iter().map(|r| Traffic::of(&r.program)).collect())
            .collect();
        let flows = Flows::new(map, &roles, &traffic);
        let phases = (0..phases)
            .map(|p| {
                let phase = PhaseFlows {
                    template: map.template,
                    phase: p,
                    roles: &roles[p],
                    traffic: &traffic[p],
                    flows: &flows,
                };
                PhaseSchedule { groups: phase.groups(), unreceived: phase.unreceived() }
            })
            .collect();
        Schedule { phases, imports: flows.imports, exports: flows.exports }
    }
}

impl Traffic {
    fn of(program: &[Instr]) -> Self {
        let mut traffic = Traffic::default();
        let count = |list: &mut Vec<(u8, u32)>, color: Option<plan::Color>| {
            let Some(color) = color else { return };
            match list.iter_mut().find(|(c, _)| *c == color.0) {
                Some((_, n)) => *n += 1,
                None => list.push((color.0, 1)),
            }
        };
        for c in program.iter().filter_map(Instr::communication) {
            count(&mut traffic.received, c.input);
            count(&mut traffic.sent, c.output);
        }
        traffic
    }

    fn is_empty(&self) -> bool {
        self.received.is_empty() && self.sent.is_empty()
    }
}

impl Flows {
    fn new(map: &TemplateMap<'_>, roles: &[Vec<u16>], traffic: &[Vec<Traffic>]) -> Self {
        let tiles = map.tiles();
        let highest = |t: &Traffic| t.sent.iter().chain(&t.received).map(|(c, _)| c + 1).max();
        let used = traffic.iter().flatten().filter_map(highest).max().unwrap_or(0);
        let routed = map.color_count();
        let colors = routed.max(usize::from(used));
        let routes = map.route_table();
        let route = |tile: usize, color: u8| {
            if usize::from(color) < routed {
                routes[tile * routed + usize::from(color)]
            } else {
                (0, 0)
            }
        };
        let mut flows = Flows {
            colors,
            source: vec![NOWHERE; tiles * colors],
            imports: Vec::new(),
            exports: Vec::new(),
        };
        let (w, h) = (map.template.width, map.template.height);
        let per_role = |roles: &Vec<u16>, traffic: &Vec<Traffic>, tile: usize, sent: bool| {
            let Some(t) = traffic.get(usize::from(roles[tile])) else { return 0u64 };
            let list = if sent { &t.sent } else { &t.received };
            list.iter().fold(0, |set, (c, _)| set | 1u64.checked_shl(u32::from(*c)).unwrap_or(0))
        };
        let colors_of = |tile: usize, sent: bool| {
            let each = roles.iter().zip(traffic).map(|(r, t)| per_role(r, t, tile, sent));
            each.fold(0, |a, b| a | b)
        };
        for tile in 0..tiles {
            for color in bits(colors_of(tile, true)) {
                let reached = follow((w, h), tile, |at| route(at, color));
                for at in reached.receivers {
                    flows.source[at * colors + usize::from(color)] = tile as u32;
                }
                if reached.exits {
                    flows.exports.push((tile as u32, color));
                }
            }
        }
        for tile in 0..tiles {
            for color in bits(colors_of(tile, false)) {
                let source = &mut flows.source[tile * colors + usize::from(color)];
                let receives = Ports(route(tile, color).1).contains(Port::Ramp);
                if *source == NOWHERE && receives && enters((w, h), tile, |at| route(at, color)) {
                    *source = IMPORT;
                    flows.imports.push((tile as u32, color));
                }
            }
        }
        flows
    }

    fn source(&self, tile: u32, color: u8) -> u32 {
        self.source[tile as usize * self.colors + usize::from(color)]
    }

    fn exported(&self, tile: u32, color: u8) -> bool {
        self.exports.binary_search(&(tile, color)).is_ok()
    }
}

/// Where a flow goes.
#[derive(Default)]
struct Reached {
    /// Tiles whose core receives it.
    receivers: Vec<usize>,
    /// Whether it leaves the rectangle.
    exits: bool,
}

/// Follows what the core of `tile` sends along the routes of one color (input and output bits).
fn follow((w, h): (u32, u32), tile: usize, route: impl Fn(usize) -> (u8, u8)) -> Reached {
    let mut reached = Reached::default();
    let mut open = vec![(tile, Port::Ramp)];
    // A legal flow is a tree: it passes a router once.
    let mut steps = 0;
    while let Some((at, from)) = open.pop() {
        let (input, outputs) = route(at);
        steps += 1;
        if input != 1 << from as u8 || steps > w as usize * h as usize {
            continue;
        }
        let (x, y) = (at as u32 % w, at as u32 / w);
        for port in Ports(outputs).iter() {
            let (dx, dy) = port.step();
            let (nx, ny) = (i64::from(x) + dx, i64::from(y) + dy);
            if port == Port::Ramp {
                reached.receivers.push(at);
            } else if nx < 0 || ny < 0 || nx >= w.into() || ny >= h.into() {
                reached.exits = true;
            } else {
                open.push(((ny * i64::from(w) + nx) as usize, port.opposite()));
            }
        }
    }
    reached
}

/// Whether what arrives at `tile` comes from outside of the template's rectangle: follows the routes of
/// one color (input and output bits) against their direction.
fn enters((w, h): (u32, u32), tile: usize, route: impl Fn(usize) -> (u8, u8)) -> bool {
    let mut at = tile;
    for _ in 0..w as usize * h as usize {
        let (input, _) = route(at);
        let port = Port::ALL.into_iter().find(|&p| input == 1 << p as u8 && p != Port::Ramp);
        let Some(port) = port else { return false };
        let (dx, dy) = port.step();
        let x = i64::from(at as u32 % w) + dx;
        let y = i64::from(at as u32 / w) + dy;
        if x < 0 || y < 0 || x >= w.into() || y >= h.into() {
            return true;
        }
        at = (y * i64::from(w) + x) as usize;
        if !Ports(route(at).1).contains(port.opposite()) {
            return false;
        }
    }
    false
}

fn bits(set: u64) -> impl Iterator<Item = u8> {
    (0..64u8).filter(move |c| set & (1 << c) != 0)
}

/// Sender and color of a message.
type Arrival = (u32, u8);
/// Color and length of a message.
type Departure = (u8, Len);

/// One phase while it is being scheduled.
struct PhaseFlows<'a> {
    template: &'a Template,
    phase: usize,
    roles: &'a [u16],
    traffic: &'a [Traffic],
    flows: &'a Flows,
}

impl PhaseFlows<'_> {
    fn traffic(&self, tile: u32) -> Option<&Traffic> {
        self.traffic.get(usize::from(self.roles[tile as usize]))
    }

    fn program(&self, role: u16) -> &[Instr] {
        let roles = &self.template.phases[self.phase].roles;
        roles.get(usize::from(role)).map_or(&[], |r| r.program.as_slice())
    }

    /// Sets of tiles that are connected by messages, grouped by what they look like.
    fn groups(&self) -> Vec<Group> {
        let mut known: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
        let mut groups: Vec<Group> = Vec::new();
        for set in self.sets() {
            let first = set[0];
            if set.len() == 1 && self.program(self.roles[first as usize]).is_empty() {
                continue;
            }
            match known.entry(self.look(&set)) {
                std::collections::btree_map::Entry::Occupied(group) => {
                    groups[*group.get()].lanes.push(first);
                }
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(groups.len());
                    groups.push(self.run(&set));
                }
            }
        }
        groups
    }

    fn sets(&self) -> Vec<Vec<u32>> {
        let tiles = self.roles.len() as u32;
        let mut parent: Vec<u32> = (0..tiles).collect();
        fn find(parent: &mut [u32], mut n: u32) -> u32 {
            while parent[n as usize] != n {
                parent[n as usize] = parent[parent[n as usize] as usize];
                n = parent[n as usize];
            }
            n
        }
        for tile in 0..tiles {
            let Some(traffic) = self.traffic(tile).filter(|t| !t.is_empty()) else { continue };
            for &(color, _) in &traffic.received {
                let source = self.flows.source(tile, color);
                if source < IMPORT {
                    let (a, b) = (find(&mut parent, tile), find(&mut parent, source));
                    // The root is the first tile of the set.
                    parent[a.max(b) as usize] = a.min(b);
                }
            }
        }
        // Everybody on a line takes part in its broadcasts.
        let axis = |i: &Instr| match i {
            Instr::Broadcast { axis, .. } => Some(*axis),
            _ => None,
        };
        let roles = &self.template.phases[self.phase].roles;
        let mut axes: Vec<Axis> = roles.iter().flat_map(|r| &r.program).filter_map(axis).collect();
        axes.sort_unstable();
        axes.dedup();
        for tile in 0..tiles {
            for &axis in &axes {
                let first = self.on_line(tile, axis, 0);
                let (a, b) = (find(&mut parent, tile), find(&mut parent, first));
                parent[a.max(b) as usize] = a.min(b);
            }
        }
        let mut sets: Vec<Vec<u32>> = Vec::new();
        let mut set_of = vec![u32::MAX; tiles as usize];
        for tile in 0..tiles {
            let root = find(&mut parent, tile) as usize;
            if set_of[root] == u32::MAX {
                set_of[root] = sets.len() as u32;
                sets.push(Vec::new());
            }
            sets[set_of[root] as usize].push(tile);
        }
        sets
    }

    /// The tile at a coordinate of the row or column of another.
    fn on_line(&self, tile: u32, axis: Axis, coordinate: u32) -> u32 {
        let w = self.template.width;
        match axis {
            Axis::X => tile / w * w + coordinate,
            Axis::Y => coordinate * w + tile % w,
        }
    }

    /// What an instruction without loops around it sends and receives on a tile: sender and color of what
    /// arrives, color and length of what goes out.
    fn exchange(&self, instr: &Instr, tile: u32) -> (Option<Arrival>, Option<Departure>) {
        if let Instr::Broadcast { axis, up, src, root, .. } = *instr {
            // One slot for both directions, named by the color upwards.
            let from = self.on_line(tile, axis, root);
            return match from == tile {
                true => (None, Some((up.0, src.len))),
                false => (Some((from, up.0)), None),
            };
        }
        let Some(c) = instr.communication() else { return (None, None) };
        let input = c.input.map(|c| (self.flows.source(tile, c.0), c.0));
        (input, c.output.map(|o| (o.0, c.len)))
    }

    /// Everything about a set that its steps depend on, relative to its first tile.
    fn look(&self, set: &[u32]) -> Vec<u32> {
        let first = set[0];
        let mut key = Vec::with_capacity(set.len() * 4);
        for &tile in set {
            key.extend([tile - first, u32::from(self.roles[tile as usize])]);
            let Some(traffic) = self.traffic(tile) else { continue };
            for &(color, _) in &traffic.received {
                let source = self.flows.source(tile, color);
                key.push(if source < IMPORT { source.wrapping_sub(first) } else { source });
            }
            key.extend(traffic.sent.iter().map(|&(c, _)| u32::from(self.flows.exported(tile, c))));
        }
        key
    }

    /// Runs a set without values.
    fn run(&self, set: &[u32]) -> Group {
        let mut group =
            Group { lanes: vec![set[0]], steps: Vec::new(), slots: Vec::new(), stuck: Vec::new() };
        // Per sender and color: the slots of its messages, in order.
        let mut sent: BTreeMap<(u32, u8), Vec<u32>> = BTreeMap::new();
        // Per receiver, color and sender.
        let mut received: BTreeMap<(u32, u8, u32), usize> = BTreeMap::new();
        let mut waiting: BTreeMap<(u32, u8), Vec<(u32, u32)>> = BTreeMap::new();
        let mut ready: VecDeque<(u32, u32)> = set.iter().map(|&t| (t, 0)).collect();
        while let Some((tile, start)) = ready.pop_front() {
            let role = self.roles[tile as usize];
            for (i, instr) in self.program(role).iter().enumerate().skip(start as usize) {
                // A microthread changes when a message travels, not what it carries.
                if matches!(instr, Instr::Start { .. } | Instr::Join { .. }) {
                    continue;
                }
                let instruction = i as u32;
                let (receives, sends) = self.exchange(instr, tile);
                let mut input = Input::None;
                if let Some((source, color)) = receives {
                    if source == IMPORT {
                        input = Input::Import(color);
                    } else {
                        let count = received.entry((tile, color, source)).or_insert(0);
                        let slots = sent.get(&(source, color));
                        let Some(&slot) = slots.and_then(|s| s.get(*count)) else {
                            let list = waiting.entry((source, color)).or_default();
                            list.push((tile, instruction));
                            break;
                        };
                        *count += 1;
                        input = Input::Slot(slot);
                    }
                }
                let output = sends.map(|(color, len)| {
                    let slot = group.slots.len() as u32;
                    group.slots.push(len);
                    sent.entry((tile, color)).or_default().push(slot);
                    ready.extend(waiting.remove(&(tile, color)).into_iter().flatten());
                    Output { slot, export: self.flows.exported(tile, color).then_some(color) }
                });
                let tile = tile - set[0];
                group.steps.push(Step { tile, role, instruction, input, output });
            }
        }
        group.stuck = waiting
            .into_iter()
            .flat_map(|((_, color), tiles)| tiles.into_iter().map(move |t| (color, t)))
            .map(|(color, (tile, instruction))| {
                let role = self.roles[tile as usize];
                Stuck { tile: tile - set[0], role, instruction, color }
            })
            .collect();
        group
    }

    /// Cores that a message reaches and whose program does not receive it.
    fn unreceived(&self) -> Vec<Unreceived> {
        let count = |list: &[(u8, u32)], color: u8| {
            list.iter().find(|(c, _)| *c == color).map_or(0, |(_, n)| *n)
        };
        let mut found = Vec::new();
        for (slot, &source) in self.flows.source.iter().enumerate().filter(|(_, s)| **s < IMPORT) {
            let (tile, color) = (slot / self.flows.colors, (slot % self.flows.colors) as u8);
            let Some(sender) = self.traffic(source).filter(|t| !t.sent.is_empty()) else {
                continue;
            };
            let received = self.traffic(tile as u32).map_or(0, |t| count(&t.received, color));
            if count(&sender.sent, color) > received {
                let program = self.program(self.roles[source as usize]);
                let sends = program.iter().filter_map(Instr::communication);
                let sends = sends.filter(|c| c.output.is_some_and(|o| o.0 == color));
                let len = sends.map(|c| c.len).nth(received as usize).unwrap_or_default();
                found.push(Unreceived { tile: tile as u32, color, len });
            }
        }
        found
    }
}
