//! Errors for people: what, where, why in numbers, what to try; and the exit code.
//!
//! An error is a chain: what the command was doing, then what the library found. The library's error
//! decides code, exit and advice; [`explain`] is the one place that knows all error types.
//! Does not word the errors themselves: a library says what it found, with its numbers.

use std::error::Error;
use std::io;

use backend_cpu::CpuError;
use backend_wafer::WaferError;
use backend_wafer::kernels::KernelError;
use frontend::{ErrorClass, FrontendError};
use ir::NonFiniteWeight;
use ir::eval::EvalError;
use passes::PassError;
use passes::extract::gym::GymError;
use plan::codec::CodecError;
use plan::target::TargetError;
use runtime::{PayloadError, SessionError, TextError};
use simulator::SimError;

use super::Style;
use crate::exit::{Exit, Fault};

/// What is known of an error beyond its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// How the process ends.
    pub exit: Exit,
    /// Stable code of the library's error.
    pub code: Option<String>,
    /// What to try.
    pub advice: Option<String>,
}

impl Explained {
    fn new(exit: Exit) -> Self {
        Explained { exit, code: None, advice: None }
    }

    fn code(self, code: &str) -> Self {
        Explained { code: Some(code.to_string()), ..self }
    }

    fn advise(self, advice: &str) -> Self {
        Explained { advice: Some(advice.to_string()).filter(|a| !a.is_empty()), ..self }
    }
}

/// Exit, code and advice of an error, from the first cause in the chain that is understood.
pub fn explain(error: &anyhow::Error) -> Explained {
    error.chain().find_map(explain_cause).unwrap_or_else(|| Explained::new(Exit::BadInput))
}

