//! One file per subcommand: arguments in, data on standard output out.

pub mod bench;
pub mod compile;
pub mod completions;
mod differential;
pub mod eval;
pub mod explain;
pub mod inspect;
pub mod opt;
pub mod passes;
pub mod reduce;
pub mod repair;
pub mod run;
pub mod simulate;
pub mod sweep;
mod sweep_chart;
pub mod targets;
pub mod verify;
pub mod verify_proof;

use anyhow::Result;

use crate::cli::Command;
use crate::exit::Exit;

/// Runs a subcommand.
///
/// # Errors
/// Whatever it finds wrong; see `report::diag` for the exit code.
pub fn run(command: &Command) -> Result<Exit> {
    match command {
        Command::Bench(args) => bench::run(args)?,
        Command::Compile(args) => compile::run(args)?,
        Command::Eval(args) => eval::run(args)?,
        Command::Inspect(args) => inspect::run(args)?,
        Command::Opt(args) => opt::run(args)?,
        Command::Passes(args) => passes::run(args)?,
        Command::Reduce(args) => reduce::run(args)?,
        Command::Repair(args) => repair::run(args)?,
        Command::Run(args) => run::run(args)?,
        Command::Simulate(args) => simulate::run(args)?,
        Command::Verify(args) => return verify::run(args),
        Command::VerifyProof(args) => return verify_proof::run(args),
        Command::Explain(args) => explain::run(args)?,
        Command::Targets(args) => targets::run(args)?,
        Command::Completions(args) => completions::run(args)?,
    }
    Ok(Exit::Ok)
}
