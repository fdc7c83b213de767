//! The program of a decoder layer on a rectangle of PEs, for one token.
//!
//! The activation vector is cut over rows and replicated along them. A mat-vec reads its input where
//! it lies and reduces along the other axis, so axes alternate and nothing is ever re-laid out:
//! norms, q/k/v and gate/up reduce along columns; the output and down projections along rows.
//! Heads live in cells of columns, so rotation is local and scores reduce inside a cell; cached
//! tokens are dealt over the rows, so softmax and values reduce along columns.
//! Nine reductions in all, ten with q/k norms; each is a phase, and local work precedes it.

use plan::{
    Affine, AttentionShape, Axis, BinaryOp, BufferId, BufferRole, Clause, Combine, DynamicRope,
    Instr, KvLayout, Len, Matrix, Operand, Pin, Predicate, ReduceOp, Slice, Span, Storage, Target,
    UnaryOp,
};

use super::builder::{Columns, Program, TemplateBuilder, Vector, reduce_roles};
use super::pins::{Tiling, only_piece, pin_matrix, pin_vector, storage_of, vector_buffer};
use crate::WaferError;
use crate::partition::{LayerSpec, Linear, Norm, WeightRef};
use crate::place::shape::LayerShape;
use crate::route::palette;
use crate::route::stream::{Entry, Exit, enter, leave_row, leave_turn};
use crate::route::tree::{Line, Message, Reach, Tree};

/// Everything the phases of a layer share.
struct Layer<'a> {
    b: TemplateBuilder,
    spec: &'a LayerSpec,
    shape: LayerShape,
    trees: Trees,
    target: &'a Target,
    x: Vector,
    normed: Vector,
    squares: Vector,
}

/// Trees of one geometry share colors and therefore routes: their groups are chosen once, for the
/// messages that weigh most.
#[derive(Clone, Copy, Debug)]
struct Trees {
    columns: Tree,
    rows: Tree,
    groups: Tree,
}

impl Trees {
    fn new(shape: LayerShape, target: &Target) -> Self {
        let heads = shape.heads;
        let columns =
            Line { axis: Axis::Y, len: shape.height, per_cell: false, extent: shape.height };
        let rows = Line { axis: Axis::X, len: shape.width, per_cell: false, extent: shape.width };
        let groups =
            Line { axis: Axis::X, len: heads.width, per_cell: true, extent: heads.columns() };
        // Six reductions run along columns: their average length.
        let elements = 2 * shape.ffn_tile + 2 * (heads.q_heads() + heads.kv_heads) * heads.dim();
        Trees {
            columns: Tree::best(columns, palette::column_tree(), elements.div_ceil(6), target),
            rows: Tree::best(rows, palette::row_tree(), shape.hidden_tile, target),
            groups: Tree::best(
                groups,
                palette::group_tree(),
                heads.q_heads() * shape.slots,
                target,
            ),
        }
    }
}

/// The program of `spec` in `shape`, entered and left as given.
///
/// # Errors
/// When a weight cannot be pinned.
pub fn layer(
    spec: &LayerSpec,
    shape: LayerShape,
    (entry, exit): (Entry, Exit),
    name: String,
    target: &Target,
) -> Result<Program, WaferError> {
    let mut b = TemplateBuilder::new(name, shape.width, shape.height, (shape.heads.width, 1));
    let x = b.vector("x", shape.hidden_tile);
    let normed = b.vector("normed", shape.hidden_tile);
    let squares = b.vector("squares", 1);
    enter(&mut b, entry, x, (shape.width, shape.height));
    let trees = Trees::new(shape, target);
    let mut layer = Layer { b, spec, shape, trees, target, x, normed, squares };
    layer.attention()?;
    layer.mlp(entry, exit)?;
    Ok(layer.finish())
}

