//! Matches every send with its receives through the routes.
//!
//! Within a template all flows are followed once, whatever the number of its regions; flows that
//! leave a region are followed on the wafer, region by region. Positions with the same roles in all
//! phases form a class, so messages are compared class by class.

use std::collections::{BTreeMap, BTreeSet};

use super::waits::BorderOrder;
use super::{LISTED, Violation};
use crate::expand::{PlanMap, TemplateMap};
use crate::geometry::{Axis, Port, Ports};
use crate::index::Affine;
use crate::parallel;
use crate::plan::{Plan, Region};
use crate::program::{Instr, Len, WireFormat, broadcast_colors, in_loops};
use crate::route::Color;

/// A message as a sender or receiver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) phase: u32,
    pub(super) len: Len,
    pub(super) wire: WireFormat,
    /// In a loop: which one of those with messages of this color, and how often it turns.
    repeat: Option<(u32, Affine)>,
}

/// A communicating instruction: which message of which color, or which broadcast. A Join has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) phase: u32,
    /// Runs in this microthread.
    pub(super) thread: Option<u8>,
    /// Waits for these microthreads.
    pub(super) join: u8,
    /// Which loop of the positions' programs it is in.
    pub(super) repeat: Option<u32>,
    /// Color and index of the message received.
    pub(super) input: Option<(u8, u32)>,
    /// Color and index of the message sent.
    pub(super) output: Option<(u8, u32)>,
    /// A broadcast: along what, and which one of the phase.
    pub(super) broadcast: Option<(Axis, u32)>,
}

/// What all positions with the same roles do to the fabric.
#[derive(Clone, Debug, Default)]
pub(super) struct Class {
    pub(super) events: Vec<Event>,
    pub(super) sends: BTreeMap<u8, Vec<Message>>,
    pub(super) receives: BTreeMap<u8, Vec<Message>>,
}

/// Nothing is sent here.
pub(super) const NOWHERE: u32 = u32::MAX;
/// Comes from another region.
pub(super) const IMPORT: u32 = u32::MAX - 1;

/// The flows of one template.
pub(super) struct TemplateFlows {
    pub(super) width: u32,
    pub(super) colors: usize,
    pub(super) classes: Vec<Class>,
    /// Class per position.
    pub(super) class_of: Vec<u32>,
    /// Per position and color: the position that sends what is received here. Large, and gone once the order
    /// of messages is known.
    pub(super) source: Vec<u32>,
    /// What waits for what; not known where flows are wrong.
    pub(super) order: Option<Result<BorderOrder, String>>,
    /// Senders (position, color) whose flow leaves the region, in order.
    pub(super) exports: Vec<(u32, u8)>,
    /// Receivers (position, color) that no sender of the region reaches, in order.
    pub(super) imports: Vec<(u32, u8)>,
    /// Per position: the colors that have a route, as bits.
    routed: Vec<u64>,
    /// Per position and color: input port bit, output bits. Large, and gone once flows are followed.
    routes: Vec<(u8, u8)>,
}

/// A flow from one region into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link {
    pub(super) from: (usize, u8),
    pub(super) to: (usize, u8),
}

/// The flows of a plan.
pub(super) struct Flows {
    pub(super) templates: Vec<TemplateFlows>,
    /// (region, template color) pairs that flows between regions connect.
    pub(super) links: BTreeSet<Link>,
}

