//! The kernels in plain Rust: the reference for the instruction sets and the path for any machine.
//!
//! Written so that the compiler can vectorise over the 16 rows of a tile.

use super::activation::{self, Block, CODE_WORDS, PARAMETERS, QUADS};
use super::pack::{GROUP_CODES, GROUP_COLUMNS, PAIR, Packed, QUAD, TILE, offset, widen};
use super::panel::{self, HEAD, Panel};
use super::{Isa, Kernels, elementwise, norm};
use crate::program::Activations;
use tensor::DType;

pub(super) const KERNELS: Kernels = Kernels {
    isa: Isa::Portable,
    gemv,
    widen,
    few: None,
    micro,
    page: None,
    prefetch: |_| {},
    activations: Activations::Full,
    quantize: |bits, m, cols, x, words| activation::quantize(bits, m, cols, x, words),
    integer_gemv: None,
    integer_few: None,
    unpack: panel::unpack,
    integer_micro,
    soften: super::attention::soften,
    unary: elementwise::unary,
    glu: elementwise::glu,
    rms_norm: norm::rms_norm,
};

fn gemv(w: &Packed<'_>, tile: usize, x: &[f32], out: &mut [f32]) {
    let x = &x[..w.cols];
    let mut block = [0.0; GROUP_COLUMNS * TILE];
    for (i, out) in out.chunks_mut(TILE).enumerate() {
        let tile = w.floats(tile + i);
        let mut acc = [0.0; TILE];
        for (b, x) in x.chunks(GROUP_COLUMNS).enumerate() {
            widen(&tile, b * GROUP_COLUMNS, x.len(), &mut block, TILE);
            for (&x, w) in x.iter().zip(block.as_chunks::<TILE>().0) {
                for (a, w) in acc.iter_mut().zip(w) {
                    *a += w * x;
                }
            }
        }
        out.copy_from_slice(&acc[..out.len()]);
    }
}

fn micro(w: &[f32], x: &[f32], m: usize, acc: &mut [f32]) {
    for (t, acc) in acc.as_chunks_mut::<PAIR>().0.iter_mut().take(m).enumerate() {
        for (x, w) in x.chunks_exact(m).zip(w.as_chunks::<PAIR>().0) {
            for (a, w) in acc.iter_mut().zip(w) {
                *a += w * x[t];
            }
        }
    }
}

fn integer_micro(panel: &Panel<'_>, x: &Block<'_>, first: usize, acc: &mut [f32]) {
    let (codes, parameters) = x.split();
    for g in 0..panel.groups {
        let words = &codes[(first + g) * CODE_WORDS * x.tokens..][..CODE_WORDS * x.tokens];
        for tile in 0..2 {
            let w = &panel.codes[tile][g * GROUP_CODES..][..GROUP_CODES];
            let head = &panel.heads[(2 * g + tile) * HEAD..][..HEAD];
            for t in 0..x.tokens {
                let dots = dots(w, words, x.tokens, t);
                let acc = &mut acc[(2 * t + tile) * TILE..][..TILE];
                let at = (first + g) * PARAMETERS * x.tokens + t;
                let [scale, sum] = [0, 1].map(|i| f32::from_bits(parameters[at + i * x.tokens]));
                let start = offset(panel.dtype) * parameters[at + 2 * x.tokens] as i32;
                for i in 0..TILE {
                    acc[i] += (dots[i] + start) as f32 * (head[i] * scale);
                    if panel.dtype == DType::Q4M {
                        acc[i] += head[TILE + i] * sum;
                    }
                }
            }
        }
    }
}

/// The integers of one group of a tile and token t of a block.
fn dots(w: &[u8], words: &[u32], tokens: usize, t: usize) -> [i32; TILE] {
    let mut sums = [0i32; TILE];
    for q in 0..QUADS {
        let [a, b] = [0, 1].map(|i| words[2 * (q * tokens + t) + i]);
        let x = [a as i16, (a >> 16) as i16, b as i16, (b >> 16) as i16].map(i32::from);
        let rows = w[q * QUAD * TILE..].as_chunks::<QUAD>().0;
        for (sum, w) in sums.iter_mut().zip(rows) {
            for (w, x) in w.iter().zip(x) {
                *sum += i32::from(*w) * x;
            }
        }
    }
    sums
}

/// The 16 lanes added as a balanced tree.
#[inline(always)]
pub(super) fn tree_sum(mut lanes: [f32; TILE]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}