impl Layer<'_> {
    fn finish(mut self) -> Program {
        for tree in [self.trees.columns, self.trees.rows, self.trees.groups] {
            self.b.routes(tree.routes());
        }
        self.b.finish()
    }

    /// Cycles by which the last column gets x after the first.
    fn skew(&self) -> u64 {
        u64::from(self.target.fabric.hop_cycles) * u64::from(self.shape.width - 1)
    }

    fn all_columns(&self) -> Columns {
        Columns { used: self.shape.width, width: self.shape.width }
    }

    fn head_columns(&self) -> Columns {
        Columns { used: self.shape.heads.columns(), width: self.shape.width }
    }

    /// Phase: sum of squares of x, everywhere.
    fn norm_phase(&mut self, name: &str, before: Vec<Instr>) {
        let mut program = before;
        program.push(Instr::Reduce {
            op: ReduceOp::SumSquares,
            dst: self.squares.all(),
            src: self.x.all(),
        });
        let tree = self.trees.columns;
        let message = Message { data: self.squares.all(), combine: Combine::Add };
        let columns = self.all_columns();
        self.b.reduce_phase(name, &program, (&tree, message, Reach::All), columns);
    }

    /// normed = x / rms(x) * gain, after `norm_phase`.
    fn normalize(&mut self, norm: &Norm, name: &str) -> Result<Vec<Instr>, WaferError> {
        let mut program =
            normalize(self.squares.all(), self.x, self.normed, norm, self.spec.hidden);
        if let Some(gain) = &norm.gain {
            let buffer = vector_buffer(&mut self.b, name, self.shape.hidden_tile);
            let copies = Some(self.shape.width);
            let rows = self.hidden_rows();
            pin_vector(&mut self.b, gain, rows, (buffer, 0), copies)?;
            program.push(multiply(self.normed.all(), whole(buffer, self.shape.hidden_tile)));
        }
        Ok(program)
    }

    fn hidden_rows(&self) -> Tiling {
        Tiling::Rows { tile: self.shape.hidden_tile, extent: self.spec.hidden as u32 }
    }

    fn heads(&self, heads: u32) -> Tiling {
        Tiling::Heads { heads, tiling: self.shape.heads }
    }

    fn attention(&mut self) -> Result<(), WaferError> {
        let spec = self.spec;
        let heads = self.shape.heads;
        let (q_len, kv_len) = (heads.q_heads() * heads.dim(), heads.kv_heads * heads.dim());
        self.norm_phase("attention-norm", Vec::new());
        let mut program = self.normalize(&spec.attention_norm, "attention-gain")?;
        let qkv = self.b.vector("qkv", q_len + 2 * kv_len);
        let (q, k) = (qkv.part(0, q_len), qkv.part(q_len, kv_len));
        let v = qkv.part(q_len + kv_len, kv_len);
        let tilings = [heads.q_heads(), heads.kv_heads, heads.kv_heads].map(|n| self.heads(n));
        let blocks = [(&spec.q, tilings[0]), (&spec.k, tilings[1]), (&spec.v, tilings[2])];
        let normed = self.normed.all();
        let k_rows = self.hidden_rows();
        program.extend(mat_vec(&mut self.b, "qkv", &blocks, (k_rows, normed), qkv)?);
        let tree = self.trees.columns;
        let message = Message { data: qkv.all(), combine: Combine::Add };
        let columns = self.head_columns();
        self.b.reduce_phase("qkv", &program, (&tree, message, Reach::All), columns);
        let mut program = scales(&[(&spec.q, q), (&spec.k, k), (&spec.v, v)]);
        program.extend(self.head_norms(q, k)?);
        program.extend(self.rotate(q, k));
        if spec.score_scale != 1.0 {
            program.push(scale(q, spec.score_scale));
        }
        self.scores(program, q, k, v)
    }

    /// Phase: sums of squares of each q and k head; what follows it normalises them.
    fn head_norms(&mut self, q: Slice, k: Slice) -> Result<Vec<Instr>, WaferError> {
        let spec = self.spec;
        let heads = self.shape.heads;
        let normed: Vec<(&Norm, Slice, u32, &str)> = [
            (&spec.q_norm, q, heads.q_heads(), "q-gain"),
            (&spec.k_norm, k, heads.kv_heads, "k-gain"),
        ]
        .into_iter()
        .filter_map(|(norm, data, n, name)| Some((norm.as_ref()?, data, n, name)))
        .collect();
        if normed.is_empty() {
            return Ok(Vec::new());
        }
        let total = normed.iter().map(|n| n.2).sum();
        let sums = self.b.vector("head-squares", total);
        let mut before = Vec::new();
        let mut after = Vec::new();
        let mut first = 0;
        for (norm, data, n, name) in normed {
            let part = sums.part(first, n);
            first += n;
            before.push(Instr::Reduce { op: ReduceOp::SumSquares, dst: part, src: data });
            let op = UnaryOp::RsqrtMean { count: heads.head_dim, eps: norm.eps };
            after.push(Instr::Unary { op, dst: part, src: part });
            after.push(Instr::Binary {
                op: BinaryOp::Mul,
                dst: data,
                a: data,
                b: Operand::PerSegment(part),
            });
            if let Some(gain) = &norm.gain {
                let buffer = vector_buffer(&mut self.b, name, heads.dim());
                let copies = Some(self.shape.height * heads.groups);
                // One head's tiling without the head index: the same gain for every head.
                pin_head_vector(&mut self.b, gain, heads, buffer, copies)?;
                for h in 0..n {
                    let offset = data.offset + h * heads.dim();
                    let head = Slice { buffer: data.buffer, offset, len: Len::of(heads.dim()) };
                    after.push(multiply(head, whole(buffer, heads.dim())));
                }
            }
        }
        let tree = self.trees.groups;
        let message = Message { data: sums.all(), combine: Combine::Add };
        let columns = self.head_columns();
        self.b.reduce_phase("head-norm", &before, (&tree, message, Reach::All), columns);
        Ok(after)
    }

    /// Rotary embedding of q and k.
    fn rotate(&mut self, q: Slice, k: Slice) -> Vec<Instr> {
        let Some(rope) = &self.spec.rope else { return Vec::new() };
        let heads = self.shape.heads;
        let pairs = heads.head_dim as usize / 2;
        let weight = WeightRef {
            name: format!("{}.inverse_frequencies", self.spec.name),
            dtype: tensor::DType::F32,
            shape: vec![pairs],
        };
        let table = rope.inverse_frequencies(1);
        let copies = self.shape.height * heads.groups;
        let weight = self.b.declare(&weight, copies, Some(table));
        let buffer = vector_buffer(&mut self.b, "inverse-frequencies", heads.half);
        let first_pair = Affine { xr: i64::from(heads.half), ..Affine::default() };
        let limit = Affine::constant(pairs as i64);
        self.b.pin(Pin {
            weight,
            predicate: Predicate::everywhere().and_x(Clause::range(0, heads.columns())),
            axis0: Span::whole(1),
            axis1: Span { start: first_pair, len: heads.half, limit },
            buffer,
            at: (0, 0),
            transposed: false,
            gain: None,
            scale: 1.0,
        });
        let dynamic = match rope.scaling {
            ir::RopeScaling::Dynamic { factor, original } => Some(DynamicRope {
                theta: rope.theta.get(),
                factor: factor.get(),
                original: original as u32,
                dim: rope.dim as u32,
                first_pair,
            }),
            _ => None,
        };
        [(q, heads.q_heads()), (k, heads.kv_heads)]
            .into_iter()
            .map(|(data, n)| Instr::Rope {
                data,
                heads: n,
                half: heads.half,
                inv_freq: whole(buffer, heads.half),
                scale: rope.attention_factor(),
                dynamic,
            })
            .collect()
    }

    /// Phases: scores, softmax, values, output projection.
    fn scores(
        &mut self,
        mut program: Vec<Instr>,
        q: Slice,
        k: Slice,
        v: Slice,
    ) -> Result<(), WaferError> {
        let heads = self.shape.heads;
        let slots = self.shape.slots;
        let q_heads = heads.q_heads();
        let cache = |b: &mut TemplateBuilder, name: &str| {
            let size = (slots, heads.kv_heads * heads.dim());
            b.buffer(name, BufferRole::KvCache, Storage::F32, size)
        };
        let (k_cache, v_cache) = (cache(&mut self.b, "k-cache"), cache(&mut self.b, "v-cache"));
        self.b.kv(KvLayout {
            first_row: 0,
            rows: self.shape.height,
            slots,
            window: self.spec.window.map(|w| w as u32),
        });
        let shape =
            AttentionShape { kv_heads: heads.kv_heads, q_per_kv: heads.q_per_kv, dim: heads.dim() };
        let buffer = self.b.vector("scores", q_heads * slots).buffer;
        let scores = Slice { buffer, offset: 0, len: Len::kv(q_heads) };
        program.push(Instr::KvAppend { cache: k_cache, src: k });
        program.push(Instr::KvAppend { cache: v_cache, src: v });
        program.push(Instr::Scores { shape, dst: scores, q, k: k_cache });
        let columns = self.head_columns();
        let add = |data| Message { data, combine: Combine::Add };
        let tree = self.trees.groups;
        self.b.reduce_phase("scores", &program, (&tree, add(scores), Reach::All), columns);

        let max = self.b.vector("score-max", q_heads);
        let program = [Instr::Reduce { op: ReduceOp::Max, dst: max.all(), src: scores }];
        let tree = self.trees.columns;
        let message = Message { data: max.all(), combine: Combine::Max };
        self.b.reduce_phase("softmax-max", &program, (&tree, message, Reach::All), columns);

        // Values and the softmax denominators travel in one message.
        let o_len = q_heads * heads.dim();
        let values = self.b.vector("values", o_len + q_heads);
        let (o, sums) = (values.part(0, o_len), values.part(o_len, q_heads));
        let program = [
            Instr::Binary {
                op: BinaryOp::ExpSub,
                dst: scores,
                a: scores,
                b: Operand::PerSegment(max.all()),
            },
            Instr::Reduce { op: ReduceOp::Sum, dst: sums, src: scores },
            Instr::AttendValues { shape, dst: o, p: scores, v: v_cache },
        ];
        let tree = self.trees.columns;
        let message = add(values.all());
        self.b.reduce_phase("values", &program, (&tree, message, Reach::All), columns);
        let divide =
            Instr::Binary { op: BinaryOp::Div, dst: o, a: o, b: Operand::PerSegment(sums) };
        self.output_projection(divide, o)
    }

    fn output_projection(&mut self, divide: Instr, o: Slice) -> Result<(), WaferError> {
        let spec = self.spec;
        let k = self.heads(self.shape.heads.q_heads());
        let y = self.b.vector("attention-out", self.shape.hidden_tile);
        let blocks = [(&spec.o, self.hidden_rows())];
        let mut program = vec![divide];
        program.extend(mat_vec(&mut self.b, "o", &blocks, (k, o), y)?);
        let tree = self.trees.rows;
        let message = Message { data: y.all(), combine: Combine::Add };
        let columns = self.all_columns();
        // Columns without heads take part in the reduction with zeros.
        let used = self.shape.heads.columns();
        let with = reduce_roles(&program, (&tree, message, Reach::All), columns);
        let zero = [Instr::Fill { dst: y.all(), value: 0.0 }];
        let without = reduce_roles(&zero, (&tree, message, Reach::All), columns);
        let roles = if used == self.shape.width {
            with
        } else {
            let cut = |roles: Vec<plan::Role>, from, to| {
                roles.into_iter().map(move |mut role| {
                    role.predicate.x.push(Clause::range(from, to));
                    role
                })
            };
            let roles = cut(with, 0, used).chain(cut(without, used, self.shape.width));
            roles.filter(|r| (0..self.shape.width).any(|x| r.predicate.holds_x(x))).collect()
        };
        let comm = tree.comm_skewed(Reach::All, message.data.len, (self.skew(), self.target));
        self.b.phase("attention-out", (comm.depth > 0).then_some(comm), roles);
        let mut after = scales(&[(&spec.o, y.all())]);
        after.push(add_to(self.x.all(), y.all()));
        self.norm_phase("mlp-norm", after);
        Ok(())
    }

    fn mlp(&mut self, entry: Entry, exit: Exit) -> Result<(), WaferError> {
        let spec = self.spec;
        let tile = self.shape.ffn_tile;
        let mut program = self.normalize(&spec.mlp_norm, "mlp-gain")?;
        let gate_up = self.b.vector("gate-up", 2 * tile);
        let (gate, up) = (gate_up.part(0, tile), gate_up.part(tile, tile));
        let n = Tiling::Columns { tile, extent: spec.ffn as u32 };
        let blocks = [(&spec.gate, n), (&spec.up, n)];
        let normed = self.normed.all();
        let k = self.hidden_rows();
        program.extend(mat_vec(&mut self.b, "gate-up", &blocks, (k, normed), gate_up)?);
        let tree = self.trees.columns;
        let message = Message { data: gate_up.all(), combine: Combine::Add };
        let columns = self.all_columns();
        self.b.reduce_phase("gate-up", &program, (&tree, message, Reach::All), columns);

        let mut program = scales(&[(&spec.gate, gate), (&spec.up, up)]);
        let op = activation(spec.activation);
        program.push(Instr::Unary { op, dst: gate, src: gate });
        program.push(multiply(gate, up));
        let y = self.b.vector("mlp-out", self.shape.hidden_tile);
        let blocks = [(&spec.down, self.hidden_rows())];
        program.extend(mat_vec(&mut self.b, "down", &blocks, (n, gate), y)?);
        let mut after = scales(&[(&spec.down, y.all())]);
        after.push(add_to(self.x.all(), y.all()));
        let size = (self.shape.width, self.shape.height);
        let tree = self.trees.rows;
        leave(&mut self.b, ("down", &program, y, after), &tree, (self.x, entry, exit), size);
        Ok(())
    }
}