impl Flows {
    pub(super) fn new(plan: &Plan, map: &PlanMap<'_>, found: &mut Vec<Violation>) -> Self {
        let follow = |t: &TemplateMap<'_>| {
            let mut found = Vec::new();
            queues(plan, t, &mut found);
            let mut flows = TemplateFlows::new(t);
            flows.follow(t, &mut found);
            flows.routes = Vec::new();
            flows.order = found.is_empty().then(|| BorderOrder::of(&flows, t.template));
            flows.source = Vec::new();
            (flows, found)
        };
        let followed = parallel::map(&map.templates, follow);
        let mut templates = Vec::new();
        for (flows, violations) in followed {
            templates.push(flows);
            found.extend(violations);
        }
        let mut flows = Flows { templates, links: BTreeSet::new() };
        if found.is_empty() {
            flows.connect(plan, map, found);
        }
        flows
    }

    /// Follows flows between regions.
    fn connect(&mut self, plan: &Plan, map: &PlanMap<'_>, found: &mut Vec<Violation>) {
        let imports = |r: &Region| self.templates[r.template.0 as usize].imports.len();
        let mut arrived: Vec<Vec<bool>> =
            plan.regions.iter().map(|r| vec![false; imports(r)]).collect();
        let mut carried: BTreeMap<(usize, usize, u8), u64> = BTreeMap::new();
        for (from, region) in plan.regions.iter().enumerate() {
            let sender = &self.templates[region.template.0 as usize];
            for &(tile, color) in &sender.exports {
                let position = (tile % sender.width, tile / sender.width);
                let wafer = region.color(Color(color));
                let flow = map.trace(region.point(position), wafer);
                let mut bad = |what: String| {
                    let (region, color) = (region.name.clone(), wafer.0);
                    let (x, y) = position;
                    found.push(Violation::Send { region, color, x, y, what });
                };
                if let Some(p) = flow.lost.first() {
                    bad(format!(
                        "lost at PE ({}, {}), which does not take it from there",
                        p.x, p.y
                    ));
                }
                let sent = &sender.classes[sender.class_of[tile as usize] as usize].sends[&color];
                let mut reached = BTreeSet::new();
                for (p, _) in flow.receivers {
                    let Some((to, other)) = map.region_at(p) else { continue };
                    let to = to.0 as usize;
                    if to == from {
                        continue;
                    }
                    let receiver = &self.templates[other.template.0 as usize];
                    let Some((x, y)) = other.position(p) else { continue };
                    let at = y * receiver.width + x;
                    let theirs = (0..receiver.colors as u8)
                        .find(|&c| other.color(Color(c)) == wafer && receiver.routed(at, c));
                    let Some(theirs) = theirs else { continue };
                    reached.insert((to, theirs));
                    let class = &receiver.classes[receiver.class_of[at as usize] as usize];
                    let empty = Vec::new();
                    let received = class.receives.get(&theirs).unwrap_or(&empty);
                    if let Err(what) = agree(sent, received, None) {
                        bad(format!("PE ({}, {}) of `{}`: {what}", p.x, p.y, other.name));
                    }
                    if let Ok(i) = receiver.imports.binary_search(&(at, theirs)) {
                        arrived[to][i] = true;
                    }
                }
                let elements: u64 = sent.iter().map(|m| u64::from(m.len.constant)).sum();
                for (to, theirs) in reached {
                    self.links.insert(Link { from: (from, color), to: (to, theirs) });
                    *carried.entry((from, to, wafer.0)).or_insert(0) += elements;
                }
            }
        }
        self.unreached(plan, &arrived, found);
        streams(plan, carried, found);
    }

    fn unreached(&self, plan: &Plan, arrived: &[Vec<bool>], found: &mut Vec<Violation>) {
        for (region, arrived) in plan.regions.iter().zip(arrived) {
            let t = &self.templates[region.template.0 as usize];
            let phases = plan.template_of(region).map_or(&[][..], |t| &t.phases);
            let missing = t.imports.iter().zip(arrived).filter(|(_, ok)| !**ok);
            for (&(tile, color), _) in missing.take(LISTED) {
                let class = &t.classes[t.class_of[tile as usize] as usize];
                let first = class.receives.get(&color).and_then(|m| m.first());
                found.push(Violation::Receive {
                    region: region.name.clone(),
                    color: region.color(Color(color)).0,
                    x: tile % t.width,
                    y: tile / t.width,
                    phase: first.map_or(String::new(), |m| phases[m.phase as usize].name.clone()),
                    what: "nothing is sent to it".into(),
                });
            }
        }
    }
}

/// How sender and receiver in one region lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Places {
    same_row: bool,
    same_column: bool,
    /// Both attend to as many cached tokens.
    same_tokens: bool,
}

/// Whether loops with one expression for their turns turn equally often at both places.
fn turns_agree(repeat: Option<(u32, Affine)>, places: Option<Places>) -> bool {
    let (Some((_, times)), Some(p)) = (repeat, places) else { return true };
    (p.same_column || !times.uses_x()) && (p.same_row || !times.uses_y())
}

