//! The packed layout of constant matrices: tiles of 16 rows, made at compile time, mapped at run
//! time. One layout serves every instruction set.
//!
//! A matrix `[rows, cols]` becomes `ceil(rows / 16)` tiles; missing rows are zero. A pass over a tile
//! reads bytes strictly in order: that is what memory gives fastest.
//!
//! Floats (`f32`, `f16`, `bf16`) lie by pairs of tiles as `[cols][32 rows]` (a last odd tile as
//! `[cols][16]`): one 512-bit register of f32 holds one column of 16 results, and two independent
//! sums hide the latency of an addition.
//!
//! Quantised tiles are made of units of two groups of 32 columns. A unit holds the heads of its
//! groups (16 f16 scales; `q4m`: then 16 f16 minima), padded to a cache line, then their codes:
//!
//! - `q8`: `[8 quads][16 rows][4 columns]` bytes, so that a 32-bit lane holds four columns of one
//!   row, as byte dot products want them: 8.5 bits a weight;
//! - `q4`, `q4m`: `[4][16 rows][4]` bytes; byte i of a row holds quad 2i in the low and 2i+1 in the
//!   high nibbles. 4.5 and 5 bits a weight.
//!
//! Codes are unsigned, `offset` above their value: byte dot products take an unsigned and a signed
//! factor, and what the offset adds is a sum of the other factor, the same for all rows.

use half::{bf16, f16};
use tensor::DType;
use tensor::quant::GROUP;

use crate::program::{Layout, Weight};

/// Rows of a tile.
pub const TILE: usize = 16;
/// Columns of float tiles that are widened at a time.
pub(crate) const GROUP_COLUMNS: usize = GROUP;
/// Rows of a pair of tiles.
pub const PAIR: usize = 2 * TILE;
/// Groups whose heads lie together: those of `q8` and `q4` fill a cache line.
pub(crate) const UNIT: usize = 2;
/// Groups unpacked at a time: 8 KiB of codes, so that two tiles stay in the first-level cache.
pub(crate) const CHUNK: usize = 16;
/// Columns that one 32-bit lane holds.
pub(crate) const QUAD: usize = 4;
/// Bytes of one group of unpacked codes of a tile.
pub(crate) const GROUP_CODES: usize = GROUP * TILE;
/// Bytes of one f16 per row.
const HALVES: usize = TILE * 2;
/// Cache line.
const LINE: usize = 64;

/// A packed matrix. Made by [`Packed::new`] alone: kernels rely on its sizes.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// Stored dtype.
    pub(crate) dtype: DType,
    /// Result elements.
    pub(crate) rows: usize,
    /// Inner extent.
    pub(crate) cols: usize,
    /// `tile_bytes(dtype, cols)` for each 16 rows.
    bytes: &'a [u8],
}

/// One tile of floats: 16 values side by side for each column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatTile<'a> {
    /// A float dtype.
    pub(crate) dtype: DType,
    /// From the first value on.
    pub(crate) bytes: &'a [u8],
    /// Bytes from column to column.
    pub(crate) step: usize,
}

/// One chunk of a quantised tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    /// Stored dtype.
    pub(crate) dtype: DType,
    /// Groups in it.
    pub(crate) groups: usize,
    /// Its units.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Head and codes of group `g`.
    #[inline]
    pub(crate) fn group(&self, g: usize) -> (&'a [u8], &'a [u8]) {
        let n = UNIT.min(self.groups - g / UNIT * UNIT);
        let unit = &self.bytes[g / UNIT * unit_bytes(self.dtype, UNIT)..];
        let (heads, codes) = unit.split_at(heads_bytes(self.dtype, n));
        let (head, code) = (head_bytes(self.dtype), code_bytes(self.dtype));
        (&heads[g % UNIT * head..][..head], &codes[g % UNIT * code..][..code])
    }
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
    let whole = (groups / UNIT).checked_mul(unit_bytes(dtype, UNIT))?;
    whole.checked_add(if groups.is_multiple_of(UNIT) { 0 } else { unit_bytes(dtype, 1) })
}

/// Bytes of a packed matrix; `None` as in [`tile_bytes`].
pub fn packed_bytes(dtype: DType, rows: usize, cols: usize) -> Option<usize> {
    tile_bytes(dtype, cols)?.checked_mul(rows.div_ceil(TILE))
}

/// What a stored code is above its value.
pub(crate) const fn offset(dtype: DType) -> i32 {
    match dtype {
        DType::Q8 => 128,
        DType::Q4 => 8,
        _ => 0,
    }
}

/// Bytes of the scales (and minima) of one group of a tile.
pub(crate) const fn head_bytes(dtype: DType) -> usize {
    if matches!(dtype, DType::Q4M) { 2 * HALVES } else { HALVES }
}