fn explain_cause(cause: &(dyn Error + 'static)) -> Option<Explained> {
    if let Some(fault) = cause.downcast_ref::<Fault>() {
        return Some(Explained {
            exit: fault.exit,
            code: Some(fault.code.to_string()),
            advice: fault.advice.clone(),
        });
    }
    if let Some(io) = cause.downcast_ref::<io::Error>() {
        return Some(explain_io(io));
    }
    explain_front(cause)
        .or_else(|| explain_middle(cause))
        .or_else(|| explain_wafer(cause))
        .or_else(|| explain_cpu(cause))
}

/// Reading and evaluating models.
fn explain_front(cause: &(dyn Error + 'static)) -> Option<Explained> {
    if cause.is::<NonFiniteWeight>() {
        let explained = Explained::new(Exit::BadInput).code(NonFiniteWeight::CODE);
        return Some(
            explained.advise("download or export the model again: no text follows from it"),
        );
    }
    if let Some(error) = cause.downcast_ref::<FrontendError>() {
        let exit = match error.class() {
            ErrorClass::Input | ErrorClass::Unsupported => Exit::BadInput,
            ErrorClass::Internal => Exit::Internal,
        };
        return Some(Explained::new(exit).code(error.code()).advise(error.hint()));
    }
    if let Some(error) = cause.downcast_ref::<EvalError>() {
        let explained = Explained::new(exit_of_eval(error)).code(error.code());
        return Some(match error {
            EvalError::Id { .. } => explained.advise("token ids are below the vocabulary size"),
            EvalError::Context { .. } => explained.advise("use fewer tokens"),
            EvalError::TooLarge { .. } => {
                explained.advise("use fewer tokens, or the executable, which needs less memory")
            }
            _ => explained,
        });
    }
    None
}

fn exit_of_eval(error: &EvalError) -> Exit {
    match error {
        EvalError::TooLarge { .. } => Exit::ResourceLimit,
        EvalError::Context { .. } => Exit::DoesNotFit,
        EvalError::Rows { .. } | EvalError::NotConstant { .. } | EvalError::Malformed { .. } => {
            Exit::Internal
        }
        _ => Exit::BadInput,
    }
}

/// Optimising, and describing wafers.
fn explain_middle(cause: &(dyn Error + 'static)) -> Option<Explained> {
    if let Some(error) = cause.downcast_ref::<PassError>() {
        let exit = if error.is_internal() { Exit::Internal } else { Exit::BadInput };
        let explained = Explained::new(exit).code(error.code());
        return Some(match error {
            PassError::Pipeline { .. }
            | PassError::UnknownPass { .. }
            | PassError::Option { .. } => {
                explained.advise("`sparkc passes` lists passes and their options")
            }
            PassError::Tier { needs, .. } => explained.advise(&format!("--numerics {needs}")),
            _ => explained,
        });
    }
    if let Some(error) = cause.downcast_ref::<GymError>() {
        return Some(Explained::new(Exit::BadInput).code(error.code()));
    }
    if cause.is::<TargetError>() {
        let advice = "`sparkc targets wse3` prints a complete target to start from";
        return Some(Explained::new(Exit::BadInput).advise(advice));
    }
    None
}

fn explain_io(error: &io::Error) -> Explained {
    use io::ErrorKind as Kind;
    let explained = match error.kind() {
        Kind::BrokenPipe => Explained::new(Exit::Ok),
        Kind::StorageFull | Kind::QuotaExceeded => Explained::new(Exit::ResourceLimit)
            .advise("free some space, or write elsewhere: -o, or another working directory"),
        Kind::FileTooLarge => {
            Explained::new(Exit::ResourceLimit).advise("raise the file size limit (`ulimit -f`)")
        }
        Kind::OutOfMemory => Explained::new(Exit::ResourceLimit)
            .advise("free some memory, or use a smaller --context or --quant q8"),
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Explained::new(Exit::BadInput)
            .advise("check the permissions, or write elsewhere: -o, or another working directory"),
        Kind::NotADirectory => {
            Explained::new(Exit::BadInput).advise("a file stands where a directory is named")
        }
        Kind::NotFound => Explained::new(Exit::BadInput).advise("check the path"),
        _ => Explained::new(Exit::BadInput),
    };
    explained.code(match error.kind() {
        Kind::NotFound => "SPK5101",
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => "SPK5102",
        Kind::NotADirectory => "SPK5103",
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => "SPK5104",
        Kind::OutOfMemory => "SPK5105",
        _ => "SPK5100",
    })
}

/// Planning and simulating. These errors carry their code in the message.
fn explain_wafer(cause: &(dyn Error + 'static)) -> Option<Explained> {
    if let Some(error) = cause.downcast_ref::<WaferError>() {
        let exit = if error.does_not_fit() { Exit::DoesNotFit } else { Exit::BadInput };
        let hints: Vec<String> = error.hints().iter().map(ToString::to_string).collect();
        let advice = match error {
            WaferError::Context { supported, .. } => format!("--context {supported}"),
            WaferError::Unrepairable { .. } => {
                "a target with spare_columns, or a larger one, gives rows more spares".to_string()
            }
            WaferError::NoSuchPe { .. } => {
                "columns count over all wafers, spare columns included; see sparkc targets NAME"
                    .to_string()
            }
            _ if hints.is_empty() => "--emit cpu,ir compiles the executable alone".to_string(),
            _ => hints.join(", or "),
        };
        return Some(Explained::new(exit).advise(&advice));
    }
    if let Some(error) = cause.downcast_ref::<KernelError>() {
        let (exit, advice) = match error {
            KernelError::Unknown { .. } => (Exit::BadInput, "one of those"),
            KernelError::Region { .. } => (Exit::DoesNotFit, "a smaller region or grid"),
            KernelError::Sram { .. } => {
                (Exit::DoesNotFit, "a larger region or grid, or smaller sizes per tile")
            }
            KernelError::Star { .. } => (Exit::DoesNotFit, "--algo chain, tree or two-phase"),
            KernelError::Empty { .. } => (Exit::BadInput, "sizes of at least 1"),
            KernelError::Extent { .. } => (Exit::BadInput, "smaller sizes"),
            KernelError::Ring => (Exit::BadInput, "a larger --grid"),
        };
        return Some(Explained::new(exit).advise(advice));
    }
    if cause.is::<CodecError>() {
        let advice = "compile the model again; plans are read by the version that wrote them";
        return Some(Explained::new(Exit::BadInput).advise(advice));
    }
    let error = cause.downcast_ref::<SimError>()?;
    let advice = match error {
        SimError::Weight { .. } => "compile the model again, or say where it is with --model",
        SimError::Context { .. } => "use fewer tokens",
        SimError::Values { .. } => "--timing-only, or a smaller model or --context",
        SimError::Memory { .. } => "--level 0, which runs what repeats once, or a smaller --grid",
        SimError::Token { .. } => "token ids are below the vocabulary size",
        _ => "`sparkc verify` lists everything that is wrong with the plan",
    };
    let exit = match error {
        SimError::Context { .. } => Exit::DoesNotFit,
        SimError::Memory { .. } | SimError::Values { .. } => Exit::ResourceLimit,
        _ => Exit::BadInput,
    };
    Some(Explained::new(exit).advise(advice))
}

/// Making and running executables.
fn explain_cpu(cause: &(dyn Error + 'static)) -> Option<Explained> {
    if let Some(error) = cause.downcast_ref::<CpuError>() {
        let exit = match error {
            CpuError::Internal { .. } => Exit::Internal,
            CpuError::Write { source, .. } => return Some(explain_io(source)),
            CpuError::Constant(error) => exit_of_eval(error),
            CpuError::TooLarge { .. } => {
                let explained = Explained::new(Exit::DoesNotFit).code(error.code());
                return Some(explained.advise("a smaller --context"));
            }
            CpuError::NonFinite(error) => return explain_front(error),
            CpuError::Overflow { .. } => {
                let explained = Explained::new(Exit::BadInput).code(error.code());
                return Some(explained.advise("--quant none keeps the range of the weights"));
            }
            CpuError::Tokenizer { .. } => {
                let explained = Explained::new(Exit::BadInput).code(error.code());
                return Some(explained.advise(
                    "download tokenizer.json again; without it the executable takes token ids",
                ));
            }
            CpuError::Unsupported { .. } | CpuError::Entry { .. } => Exit::BadInput,
        };
        return Some(
            Explained::new(exit).code(error.code()).advise("`sparkc inspect` shows the model"),
        );
    }
    if let Some(error) = cause.downcast_ref::<SessionError>() {
        let exit = match error {
            SessionError::Logits { .. } => {
                let explained = Explained::new(Exit::BadInput).code("SPK5206");
                return Some(explained.advise(
                    "a value overflowed, or weights are no numbers: `sparkc compile` names those; \
                     -n 0 --logits FILE keeps the logits",
                ));
            }
            SessionError::Resource { .. } | SessionError::TooLarge { .. } => Exit::ResourceLimit,
            SessionError::ContextFull { .. } => Exit::DoesNotFit,
            _ => Exit::BadInput,
        };
        return Some(Explained::new(exit).code("SPK5201").advise("use fewer tokens"));
    }
    if cause.is::<PayloadError>() {
        let advice = "compile the model again, or copy the file again";
        return Some(Explained::new(Exit::BadInput).code("SPK5202").advise(advice));
    }
    if cause.is::<TextError>() {
        return Some(
            Explained::new(Exit::BadInput).code("SPK5203").advise("give token ids with --tokens"),
        );
    }
    None
}

/// All that is said of an error.
#[derive(Debug)]
pub struct Diagnosis {
    explained: Explained,
    /// What went wrong, then why, outermost first.
    messages: Vec<String>,
}

impl Diagnosis {
    /// What is to be said of `error`.
    pub fn of(error: &anyhow::Error) -> Self {
        let mut explained = explain(error);
        let mut messages: Vec<String> = Vec::new();
        for cause in error.chain() {
            let message = cause.to_string();
            let (code, message) = split_code(&message);
            explained.code = explained.code.or(code.map(str::to_string));
            // thiserror enums that wrap a source often repeat it in their own message.
            if messages.last().is_none_or(|last: &String| !last.contains(message)) {
                messages.push(message.to_string());
            }
        }
        // What no library and no command has a code for.
        explained.code.get_or_insert_with(|| "SPK5000".to_string());
        Diagnosis { explained, messages }
    }

    /// How the process ends.
    pub fn exit(&self) -> Exit {
        self.explained.exit
    }

    /// The text for standard error; empty when there is nothing to say (a closed pipe).
    pub fn text(&self, colored: bool) -> String {
        let Explained { exit, code, advice } = &self.explained;
        if *exit == Exit::Ok {
            return String::new();
        }
        let label = code.as_ref().map_or("error:".to_string(), |code| format!("error[{code}]:"));
        let mut text = String::new();
        for (i, message) in self.messages.iter().enumerate() {
            let head =
                if i == 0 { Style::Error.paint(&label, colored) } else { "  because:".to_string() };
            text.push_str(&format!("{head} {}\n", message.replace('\n', "\n  ")));
        }
        if let Some(advice) = advice {
            text.push_str(&format!("  {} {advice}\n", Style::Advice.paint("try:", colored)));
        }
        if *exit == Exit::Internal {
            text.push_str(BUG);
        }
        text
    }

    /// The object that `--json` prints instead of a result; none when there is nothing to say.
    pub fn json(&self) -> Option<serde_json::Value> {
        let Explained { exit, code, advice } = &self.explained;
        let error = || {
            let (message, because) = self.messages.split_first()?;
            Some(serde_json::json!({
                "code": code, "message": message, "because": because, "try": advice, "exit": *exit as u8,
            }))
        };
        (*exit != Exit::Ok).then(|| serde_json::json!({ "error": error() }))
    }
}

/// Takes a code apart that an error carries in its message: `PLN0101: ...`.
fn split_code(message: &str) -> (Option<&str>, &str) {
    let Some((code, rest)) = message.split_once(": ") else { return (None, message) };
    let is_code = code.is_ascii()
        && code.len() == 7
        && code[..3].bytes().all(|b| b.is_ascii_uppercase())
        && code[3..].bytes().all(|b| b.is_ascii_digit());
    if is_code { (Some(code), rest) } else { (None, message) }
}

/// Shows something odd that does not stop the work.
pub fn warn(code: &str, message: &str) {
    let label = Style::Warning.paint(&format!("warning[{code}]:"), super::stderr_colored());
    crate::say(&format!("{label} {message}\n"));
}

/// Under every message about a bug.
const BUG: &str =
    "  This is a bug in sparkc, not in your model. Please report the command and this text.\n";

/// The text of a panic: a bug, with the place in the source.
pub fn render_panic(message: &str, place: Option<String>, colored: bool) -> String {
    let label = Style::Error.paint("internal error:", colored);
    let place = place.map(|p| format!("  at {p}\n")).unwrap_or_default();
    format!("{label} {message}\n{place}{BUG}")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn fails() -> anyhow::Error {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        Err::<(), _>(full).context("cannot write `x.sparkc/model`").unwrap_err()
    }

    #[test]
    fn a_full_disk_says_what_why_and_what_to_try() {
        let text = Diagnosis::of(&fails()).text(false);
        assert_eq!(Diagnosis::of(&fails()).exit(), Exit::ResourceLimit);
        assert!(text.starts_with("error[SPK5104]: cannot write `x.sparkc/model`\n"), "{text}");
        assert!(text.contains("try: free some space"), "{text}");
    }

    #[test]
    fn a_closed_pipe_is_silent_and_fine() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        let diagnosis = Diagnosis::of(&error);
        assert_eq!(diagnosis.text(false), "");
        assert_eq!(diagnosis.json(), None);
        assert_eq!(diagnosis.exit(), Exit::Ok);
    }

    #[test]
    fn a_code_in_a_message_becomes_the_label() {
        assert_eq!(split_code("PLN0101: target file"), (Some("PLN0101"), "target file"));
        assert_eq!(split_code("wéird: x"), (None, "wéird: x"));
    }

    #[test]
    fn a_bug_is_called_one() {
        let error = anyhow::Error::from(Fault::internal("arena overlaps"));
        assert!(Diagnosis::of(&error).text(false).contains("bug in sparkc"));
    }
}
