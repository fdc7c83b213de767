//! Quantised weights times integer activations with VNNI: four byte products a lane and instruction.
//!
//! The instruction multiplies unsigned by signed bytes: a weight's code u, which has an offset, and the
//! bytes h and l of an activation's code c = 256 h + l. For weights w = u - offset,
//! `sum c w = 256 sum h u + sum l u - offset sum c`, exact in 32 bits. Where every h of a block's
//! group is zero, its plane is skipped. Each group's integer is then scaled and added to an f32,
//! groups in order.

use std::arch::x86_64::*;

use tensor::DType;
use tensor::quant::GROUP;

use super::super::super::activation::{
    self, Block, CODE_WORDS, Group, PARAMETERS, QUADS, TOKEN_WORDS,
};
use super::super::super::matmul::INTEGER_TOKENS;
use super::super::super::pack::{
    Chunk, GROUP_CODES, Packed, TILE, UNIT, code_bytes, head_bytes, heads_bytes, offset, unit_bytes,
};
use super::super::super::panel::{HEAD, Panel};
use super::super::{AHEAD, check_panel, check_unpack};
use super::store;
use crate::program::Activations;

/// 64 bytes: one quad of columns of 16 rows.
const LINE: usize = 64;

const Q8: u8 = DType::Q8 as u8;
const Q4: u8 = DType::Q4 as u8;
const Q4M: u8 = DType::Q4M as u8;

/// The dtype of a kernel.
const fn dtype(code: u8) -> DType {
    match code {
        Q8 => DType::Q8,
        Q4 => DType::Q4,
        _ => DType::Q4M,
    }
}

/// See `activation::quantize`.
pub(super) fn quantize(bits: Activations, m: usize, cols: usize, x: &[f32], words: &mut [u32]) {
    let groups = cols / GROUP;
    assert!(x.len() >= m * cols && words.len() >= m * groups * (CODE_WORDS + PARAMETERS));
    let (codes, parameters) = words.split_at_mut(m * groups * CODE_WORDS);
    for (token, x) in x.chunks_exact(cols).take(m).enumerate() {
        for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
            // SAFETY: the features were detected before `quantize` was handed out.
            let (words, group) = unsafe { quantize_group(bits, x) };
            let codes = &mut codes[g * m * CODE_WORDS..][..m * CODE_WORDS];
            for (code, word) in codes[token..].iter_mut().step_by(m).zip(words) {
                *code = word;
            }
            activation::put_parameters(m, token, group, &mut parameters[g * PARAMETERS * m..]);
        }
    }
}

/// A group, and its words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn quantize_group(bits: Activations, x: &[f32; GROUP]) -> ([u32; CODE_WORDS], Group) {
    // SAFETY: a group is two registers.
    let x = [0, TILE].map(|i| unsafe { _mm512_loadu_ps(x.as_ptr().add(i)) });
    let magnitudes = x.map(|x| _mm512_castps_si512(_mm512_abs_ps(x)));
    // Bits without sign order like magnitudes, and put NaN on top: then the scale is NaN.
    let largest = _mm512_reduce_max_epi32(_mm512_max_epi32(magnitudes[0], magnitudes[1]));
    let largest = f32::from_bits(largest as u32);
    let round = |by: f32| x.map(|x| _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(by))));
    let total = |v: [__m512i; 2]| _mm512_reduce_add_epi32(_mm512_add_epi32(v[0], v[1]));
    let (mut scale, inverse) = activation::short_scale(largest);
    let mut codes = round(inverse);
    let long = bits == Activations::Full
        || !activation::short_is_enough(total(codes.map(|c| _mm512_abs_epi32(c))));
    if long {
        let inverse;
        (scale, inverse) = activation::scale(largest);
        codes = round(inverse);
    }
    let sum = total(codes);
    let mut words = [0; CODE_WORDS];
    for (half, codes) in codes.into_iter().enumerate() {
        let high = _mm512_srai_epi32::<8>(_mm512_add_epi32(codes, _mm512_set1_epi32(128)));
        for (plane, bytes) in [high, codes].into_iter().enumerate() {
            // SAFETY: each half of each plane is 16 of the 64 bytes.
            unsafe {
                let to = words.as_mut_ptr().add(plane * QUADS + half * QUADS / 2);
                _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(bytes));
            }
        }
    }
    (words, Group { scale, sum, long })
}

