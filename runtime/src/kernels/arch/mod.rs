//! Vector kernels, one file per instruction set.
//!
//! A table leaves this module only after the machine was asked for the features, which is what makes
//! calling its functions sound.

/// Portable code compiled for the features of one instruction set: the same operations in the same
/// order, several at a time. `$order`: how its integer kernels want activations.
#[cfg(target_arch = "x86_64")]
macro_rules! wide {
    ($features:literal, $order:ident) => {
        mod wide {
            use std::ops::Range;

            use crate::kernels::{activation, attention, elementwise, norm};
            use crate::program::Unary;

            $crate::kernels::arch::wide!(@ $features
                fn quantize(m: usize, cols: usize, x: &[f32], words: &mut [u32]) -> () {
                    activation::quantize(activation::Order::$order, m, cols, x, words)
                }
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

/// Checks what every packed kernel relies on: x covers the columns, out the rows of whole tiles from
/// `tile` on that exist.
fn check_gemv(w: &super::pack::Packed<'_>, tile: usize, x: &[f32], out: &[f32]) {
    assert!(x.len() >= w.cols && tile + out.len().div_ceil(super::pack::TILE) <= w.tiles());
}

/// Checks a strided read of `n` rows of `width` elements.
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

/// Checks a chunk and where its unpacked codes and heads go.
#[cfg(target_arch = "x86_64")]
fn check_unpack(dtype: tensor::DType, chunk: &super::pack::Chunk<'_>, codes: &[u8], heads: &[f32]) {
    let (n, code_bytes) = (chunk.groups, super::pack::code_bytes(dtype));
    assert!(dtype.is_quantized() && chunk.codes.len() >= n * code_bytes);
    assert!(chunk.heads.len() >= n * super::pack::head_bytes(dtype));
    assert!(dtype == tensor::DType::Q8 || codes.len() >= n * super::pack::GROUP_CODES);
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
    dtype: tensor::DType,
    tile: &[u8],
    first: usize,
    n: usize,
    out: &[f32],
    stride: usize,
) {
    let bytes = super::pack::tile_bytes(dtype, first + n);
    assert!(dtype.is_float() && bytes.is_some_and(|b| b <= tile.len()));
    check_rows(out, n, stride, super::pack::TILE);
}
