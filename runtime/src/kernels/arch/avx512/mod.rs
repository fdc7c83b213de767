//! AVX-512: one register holds one column of a tile of 16 rows.
//!
//! Columns are multiplied and added in order with FMA in one accumulator per tile and token. Four
//! tiles (decode) or two tiles and twelve tokens (prefill) run side by side to hide the latency.

use std::arch::x86_64::*;

use tensor::DType;

use crate::program::Activations;

use super::super::pack::{FloatTile, PAIR, Packed, TILE};
use super::super::{Isa, Kernels};
use super::{AHEAD, check_gemv, check_micro, check_widen, prefetch};

/// Calls a kernel with its number of rows as a constant, so that the sums of all stay in registers.
macro_rules! rows {
    ($rows:expr, $constant:ident of $($count:literal)* => $call:expr) => {
        match $rows {
            $($count => {
                const $constant: usize = $count;
                $call
            })*
            other => unreachable!("{other} rows: the caller checks their number"),
        }
    };
}

mod integer;
mod pages;

super::wide!("avx512f,avx512bw,avx512vl");

pub(super) fn kernels() -> Option<Kernels> {
    let found = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni");
    found.then_some(Kernels {
        isa: Isa::Avx512,
        gemv,
        widen,
        few: Some(few),
        micro,
        page: Some(pages::page),
        prefetch,
        activations: Activations::Full,
        quantize: integer::quantize,
        integer_gemv: Some(integer::gemv),
        integer_few: Some(integer::few),
        unpack: integer::unpack,
        integer_micro: integer::micro,
        soften: wide::soften,
        unary: wide::unary,
        glu: wide::glu,
        rms_norm: wide::rms_norm,
    })
}

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Tokens whose accumulators fit the registers beside two columns of weights.
const TOKENS: usize = 12;

fn gemv(w: &Packed<'_>, tile: usize, x: &[f32], out: &mut [f32]) {
    check_gemv(w, tile, x, out);
    // SAFETY: the features were detected before `gemv` was handed out, and the lengths are checked.
    unsafe {
        match w.dtype {
            DType::F32 => gemv_tiles::<F32>(w, tile, x, out),
            DType::F16 => gemv_tiles::<F16>(w, tile, x, out),
            _ => gemv_tiles::<BF16>(w, tile, x, out),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn gemv_tiles<const D: u8>(w: &Packed<'_>, tile: usize, x: &[f32], out: &mut [f32]) {
    let x = &x[..w.cols];
    for (i, out) in out.chunks_mut(PAIR).enumerate() {
        let at = tile + 2 * i;
        let pair = w.tiles_from(at, w.pair_tiles(at)).as_ptr();
        // SAFETY: a `Packed` holds as many columns of each pair as x has.
        unsafe {
            if w.pair_tiles(at) == 2 {
                store(gemv_some::<D, 2>(pair, x), out);
            } else {
                store(gemv_some::<D, 1>(pair, x), out);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn store<const U: usize>(acc: [__m512; U], out: &mut [f32]) {
    let mut rows = [0f32; TILE];
    for (acc, out) in acc.into_iter().zip(out.chunks_mut(TILE)) {
        // SAFETY: `rows` has 16 elements.
        unsafe { _mm512_storeu_ps(rows.as_mut_ptr(), acc) };
        out.copy_from_slice(&rows[..out.len()]);
    }
}

fn few(w: &Packed<'_>, tile: usize, x: &[f32], acc: &mut [f32]) {
    check_gemv(w, tile, x, &[]);
    let m = acc.len() / PAIR;
    assert!((1..=TOKENS).contains(&m) && x.len() >= w.cols * m && tile < w.tiles());
    // SAFETY: the features were detected before `few` was handed out, and the lengths are checked.
    unsafe {
        match w.dtype {
            DType::F32 => few_tokens::<F32>(w, tile, x, acc),
            DType::F16 => few_tokens::<F16>(w, tile, x, acc),
            _ => few_tokens::<BF16>(w, tile, x, acc),
        }
    }
}

/// # Safety
/// x holds `acc.len() / 32` tokens, at most 12, of as many columns as w.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn few_tokens<const D: u8>(w: &Packed<'_>, tile: usize, x: &[f32], acc: &mut [f32]) {
    // SAFETY: the caller vouches for x and acc, a `Packed` for its tiles.
    unsafe {
        rows!(acc.len() / PAIR, M of 1 2 3 4 5 6 7 8 9 10 11 12 => few_some::<D, M>(w, tile, x, acc));
    }
}

/// `M` tokens times a pair of tiles.
///
/// # Safety
/// x holds `M` tokens of as many columns as w, acc `M` rows of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn few_some<const D: u8, const M: usize>(
    w: &Packed<'_>,
    tile: usize,
    x: &[f32],
    acc: &mut [f32],
) {
    let pair = w.pair_tiles(tile);
    let size = TILE * if D == F32 { 4 } else { 2 };
    let mut at = w.tiles_from(tile, pair).as_ptr();
    // The neighbour of a last tile is the tile itself, whose sums nobody reads.
    let second = if pair == 2 { size } else { 0 };
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    // SAFETY: the columns of the pair, in order; the caller vouches for x and acc.
    unsafe {
        for k in 0..w.cols {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            if D == F32 {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + size).cast());
            }
            let (w0, w1) = (column::<D>(at), column::<D>(at.add(second)));
            at = at.add(pair * size);
            for (m, sum) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x.as_ptr().add(k * M + m));
                sum[0] = _mm512_fmadd_ps(w0, x, sum[0]);
                sum[1] = _mm512_fmadd_ps(w1, x, sum[1]);
            }
        }
        for (m, sum) in sums.iter().enumerate() {
            let to = acc.as_mut_ptr().add(m * 2 * TILE);
            _mm512_storeu_ps(to, sum[0]);
            _mm512_storeu_ps(to.add(TILE), sum[1]);
        }
    }
}

/// The sums of `U` tiles that lie side by side.
///
/// # Safety
/// `x.len()` columns of them are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn gemv_some<const D: u8, const U: usize>(tiles: *const u8, x: &[f32]) -> [__m512; U] {
    let size = TILE * if D == F32 { 4 } else { 2 };
    let mut acc = [_mm512_setzero_ps(); U];
    for (j, &x) in x.iter().enumerate() {
        for (u, acc) in acc.iter_mut().enumerate() {
            // SAFETY: column j lies within the tiles; a prefetch reads nothing it may not.
            let w = unsafe {
                let at = tiles.add((j * U + u) * size);
                if D == F32 || u == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
                }
                column::<D>(at)
            };
            *acc = _mm512_fmadd_ps(w, _mm512_set1_ps(x), *acc);
        }
    }
    acc
}

