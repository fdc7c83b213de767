//! Reductions and broadcasts along a line of PEs: the two-level tree (K-tree, K = 2).
//!
//! A line of P positions is cut into groups of S. In each group two chains run from its ends to its
//! root; the group roots form two chains to the global root; from there the result is multicast.
//! A chain alternates two colors, so that a relay receives and sends on different ones; the two
//! sides of a root swap the roles of the colors, so two colors serve both sides. That makes five
//! colors per line, whatever is reduced and how often: [`TreeColors`].
//! Critical path: S/2 + P/(2S) relays (WaferLLM, OSDI 2025, section 5; Luczynski et al., HPDC 2024).
//! Invariant: the parts of a program partition the line's positions.

use plan::{
    Axis, Clause, Color, Combine, CommShape, Instr, Len, Port, Ports, Predicate, Role, Route,
};
use plan::{Slice, Term, WireFormat};

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

/// A two-level reduction tree over a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Over which positions.
    pub line: Line,
    /// S: positions per group; all groups but the last are full.
    pub group: u32,
    /// Offset of a group's root in the group.
    pub offset: u32,
    /// The group whose root is the global root.
    pub root_group: u32,
    /// Its colors.
    pub colors: TreeColors,
    /// How elements travel.
    pub wire: WireFormat,
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

    /// A predicate from clauses over this line.
    pub fn predicate(&self, clauses: Vec<Clause>) -> Predicate {
        match self.axis {
            Axis::X => Predicate { x: clauses, ..Predicate::default() },
            Axis::Y => Predicate { y: clauses, ..Predicate::default() },
        }
    }

    /// Whether some position meets all clauses.
    pub fn any(&self, clauses: &[Clause]) -> bool {
        (0..self.len).any(|p| clauses.iter().all(|c| c.holds(p)))
    }
}

impl Tree {
    /// The tree over `line` with the fewest cycles for messages of `elements`, for hops of
    /// `hop_cycles` and relays of `relay_cycles`.
    pub fn best(line: Line, colors: TreeColors, elements: u32, target: &plan::Target) -> Self {
        let cost = |tree: &Tree| {
            let (serial, hops, depth) = tree.critical_path(Reach::Root);
            let relay = 2 * target.fabric.ramp_cycles + target.core.wavelet_cycles;
            u64::from(serial) * u64::from(elements + target.core.message_cycles)
                + u64::from(hops) * u64::from(target.fabric.hop_cycles)
                + u64::from(depth) * u64::from(relay)
        };
        let single = Tree::with_group(line, line.len, colors);
        // Even groups: parity inside a group is then parity on the line, and predicates are simpler.
        let sizes = (2..line.len).step_by(2);
        let trees = sizes.map(|s| Tree::with_group(line, s, colors)).filter(Tree::is_regular);
        std::iter::once(single).chain(trees).min_by_key(cost).unwrap_or(single)
    }

    /// A tree with groups of `group`. Groups of cells must be even (see `parity`).
    pub fn with_group(line: Line, group: u32, colors: TreeColors) -> Self {
        let group = group.max(1);
        let groups = line.len.div_ceil(group);
        let (offset, root_group) = (group / 2, groups / 2);
        Tree { line, group, offset, root_group, colors, wire: WireFormat::F32 }
    }

    /// One chain from the end of the line to its begin: more relays than one from both ends, but the root
    /// takes a message once.
    pub fn one_sided(line: Line, colors: TreeColors) -> Self {
        Tree { offset: 0, root_group: 0, ..Tree::with_group(line, line.len, colors) }
    }

    /// Every tree over `line`: one group, and groups of each size that leaves all roots in place.
    pub fn candidates(line: Line, colors: TreeColors) -> Vec<Self> {
        let sizes = std::iter::once(line.len).chain((2..line.len).step_by(2));
        let trees = sizes.flat_map(|s| {
            let tree = Tree::with_group(line, s, colors);
            [tree, Tree { offset: 0, ..tree }]
        });
        trees.filter(|t| t.group >= line.len || t.is_regular()).collect()
    }

    /// Whether the last group reaches its root, so that all groups have theirs at `offset`.
    pub fn is_regular(&self) -> bool {
        let rest = self.line.len % self.group;
        rest == 0 || rest > self.offset
    }

