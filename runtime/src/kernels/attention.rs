//! Causal grouped-query attention as matrix products of tiles, with a running softmax.
//!
//! Keys and values lie in tiles (see `kv`), so that scores and weighted sums use the kernels of
//! float weights. Keys come in blocks of 128 positions counted from 0. For each query a running
//! maximum, sum and result are kept from block to block; all queries that read a key/value head
//! share its widened block; few queries read it as it is stored (`few`). Each query sees the same blocks in the same order whatever else is in
//! the step: neither the split of a prompt, other sequences nor threads change a bit.

use std::ops::Range;

use super::Kernels;
use super::kv::{PAGE, Tiles};
use super::math::exp;
use super::matmul::FLOAT_TOKENS;
use super::pack::{PAIR, TILE};
use super::portable::tree_sum;
use super::rows::Span;
use crate::pool::{Columns, Pool, Scratch};

mod few;

/// Positions of a block of keys: what lies together.
const BLOCK: usize = PAGE;

/// Sequences whose attention is one job.
const BANDS: usize = 16;

/// Extents and attributes.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Elements of a query and a key.
    pub key_width: usize,
    /// Elements of a value.
    pub value_width: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// Keys seen, the query's own included.
    pub window: Option<usize>,
}

/// Scratch elements that `rows` queries of one key/value head take.
pub(crate) fn scratch_elements(rows: usize, key_width: usize, value_width: usize) -> usize {
    lengths(rows, key_width, value_width).into_iter().fold(0, usize::saturating_add)
}

/// Elements of each of [`Buffers`].
fn lengths(rows: usize, key_width: usize, value_width: usize) -> [usize; 8] {
    let values = value_width.next_multiple_of(PAIR);
    [
        rows * key_width,
        rows * values,
        rows * 2,
        BLOCK * key_width,
        BLOCK * values,
        FLOAT_TOKENS * BLOCK,
        FLOAT_TOKENS * BLOCK,
        FLOAT_TOKENS * PAIR,
    ]
}

/// `q[T, heads, key_width]` -> `out[T, heads, value_width]`. The rows belong to `spans`, in order; the
/// keys and values of their own positions are in place.
#[allow(clippy::too_many_arguments, reason = "an attention is made of these")]
pub fn attention(
    kernels: &Kernels,
    pool: &Pool,
    shape: &AttentionShape,
    spans: &[Span],
    q: &[f32],
    keys: Tiles<'_>,
    values: Tiles<'_>,
    out: &mut [f32],
) {
    let AttentionShape { heads, key_width, value_width, .. } = *shape;
    let (q_row, out_row) = (heads * key_width, heads * value_width);
    let kv_heads = keys.tiling.heads;
    let group = heads / kv_heads;
    let (mut q, mut out) = (q, out);
    for spans in spans.chunks(BANDS) {
        // Threads take heads, not tokens: later tokens see more keys and cost more. A key/value head
        // is read once where there are enough of them.
        let grain = group.div_ceil(pool.threads().div_ceil(kv_heads * spans.len()));
        // Scores and weighted sums.
        let work = spans.iter().map(|s| 2 * s.rows * q_row * (s.first + 1)).sum();
        let mut queries: [&[f32]; BANDS] = [&[]; BANDS];
        for (queries, span) in queries.iter_mut().zip(spans) {
            *queries = q.split_off(..span.rows * q_row).expect("a query for each row");
        }
        let bands: [(&mut [f32], usize); BANDS] = std::array::from_fn(|i| {
            // A band without a span has no columns to share out either.
            let Some(span) = spans.get(i) else { return (Default::default(), 0) };
            (out.split_off_mut(..span.rows * out_row).expect("a result for each row"), out_row)
        });
        pool.split_matrices(bands, grain * value_width, work, &|i, start, mut out, scratch| {
            let Some(&span) = spans.get(i) else { return };
            let first = start / value_width;
            let end = first + out.width() / value_width;
            let mut head = first;
            while head < end {
                let kv = head / group;
                let heads = head..end.min((kv + 1) * group);
                head = heads.end;
                let queries = Queries { shape, span, q: queries[i], heads, kv, first };
                queries.run(kernels, keys, values, &mut out, scratch);
            }
        });
    }
}

/// The queries of a span that read one key/value head: a row for each token and head.
struct Queries<'a> {
    shape: &'a AttentionShape,
    span: Span,
    q: &'a [f32],
    heads: Range<usize>,
    kv: usize,
    /// Query head of the first column of the result.
    first: usize,
}

