//! The packed layout of constant matrices: tiles of 16 rows, made at compile time, mapped at run
//! time. One layout serves every instruction set.
//!
//! A matrix `[rows, cols]` becomes `ceil(rows / 16)` tiles; missing rows are zero. Floats (`f32`,
//! `f16`, `bf16`) lie as `[cols][16]`: one 512-bit register of f32 holds one column of 16 results.
//!
//! Quantised tiles are made of groups of 32 columns, 16 groups to a chunk. A chunk holds the heads
//! of its groups (16 f16 scales; `q4m`: then 16 f16 minima), padded to a cache line, then the codes:
//!
//! - `q8`: `[8 quads][16 rows][4 columns]` signed bytes, so that a 32-bit lane holds four columns of
//!   one row, as byte dot products want them: 8.5 bits a weight;
//! - `q4`, `q4m`: `[4][16 rows][4]` bytes; byte i of a row holds quad 2i in the low and 2i+1 in the
//!   high nibbles, as two's complement (a `q4m` code minus 8): shifted to the high nibble, a code is
//!   a signed byte of 16 times its value. 4.5 and 5 bits a weight.

use half::{bf16, f16};
use tensor::DType;
use tensor::quant::GROUP;

use crate::program::{Layout, Weight};

/// Rows of a tile.
pub const TILE: usize = 16;
/// Columns of float tiles that are widened at a time.
pub(crate) const GROUP_COLUMNS: usize = GROUP;
/// Groups of a chunk: 8 KiB of unpacked codes, so that two tiles stay in the first-level cache.
pub(crate) const CHUNK: usize = 16;
/// Columns that one 32-bit lane holds.
pub(crate) const QUAD: usize = 4;
/// Bytes of one group of unpacked codes of a tile.
pub(crate) const GROUP_CODES: usize = GROUP * TILE;
/// Bytes of one f16 per row.
const HALVES: usize = TILE * 2;
/// Cache line.
const LINE: usize = 64;

/// A packed matrix.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// Stored dtype.
    pub dtype: DType,
    /// Result elements.
    pub rows: usize,
    /// Inner extent.
    pub cols: usize,
    /// `tile_bytes(dtype, cols)` for each 16 rows.
    pub bytes: &'a [u8],
}

/// One chunk of a quantised tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    /// Groups in it.
    pub(crate) groups: usize,
    /// All of it.
    pub(crate) bytes: &'a [u8],
    /// `head_bytes` for each group.
    pub(crate) heads: &'a [u8],
    /// `code_bytes` for each group.
    pub(crate) codes: &'a [u8],
}

/// Whether there is a packed layout for a dtype.
pub fn is_packed(dtype: DType) -> bool {
    dtype.is_float() || dtype.is_quantized()
}

/// Bytes of one tile of 16 rows, or `None` when `cols` is not a whole number of groups or the size
/// overflows.
pub fn tile_bytes(dtype: DType, cols: usize) -> Option<usize> {
    let plain = dtype.bytes_for(cols)?.checked_mul(TILE)?;
    if !dtype.is_quantized() {
        return Some(plain);
    }
    let groups = cols / GROUP;
    let whole = (groups / CHUNK).checked_mul(chunk_bytes(dtype, CHUNK))?;
    whole.checked_add(chunk_bytes(dtype, groups % CHUNK))
}

/// Bytes of a packed matrix; `None` as in [`tile_bytes`].
pub fn packed_bytes(dtype: DType, rows: usize, cols: usize) -> Option<usize> {
    tile_bytes(dtype, cols)?.checked_mul(rows.div_ceil(TILE))
}

/// Bytes of the scales (and minima) of one group of a tile.
pub(crate) const fn head_bytes(dtype: DType) -> usize {
    if matches!(dtype, DType::Q4M) { 2 * HALVES } else { HALVES }
}

/// Bytes of the codes of one group of a tile.
pub(crate) const fn code_bytes(dtype: DType) -> usize {
    if matches!(dtype, DType::Q8) { GROUP_CODES } else { GROUP_CODES / 2 }
}

