//! Reductions and broadcasts along a line of PEs: the two-level tree (K-tree, K = 2).
//!
//! A line of P positions is cut into groups. In each group two chains run from its ends to its
//! root; the group roots form two chains to the global root; from there the result is multicast.
//! A chain alternates two colors, so that a relay receives and sends on different ones; the two
//! sides of a root swap the roles of the colors, so two colors serve both sides. That makes five
//! colors per line, whatever is reduced and how often: [`TreeColors`].
//! With groups of S the critical path has S/2 + P/(2S) relays (WaferLLM, OSDI 2025, section 5; Luczynski et
//! al., HPDC 2024). But a group far inside has time until the sums from outside pass it, so groups may grow towards the
//! global root (`choose`).
//! Everything is said position by position, which program and which routes; equal ones are collected
//! (`cover`). Invariant: the parts of a program partition the line's positions.

mod choose;
mod cover;
mod path;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use plan::{
    Axis, Clause, Color, Combine, CommShape, Instr, Len, Port, Ports, Predicate, Role, Route,
};
use plan::{Slice, Term, WireFormat};

pub use path::Pace;

/// A line of PEs along one axis of a region: the whole extent, or one line per cell of `len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Direction.
    pub axis: Axis,
    /// Positions in the line.
    pub len: u32,
    /// False: the line is the region's whole extent. True: positions are cut into cells of `len`, each
    /// a line of its own.
    pub per_cell: bool,
    /// Positions along the axis that take part: cells beyond do not exist.
    pub extent: u32,
}

/// The colors of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeColors {
    /// Chains inside groups.
    pub inner: [Color; 2],
    /// Chains of group roots.
    pub outer: [Color; 2],
    /// Multicast of the result.
    pub down: Color,
}

impl TreeColors {
    /// Five consecutive colors.
    pub fn from(first: u8) -> Self {
        let c = |i| Color(first + i);
        TreeColors { inner: [c(0), c(1)], outer: [c(2), c(3)], down: c(4) }
    }
}

/// Consecutive positions with a root among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// First position.
    pub first: u32,
    /// Where its sum gathers.
    pub root: u32,
    /// One past the last position.
    pub end: u32,
}

/// A two-level reduction tree over a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Over which positions.
    pub line: Line,
    /// They cut the line, in order.
    groups: Vec<Group>,
    /// The group whose root is the global root.
    root_group: usize,
    /// Size of the groups where all but the last have the same; else 0.
    even: u32,
    /// Whether the outermost roots send on what their second side sends them while it comes.
    streams: bool,
    /// Its colors.
    pub colors: TreeColors,
    /// How elements travel.
    pub wire: WireFormat,
    pace: Pace,
    /// Which positions do the same in a reduction, and in a sum of groups; known when asked for.
    places: OnceLock<Vec<Place>>,
    sum_places: OnceLock<Vec<Place>>,
}

/// Positions of a line that run the same program, whatever the message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    first: u32,
    clauses: Vec<Clause>,
}

/// What is reduced or broadcast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    /// The local operand, and where the result goes.
    pub data: Slice,
    /// How two operands combine.
    pub combine: Combine,
}

/// How far a reduction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The result is at the root only.
    Root,
    /// The result is everywhere.
    All,
}

/// The positions of a line that run the same program.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// For reports.
    pub name: &'static str,
    /// Which positions: a conjunction over the line's axis.
    pub clauses: Vec<Clause>,
    /// What they do.
    pub program: Vec<Instr>,
}

/// A side of a root: which neighbours send towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

impl Group {
    /// PEs of a side.
    fn members(&self, side: Side) -> u32 {
        match side {
            Side::Before => self.root - self.first,
            Side::After => self.end - 1 - self.root,
        }
    }

    /// The sides that have any, in the order in which the root takes them.
    fn sides(&self) -> impl Iterator<Item = Side> + Clone {
        let group = *self;
        [Side::Before, Side::After].into_iter().filter(move |&s| group.members(s) > 0)
    }
}