/// Scratch of one part: what is kept per row, and the block at hand.
struct Buffers<'a> {
    /// Per block of rows: `[key_width][m]`.
    q: &'a mut [f32],
    /// Per block of rows: `[pairs of channel tiles][m][32]`.
    sums: &'a mut [f32],
    /// Per row: largest score so far, sum of the weights.
    state: &'a mut [f32],
    /// `[pairs of key tiles][key_width][32]`.
    keys: &'a mut [f32],
    /// `[pairs of channel tiles][BLOCK][32]`.
    values: &'a mut [f32],
    /// `[m][BLOCK]`.
    scores: &'a mut [f32],
    /// `[BLOCK][m]`.
    weights: &'a mut [f32],
    /// `[m][32]`.
    products: &'a mut [f32],
}

impl Queries<'_> {
    fn rows(&self) -> usize {
        self.heads.len() * self.span.rows
    }

    /// The positions that token t of the span sees.
    fn visible(&self, t: usize) -> Range<usize> {
        let end = self.span.first + t + 1;
        self.shape.window.map_or(0, |w| end.saturating_sub(w))..end
    }

    /// The blocks that any row sees, and the end of what the last sees.
    fn blocks(&self) -> (Range<usize>, usize) {
        let last = self.visible(self.span.rows - 1).end;
        (self.visible(0).start / BLOCK..last.div_ceil(BLOCK), last)
    }

    /// Token and head of a row.
    fn place(&self, row: usize) -> (usize, usize) {
        (row / self.heads.len(), self.heads.start + row % self.heads.len())
    }

    fn run(
        &self,
        kernels: &Kernels,
        keys: Tiles<'_>,
        values: Tiles<'_>,
        out: &mut Columns<'_>,
        scratch: &mut Scratch,
    ) {
        let rows = self.rows();
        if let Some(page) = kernels.page.filter(|_| rows <= FLOAT_TOKENS) {
            return self.run_few(page, kernels.soften, [keys, values], out, scratch);
        }
        let mut b = self.buffers(scratch);
        b.sums.fill(0.0);
        for state in b.state.as_chunks_mut::<2>().0 {
            *state = [f32::NEG_INFINITY, 0.0];
        }
        self.gather(b.q);
        let (blocks, last) = self.blocks();
        for block in blocks {
            let positions = block * BLOCK..last.min((block + 1) * BLOCK);
            self.widen(kernels, keys, values, block, positions.len(), &mut b);
            for first in (0..rows).step_by(FLOAT_TOKENS) {
                let m = FLOAT_TOKENS.min(rows - first);
                self.add_block(kernels, first..first + m, &positions, &mut b);
            }
        }
        self.scatter(b.sums, b.state, out);
    }

    fn buffers<'b>(&self, scratch: &'b mut Scratch) -> Buffers<'b> {
        let lengths = lengths(self.rows(), self.shape.key_width, self.shape.value_width);
        let [q, sums, state, keys, values, scores, weights, products] = scratch.several(lengths);
        Buffers { q, sums, state, keys, values, scores, weights, products }
    }

    /// Interleaves the queries of each block of rows.
    fn gather(&self, to: &mut [f32]) {
        let width = self.shape.key_width;
        for (b, block) in to.chunks_mut(FLOAT_TOKENS * width).enumerate() {
            let m = block.len() / width;
            for i in 0..m {
                let (t, head) = self.place(b * FLOAT_TOKENS + i);
                let q = &self.q[(t * self.shape.heads + head) * width..][..width];
                for (to, &q) in block[i..].iter_mut().step_by(m).zip(q) {
                    *to = q;
                }
            }
        }
    }

    /// Widens the keys and values of the first `n` positions of a block.
    fn widen(
        &self,
        kernels: &Kernels,
        keys: Tiles<'_>,
        values: Tiles<'_>,
        block: usize,
        n: usize,
        b: &mut Buffers<'_>,
    ) {
        let (width, sequence) = (self.shape.key_width, self.span.sequence);
        for i in 0..n.div_ceil(TILE) {
            let Some(tile) = keys.tile(sequence, self.kv, block, i) else { break };
            let to = &mut b.keys[i / 2 * width * PAIR + i % 2 * TILE..];
            (kernels.widen)(&tile, 0, width, to, PAIR);
        }
        for i in 0..self.shape.value_width.div_ceil(TILE) {
            let Some(tile) = values.tile(sequence, self.kv, block, i) else { break };
            let to = &mut b.values[i / 2 * BLOCK * PAIR + i % 2 * TILE..];
            (kernels.widen)(&tile, 0, n, to, PAIR);
        }
    }

    /// Adds a block of positions to the sums of up to `FLOAT_TOKENS` rows.
    fn add_block(
        &self,
        kernels: &Kernels,
        rows: Range<usize>,
        positions: &Range<usize>,
        b: &mut Buffers<'_>,
    ) {
        let (width, m) = (self.shape.key_width, rows.len());
        // What the rows of the block see: later tokens see later positions.
        let seen = |row: usize| self.visible(self.place(row).0);
        let end = seen(rows.end - 1).end.min(positions.end);
        if end <= positions.start || seen(rows.start).start >= positions.end {
            return;
        }
        let n = end - positions.start;
        let q = &b.q[rows.start * width..rows.end * width];
        for pair in 0..n.div_ceil(PAIR) {
            let products = &mut b.products[..m * PAIR];
            products.fill(0.0);
            (kernels.micro)(&b.keys[pair * width * PAIR..][..width * PAIR], q, m, products);
            for (i, products) in products.chunks_exact(PAIR).enumerate() {
                b.scores[i * BLOCK + pair * PAIR..][..PAIR].copy_from_slice(products);
            }
        }
        let pairs = self.shape.value_width.div_ceil(PAIR);
        let sums = &mut b.sums[rows.start * pairs * PAIR..rows.end * pairs * PAIR];
        let states = b.state[2 * rows.start..].as_chunks_mut::<2>().0;
        for (i, (scores, state)) in b.scores.chunks_exact_mut(BLOCK).zip(states).take(m).enumerate()
        {
            let all = seen(rows.start + i);
            let clip = |p: usize| p.clamp(positions.start, end) - positions.start;
            let visible = clip(all.start)..clip(all.end);
            let shrink = (kernels.soften)(scores, visible, self.shape.scale, state);
            if shrink != 1.0 {
                for pair in 0..pairs {
                    let sums = &mut sums[(pair * m + i) * PAIR..][..PAIR];
                    sums.iter_mut().for_each(|s| *s *= shrink);
                }
            }
            for (to, &p) in b.weights[i..].iter_mut().step_by(m).zip(&scores[..n]) {
                *to = p;
            }
        }
        for pair in 0..pairs {
            let values = &b.values[pair * BLOCK * PAIR..][..n * PAIR];
            let sums = &mut sums[pair * m * PAIR..][..m * PAIR];
            (kernels.micro)(values, &b.weights[..n * m], m, sums);
        }
    }

    /// Divides by the sums of the weights and stores the results.
    fn scatter(&self, sums: &[f32], state: &[f32], out: &mut Columns<'_>) {
        let width = self.shape.value_width;
        let pairs = width.div_ceil(PAIR);
        let blocks = sums.chunks(FLOAT_TOKENS * pairs * PAIR);
        for (b, sums) in blocks.enumerate() {
            let m = sums.len() / (pairs * PAIR);
            for i in 0..m {
                let row = b * FLOAT_TOKENS + i;
                let (t, head) = self.place(row);
                let total = state[2 * row + 1];
                let out = &mut out.row(t)[(head - self.first) * width..][..width];
                for (pair, out) in out.chunks_mut(PAIR).enumerate() {
                    for (o, s) in out.iter_mut().zip(&sums[(pair * m + i) * PAIR..]) {
                        *o = s / total;
                    }
                }
            }
        }
    }
}