const fn chunk_bytes(dtype: DType, groups: usize) -> usize {
    (groups * head_bytes(dtype)).next_multiple_of(LINE) + groups * code_bytes(dtype)
}

/// Chunk `i` of a quantised tile of `groups` groups.
pub(crate) fn chunk(dtype: DType, tile: &[u8], groups: usize, i: usize) -> Chunk<'_> {
    let n = CHUNK.min(groups - i * CHUNK);
    let bytes = &tile[i * chunk_bytes(dtype, CHUNK)..][..chunk_bytes(dtype, n)];
    let codes = &bytes[(n * head_bytes(dtype)).next_multiple_of(LINE)..];
    Chunk { groups: n, bytes, heads: &bytes[..n * head_bytes(dtype)], codes }
}

impl<'a> Packed<'a> {
    /// A view of packed bytes, or `None` when the sizes do not match.
    pub fn new(dtype: DType, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        let fits = is_packed(dtype) && packed_bytes(dtype, rows, cols) == Some(bytes.len());
        fits.then_some(Packed { dtype, rows, cols, bytes })
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// Number of groups of 32 columns of a quantised matrix.
    pub fn groups(&self) -> usize {
        self.cols / GROUP
    }

    /// The bytes of tile `i`.
    pub fn tile(&self, i: usize) -> &'a [u8] {
        let len = self.bytes.len() / self.tiles().max(1);
        &self.bytes[i * len..(i + 1) * len]
    }

    /// Writes row `row`, widened, to `out` (`cols` long).
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (tile, lane) = (self.tile(row / TILE), row % TILE);
        let out = &mut out[..self.cols];
        match self.dtype {
            DType::F32 => {
                for (o, column) in out.iter_mut().zip(tile.as_chunks::<{ 4 * TILE }>().0) {
                    let at = 4 * lane;
                    *o = f32::from_le_bytes([
                        column[at],
                        column[at + 1],
                        column[at + 2],
                        column[at + 3],
                    ]);
                }
            }
            DType::Q8 | DType::Q4 | DType::Q4M => {
                for (g, o) in out.chunks_mut(GROUP).enumerate() {
                    let chunk = chunk(self.dtype, tile, self.groups(), g / CHUNK);
                    group_row(self.dtype, &chunk, g % CHUNK, lane, o);
                }
            }
            half => {
                for (j, o) in out.iter_mut().enumerate() {
                    *o = half_at(tile, j * TILE + lane, half);
                }
            }
        }
    }
}

/// Row `lane` of group `g` of a chunk, by the formula of `tensor::quant`.
fn group_row(dtype: DType, chunk: &Chunk<'_>, g: usize, lane: usize, out: &mut [f32]) {
    let head = &chunk.heads[g * head_bytes(dtype)..][..head_bytes(dtype)];
    let codes = &chunk.codes[g * code_bytes(dtype)..][..code_bytes(dtype)];
    let scale = half_at(head, lane, DType::F16);
    for (j, o) in out.iter_mut().enumerate() {
        let code = f32::from(code_at(dtype, codes, j, lane));
        *o = match dtype {
            DType::Q4M => scale * (code + 8.0) + half_at(head, TILE + lane, DType::F16),
            _ => scale * code,
        };
    }
}

/// The byte of column `j` of a row in a group's codes, and how far left to shift its code.
fn place(dtype: DType, j: usize, lane: usize) -> (usize, u32) {
    let (quad, in_quad) = (j / QUAD, j % QUAD);
    if dtype == DType::Q8 {
        return ((quad * TILE + lane) * QUAD + in_quad, 0);
    }
    ((quad / 2 * TILE + lane) * QUAD + in_quad, 4 * (1 - quad as u32 % 2))
}

/// The code of column `j` of a row of a group.
pub(crate) fn code_at(dtype: DType, codes: &[u8], j: usize, lane: usize) -> i8 {
    let (byte, shift) = place(dtype, j, lane);
    let code = (codes[byte] << shift) as i8;
    if dtype == DType::Q8 { code } else { code >> 4 }
}