/// A column, widened.
///
/// # Safety
/// 16 values are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn column<const D: u8>(at: *const u8) -> __m512 {
    // SAFETY: the caller vouches for the values.
    unsafe {
        match D {
            F32 => _mm512_loadu_ps(at.cast()),
            F16 => _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
            _ => {
                let halves = _mm256_loadu_si256(at.cast());
                _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))
            }
        }
    }
}

fn widen(tile: &FloatTile<'_>, first: usize, n: usize, out: &mut [f32], stride: usize) {
    check_widen(tile, first, n, out, stride);
    // SAFETY: the features were detected before `widen` was handed out, and the lengths are checked.
    unsafe {
        match tile.dtype {
            DType::F32 => widen_some::<F32>(tile, first, n, out, stride),
            DType::F16 => widen_some::<F16>(tile, first, n, out, stride),
            _ => widen_some::<BF16>(tile, first, n, out, stride),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn widen_some<const D: u8>(
    tile: &FloatTile<'_>,
    first: usize,
    n: usize,
    out: &mut [f32],
    stride: usize,
) {
    for i in 0..n {
        // SAFETY: `widen` checked that the columns lie in the tile and the targets in `out`; a prefetch
        // reads nothing it may not.
        unsafe {
            let target = out.as_mut_ptr().add(i * stride);
            let at = tile.bytes.as_ptr().add((first + i) * tile.step);
            // Keys and values are read from memory, tile after tile.
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            _mm512_storeu_ps(target, column::<D>(at));
        }
    }
}

fn micro(w: &[f32], x: &[f32], m: usize, acc: &mut [f32]) {
    let columns = check_micro(w, x, m, acc);
    // SAFETY: the features were detected before `micro` was handed out, and `check_micro` covers
    // columns, tokens and accumulators.
    unsafe {
        rows!(m, M of 1 2 3 4 5 6 7 8 9 10 11 12 => micro_some::<M>(w, columns, x, acc));
    }
}

/// `M` tokens times two tiles.
///
/// # Safety
/// w holds `columns` pairs of columns, x `columns` rows of `M` elements, acc `M` rows of 32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn micro_some<const M: usize>(w: &[f32], columns: usize, x: &[f32], acc: &mut [f32]) {
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    // SAFETY: the caller vouches for the extents.
    unsafe {
        for (m, sum) in sums.iter_mut().enumerate() {
            let from = acc.as_ptr().add(m * 2 * TILE);
            *sum = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(TILE))];
        }
        for k in 0..columns {
            let from = w.as_ptr().add(k * 2 * TILE);
            let (w0, w1) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(TILE)));
            for (m, sum) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x.as_ptr().add(k * M + m));
                sum[0] = _mm512_fmadd_ps(w0, x, sum[0]);
                sum[1] = _mm512_fmadd_ps(w1, x, sum[1]);
            }
        }
        for (m, sum) in sums.iter().enumerate() {
            let to = acc.as_mut_ptr().add(m * 2 * TILE);
            _mm512_storeu_ps(to, sum[0]);
            _mm512_storeu_ps(to.add(TILE), sum[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Mnemonic::Vfmadd231ps;

    #[test]
    fn inner_loops_keep_their_sums_in_registers() {
        use super::super::spills::check;
        type Micro = unsafe fn(&[f32], usize, &[f32], &mut [f32]);
        for (m, kernel) in [
            (TOKENS, micro_some::<TOKENS> as Micro),
            (8, micro_some::<8> as Micro),
            (1, micro_some::<1> as Micro),
        ] {
            check(&format!("micro, {m} tokens"), kernel as *const u8, Vfmadd231ps, 2 * m);
        }
        type Few = unsafe fn(&Packed<'_>, usize, &[f32], &mut [f32]);
        for (m, kernel) in [
            (TOKENS, few_some::<BF16, TOKENS> as Few),
            (8, few_some::<F16, 8> as Few),
            (8, few_some::<F32, 8> as Few),
        ] {
            check(&format!("few, {m} tokens"), kernel as *const u8, Vfmadd231ps, 2 * m);
        }
    }
}