impl Line {
    fn term(&self) -> Term {
        if self.per_cell { Term::Rem(self.len) } else { Term::Pos }
    }

    fn rem(&self, m: u32) -> Term {
        if self.per_cell { Term::RemRem(self.len, m) } else { Term::Rem(m) }
    }

    /// The port towards higher (`true`) or lower positions.
    fn port(&self, up: bool) -> Port {
        match (self.axis, up) {
            (Axis::X, true) => Port::East,
            (Axis::X, false) => Port::West,
            (Axis::Y, true) => Port::South,
            (Axis::Y, false) => Port::North,
        }
    }

    /// Whether some position meets all clauses.
    pub fn any(&self, clauses: &[Clause]) -> bool {
        (0..self.len).any(|p| clauses.iter().all(|c| c.holds(p)))
    }

    /// A predicate from clauses over this line.
    pub fn predicate(&self, clauses: Vec<Clause>) -> Predicate {
        match self.axis {
            Axis::X => Predicate { x: clauses, ..Predicate::default() },
            Axis::Y => Predicate { y: clauses, ..Predicate::default() },
        }
    }
}

impl Tree {
    /// A tree with groups of `group`, of whose last one there may be less. Each has its root in the middle.
    pub fn with_group(line: Line, group: u32, colors: TreeColors, pace: Pace) -> Self {
        let group = group.max(1);
        Tree::even(line, (group, group / 2), line.len.div_ceil(group) / 2, (colors, pace))
    }

    /// Groups with their roots in front, of which the first is the global root: a chain of chains.
    pub fn chains(line: Line, group: u32, colors: TreeColors, pace: Pace) -> Self {
        Tree::even(line, (group, 0), 0, (colors, pace))
    }

    /// One chain from the end of the line to its begin: more relays than one from both ends, but the root
    /// takes a message once.
    pub fn one_sided(line: Line, colors: TreeColors, pace: Pace) -> Self {
        Tree::chains(line, line.len, colors, pace)
    }

    /// Groups of `size` with their roots at `offset`.
    fn even(
        line: Line,
        (size, offset): (u32, u32),
        root_group: u32,
        (colors, pace): (TreeColors, Pace),
    ) -> Self {
        let firsts = (0..line.len).step_by(size.max(1) as usize);
        let group = |first: u32| {
            let end = (first + size.max(1)).min(line.len);
            Group { first, root: (first + offset).min(end - 1), end }
        };
        Tree {
            line,
            groups: firsts.map(group).collect(),
            root_group: root_group as usize,
            even: size.max(1),
            streams: false,
            colors,
            wire: WireFormat::F32,
            pace,
            places: OnceLock::new(),
            sum_places: OnceLock::new(),
        }
    }

    /// Whether the last group reaches its root, so that all groups of this size have theirs at one offset.
    pub fn is_regular(&self) -> bool {
        let offset = self.groups[0].root;
        self.groups.iter().all(|g| g.root == g.first + offset)
    }

    /// Position of the global root in the line.
    pub fn root(&self) -> u32 {
        self.groups[self.root_group].root
    }

    /// The groups on a side of the global root, from the end of the line.
    fn outer(&self, side: Side) -> impl Iterator<Item = usize> + Clone {
        let n = match side {
            Side::Before => self.root_group,
            Side::After => self.groups.len() - 1 - self.root_group,
        };
        let last = self.groups.len() - 1;
        (0..n).map(move |i| if side == Side::Before { i } else { last - i })
    }