/// Phase `name`: `before`, a reduction of `y` along rows, `after`, and the way out of x.
pub(crate) fn leave(
    b: &mut TemplateBuilder,
    (name, before, y, after): (&str, &[Instr], Vector, Vec<Instr>),
    tree: &Tree,
    (x, entry, exit): (Vector, Entry, Exit),
    (width, height): (u32, u32),
) {
    let message = Message { data: y.all(), combine: Combine::Add };
    let columns = Columns { used: width, width };
    if let Exit::Turn(turn) = exit {
        b.reduce_phase(name, before, (tree, message, Reach::All), columns);
        leave_turn(b, &after, x, (turn, entry.bands()), (width, height));
        return;
    }
    // Only the root goes on: it sends the sum straight into the next region.
    let send = leave_row(b, x, tree.root(), width);
    let mut roles = reduce_roles(before, (tree, message, Reach::Root), columns);
    for role in roles.iter_mut().filter(|r| r.name == "root") {
        role.program.extend(after.iter().cloned());
        role.program.push(send.clone());
    }
    // The wavelets it sends are counted where they arrive, with the next region's receive.
    let mut comm = tree.comm(Reach::Root, y.len);
    comm.hops += width - 1 - tree.root();
    b.phase(name, Some(comm), roles);
}

/// y\[all blocks\] = x W + bias: pins, and the instructions before the reduction. Neighbouring blocks
/// in the same storage share one buffer and one instruction.
pub(crate) fn mat_vec(
    b: &mut TemplateBuilder,
    name: &str,
    blocks: &[(&Linear, Tiling)],
    (k, x): (Tiling, Slice),
    y: Vector,
) -> Result<Vec<Instr>, WaferError> {
    let mut program = Vec::new();
    let biased = blocks.iter().any(|(linear, _)| linear.bias.is_some());
    if biased {
        let total = blocks.iter().map(|(_, n)| n.tile()).sum();
        let buffer = vector_buffer(b, &format!("{name}-bias"), total);
        let mut column = 0;
        for (linear, n) in blocks {
            if let Some(bias) = &linear.bias {
                pin_vector(b, bias, *n, (buffer, column), None)?;
            }
            column += n.tile();
        }
        program.push(Instr::Copy { dst: y.all(), src: whole(buffer, total) });
    }
    let mut storages = Vec::new();
    for (linear, _) in blocks {
        storages.push(storage_of(only_piece(&linear.matrix)?)?);
    }
    let mut first = 0;
    let mut column = 0;
    while first < blocks.len() {
        let same = storages[first..].iter().take_while(|&&s| s == storages[first]).count();
        let group = &blocks[first..first + same];
        let cols: u32 = group.iter().map(|(_, n)| n.tile()).sum();
        let rows = k.tile();
        let suffix = if same == blocks.len() { String::new() } else { format!("-{first}") };
        let label = format!("w-{name}{suffix}");
        let buffer = b.buffer(&label, BufferRole::Weights, storages[first], (rows, cols));
        let mut at = 0;
        for (linear, n) in group {
            pin_matrix(b, linear, (k, *n), buffer, at)?;
            at += n.tile();
        }
        program.push(Instr::Gemv {
            y: y.part(column, cols),
            x,
            w: Matrix { buffer, row: 0, col: 0, rows, cols },
            accumulate: biased,
        });
        column += cols;
        first += same;
    }
    Ok(program)
}