    /// The parity of a position inside its group: that of its position in the line where groups are
    /// even.
    fn parity(&self) -> Term {
        match self.line.per_cell || self.group.is_multiple_of(2) {
            true => self.line.rem(2),
            false => Term::RemRem(self.group, 2),
        }
    }

    fn groups(&self) -> u32 {
        self.line.len.div_ceil(self.group)
    }

    /// Position of the global root in the line.
    pub fn root(&self) -> u32 {
        self.root_group * self.group + self.offset
    }

    /// The most colors that a position receives on in an allreduce: each takes an input queue.
    pub fn most_inputs(&self) -> u32 {
        let groups = self.groups();
        let sides = |size: u32| u32::from(self.offset > 0) + u32::from(size > self.offset + 1);
        let last = self.root_group + 1 == groups && self.partial() != 0;
        let (before, after) = (self.root_group, groups - 1 - self.root_group);
        let root = sides(if last { self.partial() } else { self.group })
            + u32::from(before > 0)
            + u32::from(after > 0);
        // Other roots, and relays, take the answer too.
        let other = match groups {
            1 => 1 + u32::from(self.line.len > 2),
            _ => sides(self.group) + 1 + u32::from(before.max(after) > 1),
        };
        root.max(other)
    }

    /// Positions of the last group when it is not full, else 0.
    fn partial(&self) -> u32 {
        self.line.len % self.group
    }

    /// First position after the full groups.
    fn full_end(&self) -> u32 {
        self.line.len - self.partial()
    }

    /// The color on which the member at distance `d >= 1` from a root sends.
    fn sends(pair: [Color; 2], side: Side, d: u32) -> Color {
        // Next to the root the two sides use different colors; each side then alternates.
        let first = usize::from(side == Side::After);
        pair[(first + (d as usize + 1)) % 2]
    }

    /// Programs that reduce `message` along the line, and give it back with `Reach::All`.
    pub fn reduce(&self, message: &Message, reach: Reach) -> Vec<Part> {
        let mut parts = self.inner_parts(message);
        parts.extend(self.root_parts(message, reach));
        if reach == Reach::All {
            let down = self.receive(self.colors.down, message.data, Combine::Store);
            for part in parts.iter_mut().filter(|p| p.name != "root") {
                part.program.push(down.clone());
            }
        }
        parts.retain(|p| self.line.any(&p.clauses));
        parts
    }

    /// Programs that sum `message` over every group and give the sum back to its members, on `color`
    /// or, when there is one group only, on the color of the whole line's multicast.
    pub fn group_sum(&self, message: &Message, color: Color) -> Vec<Part> {
        if self.groups() == 1 {
            return self.reduce(message, Reach::All);
        }
        let down = self.receive(color, message.data, Combine::Store);
        let mut parts = self.inner_parts(message);
        parts.iter_mut().for_each(|p| p.program.push(down.clone()));
        for full in [true, false] {
            let clauses = vec![
                Clause::eq(self.line.rem(self.group), self.offset),
                self.full_or_partial(full),
            ];
            let size = if full { self.group } else { self.partial() };
            let mut program = self.gather(message, size);
            program.push(self.send(color, message.data));
            parts.push(Part { name: "root", clauses, program });
        }
        parts.retain(|p| self.line.any(&p.clauses));
        parts
    }

    /// The routes of the multicasts of [`Tree::group_sum`]: from each root to both ends of its group.
    pub fn group_routes(&self, color: Color) -> Vec<Route> {
        let (s, r) = (self.group, self.offset);
        let (up, down) = (self.line.port(true), self.line.port(false));
        let mut routes = Vec::new();
        for (full, size) in [(true, s), (false, self.partial())] {
            if self.groups() == 1 || size <= r {
                continue;
            }
            let at = |from: u32, to: u32| {
                vec![Clause { term: self.line.rem(s), from, to }, self.full_or_partial(full)]
            };
            let sides: Vec<Port> = [(r > 0, down), (size > r + 1, up)]
                .into_iter()
                .filter_map(|(wanted, port)| wanted.then_some(port))
                .collect();
            if sides.is_empty() {
                continue;
            }
            routes.extend([
                self.route(color, at(r, r + 1), Port::Ramp, &sides),
                self.route(color, at(0, 1.min(r)), up, &[Port::Ramp]),
                self.route(color, at(1, r), up, &[Port::Ramp, down]),
                self.route(color, at(r + 1, size - 1), down, &[Port::Ramp, up]),
                self.route(color, at((size - 1).max(r + 1), size), down, &[Port::Ramp]),
            ]);
        }
        routes.into_iter().flatten().collect()
    }

