//! The kernels in plain Rust: the reference for the instruction sets and the path for any machine.
//!
//! Written so that the compiler can vectorise over the 16 rows of a tile.

use super::pack::{GROUP_COLUMNS, Packed, TILE, widen};
use super::{Isa, Kernels};

pub(super) const KERNELS: Kernels = Kernels { isa: Isa::Portable, gemv, widen, micro, scores, mix };

/// Columns of two tiles.
const PAIR: usize = 2 * TILE;

fn gemv(w: &Packed<'_>, tile: usize, x: &[f32], out: &mut [f32]) {
    let x = &x[..w.cols];
    let mut block = [0.0; GROUP_COLUMNS * TILE];
    for (i, out) in out.chunks_mut(TILE).enumerate() {
        let bytes = w.tile(tile + i);
        let mut acc = [0.0; TILE];
        for (b, x) in x.chunks(GROUP_COLUMNS).enumerate() {
            widen(w.dtype, bytes, b * GROUP_COLUMNS, x.len(), &mut block, TILE);
            for (&x, w) in x.iter().zip(block.as_chunks::<TILE>().0) {
                for (a, w) in acc.iter_mut().zip(w) {
                    *a += w * x;
                }
            }
        }
        out.copy_from_slice(&acc[..out.len()]);
    }
}

fn micro(w: &[f32], x: &[f32], stride: usize, acc: &mut [f32]) {
    for (x, acc) in x.chunks(stride).zip(acc.as_chunks_mut::<PAIR>().0) {
        for (&x, w) in x.iter().zip(w.as_chunks::<PAIR>().0) {
            for (a, w) in acc.iter_mut().zip(w) {
                *a += w * x;
            }
        }
    }
}

fn scores(q: &[f32], keys: &[f32], stride: usize, scale: f32, out: &mut [f32]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = scale * dot(q, &keys[j * stride..][..q.len()]);
    }
}

/// Sum of products in 16 lanes, added in a fixed tree.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; TILE];
    let (a, a_tail) = a.as_chunks::<TILE>();
    let (b, b_tail) = b.as_chunks::<TILE>();
    for (a, b) in a.iter().zip(b) {
        for ((l, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *l += a * b;
        }
    }
    for ((l, a), b) in lanes.iter_mut().zip(a_tail).zip(b_tail) {
        *l += a * b;
    }
    tree_sum(lanes)
}

/// The 16 lanes added as a balanced tree.
#[inline]
pub(super) fn tree_sum(mut lanes: [f32; TILE]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

fn mix(p: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
    out.fill(0.0);
    for (j, &p) in p.iter().enumerate() {
        for (o, v) in out.iter_mut().zip(&values[j * stride..]) {
            *o += p * v;
        }
    }
}
