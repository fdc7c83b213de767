//! Runs a program as a user would, and keeps everything it said.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// What a program did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit code: {:?}", self.code)?;
        writeln!(f, "-- stdout\n{}", self.stdout)?;
        write!(f, "-- stderr\n{}", self.stderr)
    }
}

impl Outcome {
    /// Standard output as JSON.
    ///
    /// # Errors
    /// When the program failed or wrote something else.
    pub fn json(&self) -> Result<serde_json::Value> {
        if self.code != Some(0) {
            bail!("{self}");
        }
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON:\n{self}"))
    }
}

/// A command with a bare environment: no colours, no terminal, the folder given.
pub fn command<S: AsRef<OsStr>>(program: S, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env_remove("NO_COLOR")
        .env_remove("RUST_BACKTRACE")
        .env("COLUMNS", "100")
        .stdin(Stdio::null());
    command
}

/// Runs `program` with `args` in `folder`.
///
/// # Errors
/// When it cannot be started.
pub fn run<P: AsRef<OsStr>, A: AsRef<OsStr>>(
    program: P,
    folder: &Path,
    args: &[A],
) -> Result<Outcome> {
    let shown = program.as_ref().to_string_lossy().into_owned();
    let output = command(program, folder)
        .args(args)
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    Ok(output.into())
}
