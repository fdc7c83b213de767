//! Opening files that were written by strangers: kinds, sizes and encodings are checked first.
//!
//! Small files (JSON, text) are read whole, up to a limit; weight files are mapped. Symbolic links
//! are followed, because the cache of the Hugging Face hub consists of them. A pipe or device is
//! refused before it is opened, since opening it could wait forever.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tensor::Bytes;

use crate::error::{ErrorKind, FrontendError};
use crate::mmap;

/// Most bytes of a JSON file, `.spark` file or template. The largest tokenizer.json known has 35 MB.
pub(crate) const TEXT_BYTES_MAX: u64 = 256 << 20;

/// Whether there is a directory at `path`, following links.
///
/// # Errors
/// When there is nothing, or it may not be looked at.
pub(crate) fn is_directory(path: &Path) -> Result<bool, FrontendError> {
    fs::metadata(path).map(|m| m.is_dir()).map_err(|e| io_error(&e, path))
}

/// Whether there is anything at `path`.
pub(crate) fn exists(path: &Path) -> bool {
    fs::metadata(path).is_ok()
}

/// The whole content of a regular file of text size.
///
/// # Errors
/// When it is not there, not a regular file, not readable, empty or too large.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FrontendError> {
    let (file, len) = open(path)?;
    if len > TEXT_BYTES_MAX {
        return Err(ErrorKind::TooLarge { bytes: len, limit: TEXT_BYTES_MAX }.at(path));
    }
    let mut bytes = Vec::new();
    // The limit again: the file may grow while it is read.
    file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| io_error(&e, path))?;
    Ok(bytes)
}

/// As [`read`], as text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, FrontendError> {
    let bytes = read(path)?;
    String::from_utf8(bytes)
        .map_err(|e| ErrorKind::NotUtf8 { offset: e.utf8_error().valid_up_to() }.at(path))
}

/// Maps a regular file.
///
/// # Errors
/// When it is not there, not a regular file, not readable or empty.
pub(crate) fn map(path: &Path) -> Result<Bytes, FrontendError> {
    let (file, _) = open(path)?;
    mmap::map(&file).map_err(|e| io_error(&e, path))
}

/// The first bytes of a file, at most `count`, to recognise its format.
///
/// # Errors
/// As [`map`].
pub(crate) fn first_bytes(path: &Path, count: u64) -> Result<Vec<u8>, FrontendError> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes).map_err(|e| io_error(&e, path))?;
    Ok(bytes)
}

/// The directory a file lies in.
pub(crate) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Opens a non-empty regular file and returns it with its length.
fn open(path: &Path) -> Result<(File, u64), FrontendError> {
    let metadata = fs::metadata(path).map_err(|e| io_error(&e, path))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "directory" } else { "pipe or device" };
        return Err(ErrorKind::NotAFile { found }.at(path));
    }
    if metadata.len() == 0 {
        return Err(ErrorKind::Empty.at(path));
    }
    let file = File::open(path).map_err(|e| io_error(&e, path))?;
    Ok((file, metadata.len()))
}

fn io_error(error: &io::Error, path: &Path) -> FrontendError {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound.at(path),
        _ => ErrorKind::Unreadable { why: error.to_string() }.at(path),
    }
}
