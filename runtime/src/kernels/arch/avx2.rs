//! AVX2 with FMA and F16C: two registers hold one column of a tile of 16 rows.
//!
//! The order of additions is that of every instruction set: columns in order, one accumulator.

use std::arch::x86_64::*;

use tensor::DType;
use tensor::quant::GROUP;

use super::super::pack::{Packed, TILE, tile_bytes};
use super::super::{Isa, Kernels};
use super::{check_gemv, check_micro, check_rows, check_widen};

pub(super) fn kernels() -> Option<Kernels> {
    let found = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    found.then_some(Kernels { isa: Isa::Avx2, gemv, widen, micro, scores, mix })
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
    for (i, out) in out.chunks_mut(2 * TILE).enumerate() {
        let first = tile + 2 * i;
        let (a, b) = out.split_at_mut(TILE.min(out.len()));
        // SAFETY: the features were detected before `gemv` was handed out; a `Packed` tile holds as
        // many columns as x.
        unsafe {
            if b.is_empty() {
                store(gemv_some::<1>(w.dtype, [w.tile(first)], x)[0], a);
            } else {
                let sums = gemv_some::<2>(w.dtype, [w.tile(first), w.tile(first + 1)], x);
                store(sums[0], a);
                store(sums[1], b);
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

/// # Safety
/// The tiles hold `x.len()` columns.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemv_some<const U: usize>(dtype: DType, tiles: [&[u8]; U], x: &[f32]) -> [Column; U] {
    // SAFETY: the caller vouches for the columns.
    unsafe {
        match dtype {
            DType::F32 => sums::<U>(tiles, x, |t, c, _| column_f32(t, c)),
            DType::F16 => sums::<U>(tiles, x, |t, c, _| column_f16(t, c)),
            DType::BF16 => sums::<U>(tiles, x, |t, c, _| column_bf16(t, c)),
            DType::Q8 => sums_grouped::<U>(DType::Q8, tiles, x, |t, g, j, s| column_q8(t, g, j, s)),
            _ => sums_grouped::<U>(DType::Q4, tiles, x, |t, g, j, s| column_q4(t, g, j, s)),
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
    tiles: [&[u8]; U],
    x: &[f32],
    column: impl Fn(*const u8, usize, ()) -> Column,
) -> [Column; U] {
    let mut acc = [[_mm256_setzero_ps(); 2]; U];
    for (k, &x) in x.iter().enumerate() {
        for u in 0..U {
            add_product(&mut acc[u], column(tiles[u].as_ptr(), k, ()), x);
        }
    }
    acc
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sums_grouped<const U: usize>(
    dtype: DType,
    tiles: [&[u8]; U],
    x: &[f32],
    column: impl Fn(*const u8, usize, usize, Column) -> Column,
) -> [Column; U] {
    let mut acc = [[_mm256_setzero_ps(); 2]; U];
    for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
        // SAFETY: group g lies within the tile.
        let scales = tiles.map(|t| unsafe { scales(dtype, t.as_ptr(), g) });
        for (j, &x) in x.iter().enumerate() {
            for u in 0..U {
                add_product(&mut acc[u], column(tiles[u].as_ptr(), g, j, scales[u]), x);
            }
        }
    }
    acc
}

/// # Safety
/// The tile holds column `c`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn column_f32(tile: *const u8, c: usize) -> Column {
    // SAFETY: a column is 64 bytes.
    unsafe {
        let at = tile.add(c * 64).cast::<f32>();
        [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(LANES))]
    }
}

/// # Safety
/// The tile holds column `c`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn column_f16(tile: *const u8, c: usize) -> Column {
    // SAFETY: a column is 32 bytes.
    unsafe {
        let at = tile.add(c * 32).cast::<__m128i>();
        [_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)))]
    }
}

/// # Safety
/// The tile holds column `c`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn column_bf16(tile: *const u8, c: usize) -> Column {
    // SAFETY: a column is 32 bytes.
    unsafe {
        let at = tile.add(c * 32).cast::<__m128i>();
        [_mm_loadu_si128(at), _mm_loadu_si128(at.add(1))]
            .map(|h| _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)))
    }
}

fn group_bytes(dtype: DType) -> usize {
    tile_bytes(dtype, GROUP).unwrap_or(0)
}

/// # Safety
/// The tile holds group `g`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn scales(dtype: DType, tile: *const u8, g: usize) -> Column {
    // SAFETY: 32 bytes of scales open the group.
    unsafe { column_f16(tile.add(g * group_bytes(dtype)), 0) }
}

/// # Safety
/// The tile holds column `j` of group `g`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn column_q8(tile: *const u8, g: usize, j: usize, scale: Column) -> Column {
    // SAFETY: 16 codes of the column.
    let codes = unsafe {
        _mm_loadu_si128(tile.add(g * group_bytes(DType::Q8) + 2 * TILE + j * TILE).cast())
    };
    let halves = [codes, _mm_srli_si128(codes, 8)].map(|c| _mm256_cvtepi8_epi32(c));
    scaled(halves, scale)
}

