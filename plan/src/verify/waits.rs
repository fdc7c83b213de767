//! No cyclic wait, proven for queues that cannot hold a single wavelet.
//!
//! Every message is a rendezvous: its send and all its receives happen together, and the two
//! messages of a relay happen together. These groups are the nodes of a graph; the order of
//! instructions on each PE gives its edges. Acyclic means that the groups can happen one after
//! another, so no plan that passes can get stuck, however small the queues. (Some plans that rely on
//! queues are refused.) All messages of one color that enter or leave a region count as one node,
//! which makes the check compositional: once per template, then over regions. A broadcast, all of whose line
//! takes part in it (`broadcasts`), is one rendezvous.
//!
//! A message belongs to one phase at both of its ends, and a PE's phases follow one another: so a cycle
//! lies within a phase, and each phase has a graph of its own. Of the border messages of a region those
//! of a later phase count as after those of an earlier one. Phases with equal graphs ([`Patterns`]) are proven once.
//!
//! A message in a microthread comes after what is before its Start and before what is behind its Join.
//! A loop counts as one turn, and no way may lead out of loops that exchange messages and back into them:
//! messages pair turn by turn, so a cycle would lie within one turn or pass outside of the loops.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::flows::{Class, Event, Flows, IMPORT, Message, TemplateFlows};
use crate::geometry::Axis;
use crate::plan::Plan;
use crate::program::MICROTHREADS;
use crate::template::Template;

/// Messages named along a reported cycle.
const NAMED: usize = 8;

/// A border node of a template: entering or leaving, color, index of the message.
type Border = (bool, u8, u32);

/// Checks all regions, of whose templates `flows` knows the orders.
pub(super) fn check(plan: &Plan, flows: &Flows, found: &mut Vec<Violation>) {
    let orders = flows.templates.iter().filter_map(|t| t.order.as_ref());
    match orders.map(Result::as_ref).collect::<Result<Vec<&BorderOrder>, &String>>() {
        Ok(orders) => regions(plan, flows, &orders, found),
        Err(cycle) => found.push(Violation::CyclicWait { cycle: cycle.clone() }),
    }
}

/// What must happen before what, among the border nodes of a template.
#[derive(Default)]
pub(super) struct BorderOrder {
    /// Happen together.
    same: Vec<(Border, Border)>,
    /// The first before the second.
    before: Vec<(Border, Border)>,
}

impl BorderOrder {
    /// Of a template, phase by phase; or a cycle in words.
    pub(super) fn of(t: &TemplateFlows, template: &Template) -> Result<Self, String> {
        let mut order = BorderOrder::default();
        let mut earlier: Vec<Border> = Vec::new();
        let mut patterns = Patterns::new(t);
        for phase in 0..template.phases.len() as u32 {
            if patterns.repeats(t, phase) {
                continue;
            }
            let graph = Graph::new(t, phase);
            let borders: Vec<Border> = graph.borders.keys().copied().collect();
            for &before in &earlier {
                order.before.extend(borders.iter().map(|&border| (before, border)));
            }
            earlier.extend(borders);
            graph.order(t, template, &mut order)?;
        }
        Ok(order)
    }
}

/// What classes exchange phase by phase. Two phases in which every class does the same, inside of the region, have
/// the same graph: of the layers of a region, and of reductions along one tree, only the first is proven.
struct Patterns {
    /// (class, enters, color) of all messages that cross the border.
    borders: BTreeSet<(u32, bool, u8)>,
    /// Events of a class in a phase, numbered; messages and loops count from the phase's first.
    known: BTreeMap<Vec<Event>, u32>,
    /// Phases seen: the number of each class's events.
    seen: BTreeSet<Vec<u32>>,
}

impl Patterns {
    fn new(t: &TemplateFlows) -> Self {
        let of = |enters: bool| {
            let list = if enters { &t.imports } else { &t.exports };
            list.iter().map(move |&(tile, color)| (t.class_of[tile as usize], enters, color))
        };
        let borders = of(true).chain(of(false)).collect();
        Patterns { borders, known: BTreeMap::new(), seen: BTreeSet::new() }
    }

