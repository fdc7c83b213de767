//! WaferLLM's prefill layer (OSDI 2025) on a square of PEs, all in f16: tokens along Y, hidden along X.
//!
//! Products with weights are MeshGEMMs whose weights the host has placed where step 0 needs them; the
//! activations are aligned at run time. Scores are a GEMM-T, whose result needs no alignment as
//! the A of the product with the values; the values are aligned instead. Norms and softmax are allreduces
//! along X by a two-level tree. As published: keys and values are as wide as the hidden vector, one head,
//! no mask, no head of the model, e^x is the eighth square of 1 + x/256. Blocks of all axes lie in ring
//! order. Weights are tables without meaning; the gain of a norm is part of the weights behind it.

use plan::{
    Affine, Axis, BinaryOp, BufferRole, Combine, Instr, Len, LogitsOutput, Operand, Pin, Predicate,
    RegionId, Role, Slice, Span, Storage, Target, UnaryOp, WireFormat,
};
use tensor::DType;

use super::gemm_t::GemmT;
use super::meshgemm::{CELL, Layout, MeshGemm, Operands, Tile, whole};
use super::{Built, mesh_tree, rope};
use crate::partition::WeightRef;
use crate::program::builder::{Columns, TemplateBuilder};
use crate::route::tree::{Line, Message, Reach, Tree, TreeColors};

