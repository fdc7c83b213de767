//! Vector kernels, one file per instruction set.
//!
//! A table leaves this module only after the machine was asked for the features, which is what makes
//! calling its functions sound.

/// Portable code compiled for the features of one instruction set: the same operations in the same
/// order, several at a time.
#[cfg(target_arch = "x86_64")]
macro_rules! wide {
    ($features:literal) => {
        mod wide {
            use std::ops::Range;

            use crate::kernels::{attention, elementwise, norm};
            use crate::program::Unary;

            $crate::kernels::arch::wide!(@ $features
                fn soften(s: &mut [f32], seen: Range<usize>, by: f32, state: &mut [f32; 2]) -> f32 {
                    attention::soften(s, seen, by, state)
                }
                fn unary(op: Unary, x: &[f32], out: &mut [f32]) -> () {
                    elementwise::unary(op, x, out)
                }
                fn glu(act: Unary, gate: &[f32], up: &[f32], out: &mut [f32]) -> () {
                    elementwise::glu(act, gate, up, out)
                }
                fn rms_norm(x: &[f32], g: Option<&[f32]>, eps: f32, n: usize, out: &mut [f32]) -> () {
                    norm::rms_norm(x, g, eps, n, out)
                }
            );
        }
    };
    (@ $features:literal $(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty $body:block)*) => {
        $(pub(super) fn $name($($arg: $ty),*) -> $out {
            #[target_feature(enable = $features)]
            fn inner($($arg: $ty),*) -> $out $body
            // SAFETY: the features were detected before the table was handed out.
            unsafe { inner($($arg),*) }
        })*
    };
}
#[cfg(target_arch = "x86_64")]
use wide;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod peak;
#[cfg(all(test, target_arch = "x86_64"))]
mod spills;

use super::{Isa, Kernels};

/// The kernels of `isa` where this machine has it.
pub(super) fn kernels(isa: Isa) -> Option<Kernels> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::kernels(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::kernels(),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::kernels(),
        _ => None,
    }
}

/// Checks what every kernel of packed floats relies on: x covers the columns, out the rows of whole
/// tiles from `tile` on that exist, from the first of a pair on.
fn check_gemv(w: &super::pack::Packed<'_>, tile: usize, x: &[f32], out: &[f32]) {
    assert!(
        w.dtype.is_float()
            && tile.is_multiple_of(2)
            && x.len() >= w.cols
            && tile + out.len().div_ceil(super::pack::TILE) <= w.tiles()
    );
}

/// Checks a strided read of `n` rows of `width` elements.
#[cfg(target_arch = "x86_64")]
fn check_rows(data: &[f32], n: usize, stride: usize, width: usize) {
    assert!(n == 0 || (n - 1) * stride + width <= data.len());
}

/// Checks the operands of a micro kernel and returns the columns.
fn check_micro(w: &[f32], x: &[f32], m: usize, acc: &[f32]) -> usize {
    let columns = w.len() / 32;
    assert!((1..=12).contains(&m) && x.len() >= columns * m && acc.len() >= m * 32);
    columns
}

/// Fetches bytes into the second-level cache.
#[cfg(target_arch = "x86_64")]
fn prefetch(bytes: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    for line in bytes.chunks(64) {
        // SAFETY: SSE is part of x86-64, and a prefetch reads nothing that it may not.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}

/// Bytes between what is computed and what is fetched: beyond where the hardware looks, a page.
/// Measured on Zen 5, where 4 KiB and 8 KiB give 2 to 5 % less.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 6144;

/// Fetches the line of an address into the first-level cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: SSE is part of x86-64, and a prefetch reads nothing that it may not.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// Checks where an unpacked chunk goes.
#[cfg(target_arch = "x86_64")]
fn check_unpack(chunk: &super::pack::Chunk<'_>, codes: &[u8], heads: &[f32]) {
    let n = chunk.groups;
    assert!(chunk.dtype.is_quantized() && codes.len() >= n * super::pack::GROUP_CODES);
    assert!(n == 0 || heads.len() >= (2 * n - 1) * super::panel::HEAD);
}

/// Checks what the products of a panel rely on.
#[cfg(target_arch = "x86_64")]
fn check_panel(
    panel: &super::panel::Panel<'_>,
    x: &super::activation::Block<'_>,
    first: usize,
    acc: &[f32],
) {
    let n = panel.groups;
    assert!(panel.codes.iter().all(|c| c.len() >= n * super::pack::GROUP_CODES));
    assert!(panel.heads.len() >= 2 * n * super::panel::HEAD);
    assert!((1..=super::activation::BLOCK).contains(&x.tokens) && first + n <= x.groups);
    assert!(acc.len() >= x.tokens * 2 * super::pack::TILE);
}

/// Checks `n` columns of a tile from `first` on and their target.
#[cfg(target_arch = "x86_64")]
fn check_widen(
    tile: &super::pack::FloatTile<'_>,
    first: usize,
    n: usize,
    out: &[f32],
    stride: usize,
) {
    let column = super::pack::TILE * tile.dtype.block_bytes();
    let end = (first + n).checked_sub(1).map_or(0, |last| last * tile.step + column);
    assert!(tile.dtype.is_float() && end <= tile.bytes.len());
    check_rows(out, n, stride, super::pack::TILE);
}
