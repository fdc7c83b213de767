//! The KV caches of a sequence, stored as their dtype in the tiles that attention reads.

use std::io;

use crate::kernels::kv::{Across, Tiles, Tiling};
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
    /// Empty caches for the program's context.
    ///
    /// # Errors
    /// The bytes that were asked for and what the system says.
    pub(super) fn new(program: &Program) -> Result<Self, (usize, io::Error)> {
        let keys = program.key_caches();
        let (mut tilings, mut starts, mut len) = (Vec::new(), Vec::new(), 0usize);
        for (spec, is_key) in program.caches.iter().zip(keys) {
            let tiling = Tiling {
                across: if is_key { Across::Positions } else { Across::Channels },
                dtype: spec.dtype,
                heads: spec.heads as usize,
                capacity: program.context as usize,
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
    pub(super) fn tiles(&self, cache: usize) -> Tiles<'_> {
        let (tiling, start) = (self.tilings[cache], self.starts[cache]);
        let len = tiling.bytes().expect("`new` added it up");
        Tiles { tiling, bytes: &self.data.as_ref()[start..start + len] }
    }

    /// Stores `x[n, heads, width]` from position `first` on.
    pub(super) fn append(&mut self, cache: usize, first: usize, x: &[f32]) {
        let tiling = self.tilings[cache];
        let bytes = &mut self.data.as_mut()[self.starts[cache]..];
        for (i, row) in x.chunks_exact(tiling.width).enumerate() {
            tiling.write(bytes, i % tiling.heads, first + i / tiling.heads, row);
        }
    }
}
