//! What CI runs, in order of speed: a mistake is found by the cheapest step that can find it.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{say, tidy};

/// A step: its name, the cargo command, and what is added to its environment.
struct Step {
    name: &'static str,
    cargo: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// The steps after tidy. Release throughout, so that one build serves them all.
const STEPS: &[Step] = &[
    Step { name: "format", cargo: &["fmt", "--all", "--check"], environment: &[] },
    Step {
        name: "lints",
        cargo: &[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
        environment: &[],
    },
    Step {
        name: "documentation",
        cargo: &["doc", "--release", "--workspace", "--no-deps", "--quiet"],
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
    },
    // The command of the README, last, so that its result lines end the log.
    Step { name: "tests", cargo: &["test", "--release", "--workspace"], environment: &[] },
];

/// Runs every step; stops at the first that fails.
pub(crate) fn run(root: &Path) -> Result<()> {
    tidy::run(root, tidy::Ratchet::Check)?;
    for step in STEPS {
        let begin = Instant::now();
        say(&format!("== {}: cargo {}", step.name, step.cargo.join(" ")));
        let status = Command::new(env!("CARGO"))
            .args(step.cargo)
            .envs(step.environment.iter().copied())
            // A snapshot that differs fails; none is written.
            .env("INSTA_UPDATE", "no")
            .current_dir(root)
            .status()
            .with_context(|| format!("cannot start cargo for {}", step.name))?;
        if !status.success() {
            bail!("{} failed: cargo {}", step.name, step.cargo.join(" "));
        }
        say(&format!("== {}: ok in {:.0} s", step.name, begin.elapsed().as_secs_f64()));
    }
    Ok(())
}
