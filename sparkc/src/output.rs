//! Writing: standard output, single files and whole directories, complete or not at all.
//!
//! Files are written under a temporary name beside their destination and renamed when complete; so
//! is the output directory. Invariant: a temporary name is in `TEMPORARIES` from before it exists
//! until after it is gone, so that [`remove_temporaries`], which the interrupt handler calls, leaves
//! nothing half-written. Renames happen under the same lock.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::exit::Fault;
use crate::input;

/// The one piece of global state: a signal handler can be told of it in no other way.
static TEMPORARIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn temporaries() -> MutexGuard<'static, Vec<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Deletes what is half-written. The lock stays held for the rest of the process, so that nothing
/// new is begun or renamed on the way out.
pub fn remove_temporaries() {
    let guard = temporaries();
    for path in guard.iter() {
        remove(path);
    }
    std::mem::forget(guard);
}

fn remove(path: &Path) {
    // Best effort: the process is ending or has failed already, with a better message than this.
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// A temporary path that is deleted when dropped, unless [`Temporary::rename`]d.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// Reserves `.NAME.PID.tmp` beside `destination`; creates nothing.
    fn beside(destination: &Path, role: &str) -> Result<Self> {
        let name = destination
            .file_name()
            .ok_or_else(|| {
                let shown = destination.display();
                Fault::bad_input("SPK5002", format!("`{shown}` is not a name that can be written"))
            })?
            .to_string_lossy();
        let path = destination.with_file_name(format!(".{name}.{}.{role}", std::process::id()));
        temporaries().push(path.clone());
        Ok(Temporary { path })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove(&self.path);
        temporaries().retain(|p| *p != self.path);
    }
}

/// Writes a file, complete or not at all. Devices and pipes are written directly.
///
/// # Errors
/// When the file cannot be written; nothing is left behind then.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let special = fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir());
    let cannot = || format!("cannot write `{}`", path.display());
    if special {
        return fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut f| f.write_all(bytes))
            .with_context(cannot);
    }
    let temporary = Temporary::beside(path, "tmp")?;
    fs::write(&temporary.path, bytes).with_context(cannot)?;
    let _guard = temporaries();
    fs::rename(&temporary.path, path).with_context(cannot)?;
    drop(_guard);
    Ok(())
}

/// An output directory in the making.
pub struct Staging {
    temporary: Temporary,
    destination: PathBuf,
}

/// The file that marks a directory as written by sparkc, and so as one that may be replaced.
pub const MARKER: &str = "report.json";

/// Everything `compile` puts into an output directory.
const ENTRIES: [&str; 9] = [
    "cpu.proof",
    "map.html",
    "model",
    "model.spark",
    "model.wplan",
    MARKER,
    "source",
    "source-weights",
    "wafer.proof",
];

impl Staging {
    /// Begins a directory that will stand at `destination`.
    ///
    /// # Errors
    /// When something stands there that sparkc did not write, or the place is not writable.
    pub fn begin(destination: &Path) -> Result<Self> {
        check_replaceable(destination)?;
        let temporary = Temporary::beside(destination, "tmp")?;
        fs::create_dir_all(&temporary.path)
            .with_context(|| format!("cannot create `{}`", destination.display()))?;
        Ok(Staging { temporary, destination: destination.to_path_buf() })
    }

    /// Where a file of the directory is to be written.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temporary.path.join(name)
    }

    /// Writes a file of the directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.path(name), bytes).with_context(|| self.cannot(name))
    }

    /// The message for a file that cannot be written, under the name the user knows.
    pub fn cannot(&self, name: &str) -> String {
        format!("cannot write `{}`", self.destination.join(name).display())
    }

    /// Puts the directory in its place, instead of an older one.
    ///
    /// # Errors
    /// When renaming fails; the older one stays then.
    pub fn commit(self) -> Result<()> {
        let shown = self.destination.display();
        let old = Temporary::beside(&self.destination, "old")?;
        let guard = temporaries();
        if self.destination.exists() {
            fs::rename(&self.destination, &old.path)
                .with_context(|| format!("cannot replace `{shown}`"))?;
        }
        let renamed = fs::rename(&self.temporary.path, &self.destination);
        if renamed.is_err() && old.path.exists() {
            fs::rename(&old.path, &self.destination)
                .with_context(|| format!("cannot restore `{shown}`"))?;
        }
        drop(guard);
        renamed.with_context(|| format!("cannot create `{shown}`"))
    }
}