    /// The closed form of [`Tree::group_sum`].
    pub fn group_comm(&self, elements: Len) -> CommShape {
        if self.groups() == 1 {
            return self.comm(Reach::All, elements);
        }
        let after = self.group - 1 - self.offset;
        let inner = self.offset.max(after);
        let serial = u32::from(self.offset > 0) + u32::from(after > 0) + 1;
        let axis = if self.line.axis == Axis::X { "x" } else { "y" };
        CommShape {
            kind: format!("sum in groups of {} {axis}", self.group),
            serial: Len {
                constant: serial * elements.constant,
                per_kv_token: serial * elements.per_kv_token,
            },
            hops: 2 * inner,
            depth: inner + 1,
            messages: serial,
        }
    }

    /// The two kinds of groups, full ones and the last: which positions, how many members, and the
    /// first position of the last group (0 for full groups, which start at multiples of their size).
    pub fn group_kinds(&self) -> Vec<(Clause, u32, u32)> {
        let kinds = [(true, self.group, 0), (false, self.partial(), self.full_end())];
        let of = |(full, size, first)| (self.full_or_partial(full), size, first);
        kinds.into_iter().map(of).filter(|(c, ..)| c.from < c.to).collect()
    }

    /// Members of groups that are not their root.
    fn inner_parts(&self, message: &Message) -> Vec<Part> {
        let (s, r) = (self.group, self.offset);
        let mut parts = Vec::new();
        let mut side = |side: Side, ends: Vec<(Vec<Clause>, u32)>, relays: Vec<(u32, u32, u32)>| {
            for (clauses, d) in ends {
                let color = Tree::sends(self.colors.inner, side, d);
                parts.push(Part {
                    name: "end",
                    clauses,
                    program: vec![self.send(color, message.data)],
                });
            }
            for (from, to, within) in relays {
                for parity in 0..2 {
                    let mut clauses = vec![
                        Clause { term: self.line.rem(s), from, to },
                        Clause::eq(self.parity(), parity),
                    ];
                    if within != 0 {
                        clauses.push(self.full_or_partial(within == 1));
                    }
                    let d = from.abs_diff(r) + u32::from(from % 2 != parity);
                    let input = Tree::sends(self.colors.inner, side, d + 1);
                    let output = Tree::sends(self.colors.inner, side, d);
                    let program = vec![self.relay(input, output, message)];
                    parts.push(Part { name: "relay", clauses, program });
                }
            }
        };
        if r > 0 {
            side(Side::Before, vec![(vec![Clause::eq(self.line.rem(s), 0)], r)], vec![(1, r, 0)]);
        }
        let rest = self.partial();
        let mut ends = Vec::new();
        let mut relays = Vec::new();
        if s > r + 1 && self.full_end() > 0 {
            let within = u32::from(rest != 0);
            let mut clauses = vec![Clause::eq(self.line.rem(s), s - 1)];
            if rest != 0 {
                clauses.push(self.full_or_partial(true));
            }
            ends.push((clauses, s - 1 - r));
            relays.push((r + 1, s - 1, within));
        }
        if rest > r + 1 {
            let last = Clause::eq(self.line.term(), self.line.len - 1);
            ends.push((vec![last], rest - 1 - r));
            relays.push((r + 1, rest - 1, 2));
        }
        side(Side::After, ends, relays);
        parts
    }

    fn full_or_partial(&self, full: bool) -> Clause {
        let (from, to) = if full { (0, self.full_end()) } else { (self.full_end(), self.line.len) };
        Clause { term: self.line.term(), from, to }
    }