/// Turns the scores of one query and block into weights (zero where not visible), raises the running
/// maximum and sum in `state`, and returns what earlier sums are multiplied by.
#[inline(always)]
pub(crate) fn soften(
    scores: &mut [f32],
    visible: Range<usize>,
    scale: f32,
    state: &mut [f32; 2],
) -> f32 {
    scores[..visible.start].fill(0.0);
    scores[visible.end..].fill(0.0);
    if visible.is_empty() {
        return 1.0;
    }
    let [old, total] = *state;
    // A NaN score is in no comparison: it reaches the sum below.
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [old; TILE];
    let (blocks, rest) = scores[visible.clone()].as_chunks_mut::<TILE>();
    for block in blocks {
        for (l, s) in lanes.iter_mut().zip(block) {
            *s *= scale;
            *l = larger(*l, *s);
        }
    }
    for (l, s) in lanes.iter_mut().zip(rest) {
        *s *= scale;
        *l = larger(*l, *s);
    }
    let largest = lanes.into_iter().fold(old, larger);
    for s in &mut scores[visible] {
        *s = exp(*s - largest);
    }
    let mut lanes = [0.0; TILE];
    for block in scores.as_chunks::<TILE>().0 {
        for (l, s) in lanes.iter_mut().zip(block) {
            *l += s;
        }
    }
    let shrink = exp(old - largest);
    *state = [largest, total * shrink + tree_sum(lanes)];
    shrink
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::kv::{Across, Tiling};
    use tensor::{DType, Rng, compare};

    const KEYS: usize = 320;
    const PAST: usize = 300;

    fn shape(window: Option<usize>) -> AttentionShape {
        AttentionShape { heads: 6, key_width: 20, value_width: 36, scale: 0.3, window }
    }

    fn tiles(across: Across, dtype: DType, data: &[f32], width: usize) -> (Tiling, Vec<u8>) {
        let tiling = Tiling::new(across, dtype, 2, width).unwrap();
        let mut bytes = vec![0; KEYS.div_ceil(PAGE) * tiling.stride];
        for (i, row) in data.chunks_exact(width).enumerate() {
            tiling.write(&mut bytes, i % 2, i / 2, row);
        }
        (tiling, bytes)
    }

    /// The formula, in f64.
    fn expected(s: &AttentionShape, past: usize, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let tokens = q.len() / (s.heads * s.key_width);
        let mut out = Vec::new();
        for (t, head) in (0..tokens).flat_map(|t| (0..s.heads).map(move |h| (t, h))) {
            let last = past + t;
            let first = s.window.map_or(0, |w| (last + 1).saturating_sub(w));
            let kv = head / 3;
            let p: Vec<f64> = (first..=last)
                .map(|j| {
                    let dot: f64 = (0..s.key_width)
                        .map(|i| {
                            let q = q[(t * s.heads + head) * s.key_width + i];
                            f64::from(q) * f64::from(k[(j * 2 + kv) * s.key_width + i])
                        })
                        .sum();
                    (dot * f64::from(s.scale)).exp()
                })
                .collect();
            let total: f64 = p.iter().sum();
            for e in 0..s.value_width {
                let value = |j: usize| f64::from(v[((first + j) * 2 + kv) * s.value_width + e]);
                let sum: f64 = p.iter().enumerate().map(|(j, p)| p * value(j)).sum();
                out.push((sum / total) as f32);
            }
        }
        out
    }

    #[test]
    fn follows_the_formula_and_no_split_changes_a_bit() {
        let mut rng = Rng::new(2);
        let mut values = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f32>>();
        let (q, k, v) = (values(9 * 6 * 20), values(KEYS * 2 * 20), values(KEYS * 2 * 36));
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            let (kt, kb) = tiles(Across::Positions, DType::F32, &k, 20);
            let (vt, vb) = tiles(Across::Channels, DType::F32, &v, 36);
            let keys = Tiles { tiling: kt, bytes: &kb, tables: None };
            let values = Tiles { tiling: vt, bytes: &vb, tables: None };
            for (past, window) in [
                (PAST, None),
                (PAST, Some(1)),
                (PAST, Some(7)),
                (PAST, Some(180)),
                (0, None),
                (120, None),
            ] {
                let run = |threads: usize, step: usize| {
                    let pool = Pool::new(threads).unwrap();
                    let mut out = vec![0.0; 9 * 6 * 36];
                    let parts = q.chunks(step * 120).zip(out.chunks_mut(step * 216));
                    for (i, (q, out)) in parts.enumerate() {
                        let rows = q.len() / 120;
                        let span = [Span { sequence: 0, first: past + i * step, rows }];
                        attention(&kernels, &pool, &shape(window), &span, q, keys, values, out);
                    }
                    out
                };
                let whole = run(1, 9);
                let formula = expected(&shape(window), past, &q, &k, &v);
                let error = compare::relative_to_max(&whole, &formula);
                assert!(error < 1e-5, "{} window {window:?}: {error}", kernels.isa);
                for (threads, step) in [(1, 1), (2, 9), (3, 4), (4, 1)] {
                    assert_eq!(run(threads, step), whole, "{} {threads} {step}", kernels.isa);
                }
            }
        }
    }
}
