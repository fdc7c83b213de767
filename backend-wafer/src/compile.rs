//! The whole back end in one call.

use plan::{Plan, Target};

use crate::place::{Goal, Wafers, repair};
use crate::{Report, WaferError, emit, partition, place, route, schedule};

/// What the caller can choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Positions to size the KV caches for; the module's context when absent.
    pub context: Option<usize>,
    /// How many wafers of the target may be used.
    pub wafers: Wafers,
    /// Requests to work on at once: see [`Goal`].
    pub requests: Option<u32>,
    /// Hex digest that identifies the model in the plan.
    pub digest: String,
}

/// A stage of the back end, for progress reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Recognise the model.
    Partition,
    /// Choose shapes and rectangles.
    Place,
    /// Color regions and streams.
    Route,
    /// Write programs and SRAM maps.
    Schedule,
    /// Write the plan.
    Emit,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Stage; 5] =
        [Stage::Partition, Stage::Place, Stage::Route, Stage::Schedule, Stage::Emit];

    /// A word for progress bars.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Partition => "partition",
            Stage::Place => "place",
            Stage::Route => "route",
            Stage::Schedule => "schedule",
            Stage::Emit => "emit",
        }
    }
}

/// Compiles an optimised module for `target`; `progress` hears of each stage before it runs.
///
/// # Errors
/// What is not supported, or does not fit, in numbers: see [`WaferError`].
pub fn compile(
    module: &ir::Module,
    target: &Target,
    options: &Options,
    progress: &dyn Fn(Stage),
) -> Result<(Plan, Report), WaferError> {
    let context = options.context.unwrap_or(module.context);
    if context > module.context || context == 0 {
        let model = module.name.clone();
        return Err(WaferError::Context { model, asked: context, supported: module.context });
    }
    progress(Stage::Partition);
    let partition = partition::partition(module, context)?;
    if target.dead.is_empty() {
        return on_grid(&partition, target, options, progress);
    }
    // Planned for a perfect grid, which then is laid around the dead PEs.
    let around = repair::around(target)?;
    let (mut plan, _) = on_grid(&partition, &around.grid, options, progress)?;
    let end = target.built_width().saturating_mul(plan.target.wafers);
    if let Some(&(x, y)) = target.dead.iter().find(|d| d.0 >= end || d.1 >= target.height) {
        return Err(WaferError::NoSuchPe { target: target.name.clone(), x, y, columns: end });
    }
    plan.repair = Some(around.repair(plan.target.wafers));
    plan.claims.token_cycles += repair::detour_cycles(&plan);
    let report = Report::new(&plan);
    Ok((plan, report))
}

/// Compiles for a target without dead PEs.
fn on_grid(
    partition: &partition::Partition,
    target: &Target,
    options: &Options,
    progress: &dyn Fn(Stage),
) -> Result<(Plan, Report), WaferError> {
    progress(Stage::Place);
    let goal = Goal { wafers: options.wafers, requests: options.requests };
    let placement = place::place(partition, target, goal)?;
    progress(Stage::Route);
    let routing = route::route(partition, placement, target)?;
    progress(Stage::Schedule);
    let schedule = schedule::schedule(partition, routing, target)?;
    progress(Stage::Emit);
    let plan = emit::emit(partition, schedule, target, &options.digest)?;
    let report = Report::new(&plan);
    Ok((plan, report))
}
