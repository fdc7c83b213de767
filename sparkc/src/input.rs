//! Reading files that users name, whole and within a limit.
//!
//! Invariant: nothing is read of what is not a regular file (a device or a pipe may never end), nor more
//! bytes than a file of its kind can have. Models have the same rules in `frontend`, which checks their
//! files itself.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};

use crate::exit::Fault;

/// Most bytes of a target, a list of defects, a report.
pub const SMALL: u64 = 16 << 20;
/// Most bytes of a certificate or an e-graph: those of the largest blocks have a hundredth of it.
pub const TEXT: u64 = 256 << 20;
/// Most bytes of a plan, weights packed along.
pub const PLAN: u64 = 16 << 30;

/// The whole content of a regular file of at most `limit` bytes.
///
/// # Errors
/// When it is not there, not a regular file, larger, or cannot be read.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let shown = path.display();
    let cannot = || format!("cannot read `{shown}`");
    let metadata = std::fs::metadata(path).with_context(cannot)?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a directory" } else { "a pipe or a device" };
        let fault =
            Fault::bad_input("SPK5003", format!("`{shown}` is {found}, not a regular file"));
        let advice = match metadata.is_dir() {
            true => "name a file, perhaps one inside",
            false => "copy what it yields into a file first",
        };
        return Err(fault.advise(advice).into());
    }
    let too_large = |bytes: u64| {
        let message = format!("`{shown}` has {bytes} bytes, a file of this kind at most {limit}");
        Fault::bad_input("SPK5004", message).advise("check that this is the file you mean")
    };
    if metadata.len() > limit {
        return Err(too_large(metadata.len()).into());
    }
    let mut bytes = Vec::new();
    // The limit again: the file may grow while it is read.
    let file = File::open(path).with_context(cannot)?;
    file.take(limit + 1).read_to_end(&mut bytes).with_context(cannot)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64).into());
    }
    Ok(bytes)
}

/// As [`read`], as text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("`{}` is not UTF-8: invalid byte at offset {at}", path.display());
        Fault::bad_input("SPK5005", message).advise("check that this is the file you mean").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<String>) -> &'static str {
        result.unwrap_err().downcast::<Fault>().unwrap().code
    }

    #[test]
    fn what_is_no_small_text_file_is_refused_with_a_code() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"12345678").unwrap();
        assert_eq!(read_text(&file, 8).unwrap(), "12345678");
        assert_eq!(code(read_text(&file, 7)), "SPK5004");
        assert_eq!(code(read_text(folder.path(), 7)), "SPK5003");
        assert_eq!(code(read_text(Path::new("/dev/zero"), 7)), "SPK5003");
        std::fs::write(&file, b"ab\xff").unwrap();
        assert_eq!(code(read_text(&file, 8)), "SPK5005");
        // Sparse: it would fill memory.
        std::fs::File::create(&file).unwrap().set_len(100 << 30).unwrap();
        assert_eq!(code(read_text(&file, TEXT)), "SPK5004");
    }
}
