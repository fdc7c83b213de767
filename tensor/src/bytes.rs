//! Bytes that are owned or kept alive by whoever lent them (a file mapping).

use std::fmt;
use std::ops::Deref;
use std::ops::Range;
use std::sync::Arc;

/// A cheap-to-clone, immutable view of bytes.
///
/// The owner (a `Vec`, a file mapping) lives as long as any view of it.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
    release: fn(&[u8]),
}

impl Bytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let len = (*owner).as_ref().len();
        Bytes { owner, range: 0..len, release: |_| {} }
    }

    /// As [`Bytes::new`], for an owner that can get bytes back when they were forgotten (a file
    /// mapping): `release` is told which ones.
    pub fn reloadable(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, release: fn(&[u8])) -> Self {
        Bytes { release, ..Bytes::new(owner) }
    }

    /// Says that these bytes will not be read soon; they stay what they are.
    pub fn release(&self) {
        (self.release)(self);
    }

    /// A part of this view, sharing the owner; `None` when `range` is outside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let start = self.range.start;
        Some(Bytes {
            owner: Arc::clone(&self.owner),
            range: start + range.start..start + range.end,
            release: self.release,
        })
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::new(Arc::new(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}
