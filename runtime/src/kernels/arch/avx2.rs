//! AVX2 with FMA and F16C: two registers hold one column of a tile of 16 rows.
//!
//! The order of additions is that of every instruction set: columns in order, one accumulator.

use std::arch::x86_64::*;

use tensor::DType;

use crate::program::Activations;

use super::super::activation::{self, Block, CODE_WORDS, PARAMETERS, QUADS};
use super::super::pack::{Chunk, FloatTile, GROUP_CODES, PAIR, Packed, TILE, offset};
use super::super::panel::{self, HEAD, Panel};
use super::super::{Isa, Kernels};
use super::{
    AHEAD, check_gemv, check_micro, check_panel, check_unpack, check_widen, prefetch, prefetch_line,
};

super::wide!("avx2,fma,f16c");

pub(super) fn kernels() -> Option<Kernels> {
    let found = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    found.then_some(Kernels {
        isa: Isa::Avx2,
        gemv,
        widen,
        few: None,
        micro,
        page: None,
        prefetch,
        activations: Activations::Full,
        quantize,
        integer_gemv: None,
        integer_few: None,
        unpack,
        integer_micro,
        soften: wide::soften,
        unary: wide::unary,
        glu: wide::glu,
        rms_norm: wide::rms_norm,
    })
}

/// 16 lanes.
type Column = [__m256; 2];

/// Half a register file of 16.
const LANES: usize = 8;
/// Tokens whose accumulators fit the registers beside a column of weights.
const TOKENS: usize = 6;

fn gemv(w: &Packed<'_>, tile: usize, x: &[f32], out: &mut [f32]) {
    check_gemv(w, tile, x, out);
    let x = &x[..w.cols];
    for (i, out) in out.chunks_mut(PAIR).enumerate() {
        let at = tile + 2 * i;
        let pair = w.tiles_from(at, w.pair_tiles(at)).as_ptr();
        let (a, b) = out.split_at_mut(TILE.min(out.len()));
        // SAFETY: the features were detected before `gemv` was handed out; a `Packed` pair holds as
        // many columns as x.
        unsafe {
            if w.pair_tiles(at) == 2 {
                let sums = gemv_some::<2>(w.dtype, pair, x);
                store(sums[0], a);
                store(sums[1], b);
            } else {
                store(gemv_some::<1>(w.dtype, pair, x)[0], a);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn store(sum: Column, out: &mut [f32]) {
    let mut rows = [0f32; TILE];
    // SAFETY: `rows` has 16 elements.
    unsafe {
        _mm256_storeu_ps(rows.as_mut_ptr(), sum[0]);
        _mm256_storeu_ps(rows.as_mut_ptr().add(LANES), sum[1]);
    }
    out.copy_from_slice(&rows[..out.len()]);
}

/// The sums of `U` tiles that lie side by side.
///
/// # Safety
/// `x.len()` columns of them are readable.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemv_some<const U: usize>(dtype: DType, tiles: *const u8, x: &[f32]) -> [Column; U] {
    // SAFETY: the caller vouches for the columns.
    unsafe {
        match dtype {
            DType::F32 => sums::<U>(tiles, 64, x, |at| column_f32(at)),
            DType::F16 => sums::<U>(tiles, 32, x, |at| column_f16(at)),
            _ => sums::<U>(tiles, 32, x, |at| column_bf16(at)),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_product(sum: &mut Column, w: Column, x: f32) {
    let x = _mm256_set1_ps(x);
    *sum = [_mm256_fmadd_ps(w[0], x, sum[0]), _mm256_fmadd_ps(w[1], x, sum[1])];
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sums<const U: usize>(
    tiles: *const u8,
    size: usize,
    x: &[f32],
    column: impl Fn(*const u8) -> Column,
) -> [Column; U] {
    let mut acc = [[_mm256_setzero_ps(); 2]; U];
    for (k, &x) in x.iter().enumerate() {
        for (u, acc) in acc.iter_mut().enumerate() {
            let at = tiles.wrapping_add((k * U + u) * size);
            if u == 0 || size == 64 {
                prefetch_line(at.wrapping_add(AHEAD));
            }
            add_product(acc, column(at), x);
        }
    }
    acc
}

/// # Safety
/// 16 values are readable.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn column_f32(at: *const u8) -> Column {
    // SAFETY: the caller vouches for them.
    unsafe {
        let at = at.cast::<f32>();
        [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(LANES))]
    }
}

/// # Safety
/// 16 values are readable.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn column_f16(at: *const u8) -> Column {
    // SAFETY: the caller vouches for them.
    unsafe {
        let at = at.cast::<__m128i>();
        [_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)))]
    }
}

/// # Safety
/// 16 values are readable.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn column_bf16(at: *const u8) -> Column {
    // SAFETY: the caller vouches for them.
    unsafe {
        let at = at.cast::<__m128i>();
        [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))]
            .map(|h| _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)))
    }
}