/// Bytes of the codes of one group of a tile.
pub(crate) const fn code_bytes(dtype: DType) -> usize {
    if matches!(dtype, DType::Q8) { GROUP_CODES } else { GROUP_CODES / 2 }
}

/// Bytes of the heads of a unit of `groups` groups of a tile.
pub(crate) const fn heads_bytes(dtype: DType, groups: usize) -> usize {
    (groups * head_bytes(dtype)).next_multiple_of(LINE)
}

/// Bytes of a unit of `groups` (at most 2) groups of a tile.
pub(crate) const fn unit_bytes(dtype: DType, groups: usize) -> usize {
    heads_bytes(dtype, groups) + groups * code_bytes(dtype)
}

/// Chunk `i` of a quantised tile of `groups` groups.
pub(crate) fn chunk(dtype: DType, tile: &[u8], groups: usize, i: usize) -> Chunk<'_> {
    let n = CHUNK.min(groups - i * CHUNK);
    let start = i * (CHUNK / UNIT) * unit_bytes(dtype, UNIT);
    let len = if n == CHUNK { CHUNK / UNIT * unit_bytes(dtype, UNIT) } else { tile.len() - start };
    Chunk { dtype, groups: n, bytes: &tile[start..start + len] }
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

    /// The bytes of tiles `i..i + n`, which are whole pairs if this is a float matrix.
    pub(crate) fn tiles_from(&self, i: usize, n: usize) -> &'a [u8] {
        let len = self.bytes.len() / self.tiles().max(1);
        &self.bytes[i * len..(i + n) * len]
    }

    /// The bytes of tile `i` of a quantised matrix.
    pub(crate) fn tile(&self, i: usize) -> &'a [u8] {
        self.tiles_from(i, 1)
    }

    /// Tile `i` of a float matrix.
    pub(crate) fn floats(&self, i: usize) -> FloatTile<'a> {
        let size = TILE * self.dtype.block_bytes();
        let (first, n) = (i / 2 * 2, self.pair_tiles(i));
        let bytes = &self.tiles_from(first, n)[i % 2 * size..];
        FloatTile { dtype: self.dtype, bytes, step: n * size }
    }

    /// Tiles of the pair of tile `i`: one at an odd end.
    pub(crate) fn pair_tiles(&self, i: usize) -> usize {
        (self.tiles() - i / 2 * 2).min(2)
    }

    /// Writes row `row`, widened, to `out` (`cols` long).
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (tile, lane) = (row / TILE, row % TILE);
        let out = &mut out[..self.cols];
        if self.dtype.is_quantized() {
            for (g, o) in out.chunks_mut(GROUP).enumerate() {
                let chunk = chunk(self.dtype, self.tile(tile), self.groups(), g / CHUNK);
                group_row(&chunk, g % CHUNK, lane, o);
            }
            return;
        }
        let tile = self.floats(tile);
        for (o, column) in out.iter_mut().zip(tile.bytes.chunks(tile.step)) {
            *o = float_at(column, lane, self.dtype);
        }
    }
}

/// Row `lane` of group `g` of a chunk, by the formula of `tensor::quant`.
fn group_row(chunk: &Chunk<'_>, g: usize, lane: usize, out: &mut [f32]) {
    let (dtype, (head, codes)) = (chunk.dtype, chunk.group(g));
    let scale = half_at(head, lane, DType::F16);
    for (j, o) in out.iter_mut().enumerate() {
        let code = (i32::from(code_at(dtype, codes, j, lane)) - offset(dtype)) as f32;
        *o = match dtype {
            DType::Q4M => scale * code + half_at(head, TILE + lane, DType::F16),
            _ => scale * code,
        };
    }
}

/// The stored code of column `j` of a row of a group.
fn code_at(dtype: DType, codes: &[u8], j: usize, lane: usize) -> u8 {
    let (quad, in_quad) = (j / QUAD, j % QUAD);
    if dtype == DType::Q8 {
        return codes[(quad * TILE + lane) * QUAD + in_quad];
    }
    codes[(quad / 2 * TILE + lane) * QUAD + in_quad] >> (4 * (quad % 2)) & 15
}

