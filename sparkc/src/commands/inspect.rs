//! `sparkc inspect`: what is inside a model, a plan, an executable or an output directory.

mod model;

use anyhow::Result;

use crate::cli::InspectArgs;

/// Runs it.
///
/// # Errors
/// A path that is none of these, or a question that does not fit it.
pub fn run(args: &InspectArgs) -> Result<()> {
    model::run(args)
}
