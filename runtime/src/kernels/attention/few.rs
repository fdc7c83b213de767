//! Attention of the few queries that a decode step has per key/value head.
//!
//! The same blocks, in the same order and with the same operations per query as with many, so the bits
//! agree; but nothing is widened to memory, and while a block is read the next one is fetched: a step
//! over a long text takes as long as reading its keys and values.

use super::super::kv::{Rows, Tiles};
use super::super::pack::TILE;
use super::super::{Page, Soften};
use super::{BLOCK, Queries};
use crate::pool::{Columns, Scratch};

impl Queries<'_> {
    /// As `run`, for at most as many rows as `page` takes.
    pub(super) fn run_few(
        &self,
        page: Page,
        soften: Soften,
        [keys, values]: [Tiles<'_>; 2],
        out: &mut Columns<'_>,
        scratch: &mut Scratch,
    ) {
        let (m, width, sequence) = (self.rows(), self.shape.key_width, self.span.sequence);
        let row = self.shape.value_width.next_multiple_of(TILE);
        let [q, sums, states, scores] = scratch.several([m * width, m * row, 2 * m, m * BLOCK]);
        sums.fill(0.0);
        let states = states.as_chunks_mut::<2>().0;
        states.fill([f32::NEG_INFINITY, 0.0]);
        for (i, to) in q.chunks_exact_mut(width).enumerate() {
            let (t, head) = self.place(i);
            to.copy_from_slice(&self.q[(t * self.shape.heads + head) * width..][..width]);
        }
        let (blocks, last) = self.blocks();
        for block in blocks.clone() {
            let positions = block * BLOCK..last.min((block + 1) * BLOCK);
            let n = positions.len();
            let pages = [block, (block + 1).min(blocks.end - 1)];
            scores.fill(0.0);
            let tiles = keys.page(sequence, self.kv, pages, n.div_ceil(TILE));
            page(&tiles, width, Rows { data: q, len: m, stride: width }, scores, BLOCK);
            let rows = scores.chunks_exact_mut(BLOCK).zip(sums.chunks_exact_mut(row));
            for (i, (state, (scores, sums))) in states.iter_mut().zip(rows).enumerate() {
                let all = self.visible(self.place(i).0);
                let clip = |p: usize| p.clamp(positions.start, positions.end) - positions.start;
                let visible = clip(all.start)..clip(all.end);
                let shrink = soften(scores, visible, self.shape.scale, state);
                if shrink != 1.0 {
                    sums.iter_mut().for_each(|s| *s *= shrink);
                }
            }
            let tiles = values.page(sequence, self.kv, pages, row / TILE);
            page(&tiles, n, Rows { data: scores, len: m, stride: BLOCK }, sums, row);
        }
        for (i, (sums, [_, total])) in sums.chunks_exact(row).zip(states).enumerate() {
            let (t, head) = self.place(i);
            let width = self.shape.value_width;
            let out = &mut out.row(t)[(head - self.first) * width..][..width];
            for (o, s) in out.iter_mut().zip(sums) {
                *o = s / *total;
            }
        }
    }
}
