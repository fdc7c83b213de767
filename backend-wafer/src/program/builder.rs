//! Collects buffers, weights, pins, routes and phases of a template and lays out its SRAM.
//!
//! Lifetimes are not declared: a buffer lives from the first phase that names it to the last, weights
//! and caches always. Offsets are first fit over those ranges, longest-lived and largest first, so
//! the map is the same on every run. Does not check capacity: `place` does, with the byte count.

use plan::{
    Buffer, BufferId, BufferRole, Clause, Color, CommShape, Instr, KvLayout, Len, Phase, Pin,
    Predicate, Role, Route, Slice, Storage, Template, WeightUse,
};

use super::pins::PinnedWeight;
use crate::partition::WeightRef;
use crate::route::tree::{Line, Message, Part, Reach, Tree};

/// A template under construction.
#[derive(Debug)]
pub(crate) struct TemplateBuilder {
    template: Template,
    weights: Vec<PinnedWeight>,
    lines: Vec<LineRoutes>,
    /// The layer that is being built, of those of the template: part of all names but the first's.
    layer: u32,
}

/// A finished template and what it pins.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The template.
    pub template: Template,
    /// Its weights, in the order of `template.weights`.
    pub weights: Vec<PinnedWeight>,
    /// Routes that the template lacks before [`Program::routed`].
    lines: Vec<LineRoutes>,
}

impl Program {
    /// With all routes. What a program costs and holds can be said without them, and is, of many more
    /// programs than are placed.
    #[must_use]
    pub fn routed(mut self) -> Self {
        let routes = std::mem::take(&mut self.lines).into_iter().flat_map(LineRoutes::routes);
        self.template.routes.extend(routes);
        self
    }
}

/// Routes along lines, said when they are needed.
#[derive(Clone, Debug, PartialEq)]
enum LineRoutes {
    Tree(Tree),
    /// Of a tree's groups: on which color they multicast, and whether the chains are not there yet.
    Groups(Tree, Color, bool),
}

impl LineRoutes {
    fn routes(self) -> Vec<Route> {
        match self {
            LineRoutes::Tree(tree) => tree.routes(),
            LineRoutes::Groups(tree, color, chains) => tree.group_routes(color, chains),
        }
    }
}

/// A buffer and its size, to take slices of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector {
    pub(crate) buffer: BufferId,
    pub(crate) len: Len,
}

impl Vector {
    /// All of it.
    pub(crate) fn all(self) -> Slice {
        Slice { buffer: self.buffer, offset: 0, len: self.len }
    }

    /// `len` elements from `offset`.
    pub(crate) fn part(self, offset: u32, len: u32) -> Slice {
        Slice { buffer: self.buffer, offset, len: Len::of(len) }
    }
}

impl TemplateBuilder {
    pub(crate) fn new(name: String, width: u32, height: u32, cell: (u32, u32)) -> Self {
        let template = Template {
            name,
            width,
            height,
            cell,
            weights: Vec::new(),
            buffers: Vec::new(),
            pins: Vec::new(),
            routes: Vec::new(),
            kv: None,
            phases: Vec::new(),
        };
        TemplateBuilder { template, weights: Vec::new(), lines: Vec::new(), layer: 0 }
    }

    /// What follows belongs to layer `layer` of the template, counted from 0.
    pub(crate) fn begin_layer(&mut self, layer: u32) {
        self.layer = layer;
    }

    /// The layer that is being built.
    pub(crate) fn layer(&self) -> u32 {
        self.layer
    }

    /// A name in the current layer: `qkv`, in the second layer `qkv.2`.
    fn in_layer(&self, name: &str) -> String {
        match self.layer {
            0 => name.to_string(),
            layer => format!("{name}.{}", layer + 1),
        }
    }

    pub(crate) fn buffer(
        &mut self,
        name: &str,
        role: BufferRole,
        storage: Storage,
        (rows, cols): (u32, u32),
    ) -> BufferId {
        let id = BufferId(self.template.buffers.len() as u32);
        let name = self.in_layer(name);
        let buffer = Buffer { name, role, storage, rows, cols, offset: 0, bytes: 0, live: (0, 0) };
        self.template.buffers.push(buffer);
        id
    }