pub(crate) fn half_at(bytes: &[u8], index: usize, dtype: DType) -> f32 {
    let pair = [bytes[2 * index], bytes[2 * index + 1]];
    if dtype == DType::BF16 {
        bf16::from_le_bytes(pair).to_f32()
    } else {
        f16::from_le_bytes(pair).to_f32()
    }
}

/// Widens columns `first..first + n` of a float tile to `out[column][16]`, with `stride` elements
/// from column to column; the portable form of what the instruction sets do.
pub(crate) fn widen(
    dtype: DType,
    tile: &[u8],
    first: usize,
    n: usize,
    out: &mut [f32],
    stride: usize,
) {
    for (i, out) in out.chunks_mut(stride).take(n).enumerate() {
        let column = first + i;
        for (lane, o) in out[..TILE].iter_mut().enumerate() {
            *o = match dtype {
                DType::F32 => {
                    let at = 4 * (column * TILE + lane);
                    f32::from_le_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]])
                }
                half => half_at(tile, column * TILE + lane, half),
            };
        }
    }
}

/// Packs `rows` row-major rows (at most 16) of `cols` elements of `dtype` as one tile appended to
/// `out`. The bytes of a row are those of a `tensor::Tensor`.
///
/// # Panics
/// When `rows` does not hold whole rows, or more than 16.
pub fn pack_tile(dtype: DType, cols: usize, rows: &[u8], out: &mut Vec<u8>) {
    let row_bytes = dtype.bytes_for(cols).expect("whole groups: checked by the compiler");
    let count = rows.len().checked_div(row_bytes).unwrap_or(0);
    assert!(count <= TILE && count * row_bytes == rows.len(), "at most 16 whole rows");
    let start = out.len();
    out.resize(start + tile_bytes(dtype, cols).expect("its bytes are in memory"), 0);
    let tile = &mut out[start..];
    if dtype.is_quantized() {
        return pack_chunks(dtype, row_bytes, rows, tile);
    }
    match dtype.block_bytes() {
        4 => interleave::<4>(row_bytes, rows, tile),
        _ => interleave::<2>(row_bytes, rows, tile),
    }
}

/// `[row][column]` to `[column][16 rows]` of values of `N` bytes.
fn interleave<const N: usize>(row_bytes: usize, rows: &[u8], tile: &mut [u8]) {
    let columns = tile.as_chunks_mut::<N>().0;
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        let lanes = columns[lane..].iter_mut().step_by(TILE);
        for (to, from) in lanes.zip(row.as_chunks::<N>().0) {
            *to = *from;
        }
    }
}

fn pack_chunks(dtype: DType, row_bytes: usize, rows: &[u8], tile: &mut [u8]) {
    let (block, head) = (dtype.block_bytes(), head_bytes(dtype) / TILE);
    let groups = row_bytes / block;
    for first in (0..groups).step_by(CHUNK) {
        let n = CHUNK.min(groups - first);
        let start = first / CHUNK * chunk_bytes(dtype, CHUNK);
        let chunk = &mut tile[start..][..chunk_bytes(dtype, n)];
        let (heads, codes) = chunk.split_at_mut((n * head_bytes(dtype)).next_multiple_of(LINE));
        for g in 0..n {
            let heads = &mut heads[g * head_bytes(dtype)..][..head_bytes(dtype)];
            let codes = &mut codes[g * code_bytes(dtype)..][..code_bytes(dtype)];
            // A missing row has scale 0; its codes do not matter.
            for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
                let group = &row[(first + g) * block..][..block];
                for (i, half) in group[..head].as_chunks::<2>().0.iter().enumerate() {
                    heads[2 * (i * TILE + lane)..][..2].copy_from_slice(half);
                }
                pack_codes(dtype, lane, &group[head..], codes);
            }
        }
    }
}