fn check_replaceable(destination: &Path) -> Result<()> {
    let shown = destination.display();
    if destination.is_file() {
        let fault =
            Fault::bad_input("SPK5002", format!("`{shown}` is a file, the output is a directory"));
        return Err(fault.advise("name another directory with -o").into());
    }
    if !destination.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(destination).with_context(|| format!("cannot read `{shown}`"))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read `{shown}`"))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if names.is_empty() {
        return Ok(());
    }
    // Replacing removes what is there, so every entry must be one that sparkc writes.
    let why = match names.iter().find(|n| !ENTRIES.contains(&n.as_str())) {
        Some(stranger) => format!("it holds `{stranger}`"),
        None if is_report(&destination.join(MARKER)) => return Ok(()),
        None => format!("there is no {MARKER} of sparkc in it"),
    };
    let message = format!("`{shown}` exists and was not written by sparkc alone: {why}");
    Err(Fault::bad_input("SPK5002", message).advise("name another directory with -o").into())
}

/// Whether a file is a report that `compile` wrote: a JSON object that says so.
fn is_report(path: &Path) -> bool {
    let read = input::read(path, input::SMALL);
    let parsed = read.ok().and_then(|b| serde_json::from_slice(&b).ok());
    parsed.is_some_and(|v: serde_json::Value| v.get("sparkc").is_some())
}

/// Writes text to standard output.
///
/// # Errors
/// When it is closed or full; a closed pipe ends the program quietly (see `report::diag`).
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Writes a JSON value on one line to standard output.
///
/// # Errors
/// As [`print()`].
pub fn print_json<T: serde::Serialize>(value: &T) -> Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("sparkc-output-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_uncommitted_directory_leaves_nothing() {
        let dir = scratch("abandoned");
        let staging = Staging::begin(&dir.join("x.sparkc")).unwrap();
        staging.write("model", b"half").unwrap();
        assert_eq!(names(&dir).len(), 1);
        drop(staging);
        assert_eq!(names(&dir), Vec::<String>::new());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_commit_replaces_an_older_output_only() {
        let dir = scratch("replaced");
        let out = dir.join("x.sparkc");
        for text in [r#"{"sparkc": 1}"#, r#"{"sparkc": 2}"#] {
            let staging = Staging::begin(&out).unwrap();
            staging.write(MARKER, text.as_bytes()).unwrap();
            staging.commit().unwrap();
            assert_eq!(fs::read_to_string(out.join(MARKER)).unwrap(), text);
        }
        assert_eq!(names(&dir), ["x.sparkc"]);

        let foreign = dir.join("thesis");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("chapter1"), "...").unwrap();
        assert!(Staging::begin(&foreign).is_err());
        assert_eq!(names(&foreign), ["chapter1"]);
        // Not even beside a report, and a report of something else is no mark.
        fs::write(foreign.join(MARKER), r#"{"sparkc": 1}"#).unwrap();
        assert!(Staging::begin(&foreign).is_err());
        fs::remove_file(foreign.join("chapter1")).unwrap();
        fs::write(foreign.join(MARKER), "{}").unwrap();
        assert!(Staging::begin(&foreign).is_err());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_full_device_is_reported() {
        let error = write_file(Path::new("/dev/full"), b"x").unwrap_err();
        let io = error.downcast_ref::<io::Error>().unwrap();
        assert_eq!(io.kind(), io::ErrorKind::StorageFull);
    }
}
