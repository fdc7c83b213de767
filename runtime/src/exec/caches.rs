//! The KV caches of all sequences, stored as their dtype in pages of the tiles that attention reads.
//!
//! A page has the same number in every cache, and is one piece of memory with the pages of all others:
//! so memory is used where something was written only, also where the system gives it by mebibytes.

use std::io;

use crate::kernels::kv::{Across, PAGE, Tiles, Tiling};
use crate::kernels::rows::Span;
use crate::mmap::ZeroedBytes;
use crate::program::Program;

/// All caches.
#[derive(Debug)]
pub(super) struct Caches {
    data: ZeroedBytes,
    /// Bytes from page to page.
    stride: usize,
    tilings: Vec<Tiling>,
    /// First byte of each cache in a page.
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
        let (mut tilings, mut starts, mut stride) = (Vec::new(), Vec::new(), 0usize);
        let too_large = || (usize::MAX, io::ErrorKind::OutOfMemory.into());
        for (spec, is_key) in program.caches.iter().zip(program.key_caches()) {
            let across = if is_key { Across::Positions } else { Across::Channels };
            let tiling = Tiling::new(across, spec.dtype, spec.heads as usize, spec.width as usize);
            let tiling = tiling.ok_or_else(too_large)?;
            starts.push(stride);
            let end = stride.checked_add(tiling.page_bytes());
            stride = end.and_then(|e| e.checked_next_multiple_of(ALIGN)).ok_or_else(too_large)?;
            tilings.push(tiling);
        }
        tilings.iter_mut().for_each(|t| t.stride = stride);
        let len = stride.checked_mul(pages).ok_or_else(too_large)?;
        let data = ZeroedBytes::new(len).map_err(|e| (len, e))?;
        Ok(Caches { data, stride, tilings, starts })
    }

    /// The whole of a cache.
    pub(super) fn tiles<'a>(&'a self, cache: usize, tables: &'a [Vec<u32>]) -> Tiles<'a> {
        let bytes = self.data.as_ref().get(self.starts[cache]..).unwrap_or(&[]);
        Tiles { tiling: self.tilings[cache], bytes, tables: Some(tables) }
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
        let start = from * self.stride;
        self.data.as_mut().copy_within(start..start + self.stride, to * self.stride);
    }
}