    /// The most colors that a position receives on in an allreduce: each takes an input queue.
    pub fn most_inputs(&self) -> u32 {
        // A relay takes a neighbour's sum and the answer.
        let relays = self.groups.iter().any(|g| g.sides().any(|s| g.members(s) > 1));
        let roots = (0..self.groups.len()).map(|q| {
            let answer = u32::from(q != self.root_group);
            let sides = self.groups[q].sides().count() as u32;
            let from = [Side::Before, Side::After].into_iter();
            let outer = from.filter(|&s| match q == self.root_group {
                true => self.outer(s).next().is_some(),
                false => self.outer(s).skip(1).any(|other| other == q),
            });
            answer + sides + outer.count() as u32
        });
        roots.max().unwrap_or(0).max(1 + u32::from(relays))
    }

    /// The color on which the member at distance `d >= 1` from a root sends.
    fn sends(pair: [Color; 2], side: Side, d: u32) -> Color {
        // Next to the root the two sides use different colors; each side then alternates.
        let first = usize::from(side == Side::After);
        pair[(first + (d as usize + 1)) % 2]
    }

    /// Programs that reduce `message` along the line, and give it back with `Reach::All`.
    pub fn reduce(&self, message: &Message, reach: Reach) -> Vec<Part> {
        self.parts(&self.places, |p| {
            let q = self.group_of(p);
            let is_root = q == self.root_group && p == self.groups[q].root;
            let (name, mut program) = match p == self.groups[q].root {
                true => {
                    let name = if is_root { "root" } else { "group-root" };
                    (name, self.root_program(q, message, reach))
                }
                false => self.member(&self.groups[q], p, message),
            };
            if reach == Reach::All && !is_root {
                program.push(self.receive(self.colors.down, message.data, Combine::Store));
            }
            (name, program)
        })
    }

    /// Programs that sum `message` over every group and give the sum back to its members, on `color`
    /// or, when there is one group only, on the color of the whole line's multicast.
    pub fn group_sum(&self, message: &Message, color: Color) -> Vec<Part> {
        if self.groups.len() == 1 {
            return self.reduce(message, Reach::All);
        }
        self.parts(&self.sum_places, |p| {
            let group = &self.groups[self.group_of(p)];
            if p != group.root {
                let (name, mut program) = self.member(group, p, message);
                program.push(self.receive(color, message.data, Combine::Store));
                return (name, program);
            }
            let mut program = self.gather(group, message);
            if !program.is_empty() {
                program.push(self.send(color, message.data));
            }
            ("root", program)
        })
    }