/// First color of the rings; those before are the tree's.
const RINGS: u8 = 5;
/// Of all weights, so that sums over the grid stay small.
const SCALE: f32 = 0.125;

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
    let Sizes { grid, d, s, .. } = sizes;
    let mut layer = Layer::new(sizes, target);
    let x = layer.activations();
    let x1 = layer.attention(x);
    let x2 = layer.feed_forward(x1);
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
        // About as many groups as PEs in one: the fewest relays one after another.
        let tree = mesh_tree(line, grid.isqrt().max(2), TreeColors::from(0), target);
        Layer { b, sizes, tree, a, moved, stat, before: Vec::new() }
    }

    fn vector(&mut self, name: &str, len: u32) -> Slice {
        whole(self.b.buffer(name, BufferRole::Activation, Storage::F16, (1, len)), len)
    }

    /// A table \[rows, cols\] of a product that gives its pins.
    fn table(
        &mut self,
        name: &str,
        (rows, cols): (u32, u32),
        pins: impl Fn(&MeshGemm, (u32, u32), &Pin) -> Vec<Pin>,
    ) -> Slice {
        let buffer = self.b.buffer(name, BufferRole::Weights, Storage::F16, (rows, cols));
        let all = (rows * self.sizes.grid, cols * self.sizes.grid);
        let shape = vec![all.0 as usize, all.1 as usize];
        let weight = WeightRef { name: name.into(), dtype: DType::F16, shape };
        let pin = Pin {
            weight: self.b.declare(&weight, 1, None),
            predicate: Predicate::everywhere(),
            axis0: Span::whole(1),
            axis1: Span::whole(1),
            buffer,
            at: (0, 0),
            transposed: false,
            gain: None,
            scale: SCALE,
        };
        let slice = whole(buffer, rows * cols);
        // Of the tile only what the pins use: rows are K, columns the other extent.
        let mesh = self.mesh(Tile { m: cols, k: rows, n: cols }, slice);
        pins(&mesh, all, &pin).into_iter().for_each(|pin| self.b.pin(pin));
        slice
    }

    /// A weight \[K, N\], placed for step 0.
    fn weight(&mut self, name: &str, extents: (u32, u32)) -> Slice {
        self.table(name, extents, MeshGemm::pins_of_b)
    }

    /// The input: \[hidden, tokens\] of the whole, a tile by columns of tokens.
    fn activations(&mut self) -> Slice {
        let Sizes { d, s, .. } = self.sizes;
        self.table("x", (d, s), MeshGemm::pins_of_a)
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
        let tree = &self.tree;
        self.b.reduce_phase(name, &before, (tree, message, Reach::All), columns);
    }

    /// Every column of a tile combined with `stat`.
    fn with_stat(&mut self, op: BinaryOp, dst: Slice, data: Slice) {
        let s = self.sizes.s;
        let column = |of: Slice, i: u32| Slice { offset: of.offset + i * s, len: Len::of(s), ..of };
        for i in 0..data.len.constant / s {
            self.binary(op, column(dst, i), column(data, i), Operand::Slice(self.stat));
        }
    }

    /// RMSNorm.
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

    /// C = A B; `aligned` says whose tiles have to be moved into place before.
    fn product(
        &mut self,
        name: &str,
        (a, b): (Slice, Slice),
        (tile, layout): (Tile, Layout),
        aligned: Axis,
    ) -> Slice {
        let c = self.vector(&format!("{name}.out"), tile.c());
        let mesh = self.mesh(tile, c);
        self.before.push(Instr::Copy { dst: mesh.operands.a[0], src: a });
        self.before.push(Instr::Copy { dst: mesh.operands.b[0], src: b });
        self.before.push(Instr::Fill { dst: c, value: 0.0 });
        self.local(&format!("{name}.load"));
        self.b.phase(&format!("{name}.align"), None, mesh.align(aligned));
        self.b.phase(&format!("{name}.steps"), None, mesh.steps(layout));
        c
    }

    /// The product of activations with a weight.
    fn linear(&mut self, name: &str, a: Slice, (k, n): (u32, u32), layout: Layout) -> Slice {
        let w = self.weight(&format!("w{name}"), (k, n));
        let tile = Tile { m: self.sizes.s, k, n };
        self.product(name, (a, w), (tile, layout), Axis::X)
    }

    /// Norm, q k v, rotation, scores, softmax, values, o, residual.
    fn attention(&mut self, x: Slice) -> Slice {
        let Sizes { d, s, .. } = self.sizes;
        let normed = self.norm("norm1", x);
        let q = self.linear("q", normed, (d, d), Layout::ByColumns);
        let k = self.linear("k", normed, (d, d), Layout::ByColumns);
        let v = self.linear("v", normed, (d, d), Layout::ByRows);
        let table = self.table("rope", (d, s), MeshGemm::pins_of_a);
        let scratch = self.vector("scratch", s * d);
        for data in [q, k] {
            self.before.extend(rope(d / 2 * s, data, (table, scratch)));
        }
        let scores = self.scores(q, k);
        self.update(BinaryOp::Mul, scores, Operand::Scalar(0.125));
        self.over_row("softmax.max", BinaryOp::Max, scores);
        self.with_stat(BinaryOp::Sub, scores, scores);
        self.exp(scores, 1.0);
        self.over_row("softmax.sum", BinaryOp::Add, scores);
        self.with_stat(BinaryOp::Div, scores, scores);
        let tile = Tile { m: s, k: s, n: d };
        let out = self.product("values", (scores, v), (tile, Layout::ByColumns), Axis::Y);
        let o = self.linear("o", out, (d, d), Layout::ByColumns);
        let x1 = self.vector("x1", s * d);
        self.binary(BinaryOp::Add, x1, x, Operand::Slice(o));
        x1
    }

    fn scores(&mut self, q: Slice, k: Slice) -> Slice {
        let Sizes { d, s, .. } = self.sizes;
        let [even, odd, landing, scores] =
            ["parts.even", "parts.odd", "landing", "scores"].map(|name| self.vector(name, s * s));
        let mesh = self.mesh(Tile { m: s, k: d, n: s }, scores);
        self.before.push(Instr::Copy { dst: mesh.operands.b[0], src: k });
        self.local("scores.load");
        let product = GemmT { mesh, tree: self.tree.clone(), a: q, parts: [even, odd], landing };
        self.b.phase("scores.steps", None, product.steps());
        scores
    }

    /// Norm, gate and up, SiLU, down, residual.
    fn feed_forward(&mut self, x1: Slice) -> Slice {
        let Sizes { d, s, f, .. } = self.sizes;
        let normed = self.norm("norm2", x1);
        let gate = self.linear("gate", normed, (d, f), Layout::ByColumns);
        let up = self.linear("up", normed, (d, f), Layout::ByColumns);
        // gate / (1 + e^-gate) * up
        let e = self.vector("e", s * f);
        self.before.push(Instr::Copy { dst: e, src: gate });
        self.exp(e, -1.0);
        self.update(BinaryOp::Add, e, Operand::Scalar(1.0));
        self.binary(BinaryOp::Div, e, gate, Operand::Slice(e));
        self.update(BinaryOp::Mul, e, Operand::Slice(up));
        let down = self.linear("down", e, (f, d), Layout::ByColumns);
        let x2 = self.vector("x2", s * d);
        self.binary(BinaryOp::Add, x2, x1, Operand::Slice(down));
        x2
    }
}
