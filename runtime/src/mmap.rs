//! Memory from the system: file mappings, zeroed pages, and f32 views of bytes.
//!
//! Nothing here copies: weights are read where the page cache holds them, and zeroed memory costs
//! nothing until it is touched.

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut, MmapOptions};
use tensor::Bytes;

/// Maps a whole file for reading.
///
/// # Errors
/// What the system says.
#[allow(unsafe_code, reason = "a file mapping")]
pub(crate) fn map_file(file: &File) -> io::Result<Bytes> {
    // SAFETY: the mapping is read-only. A file that somebody shortens meanwhile ends the process
    // with SIGBUS, as with every mapped executable.
    let map: Mmap = unsafe { MmapOptions::new().map(file)? };
    // A wish: with huge pages a processor that streams weights waits less for addresses.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(Bytes::new(std::sync::Arc::new(map)))
}

/// Bytes that are zero until written, and use memory only where touched.
#[derive(Debug)]
pub(crate) struct ZeroedBytes(Option<MmapMut>);

impl ZeroedBytes {
    /// `len` zeros.
    ///
    /// # Errors
    /// When the system refuses the address space.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Ok(ZeroedBytes(None));
        }
        let map = MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
        // A wish, as in `map_file`.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(ZeroedBytes(Some(map)))
    }

    /// The bytes.
    pub(crate) fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }

    /// The bytes.
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or(&mut [])
    }
}

/// f32 elements that are zero until written, and use memory only where touched.
#[derive(Debug)]
pub(crate) struct Zeroed {
    map: Option<MmapMut>,
    len: usize,
}

impl Zeroed {
    /// `len` zeros.
    ///
    /// # Errors
    /// When the system refuses the address space.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(4).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = match bytes {
            0 => None,
            _ => Some(MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?),
        };
        Ok(Zeroed { map, len })
    }

    /// The elements.
    #[allow(unsafe_code, reason = "a typed view of pages")]
    pub(crate) fn as_mut(&mut self) -> &mut [f32] {
        match &mut self.map {
            // SAFETY: pages are aligned beyond 4 bytes, hold `4 * len` bytes, and any bits are f32.
            Some(map) => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().cast::<f32>(), self.len)
            },
            None => &mut [],
        }
    }

    /// The elements.
    #[allow(unsafe_code, reason = "a typed view of pages")]
    pub(crate) fn as_ref(&self) -> &[f32] {
        match &self.map {
            // SAFETY: as in `as_mut`.
            Some(map) => unsafe {
                std::slice::from_raw_parts(map.as_ptr().cast::<f32>(), self.len)
            },
            None => &[],
        }
    }
}

/// Little-endian f32 bytes as elements; `None` when they are not aligned or not whole.
#[allow(unsafe_code, reason = "a typed view of bytes")]
pub(crate) fn as_f32(bytes: &[u8]) -> Option<&[f32]> {
    if cfg!(target_endian = "big") {
        return None;
    }
    // SAFETY: `align_to` checks the alignment, and any bits are f32.
    let (head, values, tail) = unsafe { bytes.align_to::<f32>() };
    (head.is_empty() && tail.is_empty()).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_memory_is_zero_and_lazy() {
        // 64 GiB of address space on a machine that may not have it.
        let mut zeros = Zeroed::new(16 << 30).unwrap();
        zeros.as_mut()[(16 << 30) - 1] = 1.0;
        assert_eq!(zeros.as_ref()[12345], 0.0);
        assert!(Zeroed::new(usize::MAX).is_err());
        assert!(Zeroed::new(0).unwrap().as_ref().is_empty());
    }

    #[test]
    fn bytes_are_seen_as_floats_when_aligned() {
        let bytes: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let values = as_f32(&bytes).unwrap();
        assert_eq!(values, [1.5, -2.0]);
        assert!(as_f32(&bytes[..7]).is_none());
    }
}
