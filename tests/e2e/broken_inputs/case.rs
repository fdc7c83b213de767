//! One broken input: how it is made, what is run, what must be said.

use std::fs;
use std::path::{Path, PathBuf};

use harness::run::{Outcome, run};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sparkc-under-test");

/// Where a case lives, with the valid model in `model/`.
#[derive(Debug)]
pub(crate) struct Place {
    /// The folder of the case; the command runs in it.
    pub(crate) folder: PathBuf,
}

type Break = Box<dyn Fn(&Place) + Send>;
type Act = Box<dyn Fn(&Place) -> Result<Outcome, String> + Send>;

/// A broken input.
pub(crate) struct Case {
    /// What is broken.
    pub(crate) name: &'static str,
    breaks: Break,
    act: Act,
    code: i32,
    says: &'static [&'static str],
}

impl Place {
    /// A path below the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A file's text.
    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("the case has this file")
    }

    /// A file's bytes.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("the case has this file")
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).expect("the case's folder is writable");
    }

    /// Deletes a file.
    pub(crate) fn delete(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("the case has this file");
    }

    /// Replaces a piece of a text file that must be there.
    pub(crate) fn replace(&self, name: &str, from: &str, to: &str) {
        let text = self.text(name);
        assert!(text.contains(from), "{name} has no {from}");
        self.write(name, text.replacen(from, to, 1));
    }
}

/// What compiles a model as far as needed to find what is wrong with it.
const COMPILE: &[&str] = &["compile", "model", "--emit", "ir", "-o", "out"];

/// A model that is broken by `breaks`, and compiled.
pub(crate) fn model(
    name: &'static str,
    code: i32,
    says: &'static [&'static str],
    breaks: impl Fn(&Place) + Send + 'static,
) -> Case {
    command(name, COMPILE, code, says, breaks)
}

/// A command in a folder that is broken by `breaks`.
pub(crate) fn command(
    name: &'static str,
    args: &'static [&'static str],
    code: i32,
    says: &'static [&'static str],
    breaks: impl Fn(&Place) + Send + 'static,
) -> Case {
    let act = move |place: &Place| run(PROGRAM, &place.folder, args).map_err(|e| format!("{e:#}"));
    acting(name, code, says, breaks, act)
}

/// Anything else that is done in a folder that is broken by `breaks`.
pub(crate) fn acting(
    name: &'static str,
    code: i32,
    says: &'static [&'static str],
    breaks: impl Fn(&Place) + Send + 'static,
    act: impl Fn(&Place) -> Result<Outcome, String> + Send + 'static,
) -> Case {
    Case { name, breaks: Box::new(breaks), act: Box::new(act), code, says }
}

impl Case {
    /// Makes, breaks, runs and judges.
    pub(crate) fn check(&self) -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let place = Place { folder: folder.path().to_path_buf() };
        copy_model(&place)?;
        (self.breaks)(&place);
        let before = names(&place.folder);
        let outcome = (self.act)(&place)?;
        self.judge(&outcome)?;
        let left: Vec<String> =
            names(&place.folder).into_iter().filter(|n| !before.contains(n)).collect();
        if !left.is_empty() {
            return Err(format!("left behind: {left:?}\n{outcome}"));
        }
        Ok(())
    }

    fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        let said = &outcome.stderr;
        if outcome.code != Some(self.code) {
            return Err(format!("expected exit code {}\n{outcome}", self.code));
        }
        if !outcome.stdout.is_empty() {
            return Err(format!("wrote to standard output\n{outcome}"));
        }
        if said.contains("panicked") || said.contains("RUST_BACKTRACE") {
            return Err(format!("shows a panic\n{outcome}"));
        }
        for piece in self.says {
            if !said.contains(piece) {
                return Err(format!("does not say {piece:?}\n{outcome}"));
            }
        }
        // Usage errors are clap's: they show the usage. All others say what to try.
        let advises = said.contains("try:") || said.contains("--help") || said.contains("Usage:");
        if self.code != 130 && !advises {
            return Err(format!("does not say what to try\n{outcome}"));
        }
        Ok(())
    }
}

fn copy_model(place: &Place) -> Result<(), String> {
    let fixture = harness::fixture::named("llama3").map_err(|e| format!("{e:#}"))?;
    let model = place.path("model");
    fs::create_dir(&model).map_err(|e| e.to_string())?;
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture.path.join(name), model.join(name)).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the case's folder is readable");
    entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}