fn widen(tile: &FloatTile<'_>, first: usize, n: usize, out: &mut [f32], stride: usize) {
    check_widen(tile, first, n, out, stride);
    // SAFETY: the features were detected before `widen` was handed out, and the lengths are checked.
    unsafe { widen_all(tile, first, n, out, stride) }
}

/// # Safety
/// As `check_widen` checks.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen_all(tile: &FloatTile<'_>, first: usize, n: usize, out: &mut [f32], stride: usize) {
    for i in 0..n {
        // SAFETY: the caller vouches for columns and targets.
        unsafe {
            let at = tile.bytes.as_ptr().add((first + i) * tile.step);
            // Keys and values are read from memory, tile after tile.
            prefetch_line(at.wrapping_add(AHEAD));
            let w = match tile.dtype {
                DType::F32 => column_f32(at),
                DType::F16 => column_f16(at),
                _ => column_bf16(at),
            };
            let to = out.as_mut_ptr().add(i * stride);
            _mm256_storeu_ps(to, w[0]);
            _mm256_storeu_ps(to.add(LANES), w[1]);
        }
    }
}

fn micro(w: &[f32], x: &[f32], m: usize, acc: &mut [f32]) {
    let columns = check_micro(w, x, m, acc);
    for half in [0, TILE] {
        let mut t = 0;
        while t < m {
            let (x, acc) = (&x[t..], &mut acc[t * 2 * TILE..]);
            // SAFETY: the features were detected before `micro` was handed out, and `check_micro`
            // covers columns, tokens and accumulators.
            t += unsafe {
                match m - t {
                    TOKENS.. => micro_some::<TOKENS>(w, half, columns, x, m, acc),
                    4.. => micro_some::<4>(w, half, columns, x, m, acc),
                    2.. => micro_some::<2>(w, half, columns, x, m, acc),
                    _ => micro_some::<1>(w, half, columns, x, m, acc),
                }
            };
        }
    }
}

/// `M` tokens times one tile of the pair; returns `M`.
///
/// # Safety
/// w holds `columns` pairs of columns, x `columns` rows of `M` elements `stride` apart, acc `M` rows
/// of 32.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn micro_some<const M: usize>(
    w: &[f32],
    half: usize,
    columns: usize,
    x: &[f32],
    stride: usize,
    acc: &mut [f32],
) -> usize {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: the caller vouches for the extents.
    unsafe {
        for (m, sum) in sums.iter_mut().enumerate() {
            *sum = column_f32(acc.as_ptr().add(m * 2 * TILE + half).cast());
        }
        for k in 0..columns {
            let w = column_f32(w.as_ptr().add(k * 2 * TILE + half).cast());
            for (m, sum) in sums.iter_mut().enumerate() {
                add_product(sum, w, *x.as_ptr().add(k * stride + m));
            }
        }
        for (m, sum) in sums.iter().enumerate() {
            let to = acc.as_mut_ptr().add(m * 2 * TILE + half);
            _mm256_storeu_ps(to, sum[0]);
            _mm256_storeu_ps(to.add(LANES), sum[1]);
        }
    }
    M
}

