//! Quantised weights times integer activations with VNNI: four byte products a lane and instruction.
//!
//! The instruction multiplies unsigned by signed bytes: the high and the low bytes of an activation
//! code plus 32768, and a weight's code. For codes c and weights w,
//! `sum c w = 256 (sum high w - 128 sum w) + sum low w`, exact in 32 bits. Each group's integer is
//! then scaled and added to an f32, groups in order.

use std::arch::x86_64::*;

use tensor::DType;

use super::super::super::activation::{BLOCK, Block, CODE_WORDS, QUADS};
use super::super::super::pack::{CHUNK, Chunk, GROUP_CODES, Packed, TILE, chunk, head_bytes};
use super::super::super::panel::{HEAD, Panel, factor};
use super::super::{check_panel, check_unpack};
use super::{AHEAD, store};

/// 64 bytes: one quad of columns of 16 rows.
const LINE: usize = 64;

pub(super) fn gemv(w: &Packed<'_>, tile: usize, x: &Block<'_>, out: &mut [f32]) {
    assert!(w.dtype.is_quantized() && x.tokens == 1 && x.groups == w.groups());
    assert!(tile + out.len().div_ceil(TILE) <= w.tiles());
    // SAFETY: the features were detected before `gemv` was handed out, and the extents are checked.
    unsafe {
        match w.dtype {
            DType::Q8 => tiles::<{ DType::Q8 as u8 }>(w, tile, x, out),
            DType::Q4 => tiles::<{ DType::Q4 as u8 }>(w, tile, x, out),
            _ => tiles::<{ DType::Q4M as u8 }>(w, tile, x, out),
        }
    }
}

const Q8: u8 = DType::Q8 as u8;
const Q4M: u8 = DType::Q4M as u8;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tiles<const D: u8>(w: &Packed<'_>, tile: usize, x: &Block<'_>, out: &mut [f32]) {
    // One tile after the other: memory is read as one stream.
    for (i, out) in out.chunks_mut(TILE).enumerate() {
        store([one_tile::<D>(w, w.tile(tile + i), x)], out);
    }
}

/// The sums of a tile for one token.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn one_tile<const D: u8>(w: &Packed<'_>, tile: &[u8], x: &Block<'_>) -> __m512 {
    let (codes, parameters) = x.split();
    let mut acc = _mm512_setzero_ps();
    for first in (0..x.groups).step_by(CHUNK) {
        let chunk = chunk(w.dtype, tile, x.groups, first / CHUNK);
        for g in 0..chunk.groups {
            let x = &codes[(first + g) * CODE_WORDS..][..CODE_WORDS];
            let [scale, sum] = [0, 1].map(|i| f32::from_bits(parameters[2 * (first + g) + i]));
            // SAFETY: group g lies within the chunk.
            unsafe {
                let dots = _mm512_cvtepi32_ps(dots::<D>(codes_at(w.dtype, &chunk, g), x));
                let head = chunk.heads.as_ptr().add(g * head_bytes(w.dtype));
                let s = halves(head);
                let by = _mm512_mul_ps(s, _mm512_set1_ps(scale / factor(w.dtype)));
                acc = _mm512_fmadd_ps(dots, by, acc);
                if D == Q4M {
                    acc = _mm512_fmadd_ps(minima(head, s), _mm512_set1_ps(sum), acc);
                }
            }
        }
    }
    acc
}

fn codes_at(dtype: DType, chunk: &Chunk<'_>, g: usize) -> *const u8 {
    chunk.codes[g * super::super::super::pack::code_bytes(dtype)..].as_ptr()
}

/// 16 f16.
///
/// # Safety
/// 32 bytes are readable.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: the caller vouches for the bytes.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

/// What a code minus 8 is 0 above: the minimum plus 8 scales.
///
/// # Safety
/// A head of 64 bytes is readable.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
unsafe fn minima(head: *const u8, scale: __m512) -> __m512 {
    // SAFETY: minima follow the 16 scales.
    unsafe { _mm512_add_ps(halves(head.add(2 * TILE)), _mm512_mul_ps(_mm512_set1_ps(8.0), scale)) }
}