/// Whether what one PE sends is what another receives; `places` is given when both lie in one region:
/// then phases must agree, for lengths in cached tokens rows, and for loops how often they turn.
fn agree(sent: &[Message], received: &[Message], places: Option<Places>) -> Result<(), String> {
    if sent.len() != received.len() {
        return Err(format!("{} messages sent, {} received", sent.len(), received.len()));
    }
    for (i, (s, r)) in sent.iter().zip(received).enumerate() {
        if s.len != r.len || s.wire != r.wire {
            return Err(format!(
                "message {i}: {:?} {:?} sent, {:?} {:?} received",
                s.len, s.wire, r.len, r.wire
            ));
        }
        if s.repeat.is_some() && places.is_none() {
            return Err(format!("message {i} is repeated, which one between regions cannot be"));
        }
        if s.repeat != r.repeat || !turns_agree(s.repeat, places) {
            return Err(format!("message {i}: {:?} sent, {:?} received", s.repeat, r.repeat));
        }
        if s.len.per_kv_token > 0 && places.is_none_or(|p| !p.same_tokens) {
            return Err(format!("message {i} counts cached tokens, which differ between them"));
        }
        if places.is_some() && s.phase != r.phase {
            return Err(format!("message {i} sent in phase {}, received in {}", s.phase, r.phase));
        }
    }
    Ok(())
}

fn queues(plan: &Plan, map: &TemplateMap<'_>, found: &mut Vec<Violation>) {
    let f = &plan.target.fabric;
    for phase in &map.template.phases {
        for role in &phase.roles {
            let comms = role.program.iter().filter_map(|i| i.communication());
            let merged = broadcast_colors(role.program.iter());
            let inputs = comms.clone().filter_map(|c| c.input).chain(merged.iter().copied());
            let inputs: BTreeSet<_> = inputs.collect();
            let outputs: BTreeSet<_> = comms.filter_map(|c| c.output).chain(merged).collect();
            for (direction, used, queues) in [
                ("input", inputs.len(), f.input_queues),
                ("output", outputs.len(), f.output_queues),
            ] {
                let available = queues.saturating_sub(f.reserved_queues);
                if used > available as usize {
                    found.push(Violation::Queues {
                        template: map.template.name.clone(),
                        phase: phase.name.clone(),
                        role: role.name.clone(),
                        direction,
                        used,
                        available,
                    });
                }
            }
        }
    }
}

fn streams(
    plan: &Plan,
    mut carried: BTreeMap<(usize, usize, u8), u64>,
    found: &mut Vec<Violation>,
) {
    let mut bad = |from: usize, to: usize, color: u8, what: String| {
        let name = |i: usize| plan.regions[i].name.clone();
        found.push(Violation::Stream { from: name(from), to: name(to), color, what });
    };
    for s in &plan.streams {
        let (from, to, color) = (s.from.0 as usize, s.to.0 as usize, s.color.0);
        match carried.remove(&(from, to, color)) {
            None => {
                bad(from, to, color, "declared, but nothing flows or it is declared twice".into());
            }
            Some(n) if n != u64::from(s.elements) => {
                bad(from, to, color, format!("{n} elements flow, {} are declared", s.elements));
            }
            Some(_) => {}
        }
    }
    for ((from, to, color), n) in carried {
        bad(from, to, color, format!("{n} elements flow, no stream is declared"));
    }
}

