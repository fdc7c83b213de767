//! The program of a decoder layer on a rectangle of PEs, for one token.
//!
//! The activation vector is cut over rows and replicated along them. A mat-vec reads its input where
//! it lies and reduces along the other axis, so axes alternate and nothing is ever re-laid out:
//! q/k/v and gate/up reduce along columns, their norms with them; the output and down projections
//! along rows. Heads live in cells of columns, so rotation is local and scores reduce inside a cell;
//! cached tokens are dealt over the rows, so softmax and values reduce along columns.
//! What a line of PEs would all compute alike (exponentials, activations) is shared: each PE does a
//! piece and a short sum puts the pieces together, where that is cheaper than doing all of it.
//! Seven reductions, eight with q/k norms, and up to two shares; each is a phase, and local work
//! precedes it.

use plan::target::cost::instruction_cycles;
use plan::{
    Affine, AttentionShape, Axis, BinaryOp, BufferId, BufferRole, Clause, Combine, CommShape,
    DynamicRope, Instr, KvLayout, Len, Operand, PartOp, Pin, Predicate, ReduceOp, Role, Slice,
    Span, Storage, Target, UnaryOp,
};

use super::builder::{Columns, Program, TemplateBuilder, Vector, reduce_roles, roles};
use super::cost::comm_cycles;
use super::linear::{
    NormedMatVec, add_to, mat_vec, multiply, normed_mat_vec, pin_biases, scale, scale_by, scales,
    whole,
};
use super::pins::{Tiling, only_piece, vector_buffer};
use crate::WaferError;
use crate::partition::{LayerSpec, Linear, Norm, WeightRef};
use crate::place::shape::LayerShape;
use crate::route::palette;
use crate::route::stream::{Entry, Exit, enter, leave_row, leave_turn};
use crate::route::tree::{Line, Message, Reach, Tree};

/// Shared vectors up to this length are zeroed while PEs wait for their input; longer ones, whose SRAM
/// should serve other phases until then, just before they are used.
const EARLY_ELEMENTS: u32 = 512;

