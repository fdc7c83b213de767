//! One file per subcommand: arguments in, data on standard output out.

pub mod completions;
pub mod eval;
pub mod inspect;
pub mod opt;
pub mod passes;
pub mod targets;

use anyhow::Result;

use crate::cli::Command;
use crate::exit::{Exit, Fault};

/// Runs a subcommand.
///
/// # Errors
/// Whatever it finds wrong; see `report::diag` for the exit code.
pub fn run(command: &Command) -> Result<Exit> {
    match command {
        Command::Eval(args) => eval::run(args)?,
        Command::Inspect(args) => inspect::run(args)?,
        Command::Opt(args) => opt::run(args)?,
        Command::Passes(args) => passes::run(args)?,
        Command::Targets(args) => targets::run(args)?,
        Command::Completions(args) => completions::run(args)?,
        _ => return Err(Fault::internal("this command is not there yet").into()),
    }
    Ok(Exit::Ok)
}
