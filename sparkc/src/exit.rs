//! Exit codes, and the error that a command raises itself.
//!
//! The codes are a contract (README, `sparkc --help`). Which code an error of a library gets is
//! decided in `report::diag`, beside what to try.

use std::fmt;
use std::process::ExitCode;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// A file, a plan or an option's value is not what it should be, or not supported.
    BadInput = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// The model is too large for the target.
    DoesNotFit = 3,
    /// Memory, disk or file size ran out.
    ResourceLimit = 4,
    /// A bug in sparkc.
    Internal = 70,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error found by the command line itself, with its exit code and advice.
#[derive(Debug)]
pub struct Fault {
    /// How to end.
    pub exit: Exit,
    /// Stable code.
    pub code: &'static str,
    /// What is wrong, and where.
    pub message: String,
    /// What to try.
    pub advice: Option<String>,
}

impl Fault {
    /// The user's input is at fault; codes are SPK5002 to SPK5098.
    pub fn bad_input(code: &'static str, message: impl Into<String>) -> Self {
        Fault { exit: Exit::BadInput, code, message: message.into(), advice: None }
    }

    /// The command line is at fault: SPK5001.
    pub fn usage(message: impl Into<String>) -> Self {
        Fault { exit: Exit::Usage, code: "SPK5001", message: message.into(), advice: None }
    }

    /// sparkc is at fault: SPK5099.
    pub fn internal(message: impl Into<String>) -> Self {
        Fault { exit: Exit::Internal, code: "SPK5099", message: message.into(), advice: None }
    }

    /// Adds what to try.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
