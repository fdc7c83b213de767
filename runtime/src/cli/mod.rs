//! The command line of every executable; `sparkc run` shares it.
//!
//! Data goes to standard output, all else to standard error. Exit codes: 0 ok, 1 bad input, 2 usage,
//! 3 does not fit the context, 4 resource limit, 70 internal, 130 interrupted. A closed output pipe
//! is the reader's way to say "enough" and ends with 0.

mod args;
mod batch;
mod bench;
mod chat;
mod complete;
mod info;
mod logits;
mod stream;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use args::{Args, UsageError};

use crate::exec::{Session, SessionError, SessionOptions};
use crate::generate::Generator;
use crate::kernels::Cpu;
use crate::payload::{Payload, PayloadError};
use crate::text::TextError;

/// Exit codes; a contract.
pub mod exit {
    /// All is well.
    pub const OK: u8 = 0;
    /// Something given is wrong: a file, a text, a token.
    pub const INPUT: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// It does not fit the context.
    pub const DOES_NOT_FIT: u8 = 3;
    /// The system refuses memory or threads.
    pub const RESOURCE: u8 = 4;
    /// A bug.
    pub const INTERNAL: u8 = 70;
    /// Ctrl-C.
    pub const INTERRUPTED: u8 = 130;
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("cannot write {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot read the prompt from standard input: {0}")]
    Prompt(io::Error),
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot run texts at once: {0}")]
    Batch(String),
    #[error("{refused} of {asked} requests failed: their lines of output say why")]
    Refused { refused: usize, asked: usize },
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    #[error("internal error: guessing ahead changed the text")]
    Guessing,
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage(_) => exit::USAGE,
            CliError::Guessing => exit::INTERNAL,
            CliError::Session(SessionError::ContextFull { .. }) => exit::DOES_NOT_FIT,
            CliError::Session(SessionError::Resource { .. } | SessionError::TooLarge { .. }) => {
                exit::RESOURCE
            }
            CliError::File { source, .. } | CliError::Output(source)
                if matches!(source.kind(), io::ErrorKind::StorageFull) =>
            {
                exit::RESOURCE
            }
            _ => exit::INPUT,
        }
    }

    /// The stable code: that of sparkc for the same kind of error.
    fn code(&self) -> &'static str {
        match self {
            CliError::Usage(_) => "SPK5001",
            CliError::Guessing => "SPK5099",
            CliError::Session(SessionError::Logits { .. }) => "SPK5206",
            CliError::Session(_) => "SPK5201",
            CliError::Payload(_) => "SPK5202",
            CliError::Text(_) => "SPK5203",
            CliError::Batch(_) => "SPK5204",
            CliError::Refused { .. } => "SPK5205",
            CliError::File { source, .. }
            | CliError::Read { source, .. }
            | CliError::Prompt(source)
            | CliError::Output(source) => match source.kind() {
                io::ErrorKind::NotFound => "SPK5101",
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "SPK5102",
                io::ErrorKind::NotADirectory => "SPK5103",
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge => "SPK5104",
                _ => "SPK5100",
            },
        }
    }

    /// What `--json` prints instead of a result.
    fn json(&self) -> serde_json::Value {
        let because: [&str; 0] = [];
        serde_json::json!({ "error": {
            "code": self.code(), "message": self.to_string(), "because": because,
            "try": self.hint(), "exit": self.exit_code(),
        }})
    }

    /// What to try.
    fn hint(&self) -> Option<String> {
        match self {
            CliError::Usage(_) => Some("--help lists what this program can do".to_string()),
            CliError::Session(SessionError::ContextFull { context, .. }) => Some(format!(
                "shorten the prompt to {context} tokens, or compile with a larger --context"
            )),
            CliError::Session(SessionError::Logits { .. }) => Some(LOGITS_HINT.to_string()),
            CliError::Session(SessionError::Isa(_)) => {
                Some("--cpu native takes the best of this machine".to_string())
            }
            _ => None,
        }
    }
}

/// What may have made logits overflow.
const LOGITS_HINT: &str = "a value overflowed: compile with --kv-cache f32, without --quant and without \
                           --numerics lossy; -n 0 --logits FILE keeps the logits";

/// The streams of a process.
pub struct Streams<'a> {
    /// Data.
    pub out: &'a mut dyn Write,
    /// Everything else.
    pub err: &'a mut dyn Write,
    /// Whether both are terminals.
    pub terminal: bool,
}