    /// Whether a phase that was seen has the same graph, and nothing crosses the border in this one.
    fn repeats(&mut self, t: &TemplateFlows, phase: u32) -> bool {
        let crosses = self.borders.iter().any(|&(class, enters, color)| {
            let class = &t.classes[class as usize];
            let messages = if enters { &class.receives[&color] } else { &class.sends[&color] };
            !of_phase(messages, phase).is_empty()
        });
        if crosses {
            return false;
        }
        let number = |class: &Class| {
            let next = self.known.len() as u32;
            *self.known.entry(pattern(class, phase)).or_insert(next)
        };
        !self.seen.insert(t.classes.iter().map(number).collect())
    }
}

/// The events of a class in a phase, with messages and loops counted from the first of the phase.
fn pattern(class: &Class, phase: u32) -> Vec<Event> {
    let (from, to) = phase_events(class, phase);
    let mut loops: Vec<u32> = Vec::new();
    let mut event = |e: &Event| {
        let count = |(color, k): (u8, u32), messages: &BTreeMap<u8, Vec<Message>>| {
            (color, k - of_phase(&messages[&color], phase).start)
        };
        let repeat = e.repeat.map(|at| {
            let known = loops.iter().position(|&l| l == at);
            known.unwrap_or_else(|| {
                loops.push(at);
                loops.len() - 1
            }) as u32
        });
        let input = e.input.map(|m| count(m, &class.receives));
        let output = e.output.map(|m| count(m, &class.sends));
        Event { phase: 0, repeat, input, output, ..*e }
    };
    class.events[from..to].iter().map(&mut event).collect()
}

/// The range of a class's events in a phase.
fn phase_events(class: &Class, phase: u32) -> (usize, usize) {
    let from = class.events.partition_point(|e| e.phase < phase);
    (from, class.events.partition_point(|e| e.phase <= phase))
}

/// The messages of one phase of a template.
struct Graph {
    phase: u32,
    /// Union-find over nodes.
    parent: Vec<u32>,
    /// Per position and color: what added (and wrapped) to the index of a message sent gives its node.
    base: Vec<u32>,
    /// Per broadcast of the phase: the node of row or column 0.
    lines: Vec<u32>,
    borders: BTreeMap<Border, u32>,
}

/// Of the messages of one color those of `phase`: they come in the order of phases.
fn of_phase(messages: &[Message], phase: u32) -> std::ops::Range<u32> {
    let from = messages.partition_point(|m| m.phase < phase);
    let to = messages.partition_point(|m| m.phase <= phase);
    from as u32..to as u32
}

impl Graph {
    fn new(t: &TemplateFlows, phase: u32) -> Self {
        let base = vec![u32::MAX; t.source.len()];
        let (parent, lines) = (Vec::new(), Vec::new());
        let mut graph = Graph { phase, parent, base, lines, borders: BTreeMap::new() };
        graph.add_lines(t);
        let sends = |c: &Class| -> Vec<(usize, std::ops::Range<u32>)> {
            let of =
                |(&color, list): (&u8, &Vec<Message>)| (usize::from(color), of_phase(list, phase));
            c.sends.iter().map(of).filter(|(_, k)| !k.is_empty()).collect()
        };
        let sends: Vec<_> = t.classes.iter().map(sends).collect();
        for (tile, &class) in t.class_of.iter().enumerate() {
            for (color, k) in &sends[class as usize] {
                let node = graph.parent.len() as u32;
                graph.base[tile * t.colors + color] = node.wrapping_sub(k.start);
                graph.parent.extend(node..node + k.len() as u32);
            }
        }
        for &(tile, color) in &t.imports {
            let class = &t.classes[t.class_of[tile as usize] as usize];
            for k in of_phase(&class.receives[&color], phase) {
                graph.border((true, color, k));
            }
        }
        for &(tile, color) in &t.exports {
            let class = &t.classes[t.class_of[tile as usize] as usize];
            for k in of_phase(&class.sends[&color], phase) {
                let border = graph.border((false, color, k));
                let sent = graph.sent(t, tile as usize, (color, k));
                graph.union(sent, border);
            }
        }
        for (tile, &class) in t.class_of.iter().enumerate() {
            for e in graph.events(&t.classes[class as usize]).1 {
                if let (Some(a), Some(b)) = (e.input, e.output) {
                    let (a, b) = (graph.received(t, tile, a), graph.sent(t, tile, b));
                    graph.union(a, b);
                }
            }
        }
        graph
    }