/// out = x / sqrt(mean(x^2) + eps), from the sum of squares, which becomes the factor.
pub(crate) fn normalize(
    squares: Slice,
    x: Vector,
    out: Vector,
    norm: &Norm,
    count: usize,
) -> Vec<Instr> {
    let op = UnaryOp::RsqrtMean { count: count as u32, eps: norm.eps };
    vec![
        Instr::Unary { op, dst: squares, src: squares },
        Instr::Binary {
            op: BinaryOp::Mul,
            dst: out.all(),
            a: x.all(),
            b: Operand::PerSegment(squares),
        },
    ]
}

/// Pins a vector over the elements of one head, the same on all cells and rows.
fn pin_head_vector(
    b: &mut TemplateBuilder,
    vector: &crate::partition::Matrix,
    heads: crate::place::shape::HeadTiling,
    buffer: BufferId,
    copies: Option<u32>,
) -> Result<(), WaferError> {
    let piece = only_piece(vector)?.clone();
    let weight = b.declare(&piece.weight, copies.unwrap_or(1), None);
    let dim = i64::from(heads.head_dim);
    for part in 0..2u32 {
        let base = i64::from(part) * dim / 2;
        let start = piece.from.1 as i64 + base;
        b.pin(Pin {
            weight,
            predicate: Predicate::everywhere().and_x(Clause::range(0, heads.columns())),
            axis0: Span::whole(1),
            axis1: Span {
                start: Affine { base: start, xr: i64::from(heads.half), ..Affine::default() },
                len: heads.half,
                limit: Affine::constant(start + dim / 2),
            },
            buffer,
            at: (0, part * heads.half),
            transposed: false,
            gain: None,
            scale: piece.scale as f32,
        });
    }
    Ok(())
}

