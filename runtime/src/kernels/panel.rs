//! A pair of quantised tiles, one chunk of columns at a time, in the form that many tokens share.
//!
//! Codes are signed bytes `[8 quads][16 rows][4 columns]` for each group: those of `q8` are read
//! where they are mapped, 4-bit codes are unpacked (as 16 times their value, which the scale takes
//! back). Heads are f32: per group and tile 16 start values, scales and minima. The start value, for
//! kernels that add 128 to activation bytes, is -128 times the sum of the row's codes, an i32.

use tensor::DType;

use super::pack::{CHUNK, Chunk, GROUP_CODES, TILE, code_bytes, half_at, head_bytes};

/// Elements of the head of one group of one tile.
pub(crate) const HEAD: usize = 3 * TILE;
/// Elements of the heads of a chunk of a pair of tiles.
pub(crate) const HEADS: usize = 2 * HEAD * CHUNK;
/// Bytes of the unpacked codes of a chunk of a pair of tiles.
pub(crate) const CODES: usize = 2 * GROUP_CODES * CHUNK;

/// One chunk of a pair of tiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel<'a> {
    /// Groups of the chunk.
    pub(crate) groups: usize,
    /// Unpacked codes of each tile, `GROUP_CODES` a group.
    pub(crate) codes: [&'a [u8]; 2],
    /// `[groups][2 tiles][start values, scales, minima][16]`.
    pub(crate) heads: &'a [f32],
    /// Whether the minima count.
    pub(crate) minima: bool,
    /// Quads of a group, always 8: a bound that the compiler does not know keeps it from unrolling
    /// the loop over quads, which would spill the sums.
    pub(crate) quads: usize,
}

/// What codes are multiplied by when unpacked.
pub(crate) const fn factor(dtype: DType) -> f32 {
    if matches!(dtype, DType::Q8) { 1.0 } else { 16.0 }
}

/// Unpacks scales and minima of one tile's chunk (`heads` begins at the tile's first) and, of 4-bit
/// kinds, the codes; start values are left alone. The portable form.
#[inline(always)]
pub(crate) fn unpack(dtype: DType, chunk: &Chunk<'_>, codes: &mut [u8], heads: &mut [f32]) {
    for g in 0..chunk.groups {
        let from = &chunk.heads[g * head_bytes(dtype)..][..head_bytes(dtype)];
        let to = &mut heads[g * 2 * HEAD..][..HEAD];
        for lane in 0..TILE {
            let scale = half_at(from, lane, DType::F16);
            to[TILE + lane] = scale / factor(dtype);
            if dtype == DType::Q4M {
                to[2 * TILE + lane] = half_at(from, TILE + lane, DType::F16) + 8.0 * scale;
            }
        }
    }
    if dtype != DType::Q8 {
        unpack_codes(&chunk.codes[..chunk.groups * code_bytes(dtype)], codes);
    }
}

/// Nibbles to bytes of 16 times their value.
#[inline(always)]
fn unpack_codes(packed: &[u8], codes: &mut [u8]) {
    const RUN: usize = 4 * TILE;
    let pairs = codes.as_chunks_mut::<{ 2 * RUN }>().0;
    for (from, to) in packed.as_chunks::<RUN>().0.iter().zip(pairs) {
        let (even, odd) = to.split_at_mut(RUN);
        for ((b, e), o) in from.iter().zip(even).zip(odd) {
            *e = b << 4;
            *o = b & 0xf0;
        }
    }
}
