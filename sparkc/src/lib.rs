//! The sparkc command line: the only crate that prints, and the one place where all crates meet.
//!
//! Reading order: [`cli`] (what can be asked), `commands` (one file per subcommand), `driver` (load,
//! optimise, back ends), `output` (complete or not at all), [`exit`] and [`report`] (how errors and
//! results look). A library only so that tests can link the very program users run.
//! Does not compute: models are read by `frontend`, rewritten by `passes`, compiled by the back ends.

pub mod cli;
pub mod commands;
pub mod driver;
pub mod exit;
pub mod generate;
pub mod input;
pub mod interrupt;
pub mod output;
pub mod report;

use std::io::Write;
use std::panic;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::ErrorKind;

use cli::Cli;
use exit::{Exit, Fault};
use report::diag::{self, Diagnosis};

/// The whole program: parses the command line, runs the command, reports.
pub fn main() -> ExitCode {
    let parsed = cli::command()
        .try_get_matches()
        .and_then(|m| Ok((cli::json(&m), Cli::from_arg_matches(&m)?)));
    let (json, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error).into(),
    };
    report::set_color(cli.color);
    panic::set_hook(Box::new(report_panic));
    if let Err(error) = interrupt::install() {
        say(&format!("warning: Ctrl-C may leave temporary files behind: {error}\n"));
    }
    let exit = match panic::catch_unwind(|| commands::run(&cli.command)) {
        Ok(Ok(exit)) => exit,
        Ok(Err(error)) => failed(&error, json),
        // The hook has reported it.
        Err(_) => Exit::Internal,
    };
    exit.into()
}

/// Writes to standard error; when even that is closed there is nobody to tell.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Says why a command failed: to people, and to programs that asked for JSON.
fn failed(error: &anyhow::Error, json: bool) -> Exit {
    let diagnosis = Diagnosis::of(error);
    say(&diagnosis.text(report::stderr_colored()));
    if let Some(object) = diagnosis.json().filter(|_| json) {
        // Standard error has it, should nobody read here.
        let _ = output::print_json(&object);
    }
    diagnosis.exit()
}

/// Help and version are data, anything else is a usage error.
fn usage(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Printing fails only when nobody reads.
            let _ = error.print();
            Exit::Ok
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage
        }
        _ => {
            let json = cli::asks_json(std::env::args_os());
            failed(&usage_fault(&error.to_string()).into(), json)
        }
    }
}

/// What clap says, in the form of all errors: its message, then its tips, or else how it is used.
fn usage_fault(text: &str) -> Fault {
    let mut parts = text.split("\n\n").map(str::trim);
    let message = parts.next().unwrap_or_default().trim_start_matches("error: ");
    let of = |label: &str| {
        let labelled = parts.clone().filter_map(|part| part.strip_prefix(label));
        labelled.map(str::trim).collect::<Vec<_>>().join(", or ")
    };
    let (tips, usage) = (of("tip: "), of("Usage: "));
    Fault::usage(message).advise(match (tips.is_empty(), usage.is_empty()) {
        (false, _) => tips,
        (true, false) => format!("{usage}; --help says more"),
        (true, true) => "--help lists what is possible".to_string(),
    })
}

fn report_panic(info: &panic::PanicHookInfo<'_>) {
    // It becomes an error there.
    if runtime::tokenizer::in_library() {
        return;
    }
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("a panic without a message");
    let place = info.location().map(ToString::to_string);
    say(&diag::render_panic(message, place, report::stderr_colored()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        let error = cli::command().try_get_matches_from(line.split(' ')).unwrap_err();
        Diagnosis::of(&usage_fault(&error.to_string()).into()).text(false)
    }

    #[test]
    fn usage_errors_look_like_all_errors() {
        assert_eq!(
            said("sparkc compile m --wafers 0"),
            "error[SPK5001]: invalid value '0' for '--wafers <N|auto>': expected auto or a number \
             from 1 to 1024\n  try: --help lists what is possible\n"
        );
        let missing = said("sparkc explain");
        assert!(missing.contains("try: sparkc explain <RULE>; --help says more"), "{missing}");
        let close = said("sparkc complie");
        assert!(close.contains("'compile'") && close.contains("  try: "), "{close}");
    }
}