fn quantize(bits: Activations, m: usize, cols: usize, x: &[f32], words: &mut [u32]) {
    // SAFETY: the features were detected before `quantize` was handed out.
    unsafe { quantize_all(bits, m, cols, x, words) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_all(bits: Activations, m: usize, cols: usize, x: &[f32], words: &mut [u32]) {
    activation::quantize(bits, m, cols, x, words);
}

fn unpack(chunk: &Chunk<'_>, codes: &mut [u8], heads: &mut [f32]) {
    check_unpack(chunk, codes, heads);
    // SAFETY: the features were detected before `unpack` was handed out.
    unsafe { unpack_all(chunk, codes, heads) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_all(chunk: &Chunk<'_>, codes: &mut [u8], heads: &mut [f32]) {
    panel::unpack(chunk, codes, heads);
}

fn integer_micro(panel: &Panel<'_>, x: &Block<'_>, first: usize, acc: &mut [f32]) {
    check_panel(panel, x, first, acc);
    for tile in 0..2 {
        let mut t = 0;
        while t < x.tokens {
            // SAFETY: the features were detected before `integer_micro` was handed out, and the
            // extents are checked.
            t += unsafe {
                if x.tokens - t >= 2 {
                    integer_some::<2>(panel, tile, x, t, first, acc)
                } else {
                    integer_some::<1>(panel, tile, x, t, first, acc)
                }
            };
        }
    }
}

/// `M` tokens from `t` on times one tile of the pair; returns `M`.
///
/// # Safety
/// As `check_panel` checks.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn integer_some<const M: usize>(
    panel: &Panel<'_>,
    tile: usize,
    x: &Block<'_>,
    t: usize,
    first: usize,
    acc: &mut [f32],
) -> usize {
    let (codes, parameters) = x.split();
    // SAFETY: the caller vouches for panel, block and sums.
    unsafe {
        let at = |m: usize| (2 * (t + m) + tile) * TILE;
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        for (m, sum) in sums.iter_mut().enumerate() {
            *sum = column_f32(acc.as_ptr().add(at(m)).cast());
        }
        for g in 0..panel.groups {
            let w = panel.codes[tile].as_ptr().add(g * GROUP_CODES);
            let codes = codes.as_ptr().add((first + g) * CODE_WORDS * x.tokens + 2 * t);
            let dots = dots::<M>(w, codes, 2 * x.tokens);
            let head = panel.heads.as_ptr().add((2 * g + tile) * HEAD);
            let scale = column_f32(head.cast());
            for m in 0..M {
                let word = |i: usize| parameters[((first + g) * PARAMETERS + i) * x.tokens + t + m];
                let parameter = |i: usize| _mm256_set1_ps(f32::from_bits(word(i)));
                let start = _mm256_set1_epi32(word(2) as i32 * offset(panel.dtype));
                for h in 0..2 {
                    let dot = _mm256_cvtepi32_ps(_mm256_add_epi32(dots[m][h], start));
                    let by = _mm256_mul_ps(scale[h], parameter(0));
                    sums[m][h] = _mm256_fmadd_ps(dot, by, sums[m][h]);
                }
                if panel.dtype == DType::Q4M {
                    let minima = column_f32(head.add(TILE).cast());
                    for h in 0..2 {
                        sums[m][h] = _mm256_fmadd_ps(minima[h], parameter(1), sums[m][h]);
                    }
                }
            }
        }
        for (m, sum) in sums.iter().enumerate() {
            let to = acc.as_mut_ptr().add(at(m));
            _mm256_storeu_ps(to, sum[0]);
            _mm256_storeu_ps(to.add(LANES), sum[1]);
        }
    }
    M
}

/// The integers of one group of a tile, by products of 16-bit codes: 4 rows of a quad at a time,
/// two sums a row that are added at the end.
///
/// # Safety
/// w holds a group's codes; x has 8 quads of `M` pairs of words, `stride` words apart.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn dots<const M: usize>(w: *const u8, x: *const u32, stride: usize) -> [[__m256i; 2]; M] {
    let mut sums = [[_mm256_setzero_si256(); 4]; M];
    for q in 0..QUADS {
        // SAFETY: the caller vouches for codes and words.
        unsafe {
            let mut tokens = [_mm256_setzero_si256(); M];
            for (m, token) in tokens.iter_mut().enumerate() {
                let quad = x.add(q * stride + 2 * m).cast::<i64>().read_unaligned();
                *token = _mm256_set1_epi64x(quad);
            }
            let rows = [0, 1, 2, 3]
                .map(|r| _mm256_cvtepu8_epi16(_mm_loadu_si128(w.add((4 * q + r) * TILE).cast())));
            for (sums, token) in sums.iter_mut().zip(tokens) {
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(row, token));
                }
            }
        }
    }
    // Adding neighbours leaves rows 0 1 4 5 | 2 3 6 7: the permutation sorts them.
    sums.map(|s| {
        [_mm256_hadd_epi32(s[0], s[1]), _mm256_hadd_epi32(s[2], s[3])]
            .map(|h| _mm256_permute4x64_epi64::<0b11_01_10_00>(h))
    })
}