/// All `len` elements of a one-row buffer.
pub(crate) fn whole(buffer: BufferId, len: u32) -> Slice {
    Slice { buffer, offset: 0, len: Len::of(len) }
}

fn multiply(a: Slice, b: Slice) -> Instr {
    Instr::Binary { op: BinaryOp::Mul, dst: a, a, b: Operand::Slice(b) }
}

fn add_to(a: Slice, b: Slice) -> Instr {
    Instr::Binary { op: BinaryOp::Add, dst: a, a, b: Operand::Slice(b) }
}

pub(crate) fn scale(a: Slice, factor: f64) -> Instr {
    Instr::Binary { op: BinaryOp::Mul, dst: a, a, b: Operand::Scalar(factor as f32) }
}

/// The factors of mat-vecs, applied to their results.
fn scales(results: &[(&Linear, Slice)]) -> Vec<Instr> {
    let scaled = results.iter().filter(|(linear, _)| linear.scale != 1.0);
    scaled.map(|&(linear, y)| scale(y, linear.scale)).collect()
}

fn activation(act: ir::Activation) -> UnaryOp {
    match act {
        ir::Activation::Silu => UnaryOp::Silu,
        ir::Activation::Gelu => UnaryOp::GeluErf,
        ir::Activation::GeluTanh => UnaryOp::GeluTanh,
        ir::Activation::Relu => UnaryOp::Relu,
    }
}