    /// One program for each of `places`, as `of` says it of their first position.
    fn parts(
        &self,
        places: &OnceLock<Vec<Place>>,
        of: impl Fn(u32) -> (&'static str, Vec<Instr>),
    ) -> Vec<Part> {
        let part = |place: &Place| {
            let (name, program) = of(place.first);
            Part { name, clauses: place.clauses.clone(), program }
        };
        places.get_or_init(|| self.places(&of)).iter().map(part).collect()
    }

    /// Positions with equal programs, in the order of their first: they are the same for all messages.
    fn places(&self, of: impl Fn(u32) -> (&'static str, Vec<Instr>)) -> Vec<Place> {
        let mut found: Vec<(_, u32, Vec<bool>)> = Vec::new();
        for p in 0..self.line.len {
            let program = of(p);
            let known = found.iter().position(|(other, ..)| *other == program);
            let i = known.unwrap_or_else(|| {
                found.push((program, p, vec![false; self.line.len as usize]));
                found.len() - 1
            });
            found[i].2[p as usize] = true;
        }
        let place = |(_, first, positions): (_, u32, Vec<bool>)| {
            let clauses = cover::clauses(&self.line, self.even, &positions)?;
            Some(Place { first, clauses })
        };
        found.into_iter().filter_map(place).collect()
    }

    fn group_of(&self, p: u32) -> usize {
        self.groups.partition_point(|g| g.end <= p)
    }

    /// The two kinds of groups of a tree whose groups are even, full ones and the last: which positions,
    /// how many members, and the first position of the last group (0 for full groups, which start at
    /// multiples of their size).
    pub fn group_kinds(&self) -> Vec<(Clause, u32, u32)> {
        let rest = self.line.len.checked_rem(self.even).unwrap_or(0);
        let full_end = self.line.len - rest;
        let of = |from, to| Clause { term: self.line.term(), from, to };
        let kinds =
            [(of(0, full_end), self.even, 0), (of(full_end, self.line.len), rest, full_end)];
        kinds.into_iter().filter(|(c, ..)| c.from < c.to).collect()
    }

    /// What a member of a group does that is not its root.
    fn member(&self, group: &Group, p: u32, message: &Message) -> (&'static str, Vec<Instr>) {
        let (side, end) = match p < group.root {
            true => (Side::Before, p == group.first),
            false => (Side::After, p + 1 == group.end),
        };
        let d = p.abs_diff(group.root);
        let output = Tree::sends(self.colors.inner, side, d);
        if end {
            return ("end", vec![self.send(output, message.data)]);
        }
        let input = Tree::sends(self.colors.inner, side, d + 1);
        ("relay", vec![self.relay(input, output, message)])
    }

    /// What the root of a group does first: it takes the sums of both sides.
    fn gather(&self, group: &Group, message: &Message) -> Vec<Instr> {
        let of = |side| {
            let color = Tree::sends(self.colors.inner, side, 1);
            self.receive(color, message.data, message.combine)
        };
        group.sides().map(of).collect()
    }

    fn root_program(&self, q: usize, message: &Message, reach: Reach) -> Vec<Instr> {
        let group = &self.groups[q];
        let mut program = self.gather(group, message);
        let outer = |side, d| Tree::sends(self.colors.outer, side, d);
        let d = q.abs_diff(self.root_group) as u32;
        if d == 0 {
            let sides = [Side::Before, Side::After].into_iter();
            let there = sides.filter(|&side| self.outer(side).next().is_some());
            program.extend(
                there.map(|side| self.receive(outer(side, 1), message.data, message.combine)),
            );
            if reach == Reach::All && self.line.len > 1 {
                program.push(self.send(self.colors.down, message.data));
            }
            return program;
        }
        let side = if q < self.root_group { Side::Before } else { Side::After };
        let is_last = self.outer(side).next() == Some(q);
        let streamed = group.sides().last().filter(|_| is_last && self.streams);
        let last = match streamed {
            Some(from) => {
                program.pop();
                self.relay(Tree::sends(self.colors.inner, from, 1), outer(side, d), message)
            }
            None if is_last => self.send(outer(side, d), message.data),
            None => self.relay(outer(side, d + 1), outer(side, d), message),
        };
        program.push(last);
        program
    }

    fn send(&self, color: Color, src: Slice) -> Instr {
        Instr::Send { color, src, wire: self.wire }
    }

    fn receive(&self, color: Color, dst: Slice, combine: Combine) -> Instr {
        Instr::Recv { color, dst, combine, wire: self.wire }
    }

    fn relay(&self, input: Color, output: Color, message: &Message) -> Instr {
        let (local, combine) = (message.data, message.combine);
        Instr::Relay { input, output, local, combine, store: false, wire: self.wire }
    }

    /// A phase of its own that takes `data` from the root to all, after `before` on every PE.
    pub fn multicast(&self, before: &[Instr], data: Slice) -> (CommShape, Vec<Role>) {
        let root = self.root();
        let at = |from, to| vec![Clause { term: self.line.term(), from, to }];
        let role = |name: &str, clauses: Vec<Clause>, last: Instr| {
            let mut program = before.to_vec();
            program.push(last);
            Role { name: name.into(), predicate: self.line.predicate(clauses), program }
        };
        let down = self.receive(self.colors.down, data, Combine::Store);
        let mut roles = vec![role("root", at(root, root + 1), self.send(self.colors.down, data))];
        let leaves = [(0, root), (root + 1, self.line.len)].into_iter().filter(|(a, b)| a < b);
        roles.extend(leaves.map(|(from, to)| role("leaf", at(from, to), down.clone())));
        let hops = root.max(self.line.len - 1 - root);
        let constant = self.wire.wavelets(data.len.constant.into()) as u32;
        let serial = Len { constant, ..data.len };
        let comm = CommShape { kind: "multicast".into(), serial, hops, depth: 1, messages: 1 };
        (comm, roles)
    }

    /// The routes of this tree.
    pub fn routes(&self) -> Vec<Route> {
        let mut ways = self.chain_ways();
        for side in [Side::Before, Side::After] {
            let groups: Vec<usize> = self.outer(side).collect();
            for (i, &q) in groups.iter().enumerate() {
                let to = groups.get(i + 1).copied().unwrap_or(self.root_group);
                let d = q.abs_diff(self.root_group) as u32;
                let color = Tree::sends(self.colors.outer, side, d);
                ways.send(color, self.groups[q].root, self.groups[to].root);
            }
        }
        ways.multicast(self.colors.down, self.root(), (0, self.line.len));
        ways.finish(self.even)
    }

    /// The routes that the sums of [`Tree::group_sum`] need: the chains of groups, where this tree's own routes
    /// are not there, and on `color` multicasts from each root to both ends of its group.
    pub fn group_routes(&self, color: Color, chains: bool) -> Vec<Route> {
        let mut ways = if chains { self.chain_ways() } else { Ways::new(self.line) };
        if self.groups.len() > 1 {
            for group in &self.groups {
                ways.multicast(color, group.root, (group.first, group.end));
            }
        } else if chains {
            ways.multicast(self.colors.down, self.root(), (0, self.line.len));
        }
        ways.finish(self.even)
    }

    /// The ways of the chains inside of groups.
    fn chain_ways(&self) -> Ways {
        let mut ways = Ways::new(self.line);
        for group in &self.groups {
            for p in group.first..group.root {
                let color = Tree::sends(self.colors.inner, Side::Before, group.root - p);
                ways.send(color, p, p + 1);
            }
            for p in group.root + 1..group.end {
                let color = Tree::sends(self.colors.inner, Side::After, p - group.root);
                ways.send(color, p, p - 1);
            }
        }
        ways
    }
}

/// What the routers of a line do with each color.
struct Ways {
    line: Line,
    /// Color and position to input and outputs.
    at: BTreeMap<(Color, u32), (Port, Ports)>,
}

impl Ways {
    fn new(line: Line) -> Self {
        Ways { line, at: BTreeMap::new() }
    }

    fn set(&mut self, color: Color, p: u32, input: Port, outputs: &[Port]) {
        let way = (input, Ports::of(outputs));
        let known = self.at.insert((color, p), way);
        debug_assert!(known.is_none_or(|k| k == way), "two ways of {color:?} at {p}");
    }

    /// From one core to another.
    fn send(&mut self, color: Color, from: u32, to: u32) {
        let (onward, back) = (self.line.port(to > from), self.line.port(to < from));
        self.set(color, from, Port::Ramp, &[onward]);
        (from.min(to) + 1..from.max(to)).for_each(|p| self.set(color, p, back, &[onward]));
        self.set(color, to, back, &[Port::Ramp]);
    }

    /// From one core to all of `from..to`.
    fn multicast(&mut self, color: Color, root: u32, (from, to): (u32, u32)) {
        let (up, down) = (self.line.port(true), self.line.port(false));
        let sides = [(from < root, down), (root + 1 < to, up)];
        let outputs: Vec<Port> = sides.iter().filter(|s| s.0).map(|s| s.1).collect();
        if !outputs.is_empty() {
            self.set(color, root, Port::Ramp, &outputs);
        }
        for p in (from..to).filter(|&p| p != root) {
            let (input, onward) = if p < root { (up, down) } else { (down, up) };
            let ends = p == from || p + 1 == to;
            let outputs: &[Port] = if ends { &[Port::Ramp] } else { &[Port::Ramp, onward] };
            self.set(color, p, input, outputs);
        }
    }

    fn finish(self, even: u32) -> Vec<Route> {
        let mut sets: BTreeMap<(Color, Port, Ports), Vec<bool>> = BTreeMap::new();
        for ((color, p), (input, outputs)) in self.at {
            let set = sets.entry((color, input, outputs));
            set.or_insert_with(|| vec![false; self.line.len as usize])[p as usize] = true;
        }
        let route = |((color, input, outputs), positions): (_, Vec<bool>)| {
            let mut clauses = cover::clauses(&self.line, even, &positions)?;
            if self.line.per_cell {
                clauses.push(Clause::range(0, self.line.extent));
            }
            Some(Route { color, predicate: self.line.predicate(clauses), input, outputs })
        };
        sets.into_iter().filter_map(route).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice() -> Slice {
        Slice { buffer: plan::BufferId(0), offset: 0, len: Len::of(4) }
    }

    fn trees() -> Vec<Tree> {
        let target = plan::Target::preset("small").expect("preset");
        let (colors, pace) = (TreeColors::from(0), Pace::of(&target));
        let mut trees = Vec::new();
        for len in (1..=48).chain([97, 128]) {
            for per_cell in [false, true] {
                let extent = if per_cell { 3 * len } else { len };
                let line = Line { axis: Axis::X, len, per_cell, extent };
                trees.push(Tree::best(line, colors, 4, &target));
                trees.push(Tree::one_sided(line, colors, pace));
                for size in [len, 3, 4, 5, 10, 15].into_iter().filter(|&s| s <= len) {
                    trees.push(Tree::with_group(line, size, colors, pace));
                    trees.push(Tree::chains(line, size, colors, pace));
                }
                trees.extend(Tree::growing(line, colors, &[1, 40], pace).into_iter().step_by(7));
            }
        }
        trees
    }

    #[test]
    fn parts_partition_the_line() {
        let message = Message { data: slice(), combine: Combine::Add };
        for tree in trees() {
            let parts = tree.reduce(&message, Reach::All);
            for p in 0..tree.line.extent {
                let here = parts.iter().filter(|part| part.clauses.iter().all(|c| c.holds(p)));
                assert_eq!(here.count(), 1, "position {p} of {tree:?}");
            }
        }
    }

    #[test]
    fn every_message_has_its_route() {
        let message = Message { data: slice(), combine: Combine::Add };
        for tree in trees() {
            let (parts, routes) = (tree.reduce(&message, Reach::All), tree.routes());
            for p in 0..tree.line.extent {
                let at = |color: Color| -> Vec<&Route> {
                    let holds = |r: &&Route| r.color == color && r.predicate.holds(p, 0);
                    routes.iter().filter(holds).collect()
                };
                let part = parts.iter().find(|q| q.clauses.iter().all(|c| c.holds(p)));
                for instr in &part.expect("a part everywhere").program {
                    let talk = instr.communication().expect("only messages");
                    if let Some(color) = talk.output {
                        let routes = at(color);
                        assert_eq!(routes.len(), 1, "sending at {p} of {tree:?}");
                        assert_eq!(routes[0].input, Port::Ramp);
                    }
                    if let Some(color) = talk.input {
                        let routes = at(color);
                        assert_eq!(routes.len(), 1, "receiving at {p} of {tree:?}");
                        assert!(routes[0].outputs.contains(Port::Ramp));
                    }
                }
            }
        }
    }

    #[test]
    fn the_best_group_is_near_the_square_root() {
        let target = plan::Target::preset("wse3").expect("preset");
        let line = Line { axis: Axis::Y, len: 360, per_cell: false, extent: 360 };
        let tree = Tree::best(line, TreeColors::from(0), 12, &target);
        assert!((10..=40).contains(&tree.even), "groups of {}", tree.even);
    }
}