    /// Roots of groups, the global root among them.
    fn root_parts(&self, message: &Message, reach: Reach) -> Vec<Part> {
        let groups = self.groups();
        let mut parts = Vec::new();
        let mut classes: Vec<(Vec<Clause>, u32)> = Vec::new();
        let at = |q: u32| Clause::eq(self.line.term(), q * self.group + self.offset);
        // Groups of one side and parity have the same program, but for the ends.
        let special = [0, self.root_group, groups - 1];
        for q in 0..groups {
            if special.contains(&q) {
                if !classes.iter().any(|(_, known)| *known == q) {
                    classes.push((vec![at(q)], q));
                }
                continue;
            }
            let (from, to) = if q < self.root_group {
                (1, self.root_group)
            } else {
                (self.root_group + 1, groups - 1)
            };
            let same = |known: u32| {
                (from..to).contains(&known) && !special.contains(&known) && known % 2 == q % 2
            };
            if classes.iter().any(|&(_, known)| same(known)) {
                continue;
            }
            let parity =
                Clause::eq(self.line.rem(2 * self.group), q % 2 * self.group + self.offset);
            let range =
                Clause { term: self.line.term(), from: from * self.group, to: to * self.group };
            classes.push((vec![parity, range], q));
        }
        for (clauses, q) in classes {
            let name = if q == self.root_group { "root" } else { "group-root" };
            parts.push(Part { name, clauses, program: self.root_program(q, message, reach) });
        }
        parts
    }

    /// What the root of a group of `size` does first: it takes the sums of both sides.
    fn gather(&self, message: &Message, size: u32) -> Vec<Instr> {
        let sides = [(self.offset > 0, Side::Before), (size > self.offset + 1, Side::After)];
        let wanted = sides.into_iter().filter(|(wanted, _)| *wanted);
        let of = |(_, side)| {
            let color = Tree::sends(self.colors.inner, side, 1);
            self.receive(color, message.data, message.combine)
        };
        wanted.map(of).collect()
    }

    fn root_program(&self, q: u32, message: &Message, reach: Reach) -> Vec<Instr> {
        let groups = self.groups();
        let size = if q + 1 == groups && self.partial() != 0 { self.partial() } else { self.group };
        let gather = |color| self.receive(color, message.data, message.combine);
        let mut program = self.gather(message, size);
        let d = q.abs_diff(self.root_group);
        let outer = |side, d| Tree::sends(self.colors.outer, side, d);
        if d == 0 {
            if q > 0 {
                program.push(gather(outer(Side::Before, 1)));
            }
            if q + 1 < groups {
                program.push(gather(outer(Side::After, 1)));
            }
            if reach == Reach::All && self.line.len > 1 {
                program.push(self.send(self.colors.down, message.data));
            }
            return program;
        }
        let side = if q < self.root_group { Side::Before } else { Side::After };
        let last = if side == Side::Before { q == 0 } else { q + 1 == groups };
        program.push(if last {
            self.send(outer(side, d), message.data)
        } else {
            self.relay(outer(side, d + 1), outer(side, d), message)
        });
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
        let mut routes = self.inner_routes();
        routes.extend(self.outer_routes());
        routes.extend(self.down_routes());
        routes
    }

    fn route(
        &self,
        color: Color,
        clauses: Vec<Clause>,
        input: Port,
        outputs: &[Port],
    ) -> Option<Route> {
        let mut clauses = clauses;
        if !self.line.any(&clauses) {
            return None;
        }
        if self.line.per_cell {
            clauses.push(Clause::range(0, self.line.extent));
        }
        let predicate = self.line.predicate(clauses);
        Some(Route { color, predicate, input, outputs: Ports::of(outputs) })
    }