/// Element `index` of floats.
fn float_at(bytes: &[u8], index: usize, dtype: DType) -> f32 {
    match (dtype, bytes[4 * index.min(bytes.len() / 4)..].first_chunk()) {
        (DType::F32, Some(bytes)) => f32::from_le_bytes(*bytes),
        _ => half_at(bytes, index, dtype),
    }
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
pub(crate) fn widen(tile: &FloatTile<'_>, first: usize, n: usize, out: &mut [f32], stride: usize) {
    for (i, out) in out.chunks_mut(stride).take(n).enumerate() {
        let column = &tile.bytes[(first + i) * tile.step..];
        for (lane, o) in out[..TILE].iter_mut().enumerate() {
            *o = float_at(column, lane, tile.dtype);
        }
    }
}

/// Packs row-major rows of `cols` elements of `dtype`, appended to `out`: all of a matrix, or a
/// multiple of 32 of its rows. The bytes of a row are those of a `tensor::Tensor`.
///
/// # Panics
/// When `rows` does not hold whole rows.
pub fn pack_rows(dtype: DType, cols: usize, rows: &[u8], out: &mut Vec<u8>) {
    let row_bytes = dtype.bytes_for(cols).expect("whole groups: checked by the compiler");
    assert_eq!(rows.len().checked_rem(row_bytes).unwrap_or(0), 0, "whole rows");
    let tile = tile_bytes(dtype, cols).expect("its bytes are in memory");
    let most = if dtype.is_quantized() { TILE } else { PAIR };
    for rows in rows.chunks((most * row_bytes).max(1)) {
        let (start, tiles) = (out.len(), (rows.len() / row_bytes).div_ceil(TILE));
        out.resize(start + tiles * tile, 0);
        let to = &mut out[start..];
        match dtype.block_bytes() {
            _ if dtype.is_quantized() => pack_units(dtype, row_bytes, rows, to),
            4 => interleave::<4>(row_bytes, rows, tiles * TILE, to),
            _ => interleave::<2>(row_bytes, rows, tiles * TILE, to),
        }
    }
}

/// `[row][column]` to `[column][lanes]` of values of `N` bytes.
fn interleave<const N: usize>(row_bytes: usize, rows: &[u8], lanes: usize, to: &mut [u8]) {
    let columns = to.as_chunks_mut::<N>().0;
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        let lanes = columns[lane..].iter_mut().step_by(lanes);
        for (to, from) in lanes.zip(row.as_chunks::<N>().0) {
            *to = *from;
        }
    }
}

fn pack_units(dtype: DType, row_bytes: usize, rows: &[u8], tile: &mut [u8]) {
    let (block, head) = (dtype.block_bytes(), head_bytes(dtype) / TILE);
    let groups = row_bytes / block;
    for (unit, first) in tile.chunks_mut(unit_bytes(dtype, UNIT)).zip((0..groups).step_by(UNIT)) {
        let n = UNIT.min(groups - first);
        let (heads, codes) = unit.split_at_mut(heads_bytes(dtype, n));
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
    let quads = source.as_chunks::<QUAD>().0;
    let lanes = codes[lane * QUAD..].chunks_mut(TILE * QUAD);
    if dtype == DType::Q8 {
        for (to, quad) in lanes.zip(quads) {
            let quad = u32::from_le_bytes(*quad) ^ 0x8080_8080;
            to[..QUAD].copy_from_slice(&quad.to_le_bytes());
        }
        return;
    }
    // Source byte j holds codes j (low) and j + 16 (high), with their offset: quads q and q + 4 are
    // the nibbles of four bytes. A target byte holds those of quads 2i (low) and 2i + 1 (high).
    let &[a, b, c, d] = quads else { return };
    let [a, b, c, d] = [a, b, c, d].map(u32::from_le_bytes);
    const LOW: u32 = 0x0f0f_0f0f;
    let low = |x: u32, y: u32| x & LOW | (y & LOW) << 4;
    let high = |x: u32, y: u32| x >> 4 & LOW | y & !LOW;
    for (to, quad) in lanes.zip([low(a, b), low(c, d), high(a, b), high(c, d)]) {
        to[..QUAD].copy_from_slice(&quad.to_le_bytes());
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
            for (rows, cols) in [(1, 32), (16, 64), (37, 96), (53, 64), (16, 32 * 35)] {
                let values: Vec<f32> = (0..rows * cols).map(|_| 1.0 + rng.normal()).collect();
                let t = Tensor::from_f32(vec![rows, cols], &values).cast(dtype).unwrap();
                let mut bytes = Vec::new();
                pack_rows(dtype, cols, t.bytes(), &mut bytes);
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
        let values: Vec<f32> = (0..48 * 40).map(|_| rng.normal()).collect();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let t = Tensor::from_f32(vec![48, 40], &values).cast(dtype).unwrap();
            let mut bytes = Vec::new();
            pack_rows(dtype, 40, t.bytes(), &mut bytes);
            let packed = Packed::new(dtype, 48, 40, &bytes).unwrap();
            let expected = t.to_f32();
            for tile in 0..3 {
                let mut columns = vec![0.0; 5 * TILE];
                widen(&packed.floats(tile), 7, 5, &mut columns, TILE);
                for (i, w) in columns.iter().enumerate() {
                    let row = tile * TILE + i % TILE;
                    assert_eq!(*w, expected[row * 40 + 7 + i / TILE], "{dtype} {tile} at {i}");
                }
            }
        }
    }
}
