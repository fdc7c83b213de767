//! WaferLLM's prefill layer (OSDI 2025) on a square of PEs, all in f16: tokens along Y, hidden along X.
//!
//! Every product is a MeshGEMM whose weights are moved into place over the fabric before it; scores
//! are a product with a transposed operand whose sums travel along X, where WaferLLM reduces along X
//! in every step. Keys and values are as wide as the hidden vector. Norms and softmax are allreduces along
//! X by a two-level tree. What is computed has no meaning: weights are tables, the rotation of q and
//! k and the transposition of a tile of values are left out; what is timed is data movement and products.

use plan::{
    Affine, Axis, BinaryOp, BufferRole, Combine, Instr, Len, LogitsOutput, Operand, Predicate,
    RegionId, Role, Slice, Storage, Target, UnaryOp, WireFormat,
};
use tensor::DType;

use super::meshgemm::{MeshGemm, Operands, Tile, whole};
use super::{Built, input};
use crate::partition::Linear;
use crate::program::builder::{Columns, TemplateBuilder};
use crate::program::pins::{Tiling, pin_matrix};
use crate::route::tree::{Line, Message, Reach, Tree, TreeColors};

/// Cell of the template: turns of the alignments.
const CELL: (u32, u32) = (4, 4);
/// First color of the rings; those before are the tree's.
const RINGS: u8 = 6;

/// Extents per PE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) grid: u32,
    pub(super) d: u32,
    pub(super) s: u32,
    pub(super) f: u32,
}

/// The layer under construction: instructions wait until the next phase takes them.
struct Layer {
    b: TemplateBuilder,
    sizes: Sizes,
    tree: Tree,
    /// Travelling tiles of A and B: large enough for every product.
    a: [Slice; 2],
    moved: [Slice; 2],
    stat: Slice,
    before: Vec<Instr>,
}

/// The program of the layer, on at least 2 x 2 PEs.
pub(super) fn build(sizes: Sizes, target: &Target) -> Built {
    let Sizes { grid, d, s, f } = sizes;
    let mut layer = Layer::new(sizes, target);
    let x = layer.weight("x", (s, d));
    let x1 = layer.attention(x);
    let normed = layer.norm("norm2", x1);
    let [gate, up] = ["gate", "up"].map(|name| {
        let w = layer.weight(&format!("w{name}"), (d, f));
        layer.product(name, normed, w, Tile { m: s, k: d, n: f })
    });
    // gate / (1 + e^-gate) * up
    let e = layer.vector("e", s * f);
    layer.before.push(Instr::Copy { dst: e, src: gate });
    layer.exp(e, -1.0);
    layer.update(BinaryOp::Add, e, Operand::Scalar(1.0));
    layer.binary(BinaryOp::Div, e, gate, Operand::Slice(e));
    layer.update(BinaryOp::Mul, e, Operand::Slice(up));
    let w = layer.weight("wdown", (f, d));
    let down = layer.product("down", e, w, Tile { m: s, k: f, n: d });
    let x2 = layer.vector("x2", s * d);
    layer.binary(BinaryOp::Add, x2, x1, Operand::Slice(down));
    layer.local("residual");
    layer.b.routes(layer.tree.routes());
    let mesh = layer.mesh(Tile { m: s, k: d, n: d }, x2);
    layer.b.routes(mesh.routes(&[Axis::X, Axis::Y]));
    let len = s * d;
    let along = Affine::of_x(0, i64::from(len), CELL);
    let down = Affine::of_y(0, i64::from(len) * i64::from(grid), CELL);
    let start = Affine { yq: down.yq, yr: down.yr, ..along };
    let predicate = Predicate::everywhere();
    let logits = LogitsOutput { region: RegionId(0), predicate, buffer: x2.buffer, start, len };
    let results = grid * grid * len;
    Built { name: "prefill-layer", program: layer.b.finish(), logits, results }
}

