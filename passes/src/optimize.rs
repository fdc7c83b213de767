//! One call for back ends and the command line: a module, options and a cost model give the module
//! to compile and the report of how it came about.

use ir::{Module, WeightSource};
use tensor::DType;

use crate::manager::{self, RunOptions};
use crate::pipeline::Level;
use crate::report::Report;
use crate::{CostModel, PassError, Tier};

/// What the user chose.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// `--numerics`: the loosest tier of rewrites loaded. Quantisation asked for by `quant` is
    /// allowed whatever this says: it is explicit.
    pub tier: Tier,
    /// `--quant`: a quantised dtype.
    pub quant: Option<DType>,
    /// Which pipeline.
    pub level: Level,
    /// Whether to find out what each rewrite saves; costs one search per rewrite used.
    pub attribute: bool,
    /// Whether to write a certificate of the rewrites ([`Report::proof`]).
    pub prove: bool,
    /// The weights, for error reports of quantisation. Not needed for anything else.
    pub weights: Option<&'a dyn WeightSource>,
}

/// Optimises a module for one target.
///
/// ```
/// # use sparkc_passes as passes;
/// use passes::{NeutralCost, Options, optimize};
/// # use ir::{Builder, Dim, Module, ParamKind, Symbol, TensorType};
/// # use tensor::DType;
/// # fn tiny() -> Result<Module, ir::InferError> {
/// # let mut b = Builder::new("main");
/// # let tokens = b.param(ParamKind::Input, TensorType::new(DType::I32, [Symbol::T]), "tokens");
/// # let table = b.weight("embed", DType::F32, &[8, 4])?;
/// # let x = b.apply(ir::Op::Gather, &[table, tokens])?;
/// # let last = ir::Op::Slice { axis: 0, start: &Dim::from(Symbol::T) - &Dim::from(Symbol::R), end: Symbol::T.into() };
/// # let last = b.apply(last, &[x])?;
/// # let logits = b.linear(last, table)?;
/// # Ok(Module::new("tiny", 16, b.finish(vec![logits])))
/// # }
/// let (optimised, report) = optimize(tiny()?, &Options::default(), &NeutralCost)?;
/// assert!(report.cost.1 <= report.cost.0);
/// assert_eq!(optimised.weights().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the module is not valid, or a pass fails; see [`PassError`].
pub fn optimize(
    mut module: Module,
    options: &Options<'_>,
    model: &dyn CostModel,
) -> Result<(Module, Report), PassError> {
    let run_options = RunOptions {
        tier: options.tier,
        quant: options.quant,
        attribute: options.attribute,
        prove: options.prove,
        weights: options.weights,
        ..RunOptions::default()
    };
    let report = manager::run(options.level.pipeline(), &mut module, model, run_options)?;
    Ok((module, report))
}
