//! WaferLLM's decode layer (OSDI 2025) on a square of PEs, one token, batch 1, all in f16.
//!
//! The hidden vector is split along Y and replicated along X; ten allreduces on alternating axes
//! (Y,Y,X,Y,Y,Y,X,Y,Y,X) by two-level trees. As published: keys and values are as wide as the hidden
//! vector, no head, e^x is the eighth square of 1 + x/256, quotients are scalar code, and where queues
//! are bound at run time five routes are rewritten at each of the six changes of axis. Weights are tables
//! without meaning. Does not shift the cache: one token adds its row.

use plan::{
    Affine, Axis, BinaryOp, BufferRole, Clause, Combine, Instr, Len, LogitsOutput, Matrix, Operand,
    Predicate, ReduceOp, RegionId, Role, Slice, Storage, Target, UnaryOp,
};
use tensor::DType;

use super::{Built, input, mesh_tree, rope};
use crate::partition::Linear;
use crate::program::builder::{Columns, TemplateBuilder, Vector};
use crate::program::pins::{Tiling, pin_matrix, pin_vector};
use crate::route::palette;
use crate::route::tree::{Line, Message, Reach, Tree};

/// Extents per PE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) grid: u32,
    pub(super) d: u32,
    pub(super) s: u32,
    pub(super) f: u32,
    pub(super) groups: u32,
}

/// Routes that a PE rewrites when the axis changes, on machines with too few queues for both.
const ROUTES_PER_AXIS: u32 = 5;

/// Colors of a tree.
const COLORS_PER_AXIS: u32 = 10;

/// Cycles of a change of axis: none where queues suffice for both trees.
fn switch_cycles(target: &Target) -> u32 {
    let fabric = &target.fabric;
    let queues = fabric.input_queues.saturating_sub(fabric.reserved_queues);
    if queues >= 2 * COLORS_PER_AXIS {
        return 0;
    }
    ROUTES_PER_AXIS * target.core.route_switch_cycles
}

/// The layer under construction: instructions wait until the next allreduce makes a phase of them.
struct Layer {
    b: TemplateBuilder,
    sizes: Sizes,
    trees: [Tree; 2],
    before: Vec<Instr>,
    /// Axis of the last allreduce; before the first that of the layer before.
    axis: Axis,
    /// Cycles of a change of axis.
    switch_cycles: u32,
}

/// The program of the layer.
pub(super) fn build(sizes: Sizes, target: &Target) -> Built {
    let Sizes { grid, d, .. } = sizes;
    let mut layer = Layer::new(sizes, target);
    let x = layer.given("x", Axis::Y, d);
    let stat = layer.vector("stat", 1);
    let attended = layer.attention(x, stat);
    let o = layer.vector("o", d);
    layer.mat_vec("wo", attended, o);
    layer.allreduce("o", Axis::X, o, Combine::Add);
    let x1 = layer.vector("x1", d);
    layer.binary(BinaryOp::Add, x1, x, Operand::Slice(o));
    let down = layer.feed_forward(x1, stat);
    let x2 = layer.vector("x2", d);
    layer.binary(BinaryOp::Add, x2, x1, Operand::Slice(down));
    let program = std::mem::take(&mut layer.before);
    let all = Role { name: "all".into(), predicate: Predicate::everywhere(), program };
    layer.b.phase("residual", None, vec![all]);
    layer.b.routes(layer.trees.iter().flat_map(Tree::routes).collect());
    let predicate = Predicate::everywhere().and_x(Clause::range(0, 1));
    let start = Affine::of_y(0, i64::from(d), (1, 1));
    let logits = LogitsOutput { region: RegionId(0), predicate, buffer: x2.buffer, start, len: d };
    Built { name: "decode-layer", program: layer.b.finish(), logits, results: grid * d }
}