pub(super) fn gemv(w: &Packed<'_>, tile: usize, x: &Block<'_>, out: &mut [f32]) {
    assert!(w.dtype.is_quantized() && x.tokens == 1 && x.groups == w.groups());
    assert!(tile + out.len().div_ceil(TILE) <= w.tiles());
    // SAFETY: the features were detected before `gemv` was handed out, and the extents are checked.
    unsafe {
        match w.dtype {
            DType::Q8 => tiles::<Q8>(w, tile, x, out),
            DType::Q4 => tiles::<Q4>(w, tile, x, out),
            _ => tiles::<Q4M>(w, tile, x, out),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tiles<const D: u8>(w: &Packed<'_>, tile: usize, x: &Block<'_>, out: &mut [f32]) {
    // One tile after the other: memory is read as one stream.
    for (i, out) in out.chunks_mut(TILE).enumerate() {
        // SAFETY: a tile of a `Packed` holds all its groups, as many as the block has.
        let sums = unsafe { one_tile::<D>(w.tile(tile + i).as_ptr(), x) };
        store([sums], out);
    }
}

/// The sums of a tile for one token.
///
/// # Safety
/// The tile holds as many groups as x.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn one_tile<const D: u8>(mut tile: *const u8, x: &Block<'_>) -> __m512 {
    let dtype = const { dtype(D) };
    let (codes, parameters) = x.split();
    let (mut x_codes, mut x_parameters) = (codes.as_ptr(), parameters.as_ptr());
    let mut acc = _mm512_setzero_ps();
    let mut left = x.groups;
    while left > 0 {
        let n = left.min(UNIT);
        let mut head = tile;
        // SAFETY: the units of the tile and the groups of x, in order; the caller vouches for both.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(head.wrapping_add(AHEAD).cast());
            let mut at = tile.add(heads_bytes(dtype, n));
            for _ in 0..n {
                let start = _mm512_set1_epi32(*x_parameters.add(2) as i32 * offset(dtype));
                let dots = if *x_parameters.add(3) == 0 {
                    dots::<D, 1>(at, x_codes, start)
                } else {
                    dots::<D, 2>(at, x_codes, start)
                };
                let by = _mm512_mul_ps(halves(head), _mm512_set1_ps(*x_parameters.cast()));
                acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), by, acc);
                if D == Q4M {
                    let sum = _mm512_set1_ps(*x_parameters.add(1).cast());
                    acc = _mm512_fmadd_ps(halves(head.add(2 * TILE)), sum, acc);
                }
                (head, at) = (head.add(head_bytes(dtype)), at.add(code_bytes(dtype)));
                x_codes = x_codes.add(CODE_WORDS);
                x_parameters = x_parameters.add(PARAMETERS);
            }
            tile = tile.add(unit_bytes(dtype, n));
        }
        left -= n;
    }
    acc
}

pub(super) fn few(w: &Packed<'_>, tile: usize, words: &[u32], sums: &mut [f32]) {
    let m = sums.len() / TILE;
    assert!(w.dtype.is_quantized() && tile < w.tiles());
    assert!((1..=INTEGER_TOKENS).contains(&m) && words.len() >= m * w.groups() * TOKEN_WORDS);
    // SAFETY: the features were detected before `few` was handed out, and the extents are checked.
    unsafe {
        match w.dtype {
            DType::Q8 => few_tokens::<Q8>(w, tile, words, sums),
            DType::Q4 => few_tokens::<Q4>(w, tile, words, sums),
            _ => few_tokens::<Q4M>(w, tile, words, sums),
        }
    }
}

/// # Safety
/// The words are `sums.len() / 16` blocks, at most 8, of one token and as many groups as w.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn few_tokens<const D: u8>(w: &Packed<'_>, tile: usize, words: &[u32], sums: &mut [f32]) {
    let (tile, groups) = (w.tile(tile).as_ptr(), w.groups());
    // SAFETY: the caller vouches for the words and sums, a `Packed` for its tiles.
    unsafe {
        rows!(sums.len() / TILE, M of 1 2 3 4 5 6 7 8 => few_some::<D, M>(tile, groups, words, sums));
    }
}

/// The sums of a tile for `M` tokens: a group is unpacked once for all.
///
/// # Safety
/// The tile holds `groups` groups, the words as many of each of `M` tokens, and sums `M` times 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn few_some<const D: u8, const M: usize>(
    mut tile: *const u8,
    groups: usize,
    words: &[u32],
    sums: &mut [f32],
) {
    let dtype = const { dtype(D) };
    let mut acc = [_mm512_setzero_ps(); M];
    let mut group = 0;
    while group < groups {
        let n = (groups - group).min(UNIT);
        let mut head = tile;
        // SAFETY: the units of the tile and the groups of each token, in order; the caller vouches for
        // all.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(head.wrapping_add(AHEAD).cast());
            let mut at = tile.add(heads_bytes(dtype, n));
            for _ in 0..n {
                let quads = quads::<D>(at);
                let scales = halves(head);
                for (m, acc) in acc.iter_mut().enumerate() {
                    let x = words.as_ptr().add(m * groups * TOKEN_WORDS);
                    let of_x = x.add(groups * CODE_WORDS + group * PARAMETERS);
                    let start = _mm512_set1_epi32(*of_x.add(2) as i32 * offset(dtype));
                    let planes = *of_x.add(3) != 0;
                    let dots = dots_of(&quads, x.add(group * CODE_WORDS), start, planes);
                    let by = _mm512_mul_ps(scales, _mm512_set1_ps(*of_x.cast()));
                    *acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), by, *acc);
                    if D == Q4M {
                        let sum = _mm512_set1_ps(*of_x.add(1).cast());
                        *acc = _mm512_fmadd_ps(halves(head.add(2 * TILE)), sum, *acc);
                    }
                }
                (head, at) = (head.add(head_bytes(dtype)), at.add(code_bytes(dtype)));
                group += 1;
            }
            tile = tile.add(unit_bytes(dtype, n));
        }
    }
    for (acc, sums) in acc.into_iter().zip(sums.chunks_exact_mut(TILE)) {
        // SAFETY: the chunk has 16 elements.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), acc) };
    }
}