    /// The events of this phase, and the index of the first of them.
    fn events<'a>(&self, class: &'a Class) -> (usize, &'a [Event]) {
        let (from, to) = phase_events(class, self.phase);
        (from, &class.events[from..to])
    }

    /// A node per broadcast and line; all classes have the same ones.
    fn add_lines(&mut self, t: &TemplateFlows) {
        let Some(class) = t.classes.first() else { return };
        let broadcasts = self.events(class).1.iter().filter_map(|e| e.broadcast);
        let axes: Vec<Axis> = broadcasts.map(|b| b.0).collect();
        let (width, height) = (t.width, t.class_of.len() as u32 / t.width.max(1));
        for axis in axes {
            let first = self.parent.len() as u32;
            self.lines.push(first);
            self.parent.extend(first..first + if axis == Axis::X { height } else { width });
        }
    }

    fn fresh(&mut self) -> u32 {
        self.parent.push(self.parent.len() as u32);
        self.parent.len() as u32 - 1
    }

    fn border(&mut self, key: Border) -> u32 {
        if let Some(&node) = self.borders.get(&key) {
            return node;
        }
        let node = self.fresh();
        self.borders.insert(key, node);
        node
    }

    fn find(&mut self, mut node: u32) -> u32 {
        while self.parent[node as usize] != node {
            let up = self.parent[self.parent[node as usize] as usize];
            self.parent[node as usize] = up;
            node = up;
        }
        node
    }

    fn union(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        self.parent[a.max(b) as usize] = a.min(b);
    }

    fn sent(&self, t: &TemplateFlows, tile: usize, (color, k): (u8, u32)) -> u32 {
        self.base[tile * t.colors + usize::from(color)].wrapping_add(k)
    }

    fn received(&self, t: &TemplateFlows, tile: usize, (color, k): (u8, u32)) -> u32 {
        match t.source[tile * t.colors + usize::from(color)] {
            IMPORT => self.borders[&(true, color, k)],
            source => self.sent(t, source as usize, (color, k)),
        }
    }

    /// The group of an event's messages; `None` for a Join.
    fn group(&mut self, t: &TemplateFlows, tile: usize, e: &Event) -> Option<u32> {
        if let Some((axis, k)) = e.broadcast {
            let tile = tile as u32;
            let line = if axis == Axis::X { tile / t.width } else { tile % t.width };
            let first = *self.lines.get(k as usize)?;
            return Some(self.find(first + line));
        }
        let node = match (e.input, e.output) {
            (Some(a), _) => self.received(t, tile, a),
            (None, b) => self.sent(t, tile, b?),
        };
        Some(self.find(node))
    }

    /// Successive messages of every PE, as pairs of group representatives.
    fn edges(&mut self, t: &TemplateFlows) -> Result<Vec<(u32, u32)>, (usize, usize)> {
        let mut edges = Vec::new();
        // What the next message of a PE comes after.
        let mut last: Vec<u32> = Vec::new();
        for (tile, &class) in t.class_of.iter().enumerate() {
            last.clear();
            let mut threads = [None; MICROTHREADS as usize];
            let (first, events) = self.events(&t.classes[class as usize]);
            for (i, e) in events.iter().enumerate() {
                for (thread, node) in threads.iter_mut().enumerate() {
                    if e.join & (1 << thread) != 0 {
                        last.extend(node.take());
                    }
                }
                let Some(node) = self.group(t, tile, e) else { continue };
                if last.contains(&node) {
                    return Err((tile, first + i));
                }
                edges.extend(last.iter().map(|&previous| (previous, node)));
                match e.thread.and_then(|t| threads.get_mut(usize::from(t))) {
                    Some(thread) => *thread = Some(node),
                    None => {
                        last.clear();
                        last.push(node);
                    }
                }
            }
        }
        edges.sort_unstable();
        edges.dedup();
        Ok(edges)
    }

    /// Joins all messages of loops that exchange some; false when there are no loops.
    fn contract_loops(&mut self, t: &TemplateFlows) -> bool {
        let mut any = false;
        for (tile, &class) in t.class_of.iter().enumerate() {
            let mut last: Option<(u32, u32)> = None;
            for e in self.events(&t.classes[class as usize]).1 {
                let (Some(repeat), Some(node)) = (e.repeat, self.group(t, tile, e)) else {
                    continue;
                };
                if let Some((_, previous)) = last.filter(|l| l.0 == repeat) {
                    self.union(previous, node);
                }
                last = Some((repeat, node));
                any = true;
            }
        }
        any
    }

    /// Adds the order of this phase's border nodes, if it has no cycle.
    fn order(
        mut self,
        t: &TemplateFlows,
        template: &Template,
        order: &mut BorderOrder,
    ) -> Result<(), String> {
        let place = |tile: usize, i: usize| {
            let e = t.classes[t.class_of[tile] as usize].events[i];
            let (x, y) = (tile as u32 % t.width, tile as u32 / t.width);
            let phase = &template.phases[e.phase as usize].name;
            let colors =
                [e.input.map(|c| format!("in {}", c.0)), e.output.map(|c| format!("out {}", c.0))];
            let cast = e.broadcast.map(|(axis, k)| format!("broadcast {k} along {axis:?}"));
            let colors: Vec<String> = colors.into_iter().flatten().chain(cast).collect();
            format!("({x}, {y}) in phase `{phase}`, color {}", colors.join(" "))
        };
        let edges = self.edges(t).map_err(|(tile, i)| {
            format!(
                "template `{}`: {} waits for what it does itself",
                template.name,
                place(tile, i)
            )
        })?;
        if let Some(nodes) = cycle(self.parent.len(), &edges) {
            let names = self.name_nodes(t, &nodes, place);
            return Err(format!("template `{}`: {}", template.name, names.join(" -> ")));
        }
        self.border_order(&edges, order);
        if self.contract_loops(t) {
            let mut edges: Vec<(u32, u32)> =
                edges.iter().map(|e| (self.find(e.0), self.find(e.1))).collect();
            edges.retain(|e| e.0 != e.1);
            edges.sort_unstable();
            edges.dedup();
            if let Some(nodes) = cycle(self.parent.len(), &edges) {
                let names = self.name_nodes(t, &nodes, place);
                let what = "out of a loop and back into it";
                return Err(format!(
                    "template `{}`: {what}: {}",
                    template.name,
                    names.join(" -> ")
                ));
            }
        }
        Ok(())
    }

    /// One place per node of a cycle.
    fn name_nodes(
        &mut self,
        t: &TemplateFlows,
        nodes: &[u32],
        place: impl Fn(usize, usize) -> String,
    ) -> Vec<String> {
        let mut names: BTreeMap<u32, String> = BTreeMap::new();
        for (tile, &class) in t.class_of.iter().enumerate() {
            let (first, events) = self.events(&t.classes[class as usize]);
            for (i, e) in events.iter().enumerate() {
                let Some(node) = self.group(t, tile, e) else { continue };
                if nodes.contains(&node) {
                    names.entry(node).or_insert_with(|| place(tile, first + i));
                }
            }
        }
        nodes.iter().take(NAMED).filter_map(|n| names.get(n).cloned()).collect()
    }

    fn border_order(&mut self, edges: &[(u32, u32)], order: &mut BorderOrder) {
        let borders: Vec<(Border, u32)> =
            self.borders.clone().into_iter().map(|(b, n)| (b, self.find(n))).collect();
        for (i, &(a, node)) in borders.iter().enumerate() {
            let reached = reachable(self.parent.len(), edges, node);
            for (j, &(b, other)) in borders.iter().enumerate().filter(|(j, _)| *j != i) {
                if other == node && i < j {
                    order.same.push((a, b));
                } else if other != node && reached[other as usize] {
                    order.before.push((a, b));
                }
            }
        }
    }
}

