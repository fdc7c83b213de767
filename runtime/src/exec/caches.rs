//! The KV caches of all sequences, stored as their dtype in pages of the tiles that attention reads.
//!
//! A page has the same number in every cache. Memory is used where something was written only.

use std::io;

use crate::kernels::kv::{Across, PAGE, Tiles, Tiling};
use crate::kernels::rows::Span;
use crate::mmap::ZeroedBytes;
use crate::program::Program;

/// All caches, one after the other.
#[derive(Debug)]
pub(super) struct Caches {
    data: ZeroedBytes,
    tilings: Vec<Tiling>,
    /// First byte of each cache.
    starts: Vec<usize>,
}

/// Caches begin a cache line.
const ALIGN: usize = 64;

impl Caches {
    /// Empty caches with room for `pages`.
    ///
    /// # Errors
    /// The bytes that were asked for and what the system says.
    pub(super) fn new(program: &Program, pages: usize) -> Result<Self, (usize, io::Error)> {
        let keys = program.key_caches();
        let (mut tilings, mut starts, mut len) = (Vec::new(), Vec::new(), 0usize);
        for (spec, is_key) in program.caches.iter().zip(keys) {
            let tiling = Tiling {
                across: if is_key { Across::Positions } else { Across::Channels },
                dtype: spec.dtype,
                heads: spec.heads as usize,
                pages,
                width: spec.width as usize,
            };
            starts.push(len);
            len = len.saturating_add(tiling.bytes().unwrap_or(usize::MAX / 2));
            len = len.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
            tilings.push(tiling);
        }
        let data = ZeroedBytes::new(len).map_err(|e| (len, e))?;
        Ok(Caches { data, tilings, starts })
    }

    /// The whole of a cache.
    pub(super) fn tiles<'a>(&'a self, cache: usize, tables: &'a [Vec<u32>]) -> Tiles<'a> {
        let (tiling, start) = (self.tilings[cache], self.starts[cache]);
        let len = tiling.bytes().expect("`new` added it up");
        Tiles { tiling, bytes: &self.data.as_ref()[start..start + len], tables: Some(tables) }
    }

    /// Stores `x[n, heads, width]` of a span in the pages of its sequence.
    pub(super) fn append(&mut self, cache: usize, span: Span, table: &[u32], x: &[f32]) {
        let tiling = self.tilings[cache];
        let bytes = &mut self.data.as_mut()[self.starts[cache]..];
        for (i, row) in x.chunks_exact(tiling.width).enumerate() {
            let position = span.first + i / tiling.heads;
            let place = table[position / PAGE] as usize * PAGE + position % PAGE;
            tiling.write(bytes, i % tiling.heads, place, row);
        }
    }

    /// Copies a page of every cache.
    pub(super) fn copy_page(&mut self, from: usize, to: usize) {
        for (tiling, &start) in self.tilings.iter().zip(&self.starts) {
            tiling.copy_page(&mut self.data.as_mut()[start..], from, to);
        }
    }
}