impl Layer {
    fn new(sizes: Sizes, target: &Target) -> Self {
        let Sizes { grid, d, s, f } = sizes;
        let line = Line { axis: Axis::X, len: grid, per_cell: false, extent: grid };
        let mut b = TemplateBuilder::new("prefill-layer".into(), grid, grid, CELL);
        let mut pair = |names: [&str; 2], len: u32| {
            names.map(|n| whole(b.buffer(n, BufferRole::Receive, Storage::F16, (1, len)), len))
        };
        let a = pair(["a0", "a1"], s * d.max(s).max(f));
        let moved = pair(["b0", "b1"], d * s.max(d).max(f));
        let stat = whole(b.buffer("stat", BufferRole::Activation, Storage::F16, (1, s)), s);
        let tree = Tree::best(line, TreeColors::from(0), s, target);
        Layer { b, sizes, tree, a, moved, stat, before: Vec::new() }
    }

    fn vector(&mut self, name: &str, len: u32) -> Slice {
        whole(self.b.buffer(name, BufferRole::Activation, Storage::F16, (1, len)), len)
    }

    /// A pinned tile of `rows` x `cols`, by rows.
    fn weight(&mut self, name: &str, (rows, cols): (u32, u32)) -> Slice {
        let buffer = self.b.buffer(name, BufferRole::Weights, Storage::F16, (rows, cols));
        let grid = self.sizes.grid;
        let shape = [(cols * grid) as usize, (rows * grid) as usize];
        let linear = Linear { matrix: input(name, &shape, DType::F16), bias: None, scale: 1.0 };
        let tilings = (
            Tiling::Rows { tile: rows, extent: rows * grid },
            Tiling::Columns { tile: cols, extent: cols * grid },
        );
        // The builder refuses nothing here: the input is one plain piece.
        let _ = pin_matrix(&mut self.b, &linear, tilings, buffer, 0);
        whole(buffer, rows * cols)
    }

    fn binary(&mut self, op: BinaryOp, dst: Slice, a: Slice, b: Operand) {
        self.before.push(Instr::Binary { op, dst, a, b });
    }

    /// `data` = op(`data`, b)
    fn update(&mut self, op: BinaryOp, data: Slice, b: Operand) {
        self.binary(op, data, data, b);
    }

    /// e^(scale x) as (1 + scale x / 256)^256.
    fn exp(&mut self, data: Slice, scale: f32) {
        self.update(BinaryOp::Mul, data, Operand::Scalar(scale / 256.0));
        self.update(BinaryOp::Add, data, Operand::Scalar(1.0));
        for _ in 0..8 {
            self.update(BinaryOp::Mul, data, Operand::Slice(data));
        }
    }

    /// What waits, as a phase of its own.
    fn local(&mut self, name: &str) {
        let program = std::mem::take(&mut self.before);
        let all = Role { name: "all".into(), predicate: Predicate::everywhere(), program };
        self.b.phase(name, None, vec![all]);
    }

    /// `op` over the columns of a tile, then over the row of PEs, into `stat`.
    fn over_row(&mut self, name: &str, op: BinaryOp, data: Slice) {
        let (s, stat) = (self.sizes.s, self.stat);
        let column = |i: u32| Slice { offset: data.offset + i * s, len: Len::of(s), ..data };
        self.before.push(Instr::Copy { dst: stat, src: column(0) });
        for i in 1..data.len.constant / s {
            self.update(op, stat, Operand::Slice(column(i)));
        }
        let combine = if op == BinaryOp::Max { Combine::Max } else { Combine::Add };
        let message = Message { data: stat, combine };
        let columns = Columns { used: self.sizes.grid, width: self.sizes.grid };
        let before = std::mem::take(&mut self.before);
        let tree = self.tree;
        self.b.reduce_phase(name, &before, (&tree, message, Reach::All), columns);
    }

    /// Every column of a tile combined with `stat`.
    fn with_stat(&mut self, op: BinaryOp, dst: Slice, data: Slice) {
        let s = self.sizes.s;
        let column = |of: Slice, i: u32| Slice { offset: of.offset + i * s, len: Len::of(s), ..of };
        for i in 0..data.len.constant / s {
            self.binary(op, column(dst, i), column(data, i), Operand::Slice(self.stat));
        }
    }

