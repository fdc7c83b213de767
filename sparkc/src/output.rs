//! Writing: standard output, single files and whole directories, complete or not at all.
//!
//! Files are written under a temporary name beside their destination and renamed when complete; so
//! is the output directory. Invariant: a temporary name is in `TEMPORARIES` from before it exists
//! until after it is gone, so that [`remove_temporaries`], which the interrupt handler calls, leaves
//! nothing half-written. Renames happen under the same lock.
//!
//! A process that is killed cannot clean up. While it lives it holds the system's lock on its temporary
//! files; whoever begins to write to the same place removes those that nobody holds any more.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::exit::Fault;
use crate::input;
use crate::report;

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

/// A temporary path that is deleted when dropped, where it has not been renamed.
struct Temporary {
    path: PathBuf,
    /// Open, with the lock that says that its writer lives.
    held: Option<fs::File>,
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
        remove_abandoned(destination, &name);
        let path = destination.with_file_name(format!(".{name}.{}.{role}", std::process::id()));
        temporaries().push(path.clone());
        Ok(Temporary { path, held: None })
    }

    /// Says that the path, which exists now, has a writer that lives. Some file systems have no locks;
    /// there others go by the number of the process.
    fn hold(&mut self) {
        let file = fs::File::open(&self.path).ok();
        self.held = file.filter(|file| file.try_lock().is_ok());
    }
}

/// Removes what writers to `destination` left that were killed.
fn remove_abandoned(destination: &Path, name: &str) {
    let folder = destination.parent().filter(|p| !p.as_os_str().is_empty());
    let Ok(entries) = fs::read_dir(folder.unwrap_or(Path::new("."))) else { return };
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        let Some(writer) = file_name.to_str().and_then(|found| writer_of(found, name)) else {
            continue;
        };
        // Of what lives elsewhere on a shared disk the lock tells, of what has not locked yet the process.
        let lives = Path::new(&format!("/proc/{writer}")).exists();
        let free = fs::File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if !lives && free {
            remove(&entry.path());
        }
    }
}

/// The process that a temporary name for `name` tells of.
fn writer_of(found: &str, name: &str) -> Option<u32> {
    let rest = found.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?;
    let (writer, role) = rest.split_once('.')?;
    ["tmp", "old"].contains(&role).then(|| writer.parse().ok())?
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
    let mut temporary = Temporary::beside(path, "tmp")?;
    fs::File::create(&temporary.path).with_context(cannot)?;
    temporary.hold();
    fs::write(&temporary.path, bytes).with_context(cannot)?;
    let _guard = temporaries();
    fs::rename(&temporary.path, path).with_context(cannot)?;
    drop(_guard);
    Ok(())
}

/// Writes a file that the user named, and says so on standard error: the command may have nothing else
/// to show.
///
/// # Errors
/// As [`write_file`].
pub fn write_named(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, bytes)?;
    crate::say(&format!("wrote {} ({})\n", path.display(), report::bytes(bytes.len() as u64)));
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
        let mut temporary = Temporary::beside(destination, "tmp")?;
        fs::create_dir_all(&temporary.path)
            .with_context(|| format!("cannot create `{}`", destination.display()))?;
        temporary.hold();
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
    fn what_killed_writers_left_goes_with_the_next_write() {
        let dir = scratch("abandoned-by-the-dead");
        let out = dir.join("x.sparkc");
        // Above the largest number that Linux gives to processes.
        let dead =
            ["x.sparkc.4194305.tmp", "x.sparkc.4194306.old"].map(|n| dir.join(format!(".{n}")));
        for folder in &dead {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("model"), "half").unwrap();
        }
        let held = dir.join(".x.sparkc.4194307.tmp");
        fs::write(&held, "by a process of another machine").unwrap();
        let lock = fs::File::open(&held).unwrap();
        lock.try_lock().unwrap();
        let own = std::process::id();
        let parallel = dir.join(format!(".x.sparkc.{own}.tmp"));
        fs::write(&parallel, "a process that lives").unwrap();
        let strangers = [".x.sparkc.notes.tmp", ".y.sparkc.4194305.tmp", ".x.sparkc.4194305.swp"];
        for stranger in strangers {
            fs::write(dir.join(stranger), "mine").unwrap();
        }
        remove_abandoned(&out, "x.sparkc");
        assert!(dead.iter().all(|folder| !folder.exists()));
        assert!(held.exists() && parallel.exists());
        assert!(strangers.iter().all(|name| dir.join(name).exists()));
        drop(lock);
        write_file(&out, b"new").unwrap();
        assert!(!held.exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_full_device_is_reported() {
        let error = write_file(Path::new("/dev/full"), b"x").unwrap_err();
        let io = error.downcast_ref::<io::Error>().unwrap();
        assert_eq!(io.kind(), io::ErrorKind::StorageFull);
    }
}
