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

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use cli::Cli;
use exit::Exit;
use report::diag::{self, Diagnosis};

/// The whole program: parses the command line, runs the command, reports.
pub fn main() -> ExitCode {
    let parsed = Cli::command()
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
        Ok(Err(error)) => {
            let diagnosis = Diagnosis::of(&error);
            say(&diagnosis.text(report::stderr_colored()));
            if let Some(object) = diagnosis.json().filter(|_| json) {
                // Standard error has it, should nobody read here.
                let _ = output::print_json(&object);
            }
            diagnosis.exit()
        }
        // The hook has reported it.
        Err(_) => Exit::Internal,
    };
    exit.into()
}

/// Writes to standard error; when even that is closed there is nobody to tell.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Help and version are data, anything else is a usage error.
fn usage(error: &clap::Error) -> Exit {
    // Printing fails only when nobody reads.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
        _ => Exit::Usage,
    }
}

fn report_panic(info: &panic::PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("a panic without a message");
    let place = info.location().map(ToString::to_string);
    say(&diag::render_panic(message, place, report::stderr_colored()));
}