    /// The buffer of the current layer with this name.
    pub(crate) fn buffer_named(&self, name: &str) -> Option<BufferId> {
        let name = self.in_layer(name);
        let found = self.template.buffers.iter().position(|b| b.name == name)?;
        u32::try_from(found).ok().map(BufferId)
    }

    /// An f32 vector of activations.
    pub(crate) fn vector(&mut self, name: &str, len: u32) -> Vector {
        let buffer = self.buffer(name, BufferRole::Activation, Storage::F32, (1, len));
        Vector { buffer, len: Len::of(len) }
    }

    /// The number of a weight in this template. Of several uses the highest number of copies counts:
    /// slices of one weight are pinned separately, each once.
    pub(crate) fn declare(
        &mut self,
        weight: &WeightRef,
        copies: u32,
        inline: Option<Vec<f32>>,
    ) -> u32 {
        let mut weight = weight.clone();
        if self.layer > 0 {
            weight.name = weight.name.replace("{layer}", &format!("{{layer+{}}}", self.layer));
        }
        if let Some(i) = self.weights.iter().position(|w| w.weight.name == weight.name) {
            self.weights[i].copies = self.weights[i].copies.max(copies);
            return i as u32;
        }
        self.template.weights.push(WeightUse { name: weight.name.clone() });
        self.weights.push(PinnedWeight { weight, copies, inline });
        self.weights.len() as u32 - 1
    }

    pub(crate) fn pin(&mut self, pin: Pin) {
        self.template.pins.push(pin);
    }

    pub(crate) fn routes(&mut self, routes: Vec<Route>) {
        self.template.routes.extend(routes);
    }

    /// The routes of a tree, in time.
    pub(crate) fn tree(&mut self, tree: &Tree) {
        self.lines.push(LineRoutes::Tree(tree.clone()));
    }

    /// The routes of sums over the groups of a tree ([`Tree::group_routes`]), in time.
    pub(crate) fn tree_groups(&mut self, tree: &Tree, color: Color, chains: bool) {
        self.lines.push(LineRoutes::Groups(tree.clone(), color, chains));
    }

    pub(crate) fn kv(&mut self, layout: KvLayout) {
        self.template.kv = Some(layout);
    }

    /// What was built so far.
    pub(crate) fn template(&self) -> &Template {
        &self.template
    }

    /// Takes back the newest buffer, which nothing names.
    pub(crate) fn forget(&mut self, newest: BufferId) {
        debug_assert_eq!(newest.0 as usize + 1, self.template.buffers.len());
        self.template.buffers.truncate(newest.0 as usize);
    }

    pub(crate) fn cell(&self) -> (u32, u32) {
        self.template.cell
    }

    pub(crate) fn phase(&mut self, name: &str, comm: Option<CommShape>, roles: Vec<Role>) {
        let name = self.in_layer(name);
        self.template.phases.push(Phase { name, comm, roles });
    }

    /// Lets the columns that take no part in the newest phase execute `program` in it.
    pub(crate) fn also_outside(&mut self, program: &[Instr]) {
        let newest = self.template.phases.last_mut();
        let roles = newest.into_iter().flat_map(|phase| &mut phase.roles);
        roles.filter(|r| r.name == OUTSIDE).for_each(|r| r.program.extend_from_slice(program));
    }

    /// Adds a local instruction to the newest phase, a reduction whose result comes back: while a PE waits
    /// for it, and at the root behind everything, it costs nothing.
    pub(crate) fn while_waiting(&mut self, instr: &Instr) {
        let newest = self.template.phases.last_mut();
        for role in newest.into_iter().flat_map(|phase| &mut phase.roles) {
            if role.program.is_empty() {
                continue;
            }
            let waits = matches!(
                role.program.last(),
                Some(Instr::Recv { combine: plan::Combine::Store, .. })
            );
            let at = role.program.len() - usize::from(waits);
            role.program.insert(at, instr.clone());
        }
    }

