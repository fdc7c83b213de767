//! Project automation: `cargo xtask tidy` checks the structure, `cargo xtask ci` runs what CI runs,
//! `cargo xtask bench` measures what is promised.
//!
//! Each check is a function from the checkout to a list of findings; all findings are shown.
//! Knows nothing of what sparkc computes and depends on none of its crates.

mod ci;
mod tidy;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask tidy                 check the structure of the workspace
       cargo xtask tidy --update        let the list of long functions shrink
       cargo xtask ci                   everything CI runs, in its order
       cargo xtask bench [NAME...] [--json FILE]
                                        measure what the project promises";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    let root = root()?;
    match arguments {
        ["tidy"] => tidy::run(&root, tidy::Ratchet::Check),
        ["tidy", "--update"] => tidy::run(&root, tidy::Ratchet::Update),
        ["ci"] => ci::run(&root),
        ["bench", options @ ..] => bench(&root, options),
        _ => bail!("{USAGE}"),
    }
}

/// Builds and runs the benches.
fn bench(root: &Path, options: &[&str]) -> Result<()> {
    let status = std::process::Command::new(env!("CARGO"))
        .args(["bench", "--package", "sparkc-tests", "--bench", "reach", "--"])
        .args(options)
        .current_dir(root)
        .status()
        .context("cannot start cargo bench")?;
    if status.success() { Ok(()) } else { bail!("a figure could not be measured") }
}

/// The checkout this program was built from.
fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent")?;
    Ok(root.to_path_buf())
}

/// A line on standard output.
fn say(line: &str) {
    // Nobody reads when standard output is closed.
    let _ = writeln!(std::io::stdout(), "{line}");
}