/// Everything the phases of a layer share.
struct Layer<'a> {
    b: TemplateBuilder,
    spec: &'a LayerSpec,
    shape: LayerShape,
    trees: Trees,
    target: &'a Target,
    x: Vector,
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
        let candidates = Tree::candidates(columns, palette::column_tree());
        let cost = |tree: &Tree| column_cycles(tree, shape, target);
        Trees {
            columns: candidates.into_iter().min_by_key(cost).expect("one group is always possible"),
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

/// What the phases of a layer spend on a tree along columns: its four reductions, and the activation
/// alone or shared by the tree's groups.
fn column_cycles(tree: &Tree, shape: LayerShape, target: &Target) -> u64 {
    let heads = shape.heads;
    let q = heads.q_heads() * heads.dim();
    let kv = heads.kv_heads * heads.dim();
    let messages = [q + 2 * kv + 1, heads.q_heads(), q + heads.q_heads(), 2 * shape.ffn_tile + 1];
    let reduce = |&n: &u32| comm_cycles(target, &tree.comm(Reach::All, Len::of(n)), 0);
    // Two special functions per element, whatever the activation.
    let special = target.core.special;
    let activate = |n: u32| 2 * (special.setup + special.per_group * f64::from(n)).ceil() as u64;
    let members = tree.group_kinds().iter().map(|kind| kind.1).min().unwrap_or(1);
    let shared = activate(shape.ffn_tile.div_ceil(members))
        + comm_cycles(target, &tree.group_comm(Len::of(shape.ffn_tile)), 0);
    messages.iter().map(reduce).sum::<u64>() + shared.min(activate(shape.ffn_tile))
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
    enter(&mut b, entry, x, (shape.width, shape.height));
    let trees = Trees::new(shape, target);
    let mut layer = Layer { b, spec, shape, trees, target, x };
    let completed = layer.attention()?;
    layer.mlp(completed, entry, exit)?;
    Ok(layer.finish())
}

impl Layer<'_> {
    fn finish(mut self) -> Program {
        for tree in [self.trees.columns, self.trees.rows, self.trees.groups] {
            self.b.routes(tree.routes());
        }
        self.b.routes(self.trees.columns.group_routes(palette::COLUMN_GROUP));
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

    /// Cycles of local work at the last position.
    fn cycles(&self, program: &[Instr]) -> u64 {
        let of = |i| instruction_cycles(self.target, self.b.template(), i, self.shape.slots);
        program.iter().map(of).sum()
    }

    /// Whether sharing work along a line pays: `alone` on every PE, or `piece` and `comm`.
    fn share_pays(&self, alone: &[Instr], piece: &[Instr], comm: &CommShape) -> bool {
        let software = u64::from(self.target.core.task_switch_cycles)
            + 3 * u64::from(self.target.core.color_bind_cycles);
        let shared = self.cycles(piece) + comm_cycles(self.target, comm, self.shape.slots);
        comm.depth > 0 && shared + software < self.cycles(alone)
    }

    fn hidden_rows(&self) -> Tiling {
        Tiling::Rows { tile: self.shape.hidden_tile, extent: self.spec.hidden as u32 }
    }

    fn heads(&self, heads: u32) -> Tiling {
        Tiling::Heads { heads, tiling: self.shape.heads }
    }

    /// Phases up to the output projection; returns what completes x.
    fn attention(&mut self) -> Result<Vec<Instr>, WaferError> {
        let spec = self.spec;
        let heads = self.shape.heads;
        let (q_len, kv_len) = (heads.q_heads() * heads.dim(), heads.kv_heads * heads.dim());
        let n = q_len + 2 * kv_len;
        let buffer = self.b.vector("qkv", n + 1).buffer;
        let qkv = Vector { buffer, len: Len::of(n) };
        let (q, k) = (qkv.part(0, q_len), qkv.part(q_len, kv_len));
        let v = qkv.part(q_len + kv_len, kv_len);
        let tilings = [heads.q_heads(), heads.kv_heads, heads.kv_heads].map(|n| self.heads(n));
        let blocks = [(&spec.q, tilings[0]), (&spec.k, tilings[1]), (&spec.v, tilings[2])];
        let norm = (&spec.attention_norm, spec.hidden);
        let input = (self.hidden_rows(), self.x, self.shape.width);
        let output = (qkv, self.shape.height);
        let work = normed_mat_vec(&mut self.b, "qkv", norm, &blocks, input, output)?;
        let tree = self.trees.columns;
        let message = Message { data: work.message, combine: Combine::Add };
        let columns = self.head_columns();
        self.b.reduce_phase("qkv", &work.before, (&tree, message, Reach::All), columns);
        let mut program = vec![work.rsqrt];
        program.extend(work.finish);
        let mut program = self.head_norms(program, q, k)?;
        let both = qkv.part(0, q_len + kv_len);
        // Half of the scores' factor on q and half on k costs nothing where both are rotated.
        let half = Some(spec.score_scale).filter(|s| *s > 0.0).map(f64::sqrt);
        match (self.rotate(both, heads.q_heads() + heads.kv_heads, half.unwrap_or(1.0)), half) {
            (Some(rotation), Some(_)) => program.push(rotation),
            (rotation, _) => {
                program.extend(rotation);
                if spec.score_scale != 1.0 {
                    program.push(scale(q, spec.score_scale));
                }
            }
        }
        self.scores(program, q, k, v)
    }

    /// Phase: sums of squares of each q and k head; what follows it normalises them.
    fn head_norms(
        &mut self,
        before: Vec<Instr>,
        q: Slice,
        k: Slice,
    ) -> Result<Vec<Instr>, WaferError> {
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
            return Ok(before);
        }
        let total = normed.iter().map(|n| n.2).sum();
        let sums = self.b.vector("head-squares", total);
        let mut before = before;
        let mut after = Vec::new();
        let mut first = 0;
        for (norm, data, n, name) in normed {
            let part = sums.part(first, n);
            first += n;
            before.push(Instr::Reduce { op: ReduceOp::SumSquares, dst: part, src: data });
            let op = UnaryOp::RsqrtMean { count: heads.head_dim, eps: norm.eps };
            after.push(Instr::Unary { op, dst: part, src: part });
            after.push(scale_by(data, part));
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

    /// Rotary embedding of `n` heads: q and k together, so that sines are computed once.
    /// The results are multiplied by `factor`.
    fn rotate(&mut self, data: Slice, n: u32, factor: f64) -> Option<Instr> {
        let rope = self.spec.rope.as_ref()?;
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
        Some(Instr::Rope {
            data,
            heads: n,
            half: heads.half,
            inv_freq: whole(buffer, heads.half),
            scale: (f64::from(rope.attention_factor()) * factor) as f32,
            dynamic,
        })
    }

    /// Phases: scores, softmax, values, output projection.
    fn scores(
        &mut self,
        mut program: Vec<Instr>,
        q: Slice,
        k: Slice,
        v: Slice,
    ) -> Result<Vec<Instr>, WaferError> {
        let heads = self.shape.heads;
        let (slots, requests) = (self.shape.slots, self.shape.requests);
        let q_heads = heads.q_heads();
        let storage = Storage::from_dtype(self.spec.cache).unwrap_or(Storage::F32);
        let cache = |b: &mut TemplateBuilder, name: &str| {
            let size = (slots * requests, heads.kv_heads * heads.dim());
            b.buffer(name, BufferRole::KvCache, storage, size)
        };
        let (k_cache, v_cache) = (cache(&mut self.b, "k-cache"), cache(&mut self.b, "v-cache"));
        self.b.kv(KvLayout {
            first_row: 0,
            rows: self.shape.height,
            slots,
            window: self.spec.window.map(|w| w as u32),
            requests,
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

        let (p, mut program) = self.exponentials(scores, max.all());

        // Values and the softmax denominators travel in one message.
        let o_len = q_heads * heads.dim();
        let values = self.b.vector("values", o_len + q_heads);
        let (o, sums) = (values.part(0, o_len), values.part(o_len, q_heads));
        program.push(Instr::Reduce { op: ReduceOp::Sum, dst: sums, src: p });
        program.push(Instr::AttendValues { shape, dst: o, p, v: v_cache });
        let tree = self.trees.columns;
        let message = add(values.all());
        self.b.reduce_phase("values", &program, (&tree, message, Reach::All), columns);
        let divide =
            vec![Instr::Unary { op: UnaryOp::Recip, dst: sums, src: sums }, scale_by(o, sums)];
        self.output_projection(divide, o)
    }

    /// exp(scores - max), the same on all columns of a cell: shared by them in a phase of its own
    /// where that pays. Returns where they are and what the next phase does first.
    fn exponentials(&mut self, scores: Slice, max: Slice) -> (Slice, Vec<Instr>) {
        let heads = self.shape.heads;
        let b = Operand::PerSegment(max);
        let alone = Instr::Binary { op: BinaryOp::ExpSub, dst: scores, a: scores, b };
        let size = heads.q_heads() * self.shape.slots;
        let buffer = self.b.vector("probabilities", size).buffer;
        let p = Slice { buffer, ..scores };
        let op = PartOp::Binary(BinaryOp::ExpSub);
        let part = Affine { xr: 1, ..Affine::default() };
        let zero = Instr::Fill { dst: p, value: 0.0 };
        let mut piece = vec![Instr::Part { op, dst: p, a: scores, b, part, parts: heads.width }];
        let early = size <= EARLY_ELEMENTS;
        if !early {
            piece.insert(0, zero.clone());
        }
        let tree = self.trees.groups;
        if !self.share_pays(&[alone.clone()], &piece, &tree.comm(Reach::All, p.len)) {
            self.b.forget(buffer);
            return (scores, vec![alone]);
        }
        if early {
            self.b.before_all(zero);
        }
        let message = Message { data: p, combine: Combine::Add };
        let columns = self.head_columns();
        self.b.reduce_phase("softmax", &piece, (&tree, message, Reach::All), columns);
        (p, Vec::new())
    }

    fn output_projection(
        &mut self,
        divide: Vec<Instr>,
        o: Slice,
    ) -> Result<Vec<Instr>, WaferError> {
        let spec = self.spec;
        let k = self.heads(self.shape.heads.q_heads());
        let work = self.residual_mat_vec("o", &spec.o, (k, o))?;
        let y = work.y;
        let after = |program: Vec<Instr>| divide.iter().cloned().chain(program).collect();
        // Columns without heads take part in the reduction with zeros.
        let (used, width) = (self.shape.heads.columns(), self.shape.width);
        let zero = vec![Instr::Fill { dst: y.all(), value: 0.0 }];
        let columns =
            [(0, 1, after(work.first)), (1, used, after(work.others)), (used, width, zero)];
        let tree = self.trees.rows;
        let message = Message { data: y.all(), combine: Combine::Add };
        let roles = column_roles(&columns, (&tree, message, Reach::All), width);
        let comm = tree.comm_skewed(Reach::All, message.data.len, (self.skew(), self.target));
        self.b.phase("attention-out", (comm.depth > 0).then_some(comm), roles);
        Ok(work.after)
    }

    /// x += W input, reduced along rows: partial sums gather in x itself, to which the first column
    /// adds its own and the others do not, unless a bias or a factor stands in between.
    fn residual_mat_vec(
        &mut self,
        name: &str,
        linear: &Linear,
        (k, input): (Tiling, Slice),
    ) -> Result<ResidualMatVec, WaferError> {
        let blocks = [(linear, self.hidden_rows())];
        let plain = linear.bias.is_none() && linear.scale == 1.0;
        let x = self.x;
        let y = if plain { x } else { self.b.vector(&format!("{name}-out"), x.len.constant) };
        let bias = pin_biases(&mut self.b, name, &blocks, None)?;
        let others = mat_vec(&mut self.b, name, &blocks, (k, input), (y, bias))?;
        let mut first = others.clone();
        for instr in &mut first {
            if let Instr::Gemv { accumulate, .. } = instr {
                *accumulate = true;
            }
        }
        if plain {
            return Ok(ResidualMatVec { y, first, others, after: Vec::new() });
        }
        let mut after = scales(&[(linear, y.all())]);
        after.push(add_to(x.all(), y.all()));
        Ok(ResidualMatVec { y, first: others.clone(), others, after })
    }

    /// Phases: gate and up, activation, down projection and the way out. `before` completes x.
    fn mlp(&mut self, before: Vec<Instr>, entry: Entry, exit: Exit) -> Result<(), WaferError> {
        let spec = self.spec;
        let tile = self.shape.ffn_tile;
        let buffer = self.b.vector("gate-up", 2 * tile + 1).buffer;
        let gate_up = Vector { buffer, len: Len::of(2 * tile) };
        let (gate, up) = (gate_up.part(0, tile), gate_up.part(tile, tile));
        let n = Tiling::Columns { tile, extent: spec.ffn as u32 };
        let blocks = [(&spec.gate, n), (&spec.up, n)];
        let norm = (&spec.mlp_norm, spec.hidden);
        let input = (self.hidden_rows(), self.x, self.shape.width);
        let output = (gate_up, self.shape.height);
        let work = normed_mat_vec(&mut self.b, "gate-up", norm, &blocks, input, output)?;
        let tree = self.trees.columns;
        let message = Message { data: work.message, combine: Combine::Add };
        let columns = self.all_columns();
        let program: Vec<Instr> = before.into_iter().chain(work.before.iter().cloned()).collect();
        self.b.reduce_phase("gate-up", &program, (&tree, message, Reach::All), columns);

        let (h, program) = self.activate(&work, gate, up);
        let work = self.residual_mat_vec("down", &spec.down, (n, h))?;
        let with = |rest: Vec<Instr>| program.iter().cloned().chain(rest).collect();
        let (width, height) = (self.shape.width, self.shape.height);
        let columns = [(0, 1, with(work.first)), (1, width, with(work.others))];
        let tree = self.trees.rows;
        let step = ("down", columns.as_slice(), work.y, work.after);
        leave(&mut self.b, step, &tree, (self.x, entry, exit), (width, height));
        Ok(())
    }

    /// act(gate) * up, the same on all rows of a column: shared by the rows of a tree's group in a
    /// phase of its own where that pays. Returns where it is and what the next phase does first.
    fn activate(&mut self, work: &NormedMatVec, gate: Slice, up: Slice) -> (Slice, Vec<Instr>) {
        let unary = activation(self.spec.activation);
        let mut alone = vec![work.rsqrt.clone()];
        alone.extend(work.finish.iter().cloned());
        alone.push(Instr::Unary { op: unary, dst: gate, src: gate });
        alone.push(multiply(gate, up));
        let buffer = self.b.vector("activated", self.shape.ffn_tile).buffer;
        let h = Slice { buffer, ..Slice { offset: 0, ..gate } };
        let factor = Operand::PerSegment(work.factor);
        let piece = |part: Affine, parts: u32| {
            let of = |op, dst, a, b| Instr::Part { op, dst, a, b, part, parts };
            let mut program = vec![work.rsqrt.clone()];
            if work.plain {
                let mul = PartOp::Binary(BinaryOp::Mul);
                program.extend([of(mul, gate, gate, factor), of(mul, up, up, factor)]);
            } else {
                program.extend(work.finish.iter().cloned());
            }
            program.push(of(PartOp::Glu(unary), h, gate, Operand::Slice(up)));
            program
        };
        let tree = self.trees.columns;
        let comm = tree.group_comm(h.len);
        let least = tree.group_kinds().iter().map(|k| k.1).min().unwrap_or(1);
        if !self.share_pays(&alone, &piece(Affine::default(), least), &comm) {
            self.b.forget(buffer);
            return (gate, alone);
        }
        self.b.before_all(Instr::Fill { dst: h, value: 0.0 });
        let message = Message { data: h, combine: Combine::Add };
        let mut all = Vec::new();
        for (clause, size, first) in tree.group_kinds() {
            let part = Affine::of_y(-i64::from(first), 1, self.b.cell());
            let mut parts = tree.group_sum(&message, palette::COLUMN_GROUP);
            parts.iter_mut().for_each(|p| p.clauses.push(clause));
            parts.retain(|p| tree.line.any(&p.clauses));
            all.extend(roles(&piece(part, size), (tree.line, parts), self.all_columns()));
        }
        self.b.phase("activation", Some(comm), all);
        (h, Vec::new())
    }
}

/// A mat-vec whose results are added to x.
struct ResidualMatVec {
    /// Where the results gather.
    y: Vector,
    /// The local work of the first column.
    first: Vec<Instr>,
    /// The local work of the other columns.
    others: Vec<Instr>,
    /// What completes x after the reduction.
    after: Vec<Instr>,
}

/// What the columns `from..to` of a region do before a reduction.
pub(crate) type ColumnWork = (u32, u32, Vec<Instr>);

/// The roles of a reduction along rows of `width` columns whose work before it differs by column.
fn column_roles(
    columns: &[ColumnWork],
    (tree, message, reach): (&Tree, Message, Reach),
    width: u32,
) -> Vec<Role> {
    let all = Columns { used: width, width };
    let mut roles = Vec::new();
    for (from, to, work) in columns.iter().filter(|(from, to, _)| from < to) {
        let mut some = reduce_roles(work, (tree, message, reach), all);
        if to - from < width {
            some.iter_mut().for_each(|r| r.predicate.x.push(Clause::range(*from, *to)));
            some.retain(|r| (*from..*to).any(|x| r.predicate.holds_x(x)));
        }
        roles.extend(some);
    }
    roles
}

/// Phase `name`: the work of the columns, a reduction of `y` along rows, `after`, and the way out of x.
pub(crate) fn leave(
    b: &mut TemplateBuilder,
    (name, columns, y, after): (&str, &[ColumnWork], Vector, Vec<Instr>),
    tree: &Tree,
    (x, entry, exit): (Vector, Entry, Exit),
    (width, height): (u32, u32),
) {
    let message = Message { data: y.all(), combine: Combine::Add };
    if let Exit::Turn(turn) = exit {
        let roles = column_roles(columns, (tree, message, Reach::All), width);
        let comm = tree.comm(Reach::All, y.len);
        b.phase(name, (comm.depth > 0).then_some(comm), roles);
        leave_turn(b, &after, x, (turn, entry.bands()), (width, height));
        return;
    }
    // Only the root goes on: it sends the sum straight into the next region.
    let send = leave_row(b, x, tree.root(), width);
    let mut roles = column_roles(columns, (tree, message, Reach::Root), width);
    for role in roles.iter_mut().filter(|r| r.name == "root") {
        role.program.extend(after.iter().cloned());
        role.program.push(send.clone());
    }
    // The wavelets it sends are counted where they arrive, with the next region's receive.
    let mut comm = tree.comm(Reach::Root, y.len);
    comm.hops += width - 1 - tree.root();
    b.phase(name, Some(comm), roles);
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

fn activation(act: ir::Activation) -> UnaryOp {
    match act {
        ir::Activation::Silu => UnaryOp::Silu,
        ir::Activation::Gelu => UnaryOp::GeluErf,
        ir::Activation::GeluTanh => UnaryOp::GeluTanh,
        ir::Activation::Relu => UnaryOp::Relu,
    }
}