    fn inner_routes(&self) -> Vec<Route> {
        let (s, r) = (self.group, self.offset);
        let (up, down) = (self.line.port(true), self.line.port(false));
        let rem = |from, to| Clause { term: self.line.rem(s), from, to };
        let mut routes = Vec::new();
        for parity in 0..2 {
            let odd = Clause::eq(self.parity(), parity);
            let distance_parity = (r + parity) % 2;
            let d = if distance_parity == 0 { 2 } else { 1 };
            // Before the root: send up, receive from below; after the root the other way round.
            let send = Tree::sends(self.colors.inner, Side::Before, d);
            let recv = Tree::sends(self.colors.inner, Side::Before, d + 1);
            routes.push(self.route(send, vec![rem(0, r), odd], Port::Ramp, &[up]));
            routes.push(self.route(recv, vec![rem(1, r), odd], down, &[Port::Ramp]));
            let send = Tree::sends(self.colors.inner, Side::After, d);
            let recv = Tree::sends(self.colors.inner, Side::After, d + 1);
            routes.push(self.route(send, vec![rem(r + 1, s), odd], Port::Ramp, &[down]));
            let full = if self.partial() == 0 { None } else { Some(self.full_or_partial(true)) };
            let clauses = [rem(r + 1, s - 1), odd].into_iter().chain(full).collect();
            routes.push(self.route(recv, clauses, up, &[Port::Ramp]));
            if self.partial() > 1 {
                let clauses =
                    vec![rem(r + 1, self.partial() - 1), odd, self.full_or_partial(false)];
                routes.push(self.route(recv, clauses, up, &[Port::Ramp]));
            }
        }
        let root = Clause::eq(self.line.rem(s), r);
        if r > 0 {
            let c = Tree::sends(self.colors.inner, Side::Before, 1);
            routes.push(self.route(c, vec![root], down, &[Port::Ramp]));
        }
        let c = Tree::sends(self.colors.inner, Side::After, 1);
        if s > r + 1 {
            let full = if self.partial() == 0 { None } else { Some(self.full_or_partial(true)) };
            let clauses = std::iter::once(root).chain(full).collect();
            routes.push(self.route(c, clauses, up, &[Port::Ramp]));
        }
        if self.partial() > r + 1 {
            let clauses = vec![root, self.full_or_partial(false)];
            routes.push(self.route(c, clauses, up, &[Port::Ramp]));
        }
        routes.into_iter().flatten().collect()
    }

    /// Chains of group roots; routers between roots pass through.
    fn outer_routes(&self) -> Vec<Route> {
        let (s, r) = (self.group, self.offset);
        let mut routes = Vec::new();
        // One rule per segment between neighbouring roots and per root; segments of one parity and
        // side share rules through the period 2S.
        for (side, from, to) in
            [(Side::Before, 0, self.root_group), (Side::After, self.root_group + 1, self.groups())]
        {
            let (send_port, recv_port) = match side {
                Side::Before => (self.line.port(true), self.line.port(false)),
                Side::After => (self.line.port(false), self.line.port(true)),
            };
            for parity in 0..2u32 {
                // Groups q in from..to with q % 2 == parity send on one color.
                let Some(q) = (from..to).find(|q| q % 2 == parity) else { continue };
                let color = Tree::sends(self.colors.outer, side, q.abs_diff(self.root_group));
                let period =
                    |lo: u32, hi: u32| Clause { term: self.line.rem(2 * s), from: lo, to: hi };
                let base = parity * s;
                let roots = Clause { term: self.line.term(), from: from * s, to: to * s };
                routes.push(self.route(
                    color,
                    vec![period(base + r, base + r + 1), roots],
                    Port::Ramp,
                    &[send_port],
                ));
                // Pass-through, and the receiving root one group nearer to the global root.
                for sender in (from..to).filter(|q| q % 2 == parity) {
                    let (lo, hi, receiver) = match side {
                        Side::Before => (sender * s + r + 1, (sender + 1) * s + r, sender + 1),
                        Side::After => ((sender - 1) * s + r + 1, sender * s + r, sender - 1),
                    };
                    let between = Clause { term: self.line.term(), from: lo, to: hi };
                    routes.push(self.route(color, vec![between], recv_port, &[send_port]));
                    let at = Clause::eq(self.line.term(), receiver * s + r);
                    routes.push(self.route(color, vec![at], recv_port, &[Port::Ramp]));
                }
            }
        }
        routes.into_iter().flatten().collect()
    }

    fn down_routes(&self) -> Vec<Route> {
        let (p, root) = (self.line.len, self.root());
        let (up, down) = (self.line.port(true), self.line.port(false));
        let range = |from, to| vec![Clause { term: self.line.term(), from, to }];
        let outputs: Vec<Port> = [(root > 0, down), (root + 1 < p, up)]
            .into_iter()
            .filter_map(|(wanted, port)| wanted.then_some(port))
            .collect();
        if outputs.is_empty() {
            return Vec::new();
        }
        let color = self.colors.down;
        let routes = [
            self.route(color, range(root, root + 1), Port::Ramp, &outputs),
            self.route(color, range(0, 1.min(root)), up, &[Port::Ramp]),
            self.route(color, range(1, root), up, &[Port::Ramp, down]),
            self.route(color, range(root + 1, p - 1), down, &[Port::Ramp, up]),
            self.route(color, range((p - 1).max(root + 1), p), down, &[Port::Ramp]),
        ];
        routes.into_iter().flatten().collect()
    }

