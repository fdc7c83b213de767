//! The packed layout of constant matrices: tiles of 16 rows, made at compile time, mapped at run
//! time.
//!
//! A matrix `[rows, cols]` becomes `ceil(rows / 16)` tiles; missing rows are zero. Within a tile the
//! 16 values of one column lie side by side, so one 512-bit register holds one column of 16 results:
//!
//! - `f32`, `f16`, `bf16`: `[cols][16]` values;
//! - `q8`: per 32 columns, 16 f16 scales and `[32][16]` codes: 8.5 bits a weight;
//! - `q4`: per 32 columns, 16 f16 scales and `[16][16]` bytes, byte j holding columns 2j (low
//!   nibble) and 2j+1 (high nibble), offset by 8: 4.5 bits a weight.
//!
//! Widening a quantised weight to f32 is exact (8 bits times 11 bits), so every dtype shares one
//! numeric contract: results are sums over columns, in order, of widened weight times activation.

use half::{bf16, f16};
use tensor::DType;
use tensor::quant::GROUP;

use crate::program::{Layout, Weight};

/// Rows of a tile.
pub const TILE: usize = 16;
/// Columns that share a scale, and the step in which columns are widened.
pub(crate) const GROUP_COLUMNS: usize = GROUP;
/// Bytes of the scales of one group of columns in a tile.
const SCALES: usize = TILE * 2;

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

/// Bytes of one tile of 16 rows, or `None` when `cols` is not a whole number of groups or the size
/// overflows.
pub fn tile_bytes(dtype: DType, cols: usize) -> Option<usize> {
    dtype.bytes_for(cols)?.checked_mul(TILE)
}

/// Bytes of a packed matrix; `None` as in [`tile_bytes`].
pub fn packed_bytes(dtype: DType, rows: usize, cols: usize) -> Option<usize> {
    tile_bytes(dtype, cols)?.checked_mul(rows.div_ceil(TILE))
}

impl<'a> Packed<'a> {
    /// A view of packed bytes, or `None` when the sizes do not match.
    pub fn new(dtype: DType, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        let stored = dtype.is_float() || dtype.is_quantized();
        let fits = stored && packed_bytes(dtype, rows, cols) == Some(bytes.len());
        fits.then_some(Packed { dtype, rows, cols, bytes })
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
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
            DType::Q8 | DType::Q4 => {
                for (group, o) in
                    tile.chunks(SCALES + code_bytes(self.dtype)).zip(out.chunks_mut(GROUP))
                {
                    let scale = half_at(group, lane, DType::F16);
                    for (j, o) in o.iter_mut().enumerate() {
                        *o = scale * code_at(self.dtype, &group[SCALES..], j, lane);
                    }
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

/// Bytes of the codes of one group of columns in a tile.
pub(crate) fn code_bytes(dtype: DType) -> usize {
    if dtype == DType::Q4 { GROUP / 2 * TILE } else { GROUP * TILE }
}

fn half_at(bytes: &[u8], index: usize, dtype: DType) -> f32 {
    let pair = [bytes[2 * index], bytes[2 * index + 1]];
    if dtype == DType::BF16 {
        bf16::from_le_bytes(pair).to_f32()
    } else {
        f16::from_le_bytes(pair).to_f32()
    }
}

/// The code of column `j` of a group, as a number.
fn code_at(dtype: DType, codes: &[u8], j: usize, lane: usize) -> f32 {
    if dtype == DType::Q8 {
        return f32::from(codes[j * TILE + lane] as i8);
    }
    let byte = codes[j / 2 * TILE + lane];
    f32::from(if j.is_multiple_of(2) { byte & 15 } else { byte >> 4 }) - 8.0
}

/// Widens columns `first..first + n` of a tile to `out[column][16]`, with `stride` elements from
/// column to column; the portable form of what the instruction sets do.
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
                DType::Q8 | DType::Q4 => {
                    let len = SCALES + code_bytes(dtype);
                    let group = &tile[column / GROUP * len..][..len];
                    let code = code_at(dtype, &group[SCALES..], column % GROUP, lane);
                    half_at(group, lane, DType::F16) * code
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
    match dtype {
        DType::Q8 | DType::Q4 => pack_groups(dtype, row_bytes, rows, out),
        _ => {
            let size = dtype.block_bytes();
            let start = out.len();
            out.resize(start + row_bytes * TILE, 0);
            let tile = &mut out[start..];
            for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
                for (j, value) in row.chunks_exact(size).enumerate() {
                    tile[(j * TILE + lane) * size..][..size].copy_from_slice(value);
                }
            }
        }
    }
}

fn pack_groups(dtype: DType, row_bytes: usize, rows: &[u8], out: &mut Vec<u8>) {
    let group_bytes = dtype.block_bytes();
    for g in 0..row_bytes / group_bytes {
        let start = out.len();
        out.resize(start + SCALES + code_bytes(dtype), 0);
        let (scales, codes) = out[start..].split_at_mut(SCALES);
        // A missing row has scale 0; its codes do not matter.
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            let group = &row[g * group_bytes..][..group_bytes];
            scales[2 * lane..2 * lane + 2].copy_from_slice(&group[..2]);
            let source = &group[2..];
            for j in 0..GROUP {
                if dtype == DType::Q8 {
                    codes[j * TILE + lane] = source[j];
                } else {
                    let byte = source[j % (GROUP / 2)];
                    let code = if j < GROUP / 2 { byte & 15 } else { byte >> 4 };
                    codes[j / 2 * TILE + lane] |= code << (4 * (j % 2));
                }
            }
        }
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
        (Layout::Packed, &[rows, cols])
            if weight.dtype.is_float() || weight.dtype.is_quantized() =>
        {
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
    fn rows_and_columns_of_tiles_are_those_of_the_matrix() {
        let mut rng = Rng::new(3);
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8, DType::Q4] {
            for (rows, cols) in [(1, 32), (16, 64), (37, 96)] {
                let values: Vec<f32> = (0..rows * cols).map(|_| rng.normal()).collect();
                let t = Tensor::from_f32(vec![rows, cols], &values).cast(dtype).unwrap();
                let mut bytes = Vec::new();
                for tile in t.bytes().chunks(dtype.bytes_for(cols).unwrap() * TILE) {
                    pack_tile(dtype, cols, tile, &mut bytes);
                }
                let packed = Packed::new(dtype, rows, cols, &bytes).unwrap();
                let expected = t.to_f32();
                let mut row = vec![0.0; cols];
                for i in 0..rows {
                    packed.row(i, &mut row);
                    assert_eq!(row, expected[i * cols..(i + 1) * cols], "{dtype} row {i}");
                }
                let mut columns = vec![0.0; 5 * TILE];
                widen(dtype, packed.tile(0), 7, 5, &mut columns, TILE);
                for j in 0..5 {
                    assert_eq!(columns[j * TILE], expected[7 + j], "{dtype} column {j}");
                }
                assert_eq!(packed_bytes(dtype, rows, cols), Some(bytes.len()));
            }
        }
    }
}
