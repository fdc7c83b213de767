//! Small legal plans built by hand, for the tests of this crate and of the simulator.
//!
//! [`line`] makes one collective on a line of PEs; `language_model` a two-region model with an
//! embedding, RMSNorm, one attention layer with a distributed KV cache, a tied head and an argmax.
//! They use every kind of construct of the format and nothing of the compiler.

use crate::geometry::{Axis, Orientation, Port, Ports, Rect};
use crate::index::{Affine, Clause, Predicate, Span, Term};
use crate::program::{Combine, Instr, Len, Slice, WireFormat};
use crate::{
    Buffer, BufferId, BufferRole, Claims, Color, CommShape, ModelInfo, Outputs, Phase, Pin, Plan,
    Region, Role, Route, Storage, Target, Template, TemplateId, WeightData, WeightDecl, WeightUse,
};

mod language_model;

pub use language_model::{LanguageModel, language_model};

/// A collective on a line; the root is position 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collective {
    /// The root's vector to everybody.
    Broadcast,
    /// Sum over all, relayed PE by PE.
    Chain,
    /// Sum over all in log2 P rounds; P is a power of two.
    Tree,
    /// Sum in groups of this size by chains, then over the group roots by a chain; divides P.
    TwoPhase(u32),
}

/// A template under construction on a `width` x `height` rectangle.
pub(crate) struct Draft {
    pub(crate) template: Template,
}

/// A predicate with one clause along `axis`.
pub(crate) fn along(axis: Axis, clause: Clause) -> Predicate {
    match axis {
        Axis::X => Predicate::everywhere().and_x(clause),
        Axis::Y => Predicate::everywhere().and_y(clause),
    }
}

/// `len` elements of `buffer` from the first.
pub(crate) fn vector(buffer: BufferId, len: u32) -> Slice {
    Slice { buffer, offset: 0, len: Len::of(len) }
}

pub(crate) fn role(name: &str, predicate: Predicate, program: Vec<Instr>) -> Role {
    Role { name: name.into(), predicate, program }
}

/// Towards the root at position 0, and away from it.
fn directions(axis: Axis) -> (Port, Port) {
    match axis {
        Axis::X => (Port::West, Port::East),
        Axis::Y => (Port::North, Port::South),
    }
}

impl Draft {
    pub(crate) fn new(name: &str, width: u32, height: u32) -> Self {
        Draft {
            template: Template {
                name: name.into(),
                width,
                height,
                cell: (1, 1),
                weights: Vec::new(),
                buffers: Vec::new(),
                pins: Vec::new(),
                routes: Vec::new(),
                kv: None,
                phases: Vec::new(),
            },
        }
    }

    fn extent(&self, axis: Axis) -> u32 {
        match axis {
            Axis::X => self.template.width,
            Axis::Y => self.template.height,
        }
    }

    /// An f32 buffer after the last one; its live range is set by [`Draft::finish`].
    pub(crate) fn buffer(
        &mut self,
        name: &str,
        role: BufferRole,
        rows: u32,
        cols: u32,
    ) -> BufferId {
        let end = self.template.buffers.last().map_or(0, |b| b.offset + b.bytes);
        let id = BufferId(self.template.buffers.len() as u32);
        self.template.buffers.push(Buffer {
            name: name.into(),
            role,
            storage: Storage::F32,
            rows,
            cols,
            offset: end,
            bytes: rows * cols * 4,
            live: (0, 0),
        });
        id
    }

    pub(crate) fn weight(&mut self, name: &str) -> u32 {
        self.template.weights.push(WeightUse { name: name.into() });
        self.template.weights.len() as u32 - 1
    }

    pub(crate) fn pin(
        &mut self,
        weight: u32,
        buffer: BufferId,
        axis0: Span,
        axis1: Span,
        transposed: bool,
    ) {
        self.template.pins.push(Pin {
            weight,
            predicate: Predicate::everywhere(),
            axis0,
            axis1,
            buffer,
            at: (0, 0),
            transposed,
            gain: None,
            scale: 1.0,
        });
    }

