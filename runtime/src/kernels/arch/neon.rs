//! Advanced SIMD of AArch64: four registers hold one column of a tile of 16 rows.
//!
//! Weights are widened by the portable code into a small block; sums run in vector registers.

use std::arch::aarch64::*;

use super::super::pack::{GROUP_COLUMNS, Packed, TILE, widen};
use super::super::portable;
use super::super::{Isa, Kernels};
use super::{check_gemv, check_micro};

pub(super) fn kernels() -> Option<Kernels> {
    let found = std::arch::is_aarch64_feature_detected!("neon");
    // Integer products are those of the portable table: the compiler makes NEON of them.
    found.then_some(Kernels { isa: Isa::Neon, gemv, widen, micro, ..portable::KERNELS })
}

/// 16 lanes.
type Column = [float32x4_t; 4];

/// # Safety
/// 16 elements are readable at `at`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn load(at: *const f32) -> Column {
    // SAFETY: the caller vouches for the elements.
    unsafe { [0, 4, 8, 12].map(|i| vld1q_f32(at.add(i))) }
}

/// # Safety
/// 16 elements are writable at `at`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn store(at: *mut f32, column: Column) {
    for (i, c) in column.into_iter().enumerate() {
        // SAFETY: the caller vouches for the elements.
        unsafe { vst1q_f32(at.add(4 * i), c) };
    }
}

/// # Safety
/// w holds as many columns of 16 rows as x has elements, `stride` apart.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn add_products<'a>(
    sum: &mut Column,
    w: *const f32,
    stride: usize,
    x: impl Iterator<Item = &'a f32>,
) {
    for (k, &x) in x.enumerate() {
        // SAFETY: the caller vouches for the columns.
        let w = unsafe { load(w.add(k * stride)) };
        for i in 0..4 {
            sum[i] = vfmaq_n_f32(sum[i], w[i], x);
        }
    }
}

fn gemv(w: &Packed<'_>, tile: usize, x: &[f32], out: &mut [f32]) {
    check_gemv(w, tile, x, out);
    let mut block = [0f32; GROUP_COLUMNS * TILE];
    for (i, out) in out.chunks_mut(TILE).enumerate() {
        let mut rows = [0f32; TILE];
        for (b, x) in x[..w.cols].chunks(GROUP_COLUMNS).enumerate() {
            widen(&w.floats(tile + i), b * GROUP_COLUMNS, x.len(), &mut block, TILE);
            // SAFETY: the feature was detected before `gemv` was handed out; `block` holds a group
            // of columns and `rows` 16 elements.
            unsafe {
                let mut sum = load(rows.as_ptr());
                add_products(&mut sum, block.as_ptr(), TILE, x.iter());
                store(rows.as_mut_ptr(), sum);
            }
        }
        out.copy_from_slice(&rows[..out.len()]);
    }
}

fn micro(w: &[f32], x: &[f32], m: usize, acc: &mut [f32]) {
    let columns = check_micro(w, x, m, acc);
    for t in 0..m {
        for half in [0, TILE] {
            // SAFETY: the feature was detected before `micro` was handed out, and the extents are
            // checked.
            unsafe {
                let at = acc.as_mut_ptr().add(t * 2 * TILE + half);
                let mut sum = load(at);
                let x = x[t..].iter().step_by(m).take(columns);
                add_products(&mut sum, w.as_ptr().add(half), 2 * TILE, x);
                store(at, sum);
            }
        }
    }
}