impl Layer {
    fn new(sizes: Sizes, target: &Target) -> Self {
        let tree = |axis| {
            let p = sizes.grid;
            let line = Line { axis, len: p, per_cell: false, extent: p };
            let colors = match axis {
                Axis::X => palette::row_tree(),
                Axis::Y => palette::column_tree(),
            };
            mesh_tree(line, p.div_ceil(sizes.groups.min(p)), colors, target)
        };
        Layer {
            b: TemplateBuilder::new("decode-layer".into(), sizes.grid, sizes.grid, (1, 1)),
            sizes,
            trees: [tree(Axis::X), tree(Axis::Y)],
            before: Vec::new(),
            axis: Axis::X,
            switch_cycles: switch_cycles(target),
        }
    }

    fn vector(&mut self, name: &str, len: u32) -> Slice {
        let buffer = self.b.buffer(name, BufferRole::Activation, Storage::F16, (1, len));
        Vector { buffer, len: Len::of(len) }.all()
    }

    fn tiling(&self, axis: Axis, tile: u32) -> Tiling {
        let extent = tile * self.sizes.grid;
        match axis {
            Axis::Y => Tiling::Rows { tile, extent },
            Axis::X => Tiling::Columns { tile, extent },
        }
    }

    /// A vector that is pinned, split along an axis.
    fn given(&mut self, name: &str, axis: Axis, len: u32) -> Slice {
        let grid = self.sizes.grid;
        let buffer = self.b.buffer(name, BufferRole::Weights, Storage::F16, (1, len));
        let tiling = self.tiling(axis, len);
        let table = input(name, &[(len * grid) as usize], DType::F16);
        // The builder refuses nothing here: the input is one plain piece.
        let _ = pin_vector(&mut self.b, &table, tiling, (buffer, 0), Some(grid));
        Slice { buffer, offset: 0, len: Len::of(len) }
    }

    /// y = x W with a pinned tile; the sum over the grid is the next allreduce. K lies along the axis
    /// that x is split on, which the pin need not know: the grid is square.
    fn mat_vec(&mut self, name: &str, x: Slice, y: Slice) {
        let (k, n) = (x.len.constant, y.len.constant);
        let buffer = self.b.buffer(name, BufferRole::Weights, Storage::F16, (k, n));
        let grid = self.sizes.grid;
        let shape = [(n * grid) as usize, (k * grid) as usize];
        let linear = Linear { matrix: input(name, &shape, DType::F16), bias: None, scale: 1.0 };
        let tilings = (self.tiling(Axis::Y, k), self.tiling(Axis::X, n));
        let _ = pin_matrix(&mut self.b, &linear, tilings, buffer, 0);
        let w = Matrix { buffer, row: 0, col: 0, rows: k, cols: n };
        self.before.push(Instr::Gemv { y, x, w, accumulate: false });
    }

    fn binary(&mut self, op: BinaryOp, dst: Slice, a: Slice, b: Operand) {
        self.before.push(Instr::Binary { op, dst, a, b });
    }

    /// `data` = op(`data`, b)
    fn update(&mut self, op: BinaryOp, data: Slice, b: Operand) {
        self.binary(op, data, data, b);
    }

    fn unary(&mut self, op: UnaryOp, data: Slice) {
        self.before.push(Instr::Unary { op, dst: data, src: data });
    }

    fn reduce(&mut self, op: ReduceOp, dst: Slice, src: Slice) {
        self.before.push(Instr::Reduce { op, dst, src });
    }

    fn allreduce(&mut self, name: &str, axis: Axis, data: Slice, combine: Combine) {
        let tree = &self.trees[usize::from(axis == Axis::Y)];
        let message = Message { data, combine };
        let columns = Columns { used: self.sizes.grid, width: self.sizes.grid };
        let mut before = std::mem::take(&mut self.before);
        if axis != self.axis && self.switch_cycles > 0 {
            before.insert(0, Instr::Software { cycles: self.switch_cycles });
        }
        self.axis = axis;
        self.b.reduce_phase(name, &before, (tree, message, Reach::All), columns);
    }