    pub(crate) fn route(&mut self, color: u8, predicate: Predicate, input: Port, outputs: &[Port]) {
        let outputs = Ports::of(outputs);
        self.template.routes.push(Route { color: Color(color), predicate, input, outputs });
    }

    pub(crate) fn phase(&mut self, name: &str, comm: Option<CommShape>, roles: Vec<Role>) {
        self.template.phases.push(Phase { name: name.into(), comm, roles });
    }

    /// A phase without communication, the same everywhere.
    pub(crate) fn local(&mut self, name: &str, program: Vec<Instr>) {
        self.phase(name, None, vec![role("all", Predicate::everywhere(), program)]);
    }

    /// Routes of chains towards position 0 in groups of `group`: odd members send on `colors.0`, even ones
    /// on `colors.1`.
    pub(crate) fn chain_routes(&mut self, axis: Axis, group: u32, colors: (u8, u8)) {
        let (inward, outward) = directions(axis);
        for (parity, color) in [(1, colors.0), (0, colors.1)] {
            // Relative clauses inside a group; the root (member 0) never sends.
            let member = |p: u32, from: u32, to: u32| {
                let mut pred = along(axis, Clause { term: Term::Rem(group), from, to });
                let clauses = if axis == Axis::X { &mut pred.x } else { &mut pred.y };
                clauses.push(Clause::eq(Term::RemRem(group, 2), p));
                pred
            };
            if group > 1 {
                self.route(color, member(parity, 1, group), Port::Ramp, &[inward]);
                self.route(color, member(1 - parity, 0, group - 1), outward, &[Port::Ramp]);
            }
        }
    }

    /// The phase that sums (or otherwise combines) `data` along chains laid by `chain_routes`.
    /// Members keep their own values; the root has the result.
    pub(crate) fn chain(
        &mut self,
        name: &str,
        (axis, group): (Axis, u32),
        colors: (u8, u8),
        data: Slice,
        combine: Combine,
    ) {
        let wire = WireFormat::F32;
        let color = |odd: bool| Color(if odd { colors.0 } else { colors.1 });
        let mut roles = Vec::new();
        let member = |from, to| along(axis, Clause { term: Term::Rem(group), from, to });
        if group == 1 {
            roles.push(role("idle", Predicate::everywhere(), vec![]));
        } else {
            let recv = Instr::Recv { color: color(true), dst: data, combine, wire };
            roles.push(role("root", member(0, 1), vec![recv]));
            for parity in [0, 1] {
                let mut predicate = member(1, group - 1);
                let clauses = if axis == Axis::X { &mut predicate.x } else { &mut predicate.y };
                clauses.push(Clause::eq(Term::RemRem(group, 2), parity));
                let (output, input) = (color(parity == 1), color(parity == 0));
                let relay =
                    Instr::Relay { input, output, local: data, combine, store: false, wire };
                roles.push(role("relay", predicate, vec![relay]));
            }
            let send = Instr::Send { color: color((group - 1) % 2 == 1), src: data, wire };
            roles.push(role("leaf", member(group - 1, group), vec![send]));
        }
        let comm = CommShape {
            kind: "chain".into(),
            serial: data.len,
            hops: group - 1,
            depth: group - 1,
            messages: 1,
        };
        self.phase(name, Some(comm), roles);
    }

    pub(crate) fn broadcast_routes(&mut self, axis: Axis, color: u8) {
        let n = self.extent(axis);
        let (inward, outward) = directions(axis);
        if n > 1 {
            self.route(color, along(axis, Clause::range(0, 1)), Port::Ramp, &[outward]);
            let middle = along(axis, Clause::range(1, n - 1));
            self.route(color, middle, inward, &[outward, Port::Ramp]);
            self.route(color, along(axis, Clause::range(n - 1, n)), inward, &[Port::Ramp]);
        }
    }