impl TemplateFlows {
    fn new(map: &TemplateMap<'_>) -> Self {
        let t = map.template;
        let tiles = t.width as usize * t.height as usize;
        let programs = t.phases.iter().flat_map(|p| &p.roles).flat_map(|r| &r.program);
        let used = programs.filter_map(|i| i.communication());
        let used = used.flat_map(|c| [c.input, c.output]).flatten().chain(map.colors());
        let colors = used.map(|c| usize::from(c.0) + 1).max().unwrap_or(0);
        let mut classes = Vec::new();
        let mut known: BTreeMap<Vec<u16>, u32> = BTreeMap::new();
        let mut class_of: Vec<u32> = Vec::with_capacity(tiles);
        let roles: Vec<Vec<u16>> = (0..t.phases.len()).map(|p| map.role_table(p)).collect();
        let mut key = Vec::new();
        for tile in 0..tiles {
            // Neighbours in a row mostly have the same roles.
            if tile > 0 && roles.iter().all(|r| r[tile] == r[tile - 1]) {
                class_of.push(class_of[tile - 1]);
                continue;
            }
            key.clear();
            key.extend(roles.iter().map(|r| r[tile]));
            let class = known.get(&key).copied().unwrap_or_else(|| {
                classes.push(class(map, &key));
                known.insert(key.clone(), classes.len() as u32 - 1);
                classes.len() as u32 - 1
            });
            class_of.push(class);
        }
        let (used, table) = (map.color_count(), map.route_table());
        let mut routes = vec![(0, 0); tiles * colors];
        for tile in 0..tiles {
            routes[tile * colors..][..used].copy_from_slice(&table[tile * used..][..used]);
        }
        let bits = |of: &[(u8, u8)]| {
            let some = of.iter().enumerate().filter(|(_, route)| **route != (0, 0));
            some.fold(0, |bits, (color, _)| bits | 1u64 << color)
        };
        let routed = routes.chunks_exact(colors.max(1)).map(bits).collect();
        let source = vec![NOWHERE; tiles * colors];
        let (exports, imports) = (Vec::new(), Vec::new());
        TemplateFlows {
            width: t.width,
            colors,
            classes,
            class_of,
            source,
            order: None,
            exports,
            imports,
            routed,
            routes,
        }
    }

    /// Whether `color` has a route at a position.
    fn routed(&self, tile: u32, color: u8) -> bool {
        self.routed[tile as usize] >> color & 1 == 1
    }

    /// Follows all flows inside the template.
    fn follow(&mut self, map: &TemplateMap<'_>, found: &mut Vec<Violation>) {
        let t = map.template;
        let mut agreed: BTreeMap<(u32, u32, u8, Places), Result<(), String>> = BTreeMap::new();
        for tile in 0..self.class_of.len() {
            let class = self.class_of[tile] as usize;
            let (x, y) = (tile as u32 % t.width, tile as u32 / t.width);
            for color in self.classes[class].sends.keys().copied().collect::<Vec<u8>>() {
                let reach = self.reach(tile, color, t.height);
                let mut bad = |what: String| {
                    if found.len() < LISTED {
                        let region = t.name.clone();
                        found.push(Violation::Send { region, color, x, y, what });
                    }
                };
                if let Some(what) = reach.problem {
                    bad(what);
                }
                for &to in &reach.receivers {
                    let other = self.class_of[to as usize];
                    let (same_row, same_column) = (y == to / t.width, x == to % t.width);
                    let shared = t.kv.is_none_or(|kv| kv.columns == 1);
                    let same_tokens = same_row && (same_column || shared);
                    let places = Places { same_row, same_column, same_tokens };
                    let key = (class as u32, other, color, places);
                    let result = agreed.entry(key).or_insert_with(|| {
                        let empty = Vec::new();
                        let received = self.classes[other as usize].receives.get(&color);
                        let sent = &self.classes[class].sends[&color];
                        agree(sent, received.unwrap_or(&empty), Some(places))
                    });
                    if let Err(what) = result {
                        bad(format!("position ({}, {}): {what}", to % t.width, to / t.width));
                    }
                    self.source[to as usize * self.colors + usize::from(color)] = tile as u32;
                }
                if reach.exits {
                    self.exports.push((tile as u32, color));
                }
            }
        }
        self.find_imports(map, found);
    }

