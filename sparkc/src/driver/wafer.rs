//! The plan: optimised under the wafer's cost model, compiled, proven legal, with digests of the
//! weights it pins.

use anyhow::Result;
use backend_wafer::{Options, Stage, WaferCost, Wafers};
use frontend::Model;
use ir::Module;
use passes::Report;
use plan::{Plan, Target};

use super::{Ask, optimise, plan_file};
use crate::cli::{BuildArgs, WaferCount};
use crate::exit::Fault;

/// Smaller grids are for tests, not wafers: `auto` takes as many of them as the target file says.
const WAFER_PES: u64 = 65_536;

/// What is known of a plan.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The module it runs.
    pub module: Module,
    /// How the module came about.
    pub passes: Report,
    /// The plan, proven legal.
    pub plan: Plan,
    /// It has as few wafers as hold the model, because nobody said how many.
    pub fewest: bool,
    /// Requests to work on at once, where somebody said how many.
    pub requests: Option<u32>,
}

/// Compiles a plan.
///
/// # Errors
/// What passes and back end find wrong; a model that does not fit.
pub fn compile(
    model: &Model,
    build: &BuildArgs,
    target: &Target,
    ask: Ask,
    progress: &dyn Fn(Stage),
) -> Result<Planned> {
    let (module, passes) = optimise(model, build, &WaferCost::new(target), ask)?;
    let wafers = match build.wafers {
        WaferCount::Auto if u64::from(target.width) * u64::from(target.height) < WAFER_PES => {
            Wafers::Target
        }
        WaferCount::Auto => Wafers::Fewest,
        WaferCount::UpTo(n) => Wafers::UpTo(n),
    };
    let fewest = wafers == Wafers::Fewest;
    let (requests, digest) = (build.requests, model.info.digest.to_string());
    let options = Options { context: None, wafers, requests, digest };
    let (mut plan, _) = backend_wafer::compile(&module, target, &options, progress)?;
    prove(&plan)?;
    if let Some(weights) = &model.weights {
        let weights = plan_file::weights_of(&plan, weights)?;
        plan_file::record_digests(&mut plan, &weights)?;
    }
    Ok(Planned { module, passes, plan, fewest, requests })
}

/// Proves a plan of the compiler legal.
fn prove(plan: &Plan) -> Result<()> {
    plan::verify::verify(plan).map_err(|violations| {
        let lines: Vec<String> = violations.iter().take(5).map(|v| format!("\n{v}")).collect();
        let count = violations.len();
        Fault::internal(format!("the plan breaks {count} rules:{}", lines.concat())).into()
    })
}