    /// The phase that copies `data` of position 0 to everybody along `axis`.
    pub(crate) fn broadcast(&mut self, name: &str, axis: Axis, color: u8, data: Slice) {
        let n = self.extent(axis);
        let (color, wire) = (Color(color), WireFormat::F32);
        let roles = if n == 1 {
            vec![role("idle", Predicate::everywhere(), vec![])]
        } else {
            let recv = Instr::Recv { color, dst: data, combine: Combine::Store, wire };
            vec![
                role(
                    "root",
                    along(axis, Clause::range(0, 1)),
                    vec![Instr::Send { color, src: data, wire }],
                ),
                role("member", along(axis, Clause::range(1, n)), vec![recv]),
            ]
        };
        let comm = CommShape {
            kind: "broadcast".into(),
            serial: data.len,
            hops: n - 1,
            depth: 1,
            messages: 1,
        };
        self.phase(name, Some(comm), roles);
    }

    /// The phase of a binary tree reduction, one color per round from `first_color`.
    fn tree(&mut self, name: &str, axis: Axis, first_color: u8, data: Slice) {
        let n = self.extent(axis);
        let rounds = n.ilog2();
        let (inward, outward) = directions(axis);
        let wire = WireFormat::F32;
        let (mut roles, mut programs) = (Vec::new(), vec![]);
        for k in 0..rounds {
            let (color, step) = (first_color + k as u8, 1 << k);
            let rem = |from, to| along(axis, Clause { term: Term::Rem(2 * step), from, to });
            self.route(color, rem(step, step + 1), Port::Ramp, &[inward]);
            if step > 1 {
                self.route(color, rem(1, step), outward, &[inward]);
            }
            self.route(color, rem(0, 1), outward, &[Port::Ramp]);
            let mut program: Vec<Instr> = programs.clone();
            program.push(Instr::Send { color: Color(color), src: data, wire });
            roles.push(role("sender", rem(step, step + 1), program));
            programs.push(Instr::Recv {
                color: Color(color),
                dst: data,
                combine: Combine::Add,
                wire,
            });
        }
        roles.push(role("root", along(axis, Clause::range(0, 1)), programs));
        let serial = Len::of(data.len.constant * rounds);
        let comm =
            CommShape { kind: "tree".into(), serial, hops: n - 1, depth: rounds, messages: rounds };
        self.phase(name, Some(comm), roles);
    }

    /// Routes and the phase of a chain over the members 0 of groups of `group`.
    fn root_chain(&mut self, name: &str, axis: Axis, group: u32, colors: (u8, u8), data: Slice) {
        let groups = self.extent(axis) / group;
        let (inward, outward) = directions(axis);
        let wire = WireFormat::F32;
        let color = |odd: bool| if odd { colors.0 } else { colors.1 };
        // Group g's root, its inner members, whichever groups pass the filter.
        let pick = |g: Clause, from, to| {
            let mut p = along(axis, g);
            let clauses = if axis == Axis::X { &mut p.x } else { &mut p.y };
            clauses.push(Clause { term: Term::Rem(group), from, to });
            p
        };
        let mut roles = vec![role(
            "member",
            along(axis, Clause { term: Term::Rem(group), from: 1, to: group }),
            vec![],
        )];
        for g in 0..groups {
            let this = Clause::eq(Term::Quot(group), g);
            if g > 0 {
                self.route(color(g % 2 == 1), pick(this, 0, 1), Port::Ramp, &[inward]);
            }
            if g + 1 < groups {
                let c = color(g % 2 == 0);
                self.route(c, pick(this, 1, group), outward, &[inward]);
                self.route(c, pick(this, 0, 1), outward, &[Port::Ramp]);
            }
            let (input, output) = (Color(color(g % 2 == 0)), Color(color(g % 2 == 1)));
            let program = if groups == 1 {
                vec![]
            } else if g == 0 {
                vec![Instr::Recv { color: input, dst: data, combine: Combine::Add, wire }]
            } else if g + 1 == groups {
                vec![Instr::Send { color: output, src: data, wire }]
            } else {
                let combine = Combine::Add;
                vec![Instr::Relay { input, output, local: data, combine, store: false, wire }]
            };
            roles.push(role("root", pick(this, 0, 1), program));
        }
        let comm = CommShape {
            kind: "chain of roots".into(),
            serial: data.len,
            hops: (groups - 1) * group,
            depth: groups - 1,
            messages: 1,
        };
        self.phase(name, Some(comm), roles);
    }