    /// A phase that runs `before` on every PE, then reduces along a tree.
    pub(crate) fn reduce_phase(
        &mut self,
        name: &str,
        before: &[Instr],
        (tree, message, reach): (&Tree, Message, Reach),
        columns: Columns,
    ) {
        let comm = tree.comm(reach, message.data.len);
        let comm = (comm.depth > 0).then_some(comm);
        let roles = reduce_roles(before, (tree, message, reach), columns);
        self.phase(name, comm, roles);
    }

    /// The template, with lifetimes and offsets.
    pub(crate) fn finish(mut self) -> Program {
        set_lifetimes(&mut self.template);
        set_offsets(&mut self.template);
        Program { template: self.template, weights: self.weights, lines: self.lines }
    }
}

/// The role of columns that take no part in a phase.
const OUTSIDE: &str = "outside";

/// The columns that take part in a phase, of all of them; the others are idle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    pub(crate) used: u32,
    pub(crate) width: u32,
}

impl Columns {
    /// The role of the columns that take no part, if there are any.
    pub(crate) fn outside(self) -> Option<Role> {
        let predicate = Predicate::everywhere().and_x(Clause::range(self.used, self.width));
        (self.used < self.width).then(|| Role {
            name: OUTSIDE.into(),
            predicate,
            program: Vec::new(),
        })
    }
}

/// The roles of a reduction after `before`, on the columns used; the others are idle.
pub(crate) fn reduce_roles(
    before: &[Instr],
    (tree, message, reach): (&Tree, Message, Reach),
    columns: Columns,
) -> Vec<Role> {
    roles(before, (tree.line, tree.reduce(&message, reach)), columns)
}

/// The roles of `parts` of a line, each after `before`, on the columns used; the others are idle.
pub(crate) fn roles(
    before: &[Instr],
    (line, parts): (Line, Vec<Part>),
    columns: Columns,
) -> Vec<Role> {
    let limited = columns.used < columns.width;
    let role = |part: Part| {
        let mut predicate = line.predicate(part.clauses);
        if limited {
            predicate.x.push(Clause::range(0, columns.used));
        }
        let program = before.iter().cloned().chain(part.program).collect();
        Role { name: part.name.to_string(), predicate, program }
    };
    let mut roles: Vec<Role> = parts.into_iter().map(role).collect();
    roles.extend(columns.outside());
    roles
}

/// Buffers that an instruction names.
fn buffers_of(instr: &Instr) -> Vec<BufferId> {
    use plan::Operand;
    let second = |b: &Operand| match b {
        Operand::Slice(s) | Operand::PerSegment(s) => Some(s.buffer),
        Operand::Scalar(_) => None,
    };
    match instr {
        Instr::Fill { dst, .. } | Instr::Recv { dst, .. } => vec![dst.buffer],
        Instr::Software { .. } => Vec::new(),
        Instr::Copy { dst, src }
        | Instr::CopyPiece { dst, src, .. }
        | Instr::Keep { dst, src, .. }
        | Instr::Unary { dst, src, .. }
        | Instr::Reduce { dst, src, .. }
        | Instr::ArgMax { dst, src, .. } => vec![dst.buffer, src.buffer],
        Instr::Binary { dst, a, b, .. } | Instr::Part { dst, a, b, .. } => {
            [dst.buffer, a.buffer].into_iter().chain(second(b)).collect()
        }
        Instr::Gemv { y, x, w, .. } => vec![y.buffer, x.buffer, w.buffer],
        Instr::Angles { dst, inv_freq, .. } => vec![dst.buffer, inv_freq.buffer],
        Instr::Rope { data, angles, .. } => vec![data.buffer, angles.buffer],
        Instr::Gather { dst, table, .. } => vec![dst.buffer, table.buffer],
        Instr::KvAppend { cache, src } => vec![*cache, src.buffer],
        Instr::Scores { dst, q, k, .. } => vec![dst.buffer, q.buffer, *k],
        Instr::AttendValues { dst, p, v, .. } => vec![dst.buffer, p.buffer, *v],
        Instr::Send { src, .. } => vec![src.buffer],
        Instr::Broadcast { src, dst, .. } => vec![src.buffer, dst.buffer],
        Instr::Relay { local, .. } => vec![local.buffer],
        Instr::Gemm { c, a, b, .. } => vec![c.buffer, a.buffer, b.buffer],
        Instr::Start { .. } | Instr::Join { .. } | Instr::Repeat { .. } => vec![],
    }
}