    fn find_imports(&mut self, map: &TemplateMap<'_>, found: &mut Vec<Violation>) {
        let t = map.template;
        for tile in 0..self.class_of.len() {
            let class = &self.classes[self.class_of[tile] as usize];
            for (&color, messages) in &class.receives {
                let slot = tile * self.colors + usize::from(color);
                if self.source[slot] != NOWHERE {
                    continue;
                }
                let (input, outputs) = self.routes[slot];
                let up = Ports(outputs).contains(Port::Ramp) && input != 1 << Port::Ramp as u8;
                if up {
                    self.source[slot] = IMPORT;
                    self.imports.push((tile as u32, color));
                } else if found.len() < LISTED {
                    let phase = t.phases[messages[0].phase as usize].name.clone();
                    let (x, y) = (tile as u32 % t.width, tile as u32 / t.width);
                    let what = "no route of the color leads to this core".to_owned();
                    let region = t.name.clone();
                    found.push(Violation::Receive { region, color, x, y, phase, what });
                }
            }
        }
    }

    /// Where the flow of (tile, color) goes inside the template.
    fn reach(&self, tile: usize, color: u8, height: u32) -> Reach {
        let mut reach = Reach::default();
        let mut open = vec![(tile, Port::Ramp)];
        while let Some((at, from)) = open.pop() {
            let (x, y) = (at as u32 % self.width, at as u32 / self.width);
            let (input, outputs) = self.routes[at * self.colors + usize::from(color)];
            if input != 1 << from as u8 {
                reach.problem = Some(if at == tile {
                    "the color has no route from this core".to_owned()
                } else {
                    format!("lost at position ({x}, {y}), which does not take it from {from:?}")
                });
                continue;
            }
            for port in Ports(outputs).iter() {
                let (dx, dy) = port.step();
                let (nx, ny) = (i64::from(x) + dx, i64::from(y) + dy);
                if port == Port::Ramp {
                    reach.receivers.push(at as u32);
                } else if nx < 0 || ny < 0 || nx >= self.width.into() || ny >= height.into() {
                    reach.exits = true;
                } else {
                    let next = ny as usize * self.width as usize + nx as usize;
                    open.push((next, port.opposite()));
                }
            }
        }
        reach
    }
}

#[derive(Default)]
struct Reach {
    receivers: Vec<u32>,
    exits: bool,
    problem: Option<String>,
}

/// The events of positions with role `key[p]` in phase p.
fn class(map: &TemplateMap<'_>, key: &[u16]) -> Class {
    let mut class = Class::default();
    let mut loops: BTreeMap<(bool, u8), Vec<u32>> = BTreeMap::new();
    let mut loop_base = 0;
    for (phase, (p, &role)) in map.template.phases.iter().zip(key).enumerate() {
        let (phase, program) = (phase as u32, &p.roles[usize::from(role)].program);
        let (mut thread, mut broadcasts) = (None, 0);
        for (_, instr, inside) in in_loops(program) {
            let repeat = inside.map(|at| loop_base + at as u32);
            let mut none = Event {
                phase,
                thread: None,
                join: 0,
                repeat,
                input: None,
                output: None,
                broadcast: None,
            };
            match *instr {
                Instr::Start { thread: t } => thread = Some(t),
                Instr::Join { threads } => class.events.push(Event { join: threads, ..none }),
                Instr::Broadcast { axis, .. } => {
                    none.broadcast = Some((axis, broadcasts));
                    class.events.push(Event { thread: thread.take(), ..none });
                    broadcasts += 1;
                }
                _ => {}
            }
            let Some(c) = instr.communication() else { continue };
            let times = inside.and_then(|at| match program[at] {
                Instr::Repeat { times, .. } => Some(times),
                _ => None,
            });
            let mut count = |sends: bool, color: Option<Color>| {
                let color = color?.0;
                // Loops with messages of one color and direction count from 0 on either side.
                let seen = loops.entry((sends, color)).or_default();
                let repeat = repeat.zip(times).map(|(at, times)| {
                    if seen.last() != Some(&at) {
                        seen.push(at);
                    }
                    (seen.len() as u32 - 1, times)
                });
                let message = Message { phase, len: c.len, wire: c.wire, repeat };
                let list = if sends { &mut class.sends } else { &mut class.receives };
                let list = list.entry(color).or_default();
                list.push(message);
                Some((color, list.len() as u32 - 1))
            };
            let (input, output) = (count(false, c.input), count(true, c.output));
            class.events.push(Event { thread: thread.take(), input, output, ..none });
        }
        loop_base += program.len() as u32;
    }
    class
}