/// The quads of columns of one group of a tile.
///
/// # Safety
/// A group's codes are readable.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn quads<const D: u8>(codes: *const u8) -> [__m512i; QUADS] {
    let mut quads = [_mm512_setzero_si512(); QUADS];
    let step = if D == Q8 { 1 } else { 2 };
    for q in (0..QUADS).step_by(step) {
        // SAFETY: the caller vouches for the codes; a prefetch reads nothing it may not.
        let bytes = unsafe {
            let at = codes.add(q / step * LINE);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            _mm512_loadu_si512(at.cast())
        };
        if D == Q8 {
            quads[q] = bytes;
        } else {
            (quads[q], quads[q + 1]) = (even(bytes), odd(bytes));
        }
    }
    quads
}

/// As [`dots`], of quads in registers; `planes` says whether the first plane of x has anything.
///
/// # Safety
/// `CODE_WORDS` words of x are readable.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
unsafe fn dots_of(
    quads: &[__m512i; QUADS],
    x: *const u32,
    start: __m512i,
    planes: bool,
) -> __m512i {
    let (mut high, mut low) = (_mm512_setzero_si512(), start);
    // SAFETY: the words of both planes; the caller vouches for them.
    unsafe {
        for (q, &w) in quads.iter().enumerate() {
            low = _mm512_dpbusd_epi32(low, w, _mm512_set1_epi32(*x.add(QUADS + q) as i32));
        }
        if !planes {
            return low;
        }
        for (q, &w) in quads.iter().enumerate() {
            high = _mm512_dpbusd_epi32(high, w, _mm512_set1_epi32(*x.add(q) as i32));
        }
    }
    _mm512_add_epi32(_mm512_slli_epi32(high, 8), low)
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

/// The integers of one group of a tile and one token, from `start` on; with one plane the first is
/// known to be zero.
///
/// # Safety
/// A group's codes are readable, and `CODE_WORDS` words of x.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn dots<const D: u8, const PLANES: usize>(
    codes: *const u8,
    x: *const u32,
    start: __m512i,
) -> __m512i {
    let (mut high, mut low) = (_mm512_setzero_si512(), start);
    let step = if D == Q8 { 1 } else { 2 };
    for q in (0..QUADS).step_by(step) {
        // SAFETY: the caller vouches for codes and words; a prefetch reads nothing it may not.
        let (bytes, x) = unsafe {
            let at = codes.add(q / step * LINE);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            (_mm512_loadu_si512(at.cast()), x.add(q))
        };
        let quads = if D == Q8 { [bytes; 2] } else { [even(bytes), odd(bytes)] };
        for (i, &w) in quads.iter().enumerate().take(step) {
            // SAFETY: as above.
            let [h, l] = [i, QUADS + i].map(|i| unsafe { _mm512_set1_epi32(*x.add(i) as i32) });
            if PLANES == 2 {
                high = _mm512_dpbusd_epi32(high, w, h);
            }
            low = _mm512_dpbusd_epi32(low, w, l);
        }
    }
    if PLANES == 2 { _mm512_add_epi32(_mm512_slli_epi32(high, 8), low) } else { low }
}

/// Low nibbles.
#[target_feature(enable = "avx512f")]
#[inline]
fn even(bytes: __m512i) -> __m512i {
    _mm512_and_si512(bytes, _mm512_set1_epi8(15))
}

/// High nibbles.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn odd(bytes: __m512i) -> __m512i {
    even(_mm512_srli_epi16(bytes, 4))
}