    /// RMSNorm: the sum of squares over the grid, then the factor and the gain.
    fn norm(&mut self, name: &str, x: Slice, stat: Slice) -> Slice {
        let count = self.sizes.d * self.sizes.grid;
        self.reduce(ReduceOp::SumSquares, stat, x);
        self.allreduce(name, Axis::Y, stat, Combine::Add);
        self.unary(UnaryOp::RsqrtMean { count, eps: 1e-5 }, stat);
        let normed = self.vector(&format!("{name}.out"), self.sizes.d);
        let gain = self.given(&format!("{name}.gain"), Axis::Y, self.sizes.d);
        self.binary(BinaryOp::Mul, normed, x, Operand::PerSegment(stat));
        self.update(BinaryOp::Mul, normed, Operand::Slice(gain));
        normed
    }

    /// e^x as (1 + x/256)^256.
    fn exp(&mut self, data: Slice, scale: f32) {
        self.update(BinaryOp::Mul, data, Operand::Scalar(scale / 256.0));
        self.update(BinaryOp::Add, data, Operand::Scalar(1.0));
        for _ in 0..8 {
            self.update(BinaryOp::Mul, data, Operand::Slice(data));
        }
    }

    /// Norm, q k v, rotation, scores, softmax and values; the result is split along X.
    fn attention(&mut self, x: Slice, stat: Slice) -> Slice {
        let Sizes { d, s, .. } = self.sizes;
        let normed = self.norm("norm1", x, stat);
        let qkv = self.vector("qkv", 3 * d);
        let part = |i: u32| Slice { offset: i * d, len: Len::of(d), ..qkv };
        for (i, name) in (0..).zip(["wq", "wk", "wv"]) {
            self.mat_vec(name, normed, part(i));
        }
        self.allreduce("qkv", Axis::Y, qkv, Combine::Add);
        let table = self.given("rope", Axis::X, d.max(2));
        let scratch = self.vector("scratch", d.max(2));
        for data in [part(0), part(1)] {
            self.before.extend(rope(d / 2, data, (table, scratch)));
        }
        let new = self.vector("kv.new", 2 * d);
        for i in 0..2 {
            let dst = Slice { offset: i * d, len: Len::of(d), ..new };
            self.before.push(Instr::Copy { dst, src: part(1 + i) });
        }
        let scores = self.vector("scores", s);
        self.mat_vec("keys", part(0), scores);
        self.allreduce("scores", Axis::X, scores, Combine::Add);
        self.update(BinaryOp::Mul, scores, Operand::Scalar(0.125));
        self.reduce(ReduceOp::Max, stat, scores);
        self.allreduce("softmax.max", Axis::Y, stat, Combine::Max);
        self.update(BinaryOp::Sub, scores, Operand::PerSegment(stat));
        self.exp(scores, 1.0);
        self.reduce(ReduceOp::Sum, stat, scores);
        self.allreduce("softmax.sum", Axis::Y, stat, Combine::Add);
        self.update(BinaryOp::Div, scores, Operand::PerSegment(stat));
        let attended = self.vector("attended", d);
        self.mat_vec("values", scores, attended);
        self.allreduce("values", Axis::Y, attended, Combine::Add);
        attended
    }

    /// Norm, gate and up, SiLU, down.
    fn feed_forward(&mut self, x: Slice, stat: Slice) -> Slice {
        let Sizes { d, f, .. } = self.sizes;
        let normed = self.norm("norm2", x, stat);
        let both = self.vector("gate_up", 2 * f);
        let part = |i: u32| Slice { offset: i * f, len: Len::of(f), ..both };
        self.mat_vec("wgate", normed, part(0));
        self.mat_vec("wup", normed, part(1));
        self.allreduce("gate_up", Axis::Y, both, Combine::Add);
        // gate / (1 + e^-gate) * up
        let e = self.vector("e", f);
        self.before.push(Instr::Copy { dst: e, src: part(0) });
        self.exp(e, -1.0);
        self.update(BinaryOp::Add, e, Operand::Scalar(1.0));
        self.binary(BinaryOp::Div, e, part(0), Operand::Slice(e));
        self.update(BinaryOp::Mul, e, Operand::Slice(part(1)));
        let down = self.vector("down", d);
        self.mat_vec("wdown", e, down);
        self.allreduce("down", Axis::X, down, Combine::Add);
        down
    }
}
