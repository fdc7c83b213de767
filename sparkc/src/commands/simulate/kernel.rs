//! `sparkc simulate --kernel`: one collective or mat-vec on a bare region, for calibration.

use anyhow::{Context, Result};
use backend_wafer::kernels::{self, Kernel, Sizes};

use super::timing;
use crate::cli::SimulateArgs;
use crate::{driver, output};

/// Runs it.
///
/// # Errors
/// A kernel that there is not, sizes that do not fit.
pub(super) fn run(args: &SimulateArgs) -> Result<()> {
    let asked = &args.kernel;
    let name = asked.kernel.as_deref().context("neither a plan nor a kernel was given")?;
    let kernel = Kernel::from_name(name)?;
    let target = driver::target(&asked.target)?;
    let sizes = Sizes { region: asked.region, k: asked.k, n: asked.cols };
    let plan = kernels::build(kernel, sizes, &target)?;
    let report = timing::time(args, &plan)?;
    if args.json {
        return output::print_json(&timing::as_json(&report, 1));
    }
    output::print(&timing::render_kernel(&report))
}
