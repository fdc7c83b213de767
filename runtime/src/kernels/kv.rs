//! The layout of keys and values: pages of 128 positions, in tiles of 16 as weights have, so that
//! attention is matrix products.
//!
//! A page holds what one block of attention reads of a head. Of keys `[128, width]`: 8 tiles of 16
//! positions, `[width][16]` each. Of values their columns: tiles of 16 channels, `[128][16]` each.
//! Stored as f32, f16 or bf16. The heads of a page lie one after the other; pages lie at equal distances,
//! so that the same page of several caches can be one piece of memory. Which of them belong to a
//! sequence, in which order, its page table says. Sequences may have pages in common.
//! Appending a position touches its own lane only. Who owns a page is not known here.

use half::{bf16, f16};
use tensor::DType;

use super::pack::{FloatTile, TILE};

/// Positions of a page.
pub const PAGE: usize = 128;

/// Which axis lies across a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// 16 positions: keys.
    Positions,
    /// 16 channels: values.
    Channels,
}

/// Where the elements of `[heads][128 * pages][width]` lie. Positions are those of the memory: page
/// times 128, and the place in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Which axis lies across a tile.
    pub across: Across,
    /// Stored float dtype.
    pub dtype: DType,
    /// Key/value heads.
    pub heads: usize,
    /// Elements per head and position.
    pub width: usize,
    /// Bytes from page to page: at least [`Tiling::page_bytes`].
    pub stride: usize,
}

/// Keys or values.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a> {
    /// Where elements lie.
    pub tiling: Tiling,
    /// From the first page on.
    pub bytes: &'a [u8],
    /// The page table of each sequence; `None` where the pages are those of one, in order.
    pub tables: Option<&'a [Vec<u32>]>,
}

/// The tiles of a page of one head, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageTiles<'a> {
    /// A float dtype.
    pub(crate) dtype: DType,
    /// All tiles.
    pub(crate) bytes: &'a [u8],
    /// Bytes of a tile.
    pub(crate) tile: usize,
    /// What is read next of the same kind, to be fetched meanwhile; as long as `bytes`.
    pub(crate) next: &'a [u8],
}

/// Rows of floats at equal distances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// From the first row on.
    pub(crate) data: &'a [f32],
    /// How many.
    pub(crate) len: usize,
    /// Elements from row to row.
    pub(crate) stride: usize,
}

impl Tiling {
    /// Pages that lie next to each other, or `None` when their size overflows.
    pub fn new(across: Across, dtype: DType, heads: usize, width: usize) -> Option<Self> {
        let elements = width.checked_next_multiple_of(TILE)?.checked_mul(PAGE * heads)?;
        elements.checked_mul(dtype.block_bytes())?;
        let tiling = Tiling { across, dtype, heads, width, stride: 0 };
        Some(Tiling { stride: tiling.page_bytes(), ..tiling })
    }

    /// Columns of a tile.
    fn columns(&self) -> usize {
        if self.across == Across::Positions { self.width } else { PAGE }
    }

    /// Tiles of a page.
    fn tiles(&self) -> usize {
        let rows = if self.across == Across::Positions { PAGE } else { self.width };
        rows.div_ceil(TILE)
    }

    fn tile_bytes(&self) -> usize {
        self.columns() * TILE * self.dtype.block_bytes()
    }

    /// Bytes of a page of one head.
    fn head_bytes(&self) -> usize {
        self.tiles() * self.tile_bytes()
    }

    /// Bytes of a page of all heads.
    pub fn page_bytes(&self) -> usize {
        self.heads * self.head_bytes()
    }

    /// First byte of a page of a head.
    fn page_start(&self, head: usize, page: usize) -> usize {
        page * self.stride + head * self.head_bytes()
    }

    /// First byte of an element.
    fn start(&self, head: usize, position: usize, channel: usize) -> usize {
        let (page, position) = (position / PAGE, position % PAGE);
        let (row, column) = match self.across {
            Across::Positions => (position, channel),
            Across::Channels => (channel, position),
        };
        let in_page = row / TILE * self.tile_bytes()
            + (column * TILE + row % TILE) * self.dtype.block_bytes();
        self.page_start(head, page) + in_page
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
    /// Which page of the memory is page `page` of a sequence.
    fn physical(&self, sequence: usize, page: usize) -> usize {
        self.tables.map_or(page, |tables| tables[sequence][page] as usize)
    }

    /// Tile `i` of a page of a sequence and head, or `None` beyond the last.
    pub(crate) fn tile(
        &self,
        sequence: usize,
        head: usize,
        page: usize,
        i: usize,
    ) -> Option<FloatTile<'a>> {
        let (tiling, len) = (&self.tiling, self.tiling.tile_bytes());
        let start = tiling.page_start(head, self.physical(sequence, page)) + i * len;
        (i < tiling.tiles()).then(|| FloatTile {
            dtype: tiling.dtype,
            bytes: &self.bytes[start..][..len],
            step: TILE * tiling.dtype.block_bytes(),
        })
    }

    /// The first `count` tiles of a page of a sequence and head; page `next` is read after it.
    pub(crate) fn page(
        &self,
        sequence: usize,
        head: usize,
        [page, next]: [usize; 2],
        count: usize,
    ) -> PageTiles<'a> {
        let (tiling, tile) = (&self.tiling, self.tiling.tile_bytes());
        let [bytes, next] = [page, next].map(|page| {
            let start = tiling.page_start(head, self.physical(sequence, page));
            &self.bytes[start..][..count.min(tiling.tiles()) * tile]
        });
        PageTiles { dtype: tiling.dtype, bytes, tile, next }
    }

    /// Reads the row of a sequence, head and position.
    pub fn read(&self, sequence: usize, head: usize, position: usize, out: &mut [f32]) {
        let page = self.physical(sequence, position / PAGE);
        self.tiling.read(self.bytes, head, page * PAGE + position % PAGE, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_changes() {
        for across in [Across::Positions, Across::Channels] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let near = Tiling::new(across, dtype, 2, 21).unwrap();
                // Pages with a gap, as where they are shared with other caches.
                let tiling = Tiling { stride: near.page_bytes() + 64, ..near };
                let mut bytes = vec![0; 2 * tiling.stride];
                let row = |n: usize| (0..21).map(|i| (n + i) as f32 * 0.5).collect::<Vec<_>>();
                // Positions on both sides of the border of two pages.
                let place = |n: usize| (n / 19, PAGE - 9 + n % 19);
                for n in 0..2 * 19 {
                    let (head, position) = place(n);
                    tiling.write(&mut bytes, head, position, &row(n));
                }
                for n in 0..2 * 19 {
                    let (head, position) = place(n);
                    let mut back = vec![0.0; 21];
                    tiling.read(&bytes, head, position, &mut back);
                    assert_eq!(back, row(n), "{across:?} {dtype} row {n}");
                }
                // A table of pages in another order, and a copied page.
                bytes.copy_within(..tiling.stride, tiling.stride);
                let tables = [vec![], vec![1, 0]];
                let tiles = Tiles { tiling, bytes: &bytes, tables: Some(&tables) };
                for page in [0, 1] {
                    let mut back = vec![0.0; 21];
                    tiles.read(1, 1, page * PAGE + PAGE - 9, &mut back);
                    assert_eq!(back, row(19), "{across:?} {dtype} page {page}");
                }
            }
        }
    }
}