/// Index of the first edge of every node in sorted edges.
fn starts(nodes: usize, edges: &[(u32, u32)]) -> Vec<usize> {
    let mut starts = vec![0; nodes + 1];
    for &(a, _) in edges {
        starts[a as usize + 1] += 1;
    }
    for i in 0..nodes {
        starts[i + 1] += starts[i];
    }
    starts
}

fn reachable(nodes: usize, edges: &[(u32, u32)], from: u32) -> Vec<bool> {
    let starts = starts(nodes, edges);
    let mut seen = vec![false; nodes];
    let mut open = vec![from];
    while let Some(n) = open.pop() {
        for &(_, to) in &edges[starts[n as usize]..starts[n as usize + 1]] {
            if !std::mem::replace(&mut seen[to as usize], true) {
                open.push(to);
            }
        }
    }
    seen
}

/// Some cycle of a graph with sorted edges, or `None`.
fn cycle(nodes: usize, edges: &[(u32, u32)]) -> Option<Vec<u32>> {
    let starts = starts(nodes, edges);
    let mut waiting = vec![0u32; nodes];
    edges.iter().for_each(|e| waiting[e.1 as usize] += 1);
    let mut open: Vec<u32> = (0..nodes as u32).filter(|&n| waiting[n as usize] == 0).collect();
    while let Some(n) = open.pop() {
        for &(_, to) in &edges[starts[n as usize]..starts[n as usize + 1]] {
            waiting[to as usize] -= 1;
            if waiting[to as usize] == 0 {
                open.push(to);
            }
        }
    }
    // Every node left has a predecessor that is left too: walk back until one repeats.
    let mut back = vec![u32::MAX; nodes];
    for &(a, b) in edges.iter().filter(|e| waiting[e.0 as usize] > 0 && waiting[e.1 as usize] > 0) {
        back[b as usize] = a;
    }
    let mut at = (0..nodes as u32).find(|&n| waiting[n as usize] > 0)?;
    let mut path: Vec<u32> = Vec::new();
    let mut index: BTreeMap<u32, usize> = BTreeMap::new();
    while let std::collections::btree_map::Entry::Vacant(slot) = index.entry(at) {
        slot.insert(path.len());
        path.push(at);
        at = back[at as usize];
    }
    let mut nodes = path.split_off(index[&at]);
    nodes.reverse();
    Some(nodes)
}

