//! The layout of keys and values: tiles of 16, as weights have, so that attention is matrix products.
//!
//! Per head, keys `[S, width]` are the rows of a packed matrix: tiles of 16 positions, `[width][16]`
//! each. Values are its columns: tiles of 16 channels, `[capacity][16]` each. Stored as f32, f16 or
//! bf16. Appending a position touches its own lane only.

use half::{bf16, f16};
use tensor::DType;

use super::pack::{FloatTile, TILE};

/// Which axis lies across a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// 16 positions: keys.
    Positions,
    /// 16 channels: values.
    Channels,
}

/// Where the elements of `[heads][capacity][width]` lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Which axis lies across a tile.
    pub across: Across,
    /// Stored float dtype.
    pub dtype: DType,
    /// Key/value heads.
    pub heads: usize,
    /// Positions there is room for.
    pub capacity: usize,
    /// Elements per head and position.
    pub width: usize,
}

/// Keys or values.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a> {
    /// Where elements lie.
    pub tiling: Tiling,
    /// `tiling.bytes()` bytes.
    pub bytes: &'a [u8],
}

impl Tiling {
    /// Columns of a tile.
    fn columns(&self) -> usize {
        if self.across == Across::Positions { self.width } else { self.capacity }
    }

    fn tiles(&self) -> usize {
        let rows = if self.across == Across::Positions { self.capacity } else { self.width };
        rows.div_ceil(TILE)
    }

    fn tile_bytes(&self) -> usize {
        self.columns() * TILE * self.dtype.block_bytes()
    }

    /// Bytes of all heads; `None` when they overflow.
    pub fn bytes(&self) -> Option<usize> {
        let tile = self.columns().checked_mul(TILE * self.dtype.block_bytes())?;
        tile.checked_mul(self.tiles())?.checked_mul(self.heads)
    }

    /// First byte of an element, and bytes from one channel to the next of the same tile row.
    fn start(&self, head: usize, position: usize, channel: usize) -> usize {
        let (row, column) = match self.across {
            Across::Positions => (position, channel),
            Across::Channels => (channel, position),
        };
        let tile = head * self.tiles() + row / TILE;
        tile * self.tile_bytes() + (column * TILE + row % TILE) * self.dtype.block_bytes()
    }

    /// Stores the row `x[width]` of a head and position.
    pub fn write(&self, bytes: &mut [u8], head: usize, position: usize, x: &[f32]) {
        match self.dtype {
            DType::F16 => {
                self.write_as(bytes, head, position, x, |x| f16::from_f32(x).to_le_bytes());
            }
            DType::BF16 => {
                self.write_as(bytes, head, position, x, |x| bf16::from_f32(x).to_le_bytes());
            }
            _ => self.write_as(bytes, head, position, x, f32::to_le_bytes),
        }
    }

    #[inline(always)]
    fn write_as<const N: usize>(
        &self,
        bytes: &mut [u8],
        head: usize,
        position: usize,
        x: &[f32],
        store: impl Fn(f32) -> [u8; N],
    ) {
        // Runs of channels that lie at equal distances: all of a key, 16 of a value.
        let (run, step) = match self.across {
            Across::Positions => (self.width, TILE),
            Across::Channels => (TILE, 1),
        };
        for (i, x) in x[..self.width].chunks(run).enumerate() {
            let to = &mut bytes[self.start(head, position, i * run)..];
            let slots = to.as_chunks_mut::<N>().0.iter_mut().step_by(step);
            for (slot, &x) in slots.zip(x) {
                *slot = store(x);
            }
        }
    }

    /// Reads the row of a head and position.
    pub fn read(&self, bytes: &[u8], head: usize, position: usize, out: &mut [f32]) {
        for (channel, o) in out.iter_mut().enumerate() {
            let at = &bytes[self.start(head, position, channel)..];
            *o = match self.dtype {
                DType::F16 => f16::from_le_bytes([at[0], at[1]]).to_f32(),
                DType::BF16 => bf16::from_le_bytes([at[0], at[1]]).to_f32(),
                _ => f32::from_le_bytes([at[0], at[1], at[2], at[3]]),
            };
        }
    }
}

impl<'a> Tiles<'a> {
    /// Tile `i` of a head, or `None` beyond the last.
    pub(crate) fn tile(&self, head: usize, i: usize) -> Option<FloatTile<'a>> {
        let (tiles, len) = (self.tiling.tiles(), self.tiling.tile_bytes());
        let dtype = self.tiling.dtype;
        (i < tiles).then(|| FloatTile {
            dtype,
            bytes: &self.bytes[(head * tiles + i) * len..][..len],
            step: TILE * dtype.block_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_changes() {
        for across in [Across::Positions, Across::Channels] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let tiling = Tiling { across, dtype, heads: 2, capacity: 19, width: 21 };
                let mut bytes = vec![0; tiling.bytes().unwrap()];
                let row = |n: usize| (0..21).map(|i| (n + i) as f32 * 0.5).collect::<Vec<_>>();
                for n in 0..2 * 19 {
                    tiling.write(&mut bytes, n / 19, n % 19, &row(n));
                }
                for n in 0..2 * 19 {
                    let mut back = vec![0.0; 21];
                    tiling.read(&bytes, n / 19, n % 19, &mut back);
                    assert_eq!(back, row(n), "{across:?} {dtype} row {n}");
                }
            }
        }
    }
}