/// # Safety
/// The tile holds column `j` of group `g`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn column_q4(tile: *const u8, g: usize, j: usize, scale: Column) -> Column {
    // SAFETY: 16 bytes hold the codes of two columns.
    let codes = unsafe {
        _mm_loadu_si128(tile.add(g * group_bytes(DType::Q4) + 2 * TILE + j / 2 * TILE).cast())
    };
    let nibbles = if j.is_multiple_of(2) { codes } else { _mm_srli_epi16(codes, 4) };
    let codes = _mm_sub_epi8(_mm_and_si128(nibbles, _mm_set1_epi8(15)), _mm_set1_epi8(8));
    let halves = [codes, _mm_srli_si128(codes, 8)].map(|c| _mm256_cvtepi8_epi32(c));
    scaled(halves, scale)
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scaled(codes: [__m256i; 2], scale: Column) -> Column {
    [
        _mm256_mul_ps(_mm256_cvtepi32_ps(codes[0]), scale[0]),
        _mm256_mul_ps(_mm256_cvtepi32_ps(codes[1]), scale[1]),
    ]
}

fn widen(dtype: DType, tile: &[u8], first: usize, n: usize, out: &mut [f32], stride: usize) {
    check_widen(dtype, tile, first, n, out, stride);
    // SAFETY: the features were detected before `widen` was handed out, and the lengths are checked.
    unsafe { widen_all(dtype, tile.as_ptr(), first, n, out, stride) }
}

/// # Safety
/// As `check_widen` checks.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen_all(
    dtype: DType,
    tile: *const u8,
    first: usize,
    n: usize,
    out: &mut [f32],
    stride: usize,
) {
    for i in 0..n {
        let (g, j) = ((first + i) / GROUP, (first + i) % GROUP);
        // SAFETY: the caller vouches for columns and targets.
        unsafe {
            let w = match dtype {
                DType::F32 => column_f32(tile, first + i),
                DType::F16 => column_f16(tile, first + i),
                DType::BF16 => column_bf16(tile, first + i),
                DType::Q8 => column_q8(tile, g, j, scales(dtype, tile, g)),
                _ => column_q4(tile, g, j, scales(dtype, tile, g)),
            };
            let to = out.as_mut_ptr().add(i * stride);
            _mm256_storeu_ps(to, w[0]);
            _mm256_storeu_ps(to.add(LANES), w[1]);
        }
    }
}

fn micro(w: &[f32], x: &[f32], stride: usize, acc: &mut [f32]) {
    let (columns, tokens) = check_micro(w, x, stride, acc);
    for half in [0, TILE] {
        let mut t = 0;
        while t < tokens {
            let (x, acc) = (&x[t * stride..], &mut acc[t * 2 * TILE..]);
            // SAFETY: the features were detected before `micro` was handed out, and `check_micro`
            // covers `tokens` rows of x and accumulators.
            t += unsafe {
                match tokens - t {
                    TOKENS.. => micro_some::<TOKENS>(w, half, columns, x, stride, acc),
                    4.. => micro_some::<4>(w, half, columns, x, stride, acc),
                    2.. => micro_some::<2>(w, half, columns, x, stride, acc),
                    _ => micro_some::<1>(w, half, columns, x, stride, acc),
                }
            };
        }
    }
}

/// `M` tokens times one tile of the pair; returns `M`.
///
/// # Safety
/// w holds `columns` pairs of columns, x `M` rows of `columns` elements `stride` apart, acc `M` rows
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
            *sum = column_f32(acc.as_ptr().add(m * 2 * TILE + half).cast(), 0);
        }
        for k in 0..columns {
            let w = column_f32(w.as_ptr().add(k * 2 * TILE + half).cast(), 0);
            for (m, sum) in sums.iter_mut().enumerate() {
                add_product(sum, w, *x.as_ptr().add(m * stride + k));
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

fn scores(q: &[f32], keys: &[f32], stride: usize, scale: f32, out: &mut [f32]) {
    check_rows(keys, out.len(), stride, q.len());
    for (j, out) in out.iter_mut().enumerate() {
        // SAFETY: the features were detected before `scores` was handed out.
        *out = scale * unsafe { dot(q, &keys[j * stride..][..q.len()]) };
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = [_mm256_setzero_ps(); 2];
    let (a, a_tail) = a.as_chunks::<TILE>();
    let (b, b_tail) = b.as_chunks::<TILE>();
    let mut lanes = [0f32; TILE];
    // SAFETY: chunks and `lanes` have 16 elements.
    unsafe {
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (column_f32(a.as_ptr().cast(), 0), column_f32(b.as_ptr().cast(), 0));
            sum = [_mm256_fmadd_ps(a[0], b[0], sum[0]), _mm256_fmadd_ps(a[1], b[1], sum[1])];
        }
        _mm256_storeu_ps(lanes.as_mut_ptr(), sum[0]);
        _mm256_storeu_ps(lanes.as_mut_ptr().add(LANES), sum[1]);
    }
    for ((l, a), b) in lanes.iter_mut().zip(a_tail).zip(b_tail) {
        *l = a.mul_add(*b, *l);
    }
    super::super::portable::tree_sum(lanes)
}

fn mix(p: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
    check_rows(values, p.len(), stride, out.len());
    // SAFETY: the features were detected before `mix` was handed out; the values are checked.
    unsafe { mix_all(p, values, stride, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn mix_all(p: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
    for (e, out) in out.chunks_mut(2 * TILE).enumerate() {
        let mut sums = [0f32; 2 * TILE];
        for (j, &p) in p.iter().enumerate() {
            let row = &values[j * stride + e * 2 * TILE..][..out.len()];
            for (s, v) in sums.iter_mut().zip(row) {
                *s = p.mul_add(*v, *s);
            }
        }
        out.copy_from_slice(&sums[..out.len()]);
    }
}
