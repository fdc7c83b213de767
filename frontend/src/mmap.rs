//! Read-only mapping of a whole file: the only `unsafe` of this crate.
//!
//! Invariant: a [`Mapping`] is never written through, and lives as long as any `Bytes` cut from it.
//! Does not protect against another process that shortens the file while it is mapped: touching the
//! lost pages then raises SIGBUS, as for every program that maps files. The checks of this crate
//! compare the header with the length at the time of mapping.

use std::fs::File;
use std::io;
use std::sync::Arc;

use tensor::Bytes;

/// A file mapped into memory.
struct Mapping(memmap2::Mmap);

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps all of `file`. Pages are read when they are touched, not before.
///
/// # Errors
/// What the operating system answers.
pub(crate) fn map(file: &File) -> io::Result<Bytes> {
    #[allow(unsafe_code, reason = "mapping is how weight bytes stay unread until they are needed")]
    // SAFETY: the mapping is private and read-only, and its only use is through `&[u8]`; that no
    // other process changes the file meanwhile is the assumption documented above.
    let mapping = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::reloadable(Arc::new(Mapping(mapping)), release))
}

/// Gives the pages inside `bytes` back to the system, which reads them again when they are touched.
#[cfg(unix)]
fn release(bytes: &[u8]) {
    #[allow(unsafe_code, reason = "a question to the system")]
    // SAFETY: `sysconf` takes any name and touches no memory of ours.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    if !page.is_power_of_two() {
        return;
    }
    let skip = bytes.as_ptr().align_offset(page).min(bytes.len());
    let pages = &bytes[skip..];
    let len = pages.len() / page * page;
    #[allow(unsafe_code, reason = "pages of a read-only file mapping are dropped, not changed")]
    // SAFETY: the range lies in a mapping of this module, which nobody writes: its pages come back
    // from the file with the same bytes.
    unsafe {
        libc::madvise(pages.as_ptr().cast_mut().cast(), len, libc::MADV_DONTNEED);
    }
}

#[cfg(not(unix))]
fn release(_: &[u8]) {}