/// See `panel::unpack`.
pub(super) fn unpack(chunk: &Chunk<'_>, codes: &mut [u8], heads: &mut [f32]) {
    check_unpack(chunk, codes, heads);
    // SAFETY: the features were detected before `unpack` was handed out, and the extents are checked.
    unsafe {
        match chunk.dtype {
            DType::Q8 => unpack_some::<Q8>(chunk, codes, heads),
            DType::Q4 => unpack_some::<Q4>(chunk, codes, heads),
            _ => unpack_some::<Q4M>(chunk, codes, heads),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn unpack_some<const D: u8>(chunk: &Chunk<'_>, codes: &mut [u8], heads: &mut [f32]) {
    for g in 0..chunk.groups {
        let (head, from) = chunk.group(g);
        // SAFETY: head and codes are those of a group, and `unpack` checked their targets.
        unsafe {
            let to = codes.as_mut_ptr().add(g * GROUP_CODES);
            if D == Q8 {
                for q in 0..QUADS {
                    let bytes = _mm512_loadu_si512(from.as_ptr().add(q * LINE).cast());
                    _mm512_storeu_si512(to.add(q * LINE).cast(), bytes);
                }
            } else {
                for q in 0..QUADS / 2 {
                    let bytes = _mm512_loadu_si512(from.as_ptr().add(q * LINE).cast());
                    let to = to.add(2 * q * LINE);
                    _mm512_storeu_si512(to.cast(), even(bytes));
                    _mm512_storeu_si512(to.add(LINE).cast(), odd(bytes));
                }
            }
            let to = heads.as_mut_ptr().add(g * 2 * HEAD);
            _mm512_storeu_ps(to, halves(head.as_ptr()));
            if D == Q4M {
                _mm512_storeu_ps(to.add(TILE), halves(head.as_ptr().add(2 * TILE)));
            }
        }
    }
}

/// Adds to `acc[m][32]` a panel times the groups of x from `first` on.
pub(super) fn micro(panel: &Panel<'_>, x: &Block<'_>, first: usize, acc: &mut [f32]) {
    check_panel(panel, x, first, acc);
    // SAFETY: the features were detected before `micro` was handed out, and the extents are checked.
    unsafe {
        rows!(x.tokens, M of 1 2 3 4 5 6 7 8 => micro_some::<M>(panel, x, first, acc));
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
    // An offset is a power of two or zero, and shifting by 32 gives zero.
    let offset = _mm_cvtsi32_si128(offset(panel.dtype).trailing_zeros() as i32);
    // A bound that the compiler does not know keeps it from unrolling the loops over quads, which
    // would spill the sums.
    let quads = std::hint::black_box(QUADS);
    // SAFETY: the caller vouches for panel, block and sums.
    unsafe {
        for g in 0..panel.groups {
            let head = panel.heads.as_ptr().add(2 * g * HEAD);
            let w = panel.codes.map(|c| c.as_ptr().add(g * GROUP_CODES));
            let codes = codes.as_ptr().add((first + g) * CODE_WORDS * M);
            let parameters = parameters.as_ptr().add((first + g) * PARAMETERS * M);
            let start = |t: usize| {
                let sum = _mm512_set1_epi32(*parameters.add(2 * M + t) as i32);
                _mm512_sll_epi32(sum, offset)
            };
            let mut dots = [[_mm512_setzero_si512(); 2]; M];
            if *parameters.add(3 * M) == 0 {
                for (t, dots) in dots.iter_mut().enumerate() {
                    *dots = [start(t); 2];
                }
            } else {
                plane(w, codes, quads, &mut dots);
                for (t, dots) in dots.iter_mut().enumerate() {
                    let start = start(t);
                    *dots = dots.map(|d| _mm512_add_epi32(_mm512_slli_epi32(d, 8), start));
                }
            }
            plane(w, codes.add(QUADS * M), quads, &mut dots);
            let scale = [0, 1].map(|i| _mm512_loadu_ps(head.add(i * HEAD)));
            for (t, dots) in dots.into_iter().enumerate() {
                let by = _mm512_set1_ps(*parameters.add(t).cast());
                for i in 0..2 {
                    let sum = acc.as_mut_ptr().add((2 * t + i) * TILE);
                    let dot = _mm512_cvtepi32_ps(dots[i]);
                    let new =
                        _mm512_fmadd_ps(dot, _mm512_mul_ps(scale[i], by), _mm512_loadu_ps(sum));
                    _mm512_storeu_ps(sum, new);
                }
            }
            if panel.dtype == DType::Q4M {
                for i in 0..2 {
                    let minima = _mm512_loadu_ps(head.add(i * HEAD + TILE));
                    for t in 0..M {
                        let by = _mm512_set1_ps(*parameters.add(M + t).cast());
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
                *dot = [_mm512_dpbusd_epi32(dot[0], w[0], x), _mm512_dpbusd_epi32(dot[1], w[1], x)];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::activation::BLOCK;
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
            ("q4", tiles::<Q4> as Tiles),
            ("q4m", tiles::<Q4M> as Tiles),
        ] {
            check(&format!("integer_gemv, {name}"), kernel as *const u8, Vpdpbusd, 2 * QUADS);
        }
    }
}
