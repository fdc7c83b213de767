//! One file per subcommand: arguments in, data on standard output out.

pub mod completions;

use anyhow::Result;

use crate::cli::Command;
use crate::exit::Exit;

/// Runs a subcommand.
///
/// # Errors
/// Whatever it finds wrong; see `report::diag` for the exit code.
pub fn run(command: &Command) -> Result<Exit> {
    match command {
        Command::Completions(args) => completions::run(args)?,
        _ => {}
    }
    Ok(Exit::Ok)
}
