//! A pair of quantised tiles, one chunk of columns at a time, in the form that many tokens share.
//!
//! Codes are bytes `[8 quads][16 rows][4 columns]` for each group, with their offset. Heads are f32:
//! per group and tile 16 scales and minima.

use tensor::DType;

use super::pack::{CHUNK, Chunk, GROUP_CODES, TILE, half_at};

/// Elements of the head of one group of one tile.
pub(crate) const HEAD: usize = 2 * TILE;
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
    /// `[groups][2 tiles][scales, minima][16]`.
    pub(crate) heads: &'a [f32],
    /// Dtype of the weights: what the offset is, and whether minima count.
    pub(crate) dtype: DType,
}

/// Unpacks one tile's chunk; `heads` begins at the tile's first. The portable form.
#[inline(always)]
pub(crate) fn unpack(chunk: &Chunk<'_>, codes: &mut [u8], heads: &mut [f32]) {
    for g in 0..chunk.groups {
        let (head, from) = chunk.group(g);
        let to = &mut heads[g * 2 * HEAD..][..HEAD];
        for lane in 0..TILE {
            to[lane] = half_at(head, lane, DType::F16);
            if chunk.dtype == DType::Q4M {
                to[TILE + lane] = half_at(head, TILE + lane, DType::F16);
            }
        }
        let to = &mut codes[g * GROUP_CODES..][..GROUP_CODES];
        if chunk.dtype == DType::Q8 { to.copy_from_slice(from) } else { unpack_codes(from, to) }
    }
}

/// Nibbles to bytes.
#[inline(always)]
fn unpack_codes(packed: &[u8], codes: &mut [u8]) {
    const RUN: usize = 4 * TILE;
    let pairs = codes.as_chunks_mut::<{ 2 * RUN }>().0;
    for (from, to) in packed.as_chunks::<RUN>().0.iter().zip(pairs) {
        let (even, odd) = to.split_at_mut(RUN);
        for ((b, e), o) in from.iter().zip(even).zip(odd) {
            *e = b & 15;
            *o = b >> 4;
        }
    }
}