/// The integers of one group of a tile and one token.
///
/// # Safety
/// A group's codes are readable; x has `CODE_WORDS` words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn dots<const D: u8>(codes: *const u8, x: &[u32]) -> __m512i {
    let mut high = _mm512_setzero_si512();
    let (mut low, mut sum) = (high, high);
    let ones = _mm512_set1_epi8(-128);
    let step = if D == Q8 { 1 } else { 2 };
    for q in (0..QUADS).step_by(step) {
        // SAFETY: the caller vouches for the group's codes; a prefetch reads nothing it may not.
        let bytes = unsafe {
            let at = codes.add(q / step * LINE);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            _mm512_loadu_si512(at.cast())
        };
        let quads = if D == Q8 { [bytes; 2] } else { [even(bytes), odd(bytes)] };
        for (i, &w) in quads.iter().enumerate().take(step) {
            let (h, l) = (x[q + i], x[QUADS + q + i]);
            high = _mm512_dpbusd_epi32(high, _mm512_set1_epi32(h as i32), w);
            low = _mm512_dpbusd_epi32(low, _mm512_set1_epi32(l as i32), w);
            sum = _mm512_dpbusd_epi32(sum, ones, w);
        }
    }
    _mm512_add_epi32(_mm512_slli_epi32(_mm512_sub_epi32(high, sum), 8), low)
}

/// Low nibbles as 16 times their value.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn even(bytes: __m512i) -> __m512i {
    odd(_mm512_slli_epi16(bytes, 4))
}

/// High nibbles as 16 times their value.
#[target_feature(enable = "avx512f")]
#[inline]
fn odd(bytes: __m512i) -> __m512i {
    _mm512_and_si512(bytes, _mm512_set1_epi8(-16))
}

