//! `sparkc completions`: a shell's completion script on standard output.

use anyhow::Result;
use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs};
use crate::output;

/// Runs it.
///
/// # Errors
/// When standard output is closed.
pub fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sparkc", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
