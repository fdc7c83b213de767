//! Attention of a layer: q, k and v, their norms and rotation, scores, softmax, values, output projection.
//!
//! Heads live in cells of columns, cached tokens over the rows: scores reduce inside a cell, softmax
//! and values along columns. Where tokens lie over columns too, [`tokens`] does what stands between
//! rotation and output projection. Leaves x complete but for what the next phase does first.

mod tokens;

pub(super) use tokens::cell_messages;

use plan::{
    Affine, AttentionShape, BufferId, BufferRole, Clause, Combine, DynamicRope, Instr, KvLayout,
    Len, Pin, Predicate, ReduceOp, Slice, Span, Storage, UnaryOp,
};

use super::Layer;
use super::residual::stay;
use crate::WaferError;
use crate::partition::{Norm, WeightRef};
use crate::place::shape::{CacheCut, LayerShape};
use crate::program::builder::{TemplateBuilder, Vector};
use crate::program::linear::{multiply, normed_mat_vec, scale, scale_by, whole};
use crate::program::pins::{only_piece, vector_buffer};
use crate::route::tree::{Message, Reach};

impl Layer<'_> {
    /// Phases up to the output projection. `before` completes x; returns what completes it afterwards.
    pub(super) fn attention(&mut self, before: Vec<Instr>) -> Result<Vec<Instr>, WaferError> {
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
        let tree = &self.trees.columns;
        let message = Message { data: work.message, combine: Combine::Add };
        let columns = self.head_columns();
        let program: Vec<Instr> = before.iter().cloned().chain(work.before).collect();
        self.b.reduce_phase("qkv", &program, (tree, message, Reach::All), columns);
        // Half of the scores' factor on q and half on k costs nothing where both are rotated.
        let half = Some(spec.score_scale).filter(|s| *s > 0.0).map(f64::sqrt);
        let angles = self.angles(half.unwrap_or(1.0));
        self.b.also_outside(&before);
        let mut program = vec![work.rsqrt];
        program.extend(work.finish);
        let mut program = self.head_norms(program, q, k)?;
        let (data, n) = (qkv.part(0, q_len + kv_len), heads.q_heads() + heads.kv_heads);
        program.extend(angles.map(|angles| Instr::Rope {
            data,
            heads: n,
            half: heads.half,
            angles,
        }));
        if (angles.is_none() || half.is_none()) && spec.score_scale != 1.0 {
            program.push(scale(q, spec.score_scale));
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
        let tree = &self.trees.groups;
        let message = Message { data: sums.all(), combine: Combine::Add };
        let columns = self.head_columns();
        self.b.reduce_phase("head-norm", &before, (tree, message, Reach::All), columns);
        Ok(after)
    }

    /// The inverse frequencies of a PE's pairs, pinned.
    fn inverse_frequencies(&mut self, rope: &ir::RopeSpec) -> Slice {
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
        whole(buffer, heads.half)
    }

    /// What heads are rotated by, and multiplied by `factor`: the same for all layers, so the first one
    /// computes it, while it waits in the newest phase.
    fn angles(&mut self, factor: f64) -> Option<Slice> {
        if self.angles.is_some() {
            return self.angles;
        }
        let rope = self.spec.rope.as_ref()?;
        let heads = self.shape.heads;
        let inv_freq = self.inverse_frequencies(rope);
        let first_pair = Affine { xr: i64::from(heads.half), ..Affine::default() };
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
        let scale = (f64::from(rope.attention_factor()) * factor) as f32;
        let angles = self.b.vector("angles", 2 * heads.half).all();
        self.b.while_waiting(&Instr::Angles { dst: angles, inv_freq, scale, dynamic });
        self.angles = Some(angles);
        self.angles
    }

    /// Phases: scores, softmax, values, output projection.
    fn scores(
        &mut self,
        mut program: Vec<Instr>,
        q: Slice,
        k: Slice,
        v: Slice,
    ) -> Result<Vec<Instr>, WaferError> {
        if self.shape.cut == CacheCut::Tokens {
            return self.attend_tokens(program, (q, k, v));
        }
        let heads = self.shape.heads;
        let slots = self.shape.slots;
        let q_heads = heads.q_heads();
        let (k_cache, v_cache) = self.caches(heads.dim());
        let shape =
            AttentionShape { kv_heads: heads.kv_heads, q_per_kv: heads.q_per_kv, dim: heads.dim() };
        let buffer = self.b.vector("scores", q_heads * slots).buffer;
        let scores = Slice { buffer, offset: 0, len: Len::kv(q_heads) };
        program.push(Instr::KvAppend { cache: k_cache, src: k });
        program.push(Instr::Scores { shape, dst: scores, q, k: k_cache });
        let columns = self.head_columns();
        let add = |data| Message { data, combine: Combine::Add };
        let tree = &self.trees.groups;
        self.b.reduce_phase("scores", &program, (tree, add(scores), Reach::All), columns);
        self.b.while_waiting(&Instr::KvAppend { cache: v_cache, src: v });

        // Values and the softmax denominators travel in one message.
        let o_len = q_heads * heads.dim();
        let values = self.b.vector("values", o_len + q_heads);
        let (o, sums) = (values.part(0, o_len), values.part(o_len, q_heads));
        let weigh = |p| {
            let denominators = Instr::Reduce { op: ReduceOp::Sum, dst: sums, src: p };
            [denominators, Instr::AttendValues { shape, dst: o, p, v: v_cache }]
        };
        let softmax = self.softmax(scores, weigh);
        let mut program = softmax.before_values;
        if let Some(factors) = softmax.factors {
            program.extend([scale_by(o, factors), multiply(sums, factors)]);
        }
        let tree = &self.trees.columns;
        let message = add(values.all());
        self.b.reduce_phase("values", &program, (tree, message, Reach::All), columns);
        let divide =
            vec![Instr::Unary { op: UnaryOp::Recip, dst: sums, src: sums }, scale_by(o, sums)];
        self.output_projection(divide, o)
    }

    /// The caches of keys and values, `dim` elements of each head on a PE.
    fn caches(&mut self, dim: u32) -> (BufferId, BufferId) {
        let LayerShape { heads, slots, requests, .. } = self.shape;
        let storage = Storage::from_dtype(self.spec.cache).unwrap_or(Storage::F32);
        let cache = |b: &mut TemplateBuilder, name: &str| {
            b.buffer(name, BufferRole::KvCache, storage, (slots * requests, heads.kv_heads * dim))
        };
        self.b.kv(KvLayout {
            first_row: 0,
            rows: self.shape.height,
            columns: if self.shape.cut == CacheCut::Tokens { heads.width } else { 1 },
            slots,
            window: self.spec.window.map(|w| w as u32),
            requests,
        });
        (cache(&mut self.b, "k-cache"), cache(&mut self.b, "v-cache"))
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
        let tree = &self.trees.rows;
        // The first layer's columns have x one after another, later ones' from the middle.
        let comm = match self.b.layer() {
            0 => tree.comm_skewed(Reach::All, y.len),
            _ => tree.comm(Reach::All, y.len),
        };
        stay(&mut self.b, ("attention-out", &columns, y), (tree, comm));
        Ok(work.after)
    }
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