/// See `panel::unpack`; start values too.
pub(super) fn unpack(dtype: DType, chunk: &Chunk<'_>, codes: &mut [u8], heads: &mut [f32]) {
    check_unpack(dtype, chunk, codes, heads);
    // SAFETY: the features were detected before `unpack` was handed out, and the extents are checked.
    unsafe {
        match dtype {
            DType::Q8 => unpack_some::<Q8>(dtype, chunk, codes, heads),
            DType::Q4 => unpack_some::<{ DType::Q4 as u8 }>(dtype, chunk, codes, heads),
            _ => unpack_some::<Q4M>(dtype, chunk, codes, heads),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack_some<const D: u8>(dtype: DType, chunk: &Chunk<'_>, codes: &mut [u8], heads: &mut [f32]) {
    let ones = _mm512_set1_epi8(-128);
    let by = _mm512_set1_ps(1.0 / factor(dtype));
    for g in 0..chunk.groups {
        let from = codes_at(dtype, chunk, g);
        // SAFETY: `unpack` checked that chunk, codes and heads hold group g.
        unsafe {
            let mut sum = _mm512_setzero_si512();
            for q in 0..if D == Q8 { QUADS } else { QUADS / 2 } {
                let bytes = _mm512_loadu_si512(from.add(q * LINE).cast());
                if D == Q8 {
                    sum = _mm512_dpbusd_epi32(sum, ones, bytes);
                } else {
                    let to = codes.as_mut_ptr().add(g * GROUP_CODES + 2 * q * LINE);
                    for (i, w) in [even(bytes), odd(bytes)].into_iter().enumerate() {
                        sum = _mm512_dpbusd_epi32(sum, ones, w);
                        _mm512_storeu_si512(to.add(i * LINE).cast(), w);
                    }
                }
            }
            let to = heads.as_mut_ptr().add(g * 2 * HEAD);
            let start = _mm512_sub_epi32(_mm512_setzero_si512(), sum);
            _mm512_storeu_si512(to.cast(), start);
            let head = chunk.heads.as_ptr().add(g * head_bytes(dtype));
            let scale = halves(head);
            _mm512_storeu_ps(to.add(TILE), _mm512_mul_ps(scale, by));
            if D == Q4M {
                _mm512_storeu_ps(to.add(2 * TILE), minima(head, scale));
            }
        }
    }
}

/// Adds to `acc[m][32]` a panel times the groups of x from `first` on.
pub(super) fn micro(panel: &Panel<'_>, x: &Block<'_>, first: usize, acc: &mut [f32]) {
    check_panel(panel, x, first, acc);
    // SAFETY: the features were detected before `micro` was handed out, and the extents are checked.
    unsafe {
        match x.tokens {
            BLOCK => micro_some::<BLOCK>(panel, x, first, acc),
            7 => micro_some::<7>(panel, x, first, acc),
            6 => micro_some::<6>(panel, x, first, acc),
            5 => micro_some::<5>(panel, x, first, acc),
            4 => micro_some::<4>(panel, x, first, acc),
            3 => micro_some::<3>(panel, x, first, acc),
            2 => micro_some::<2>(panel, x, first, acc),
            _ => micro_some::<1>(panel, x, first, acc),
        }
    }
}

/// # Safety
/// As `check_panel` checks, with `M` tokens in x.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn micro_some<const M: usize>(
    panel: &Panel<'_>,
    x: &Block<'_>,
    first: usize,
    acc: &mut [f32],
) {
    let (codes, parameters) = x.split();
    // SAFETY: the caller vouches for panel, block and sums.
    unsafe {
        for g in 0..panel.groups {
            let head = panel.heads.as_ptr().add(2 * g * HEAD);
            let w = panel.codes.map(|c| c.as_ptr().add(g * GROUP_CODES));
            let codes = codes.as_ptr().add((first + g) * CODE_WORDS * M);
            let parameters = parameters.as_ptr().add((first + g) * 2 * M).cast::<f32>();
            let start = [0, 1].map(|i| _mm512_loadu_si512(head.add(i * HEAD).cast()));
            let mut dots = [start; M];
            plane(w, codes, panel.quads, &mut dots);
            for dot in &mut dots {
                *dot = dot.map(|d| _mm512_slli_epi32(d, 8));
            }
            plane(w, codes.add(QUADS * M), panel.quads, &mut dots);
            let scale = [0, 1].map(|i| _mm512_loadu_ps(head.add(i * HEAD + TILE)));
            for (t, dots) in dots.into_iter().enumerate() {
                let by = _mm512_set1_ps(*parameters.add(t));
                for i in 0..2 {
                    let sum = acc.as_mut_ptr().add((2 * t + i) * TILE);
                    let dot = _mm512_cvtepi32_ps(dots[i]);
                    let new =
                        _mm512_fmadd_ps(dot, _mm512_mul_ps(scale[i], by), _mm512_loadu_ps(sum));
                    _mm512_storeu_ps(sum, new);
                }
            }
            if panel.minima {
                for i in 0..2 {
                    let minima = _mm512_loadu_ps(head.add(i * HEAD + 2 * TILE));
                    for t in 0..M {
                        let by = _mm512_set1_ps(*parameters.add(M + t));
                        let sum = acc.as_mut_ptr().add((2 * t + i) * TILE);
                        _mm512_storeu_ps(sum, _mm512_fmadd_ps(minima, by, _mm512_loadu_ps(sum)));
                    }
                }
            }
        }
    }
}

/// Adds the products of one plane of a group.
///
/// # Safety
/// Each of w holds a group's codes, x 8 quads of `M` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn plane<const M: usize>(
    w: [*const u8; 2],
    x: *const u32,
    quads: usize,
    dots: &mut [[__m512i; 2]; M],
) {
    for q in 0..quads {
        // SAFETY: the caller vouches for the codes.
        unsafe {
            let w = w.map(|w| _mm512_loadu_si512(w.add(q * LINE).cast()));
            for (t, dot) in dots.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(*x.add(q * M + t) as i32);
                *dot = [_mm512_dpbusd_epi32(dot[0], x, w[0]), _mm512_dpbusd_epi32(dot[1], x, w[1])];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Mnemonic::Vpdpbusd;

    #[test]
    fn inner_loops_keep_their_sums_in_registers() {
        use super::super::super::spills::check;
        type Micro = unsafe fn(&Panel<'_>, &Block<'_>, usize, &mut [f32]);
        for (m, kernel) in [
            (BLOCK, micro_some::<BLOCK> as Micro),
            (4, micro_some::<4> as Micro),
            (1, micro_some::<1> as Micro),
        ] {
            check(&format!("integer_micro, {m} tokens"), kernel as *const u8, Vpdpbusd, 2 * m);
        }
        type Tiles = unsafe fn(&Packed<'_>, usize, &Block<'_>, &mut [f32]);
        for (name, kernel) in [
            ("q8", tiles::<Q8> as Tiles),
            ("q4", tiles::<{ DType::Q4 as u8 }> as Tiles),
            ("q4m", tiles::<Q4M> as Tiles),
        ] {
            check(&format!("integer_gemv, {name}"), kernel as *const u8, Vpdpbusd, 3 * QUADS);
        }
    }
}