    /// The closed form of a reduction of `elements`.
    pub fn comm(&self, reach: Reach, elements: Len) -> CommShape {
        let (serial, hops, depth) = self.critical_path(reach);
        let axis = if self.line.axis == Axis::X { "x" } else { "y" };
        let what = if reach == Reach::All { "allreduce" } else { "reduce" };
        CommShape {
            kind: format!("{what} tree {axis}, groups of {}", self.group),
            serial: Len {
                constant: serial * self.wire.wavelets(elements.constant.into()) as u32,
                per_kv_token: serial * elements.per_kv_token,
            },
            hops,
            depth,
            messages: serial,
        }
    }

    /// The closed form of a reduction of `elements` along a row whose inputs entered from the west:
    /// the last column is ready `skew` cycles after the first, so what comes from the west has
    /// arrived while the root waits for the east.
    pub fn comm_skewed(
        &self,
        reach: Reach,
        elements: Len,
        (skew, target): (u64, &plan::Target),
    ) -> CommShape {
        let mut shape = self.comm(reach, elements);
        let groups = self.groups();
        let (before, after) = (self.root_group, (groups - 1).saturating_sub(self.root_group));
        if before == 0 || after == 0 || elements.per_kv_token != 0 {
            return shape;
        }
        let fabric = &target.fabric;
        let step = u64::from(2 * fabric.ramp_cycles + 1 + self.group * fabric.hop_cycles);
        let message = u64::from(elements.constant);
        let west = u64::from(before) * step + message;
        let east = u64::from(after) * step + skew;
        if east >= west {
            shape.serial.constant -= elements.constant;
            shape.messages -= 1;
            shape.hops -= (before - after) * self.group;
            shape.depth -= before - after;
        } else {
            let hidden = skew.min(message) as u32;
            shape.serial.constant -= hidden;
        }
        shape
    }

    /// Messages one after another, hops, and dependent messages on the critical path: chain in the
    /// longest half group, chain of roots, multicast. A root receives its two sides one after the
    /// other, hence up to five serial messages.
    fn critical_path(&self, reach: Reach) -> (u32, u32, u32) {
        let p = self.line.len;
        let groups = self.groups();
        let mut serial = 0;
        let mut hops = 0;
        let mut depth = 0;
        // The longer side of a group: behind its root when the root stands first.
        let after = self.group.min(p).saturating_sub(self.offset + 1);
        let inner = self.offset.max(after);
        serial += u32::from(self.offset > 0) + u32::from(after > 0);
        hops += inner;
        depth += inner;
        let chain = self.root_group.max(groups - 1 - self.root_group);
        if chain > 0 {
            serial += 1 + u32::from(self.root_group > 0 && groups - 1 > self.root_group);
            hops += chain * self.group;
            depth += chain;
        }
        if reach == Reach::All && p > 1 {
            serial += 1;
            hops += self.root().max(p - 1 - self.root());
            depth += 1;
        }
        (serial, hops, depth)
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
        let colors = TreeColors::from(0);
        let mut trees = Vec::new();
        for len in (1..=48).chain([97, 128]) {
            for per_cell in [false, true] {
                let extent = if per_cell { 3 * len } else { len };
                let line = Line { axis: Axis::X, len, per_cell, extent };
                trees.push(Tree::best(line, colors, 4, &target));
                trees.push(Tree::with_group(line, len, colors));
                trees.push(Tree::one_sided(line, colors));
                let even = [4, 10].map(|s| Tree { offset: 0, ..Tree::with_group(line, s, colors) });
                trees.extend(even.into_iter().filter(|t| t.group < len));
                let odd = [3, 5, 15].map(|s| Tree::with_group(line, s, colors));
                trees.extend(odd.into_iter().filter(|t| !per_cell && t.is_regular()));
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
        assert!((10..=40).contains(&tree.group), "groups of {}", tree.group);
    }
}