/// Places the 32 codes of one row of a group.
fn pack_codes(dtype: DType, lane: usize, source: &[u8], codes: &mut [u8]) {
    if dtype == DType::Q8 {
        for (quad, four) in source.as_chunks::<QUAD>().0.iter().enumerate() {
            codes[(quad * TILE + lane) * QUAD..][..QUAD].copy_from_slice(four);
        }
        return;
    }
    // Source byte j holds codes j (low) and j + 16 (high), offset by 8: quads q and q + 4.
    let half = GROUP / 2;
    for i in 0..half {
        let (quad, in_quad) = (i / QUAD, i % QUAD);
        // Byte i of the target: quads 2 * quad (low nibble) and 2 * quad + 1 (high nibble).
        let code = |j: usize| {
            let byte = source[j % half];
            (if j < half { byte & 15 } else { byte >> 4 }) ^ 8
        };
        let low = code(2 * quad * QUAD + in_quad);
        let high = code((2 * quad + 1) * QUAD + in_quad);
        codes[(quad * TILE + lane) * QUAD + in_quad] = low | high << 4;
    }
}

/// Whether a weight's place and size are possible.
pub(crate) fn check_weight(weight: &Weight, segment: u64) -> Result<(), String> {
    let end = weight.offset.checked_add(weight.bytes).filter(|&end| end <= segment);
    if end.is_none() || !weight.offset.is_multiple_of(64) {
        return Err(format!("{} bytes at {} of {segment}", weight.bytes, weight.offset));
    }
    let dims: Vec<usize> = weight.dims.iter().map(|&d| d as usize).collect();
    let expected = match (weight.layout, dims.as_slice()) {
        (Layout::Plain, _)
            if weight.dtype == DType::F32 && dims.len() <= crate::program::MAX_RANK =>
        {
            tensor::element_count(&dims).and_then(|n| n.checked_mul(4))
        }
        (Layout::Packed, &[rows, cols]) if is_packed(weight.dtype) => {
            packed_bytes(weight.dtype, rows, cols)
        }
        _ => None,
    };
    match expected {
        Some(bytes) if bytes as u64 == weight.bytes => Ok(()),
        _ => {
            Err(format!("{:?} {} {dims:?} in {} bytes", weight.layout, weight.dtype, weight.bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::{Rng, Tensor};

    #[test]
    fn rows_of_tiles_are_those_of_the_matrix() {
        let mut rng = Rng::new(3);
        for dtype in DType::ALL.into_iter().filter(|&d| is_packed(d)) {
            for (rows, cols) in [(1, 32), (16, 64), (37, 96), (16, 32 * 35)] {
                let values: Vec<f32> = (0..rows * cols).map(|_| 1.0 + rng.normal()).collect();
                let t = Tensor::from_f32(vec![rows, cols], &values).cast(dtype).unwrap();
                let mut bytes = Vec::new();
                for tile in t.bytes().chunks(dtype.bytes_for(cols).unwrap() * TILE) {
                    pack_tile(dtype, cols, tile, &mut bytes);
                }
                assert_eq!(packed_bytes(dtype, rows, cols), Some(bytes.len()));
                let packed = Packed::new(dtype, rows, cols, &bytes).unwrap();
                let expected = t.to_f32();
                let mut row = vec![0.0; cols];
                for i in 0..rows {
                    packed.row(i, &mut row);
                    assert_eq!(row, expected[i * cols..(i + 1) * cols], "{dtype} row {i}");
                }
            }
        }
    }

    #[test]
    fn columns_of_float_tiles_are_those_of_the_matrix() {
        let mut rng = Rng::new(4);
        let values: Vec<f32> = (0..16 * 40).map(|_| rng.normal()).collect();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let t = Tensor::from_f32(vec![16, 40], &values).cast(dtype).unwrap();
            let mut bytes = Vec::new();
            pack_tile(dtype, 40, t.bytes(), &mut bytes);
            let mut columns = vec![0.0; 5 * TILE];
            widen(dtype, &bytes, 7, 5, &mut columns, TILE);
            let expected = t.to_f32();
            for (i, w) in columns.iter().enumerate() {
                assert_eq!(*w, expected[i % TILE * 40 + 7 + i / TILE], "{dtype} at {i}");
            }
        }
    }
}