    /// Every buffer lives through all phases.
    pub(crate) fn finish(mut self) -> Template {
        let last = self.template.phases.len().saturating_sub(1) as u32;
        self.template.buffers.iter_mut().for_each(|b| b.live = (0, last));
        self.template
    }
}

pub(crate) fn decl(name: &str, shape: &[u32], copies: u32, data: WeightData) -> WeightDecl {
    let storage = Storage::F32;
    WeightDecl { name: name.into(), shape: shape.into(), storage, digest: None, copies, data }
}

pub(crate) fn region(name: &str, template: u32, rect: Rect) -> Region {
    Region {
        name: name.into(),
        template: TemplateId(template),
        rect,
        orientation: Orientation::default(),
        layer: None,
        colors: Vec::new(),
    }
}

/// One collective over `pes` PEs along `axis`, `elements` f32 each. PE i starts with values
/// `i * elements .. (i + 1) * elements` (pinned inline), copied to buffer 1 in phase 0; the result
/// is in buffer 1 of position 0 (of everybody after a broadcast). The reported logits are that
/// buffer at the last PE of a broadcast, at the root of a reduction.
pub fn line(collective: Collective, axis: Axis, pes: u32, elements: u32, target: Target) -> Plan {
    let (w, h) = if axis == Axis::X { (pes, 1) } else { (1, pes) };
    let mut d = Draft::new("line", w, h);
    let source = d.buffer("source", BufferRole::Weights, 1, elements);
    let data = d.buffer("data", BufferRole::Activation, 1, elements);
    let weight = d.weight("source");
    let n = pes * elements;
    let step = i64::from(elements);
    let start =
        if axis == Axis::X { Affine::of_x(0, step, (1, 1)) } else { Affine::of_y(0, step, (1, 1)) };
    let span = Span { start, len: elements, limit: Affine::constant(i64::from(n)) };
    d.pin(weight, source, Span::whole(1), span, false);
    let slice = vector(data, elements);
    d.local("load", vec![Instr::Copy { dst: slice, src: vector(source, elements) }]);
    match collective {
        Collective::Broadcast => {
            d.broadcast_routes(axis, 0);
            d.broadcast("broadcast", axis, 0, slice);
        }
        Collective::Chain => {
            d.chain_routes(axis, pes, (0, 1));
            d.chain("chain", (axis, pes), (0, 1), slice, Combine::Add);
        }
        Collective::Tree => d.tree("tree", axis, 0, slice),
        Collective::TwoPhase(group) => {
            d.chain_routes(axis, group, (0, 1));
            d.chain("groups", (axis, group), (0, 1), slice, Combine::Add);
            d.root_chain("roots", axis, group, (2, 3), slice);
        }
    }
    let at = if collective == Collective::Broadcast { pes - 1 } else { 0 };
    let logits = crate::LogitsOutput {
        region: crate::RegionId(0),
        predicate: along(axis, Clause::range(at, at + 1)),
        buffer: data,
        start: Affine::constant(0),
        len: elements,
    };
    let values = (0..n).map(|i| i as f32).collect();
    Plan {
        model: ModelInfo {
            name: "line".into(),
            digest: String::new(),
            hidden: elements,
            layers: 0,
            vocab: elements,
            context: 1024,
        },
        target,
        weights: vec![decl("source", &[n], 1, WeightData::Inline(values))],
        templates: vec![d.finish()],
        regions: vec![region("line", 0, Rect { x: 0, y: 0, w, h })],
        repair: None,
        wires: vec![],
        streams: vec![],
        outputs: Outputs { logits: vec![logits], token: None },
        claims: Claims::default(),
    }
}
