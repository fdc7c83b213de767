//! Logits of a prompt as a safetensors file: one tensor "logits", f32 `[positions, vocab]`.
//!
//! Written row by row under a temporary name and renamed when whole, so that a failure leaves no
//! file. The header is made here because rows come one step at a time; its form is 8 bytes of length
//! and JSON (<https://github.com/huggingface/safetensors>).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{CliError, set_temporary};

pub(super) struct LogitsFile {
    out: BufWriter<File>,
    /// Where rows go until the file is whole; `None` when `path` is a device or a pipe.
    temporary: Option<PathBuf>,
    path: PathBuf,
    failure: Option<io::Error>,
    done: bool,
}

impl LogitsFile {
    /// Begins a file of `positions` rows.
    pub(super) fn create(path: &Path, positions: usize, vocab: usize) -> Result<Self, CliError> {
        let failed = |source| CliError::File { path: path.to_path_buf(), source };
        let special = std::fs::metadata(path).is_ok_and(|m| !m.is_file());
        let (file, temporary) = if special {
            (File::options().write(true).open(path).map_err(failed)?, None)
        } else {
            let name =
                path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}", std::process::id()));
            let temporary = path.with_file_name(hidden);
            (File::create(&temporary).map_err(failed)?, Some(temporary))
        };
        set_temporary(temporary.clone());
        let bytes = positions * vocab * 4;
        let mut header = serde_json::json!({
            "logits": {"dtype": "F32", "shape": [positions, vocab], "data_offsets": [0, bytes]}
        })
        .to_string();
        // Data begins at a multiple of 8.
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let mut out = BufWriter::new(file);
        let length = (header.len() as u64).to_le_bytes();
        let begun = out.write_all(&length).and_then(|()| out.write_all(header.as_bytes()));
        let failure = begun.err();
        Ok(LogitsFile { out, temporary, path: path.to_path_buf(), failure, done: false })
    }

    /// Appends rows; a failure is kept for `finish`.
    pub(super) fn push(&mut self, rows: &[f32]) {
        for value in rows {
            if self.failure.is_none() {
                self.failure = self.out.write_all(&value.to_le_bytes()).err();
            }
        }
    }

    /// Gives the file its name.
    pub(super) fn finish(mut self) -> Result<(), CliError> {
        let written = match self.failure.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        };
        let renamed = written.and_then(|()| match &self.temporary {
            Some(temporary) => std::fs::rename(temporary, &self.path),
            None => Ok(()),
        });
        renamed.map_err(|source| CliError::File { path: self.path.clone(), source })?;
        self.done = true;
        set_temporary(None);
        Ok(())
    }
}

impl Drop for LogitsFile {
    fn drop(&mut self) {
        if !self.done {
            super::remove_temporaries();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_whole_or_absent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.safetensors");
        let mut file = LogitsFile::create(&path, 2, 3).unwrap();
        file.push(&[1.0, 2.0, 3.0]);
        assert!(!path.exists());
        file.push(&[4.0, 5.0, 6.0]);
        file.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = read.tensor("logits").unwrap();
        assert_eq!(tensor.shape(), [2, 3]);
        assert_eq!(tensor.data()[20..], 6f32.to_le_bytes());
        std::fs::remove_file(&path).unwrap();
        drop(LogitsFile::create(&path, 2, 3).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(LogitsFile::create(&directory.path().join("no/such"), 1, 1).is_err());
        assert!(LogitsFile::create(directory.path(), 1, 1).is_err(), "a directory is no file");
    }

    #[cfg(unix)]
    #[test]
    fn devices_are_written_and_stay_devices() {
        let null = Path::new("/dev/null");
        let mut file = LogitsFile::create(null, 1, 1).unwrap();
        file.push(&[1.0]);
        file.finish().unwrap();
        assert!(!std::fs::metadata(null).unwrap().is_file());
    }
}