/// The same check over regions: border nodes joined by the flows between them.
fn regions(plan: &Plan, flows: &Flows, orders: &[&BorderOrder], found: &mut Vec<Violation>) {
    let mut ids: BTreeMap<(usize, Border), u32> = BTreeMap::new();
    let mut parent: Vec<u32> = Vec::new();
    let mut node = |key: (usize, Border), parent: &mut Vec<u32>| {
        *ids.entry(key).or_insert_with(|| {
            parent.push(parent.len() as u32);
            parent.len() as u32 - 1
        })
    };
    fn find(parent: &[u32], mut n: u32) -> u32 {
        while parent[n as usize] != n {
            n = parent[n as usize];
        }
        n
    }
    let mut before = Vec::new();
    let mut same = Vec::new();
    for (r, region) in plan.regions.iter().enumerate() {
        let order = orders[region.template.0 as usize];
        for &(a, b) in &order.same {
            same.push((node((r, a), &mut parent), node((r, b), &mut parent)));
        }
        for &(a, b) in &order.before {
            before.push((node((r, a), &mut parent), node((r, b), &mut parent)));
        }
    }
    for link in &flows.links {
        let t = &flows.templates[plan.regions[link.from.0].template.0 as usize];
        let exported = t.exports.iter().filter(|(_, c)| *c == link.from.1);
        let count =
            |&(tile, c): &(u32, u8)| t.classes[t.class_of[tile as usize] as usize].sends[&c].len();
        for k in 0..exported.map(count).max().unwrap_or(0) as u32 {
            let out = node((link.from.0, (false, link.from.1, k)), &mut parent);
            let into = node((link.to.0, (true, link.to.1, k)), &mut parent);
            same.push((out, into));
        }
    }
    for (a, b) in same {
        let (a, b) = (find(&parent, a), find(&parent, b));
        parent[a.max(b) as usize] = a.min(b);
    }
    let edges: BTreeSet<(u32, u32)> =
        before.iter().map(|&(a, b)| (find(&parent, a), find(&parent, b))).collect();
    let edges: Vec<(u32, u32)> = edges.into_iter().collect();
    if let Some(nodes) = cycle(parent.len(), &edges) {
        let name = |n: &u32| {
            let (r, border) = ids.iter().find(|(_, id)| find(&parent, **id) == *n)?.0;
            let way = if border.0 { "entering" } else { "leaving" };
            Some(format!("color {} {way} `{}`", border.1, plan.regions[*r].name))
        };
        let names: Vec<String> = nodes.iter().take(NAMED).filter_map(name).collect();
        found.push(Violation::CyclicWait { cycle: names.join(" -> ") });
    }
}