fn set_lifetimes(template: &mut Template) {
    let last = template.phases.len().saturating_sub(1) as u32;
    let mut ranges = vec![None::<(u32, u32)>; template.buffers.len()];
    for (i, phase) in template.phases.iter().enumerate() {
        let i = i as u32;
        for instr in phase.roles.iter().flat_map(|r| &r.program) {
            for id in buffers_of(instr) {
                let range = ranges[id.0 as usize].get_or_insert((i, i));
                range.1 = i;
            }
        }
    }
    for (buffer, range) in template.buffers.iter_mut().zip(ranges) {
        buffer.live = match buffer.role {
            BufferRole::Weights | BufferRole::KvCache => (0, last),
            _ => range.unwrap_or((0, 0)),
        };
    }
}

fn set_offsets(template: &mut Template) {
    let mut sizes = vec![0u64; template.buffers.len()];
    for (size, buffer) in sizes.iter_mut().zip(&template.buffers) {
        *size = buffer.min_bytes();
    }
    for pin in &template.pins {
        let i = pin.buffer.0 as usize;
        sizes[i] += pin.scale_bytes(template.buffers[i].storage);
    }
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| {
        let (from, to) = template.buffers[i].live;
        (std::cmp::Reverse(to - from), std::cmp::Reverse(sizes[i]), i)
    });
    let mut placed: Vec<(usize, u64, u64)> = Vec::new();
    for i in order {
        let live = template.buffers[i].live;
        let bytes = sizes[i].div_ceil(4) * 4;
        let mut busy: Vec<(u64, u64)> = placed
            .iter()
            .filter(|(j, ..)| {
                let other = template.buffers[*j].live;
                other.0 <= live.1 && live.0 <= other.1
            })
            .map(|&(_, from, to)| (from, to))
            .collect();
        busy.sort_unstable();
        let mut offset = 0;
        for (from, to) in busy {
            if offset + bytes <= from {
                break;
            }
            offset = offset.max(to);
        }
        placed.push((i, offset, offset + bytes));
        let buffer = &mut template.buffers[i];
        buffer.offset = u32::try_from(offset).unwrap_or(u32::MAX);
        buffer.bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    }
}

/// Bytes of SRAM a template uses: the end of its highest buffer.
pub fn sram_bytes(template: &Template) -> u64 {
    let end = |b: &Buffer| u64::from(b.offset) + u64::from(b.bytes);
    template.buffers.iter().map(end).max().unwrap_or(0)
}

/// Bytes by contributor at the fullest phase, in the order of first appearance.
pub fn sram_by_role(template: &Template) -> Vec<(BufferRole, u64)> {
    let live = |phase: u32| {
        template.buffers.iter().filter(move |b| b.live.0 <= phase && phase <= b.live.1)
    };
    let total = |phase: u32| live(phase).map(|b| u64::from(b.bytes)).sum::<u64>();
    let phases = 0..template.phases.len() as u32;
    // Of equally full phases the first.
    let fullest = phases.max_by_key(|&p| (total(p), std::cmp::Reverse(p))).unwrap_or(0);
    let mut out: Vec<(BufferRole, u64)> = Vec::new();
    for buffer in live(fullest) {
        match out.iter_mut().find(|(role, _)| *role == buffer.role) {
            Some((_, bytes)) => *bytes += u64::from(buffer.bytes),
            None => out.push((buffer.role, u64::from(buffer.bytes))),
        }
    }
    out
}
