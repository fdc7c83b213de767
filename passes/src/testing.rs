//! What the tests of this crate share: running one pass, comparing modules by meaning.

use ir::Module;

use crate::manager::{self, RunOptions};
use crate::{NeutralCost, Report};

/// Runs a pipeline under the neutral model and returns its report.
pub(crate) fn run_pipeline(pipeline: &str, module: &mut Module) -> Report {
    manager::run(pipeline, module, &NeutralCost, RunOptions::default()).unwrap()
}

/// Runs one pass; whether it changed anything.
pub(crate) fn run_pass(pass: &str, module: &mut Module) -> bool {
    run_pipeline(pass, module).passes[0].changed
}