    /// RMSNorm; its gain is folded into the weights behind it.
    fn norm(&mut self, name: &str, x: Slice) -> Slice {
        let Sizes { grid, d, s, .. } = self.sizes;
        let normed = self.vector(&format!("{name}.out"), s * d);
        self.binary(BinaryOp::Mul, normed, x, Operand::Slice(x));
        self.over_row(name, BinaryOp::Add, normed);
        let op = UnaryOp::RsqrtMean { count: d * grid, eps: 1e-5 };
        self.before.push(Instr::Unary { op, dst: self.stat, src: self.stat });
        self.with_stat(BinaryOp::Mul, normed, x);
        normed
    }

    fn mesh(&self, tile: Tile, c: Slice) -> MeshGemm {
        let part = |of: [Slice; 2], len: u32| of.map(|s| Slice { len: Len::of(len), ..s });
        let operands = Operands { a: part(self.a, tile.a()), b: part(self.moved, tile.b()), c };
        let (grid, wire) = (self.sizes.grid, WireFormat::F16);
        MeshGemm { grid, tile, operands, wire, first_color: RINGS }
    }

    /// C = A B: both operands are moved into place, then multiplied.
    fn product(&mut self, name: &str, a: Slice, b: Slice, tile: Tile) -> Slice {
        let c = self.vector(&format!("{name}.out"), tile.c());
        let mesh = self.mesh(tile, c);
        self.before.push(Instr::Copy { dst: mesh.operands.a[0], src: a });
        self.before.push(Instr::Copy { dst: mesh.operands.b[0], src: b });
        self.before.push(Instr::Fill { dst: c, value: 0.0 });
        self.local(&format!("{name}.load"));
        self.b.phase(&format!("{name}.align-a"), None, mesh.align(Axis::X));
        self.b.phase(&format!("{name}.align-b"), None, mesh.align(Axis::Y));
        self.b.phase(&format!("{name}.steps"), None, mesh.steps());
        c
    }

    /// Norm, q k v, scores, softmax, values, o, residual.
    fn attention(&mut self, x: Slice) -> Slice {
        let Sizes { grid, d, s, .. } = self.sizes;
        let square = Tile { m: s, k: d, n: d };
        let normed = self.norm("norm1", x);
        let [q, k, v] = ["q", "k", "v"].map(|name| {
            let w = self.weight(&format!("w{name}"), (d, d));
            self.product(name, normed, w, square)
        });
        let sums = ["scores", "scores.back"].map(|name| self.vector(name, s * s));
        let mesh = self.mesh(Tile { m: s, k: d, n: s }, sums[0]);
        self.before.push(Instr::Copy { dst: mesh.operands.a[0], src: q });
        self.before.push(Instr::Copy { dst: mesh.operands.b[0], src: k });
        self.before.push(Instr::Fill { dst: sums[0], value: 0.0 });
        self.local("scores.load");
        self.b.phase("scores.align", None, mesh.align(Axis::Y));
        self.b.phase("scores.steps", None, mesh.transposed_steps(sums));
        let scores = sums[grid as usize % 2];
        self.update(BinaryOp::Mul, scores, Operand::Scalar(0.125));
        self.over_row("softmax.max", BinaryOp::Max, scores);
        self.with_stat(BinaryOp::Sub, scores, scores);
        self.exp(scores, 1.0);
        self.over_row("softmax.sum", BinaryOp::Add, scores);
        self.with_stat(BinaryOp::Div, scores, scores);
        let out = self.vector("values.out", s * d);
        let mesh = self.mesh(Tile { m: s, k: s, n: d }, out);
        // Where the scores ended is where this product wants them.
        self.before.push(Instr::Copy { dst: mesh.operands.a[0], src: scores });
        self.before.push(Instr::Copy { dst: mesh.operands.b[0], src: v });
        self.before.push(Instr::Fill { dst: out, value: 0.0 });
        self.local("values.load");
        self.b.phase("values.align", None, mesh.align(Axis::Y));
        self.b.phase("values.steps", None, mesh.steps());
        let w = self.weight("wo", (d, d));
        let o = self.product("o", out, w, square);
        let x1 = self.vector("x1", s * d);
        self.binary(BinaryOp::Add, x1, x, Operand::Slice(o));
        x1
    }
}
