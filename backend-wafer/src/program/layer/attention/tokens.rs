//! Attention with cached tokens over rows and over the columns of a head's cell.
//!
//! Each PE holds whole keys and values of a few tokens. Queries, and the new key and value, are put
//! together from the slices of the cell's columns and given to all of them; scores, exponentials and
//! weighted values are then local, and only heads travel: what a layer sends does not grow with the context.
//! Invariant: outside of this file every column of a cell has its own slice of every head.

use plan::{
    Affine, AttentionShape, BinaryOp, Combine, Instr, Len, Operand, ReduceOp, Slice, UnaryOp,
};

use super::Layer;
use crate::WaferError;
use crate::program::linear::scale_by;
use crate::route::tree::{Message, Reach};

/// Elements of the messages over a cell: the heads given to all columns, the maxima, the values with their
/// denominators.
pub(in crate::program::layer) fn cell_messages(heads: crate::place::shape::HeadTiling) -> [u32; 3] {
    let (q_heads, dim) = (heads.q_heads(), heads.head_dim);
    [(q_heads + 2 * heads.kv_heads) * dim, q_heads, q_heads * (dim + 1)]
}

impl Layer<'_> {
    /// Phases: whole heads, scores, softmax, values, output projection. `program` makes q, k and v.
    pub(super) fn attend_tokens(
        &mut self,
        mut program: Vec<Instr>,
        (q, k, v): (Slice, Slice, Slice),
    ) -> Result<Vec<Instr>, WaferError> {
        let heads = self.shape.heads;
        let (q_heads, dim) = (heads.q_heads(), heads.head_dim);
        let columns = self.head_columns();
        let (k_cache, v_cache) = self.caches(dim);
        let (q_len, kv_len) = (q_heads * dim, heads.kv_heads * dim);
        let whole = self.b.vector("heads", q_len + 2 * kv_len);
        self.b.while_waiting(&Instr::Fill { dst: whole.all(), value: 0.0 });
        let mut at = 0;
        for (slice, n) in [(q, q_heads), (k, heads.kv_heads), (v, heads.kv_heads)] {
            program.extend(self.pieces(whole.part(at, n * dim), slice, n).map(|(dst, src)| {
                Instr::CopyPiece { dst, src, piece: self.column(), pieces: heads.width }
            }));
            at += n * dim;
        }
        let add = |data| Message { data, combine: Combine::Add };
        let tree = &self.trees.groups;
        self.b.reduce_phase("heads", &program, (tree, add(whole.all()), Reach::All), columns);

        let shape = AttentionShape { kv_heads: heads.kv_heads, q_per_kv: heads.q_per_kv, dim };
        let buffer = self.b.vector("scores", q_heads * self.shape.slots).buffer;
        let scores = Slice { buffer, offset: 0, len: Len::kv(q_heads) };
        let max = self.b.vector("score-max", q_heads).all();
        let program = [
            Instr::KvAppend { cache: k_cache, src: whole.part(q_len, kv_len) },
            Instr::KvAppend { cache: v_cache, src: whole.part(q_len + kv_len, kv_len) },
            Instr::Scores { shape, dst: scores, q: whole.part(0, q_len), k: k_cache },
            Instr::Reduce { op: ReduceOp::Max, dst: max, src: scores },
        ];
        let message = Message { data: max, combine: Combine::Max };
        self.b.reduce_phase("scores", &program, (tree, message, Reach::All), columns);
        let tree = &self.trees.columns;
        self.b.reduce_phase("softmax-max", &[], (tree, message, Reach::All), columns);

        let sum = self.b.vector("cell-values", q_len + q_heads);
        let program = [
            Instr::Binary {
                op: BinaryOp::ExpSub,
                dst: scores,
                a: scores,
                b: Operand::PerSegment(max),
            },
            Instr::Reduce { op: ReduceOp::Sum, dst: sum.part(q_len, q_heads), src: scores },
            Instr::AttendValues { shape, dst: sum.part(0, q_len), p: scores, v: v_cache },
        ];
        let tree = &self.trees.groups;
        self.b.reduce_phase("cell-values", &program, (tree, add(sum.all()), Reach::All), columns);

        let o_len = q_heads * heads.dim();
        let values = self.b.vector("values", o_len + q_heads);
        let (o, sums) = (values.part(0, o_len), values.part(o_len, q_heads));
        let own = self.pieces(sum.part(0, q_len), o, q_heads).map(|(src, dst)| Instr::CopyPiece {
            dst,
            src,
            piece: self.column(),
            pieces: heads.width,
        });
        let program: Vec<Instr> =
            own.chain([Instr::Copy { dst: sums, src: sum.part(q_len, q_heads) }]).collect();
        let tree = &self.trees.columns;
        self.b.reduce_phase("values", &program, (tree, add(values.all()), Reach::All), columns);
        let divide =
            vec![Instr::Unary { op: UnaryOp::Recip, dst: sums, src: sums }, scale_by(o, sums)];
        self.output_projection(divide, o)
    }

    /// The number of a column in its cell.
    fn column(&self) -> Affine {
        Affine { xr: 1, ..Affine::default() }
    }

    /// Both halves of each of `n` heads: all of it in `whole`, and a column's slice of it.
    fn pieces(&self, whole: Slice, slice: Slice, n: u32) -> impl Iterator<Item = (Slice, Slice)> {
        let heads = self.shape.heads;
        let piece = |of: Slice, i: u32, len: u32| Slice {
            offset: of.offset + i * len,
            len: Len::of(len),
            ..of
        };
        (0..2 * n).map(move |i| (piece(whole, i, heads.head_dim / 2), piece(slice, i, heads.half)))
    }
}