/// Runs the command line `args` (without the program's name) on the model that `open` finds;
/// returns the exit code.
pub fn run(
    args: impl Iterator<Item = OsString>,
    program: &str,
    open: impl FnOnce() -> Result<Payload, PayloadError>,
    streams: &mut Streams<'_>,
) -> u8 {
    let args: Vec<OsString> = args.collect();
    // Asked of the words themselves, because a command line that cannot be understood asks too.
    let json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let error = match execute(args.into_iter(), program, open, streams) {
        Ok(()) => return exit::OK,
        Err(error) => error,
    };
    if let CliError::Output(e) = &error
        && e.kind() == io::ErrorKind::BrokenPipe
    {
        return exit::OK;
    }
    // Nothing is left to do when standard error is closed too.
    let _ = writeln!(streams.err, "error[{}]: {error}", error.code());
    if let Some(hint) = error.hint() {
        let _ = writeln!(streams.err, "  try: {hint}");
    }
    // The lines of a batch have said why.
    if json && !matches!(error, CliError::Refused { .. }) {
        let _ = writeln!(streams.out, "{}", error.json());
    }
    error.exit_code()
}

fn execute(
    args: impl Iterator<Item = OsString>,
    program: &str,
    open: impl FnOnce() -> Result<Payload, PayloadError>,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let begin = std::time::Instant::now();
    let args = Args::parse(args)?;
    if args.help {
        streams.out.write_all(args::help(program).as_bytes())?;
        return Ok(streams.out.flush()?);
    }
    if args.version {
        writeln!(streams.out, "sparkc {}", env!("CARGO_PKG_VERSION"))?;
        return Ok(());
    }
    let payload = Arc::new(open()?);
    if args.info {
        return info::info(&payload, args.json, streams);
    }
    let made_for = payload.assets().cpu.as_deref().and_then(|name| name.parse().ok());
    let isa = match args.cpu.or(made_for).unwrap_or_default() {
        Cpu::Native => None,
        Cpu::Level(isa) => Some(isa),
    };
    let options = SessionOptions { threads: args.threads.unwrap_or(0), isa, chunk: 0, pin: true };
    if let Some(path) = &args.batch {
        return batch::batch(&args, &payload, options, path, streams);
    }
    let session = Session::new(Arc::clone(&payload), options)?;
    let mut generator = Generator::new(session);
    if args.bench {
        bench::bench(&args, &mut generator, begin, streams)
    } else if args.chat && args.prompt.is_none() && args.tokens.is_none() && !args.json {
        chat::converse(&args, &mut generator, streams)
    } else {
        complete::complete(&args, &mut generator, streams)
    }
}

/// Files that must not survive an interruption.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

fn set_temporary(path: Option<PathBuf>) {
    *TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner) = path;
}

/// Removes what is half-written: to be called before an interrupted process ends.
pub fn remove_temporaries() {
    let path = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(path) = path {
        // There is nobody left to tell.
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exit code, standard output and standard error of a command line on no model.
    fn said(line: &str) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { out: &mut out, err: &mut err, terminal: false };
        let args = line.split_whitespace().map(OsString::from);
        let code = run(args, "model", || Err(PayloadError::Missing), &mut streams);
        (code, String::from_utf8_lossy(&out).into(), String::from_utf8_lossy(&err).into())
    }

    #[test]
    fn a_program_can_read_why_an_executable_failed() {
        for (line, code, exit) in [
            ("hello --json", "SPK5202", exit::INPUT),
            ("--json --bogus", "SPK5001", exit::USAGE),
            ("-n -1 --json", "SPK5001", exit::USAGE),
        ] {
            let (status, out, err) = said(line);
            let object: serde_json::Value = serde_json::from_str(&out).unwrap();
            assert_eq!((status, object["error"]["code"].as_str()), (exit, Some(code)), "{line}");
            assert_eq!(object["error"]["exit"], exit, "{line}");
            assert!(err.starts_with(&format!("error[{code}]: ")), "{err}");
            let (status, out, _) = said(&line.replace("--json", ""));
            assert_eq!((status, out.as_str()), (exit, ""), "people read standard error");
        }
        assert_eq!(said("-- --json").1, "", "a prompt asks for nothing");
    }
}
