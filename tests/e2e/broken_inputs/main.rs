//! Broken inputs through the real program: exit code, message, nothing half-written, no panic.
//!
//! Each case makes a fresh folder with a small valid model in `model/`, breaks one thing, runs one
//! command there, and states the exit code and pieces of the message. Reading order: [`case`], then
//! the cases by what is broken. A case that leaves an output or a temporary file behind fails.

#![allow(clippy::unwrap_used, reason = "a case that cannot be made is a failed test")]

mod case;
mod config;
mod index;
mod options;
mod paths;
mod plans;
mod resources;
mod spark;
mod tokenizer;
mod weights;

use libtest_mimic::{Arguments, Trial};

use crate::case::Case;

/// Fewer cases than this would mean that a list was lost.
const CASES_MIN: usize = 80;

fn main() {
    let mut cases: Vec<Case> = Vec::new();
    for list in [
        paths::cases(),
        config::cases(),
        weights::cases(),
        index::cases(),
        tokenizer::cases(),
        spark::cases(),
        options::cases(),
        plans::cases(),
        resources::cases(),
    ] {
        cases.extend(list);
    }
    let count = cases.len();
    let trial = |case: Case| Trial::test(case.name, move || case.check().map_err(Into::into));
    let mut trials: Vec<Trial> = cases.into_iter().map(trial).collect();
    trials.push(Trial::test("corpus_is_large_enough", move || {
        if count < CASES_MIN {
            return Err(format!("{count} cases, at least {CASES_MIN} wanted").into());
        }
        Ok(())
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
