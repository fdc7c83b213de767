//! Products of keys or values straight from their stored tiles, for the few queries of a decode step.
//!
//! Four tiles (two for more than five rows) and all rows at a time: each column is widened once, in a
//! register. The lines of the page that comes next are fetched at the pace at which those of this page
//! are read.

use std::arch::x86_64::*;

use tensor::DType;

use super::super::super::kv::{PageTiles, Rows};
use super::super::super::pack::TILE;
use super::{BF16, F16, F32, TOKENS, column};

/// Rows up to which the sums of four tiles stay in registers.
const FOUR: usize = 5;

pub(super) fn page(tiles: &PageTiles<'_>, n: usize, x: Rows<'_>, sums: &mut [f32], row: usize) {
    let count = tiles.bytes.len() / tiles.tile;
    assert!(tiles.next.len() >= tiles.bytes.len() && tiles.dtype.is_float());
    assert!(n * TILE * tiles.dtype.block_bytes() <= tiles.tile);
    assert!((1..=TOKENS).contains(&x.len) && x.stride >= n);
    assert!(x.data.len() >= (x.len - 1) * x.stride + n);
    assert!(row >= count * TILE && sums.len() >= (x.len - 1) * row + count * TILE);
    // SAFETY: the features were detected before `page` was handed out, and the extents are checked.
    unsafe {
        match tiles.dtype {
            DType::F32 => page_rows::<F32>(tiles, n, x, sums, row),
            DType::F16 => page_rows::<F16>(tiles, n, x, sums, row),
            _ => page_rows::<BF16>(tiles, n, x, sums, row),
        }
    }
}

/// # Safety
/// As `page` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn page_rows<const D: u8>(
    tiles: &PageTiles<'_>,
    n: usize,
    x: Rows<'_>,
    sums: &mut [f32],
    row: usize,
) {
    // SAFETY: the caller vouches for the extents.
    unsafe {
        rows!(x.len, M of 1 2 3 4 5 6 7 8 9 10 11 12 => page_some::<D, M>(tiles, n, x, sums, row));
    }
}

/// # Safety
/// As `page` checks, with `M` rows in x.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn page_some<const D: u8, const M: usize>(
    tiles: &PageTiles<'_>,
    n: usize,
    x: Rows<'_>,
    sums: &mut [f32],
    row: usize,
) {
    let count = tiles.bytes.len() / tiles.tile;
    let mut i = 0;
    // SAFETY: tiles i.. of those there are; the caller vouches for x and sums.
    unsafe {
        while i < count {
            let left = count - i;
            let to = sums.as_mut_ptr().add(i * TILE);
            i += if M <= FOUR && left >= 4 {
                some_tiles::<D, M, 4>(tiles, i, n, x, to, row)
            } else if left >= 2 {
                some_tiles::<D, M, 2>(tiles, i, n, x, to, row)
            } else {
                some_tiles::<D, M, 1>(tiles, i, n, x, to, row)
            };
        }
    }
}

/// Adds to `sums[M][row]` the products of tiles `first..first + U`; returns `U`.
///
/// # Safety
/// The tiles are there, x holds `n` columns of `M` rows, and sums has `U` times 16 elements in each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline(never)]
unsafe fn some_tiles<const D: u8, const M: usize, const U: usize>(
    tiles: &PageTiles<'_>,
    first: usize,
    n: usize,
    x: Rows<'_>,
    sums: *mut f32,
    row: usize,
) -> usize {
    let (size, tile) = (TILE * if D == F32 { 4 } else { 2 }, tiles.tile);
    let (x, stride) = (x.data.as_ptr(), x.stride);
    let mut acc = [[_mm512_setzero_ps(); U]; M];
    // SAFETY: the caller vouches for all extents; a prefetch reads nothing it may not.
    unsafe {
        let mut at = tiles.bytes.as_ptr().add(first * tile);
        let mut next = tiles.next.as_ptr().add(first * tile);
        for (m, acc) in acc.iter_mut().enumerate() {
            for (u, acc) in acc.iter_mut().enumerate() {
                *acc = _mm512_loadu_ps(sums.add(m * row + u * TILE));
            }
        }
        for k in 0..n {
            let mut w = [_mm512_setzero_ps(); U];
            for (u, w) in w.iter_mut().enumerate() {
                _mm_prefetch::<_MM_HINT_T0>(next.add(u * tile).cast());
                *w = column::<D>(at.add(u * tile));
            }
            (at, next) = (at.add(size), next.add(size));
            for (m, acc) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x.add(m * stride + k));
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = _mm512_fmadd_ps(w, x, *acc);
                }
            }
        }
        for (m, acc) in acc.into_iter().enumerate() {
            for (u, acc) in acc.into_iter().enumerate() {
                _mm512_storeu_ps(sums.add(m * row + u * TILE), acc);
            }
        }
    }
    U
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Mnemonic::Vfmadd231ps;

    #[test]
    fn inner_loops_keep_their_sums_in_registers() {
        use super::super::super::spills::check;
        type Tiles = unsafe fn(&PageTiles<'_>, usize, usize, Rows<'_>, *mut f32, usize) -> usize;
        for (m, tiles, kernel) in [
            (1, 4, some_tiles::<F16, 1, 4> as Tiles),
            (4, 4, some_tiles::<F16, 4, 4> as Tiles),
            (FOUR, 4, some_tiles::<F32, FOUR, 4> as Tiles),
            (FOUR + 1, 2, some_tiles::<F32, { FOUR + 1 }, 2> as Tiles),
            (TOKENS, 2, some_tiles::<F16, TOKENS, 2> as Tiles),
        ] {
            check(&format!("page, {m} rows"), kernel as *const u8, Vfmadd231ps, m * tiles);
        }
    }
}
