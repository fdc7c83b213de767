//! What the tests of the whole share: running the program, fixtures, models made to order.
//!
//! Reading order: `program` (run `sparkc` and look at what it did), [`fixture`] (reference models
//! of `tests/fixtures`). Does not judge: assertions are in the tests.

pub mod case;
pub mod defects;
pub mod fixture;
pub mod flat;
pub mod random_model;
pub mod run;

use std::path::{Path, PathBuf};

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The model of the README.
pub fn default_model() -> PathBuf {
    root().join("models/tinypy")
}
