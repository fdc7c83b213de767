//! The pass manager: verifies, times, dumps and stops; passes only transform.
//!
//! The module is verified before the first pass and after every pass, so an invalid module names
//! the pass that made it. A pass may leave the module invalid only while it runs. Every error gets
//! the pass and its position in the pipeline. Does not print: dumps go to the caller's observer.

use std::time::Instant;

use ir::{Module, WeightSource};

use crate::cost::module_cost;
use crate::pipeline::{self, Step};
use crate::registry;
use crate::report::{PassReport, Report, Warning};
use crate::{CostModel, PassError, Tier};

/// Whether a pass left another module than it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Another one.
    Yes,
    /// The same.
    No,
}

impl From<bool> for Changed {
    fn from(changed: bool) -> Self {
        if changed { Changed::Yes } else { Changed::No }
    }
}

/// A module-to-module transformation. The module is valid before and after, not in between.
pub trait Pass {
    /// Transforms the module.
    ///
    /// # Errors
    /// See [`PassError`]; the manager adds the name of the pass.
    fn run(&self, module: &mut Module, cx: &mut PassCx<'_>) -> Result<Changed, PassError>;
}

/// An option of a pass.
#[derive(Debug)]
pub struct OptionInfo {
    /// Spelling in braces.
    pub name: &'static str,
    /// Value when not given.
    pub default: &'static str,
    /// One sentence, with the unit.
    pub summary: &'static str,
}

/// A row of the registry: all that is known of a pass without running it.
#[derive(Debug)]
pub struct PassInfo {
    /// Imperative, kebab-case.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// The most that the pass does to numbers when it is let. A pass of rewrites is `exact` here and
    /// loads only rules of the tier allowed; `quantize` does nothing unless it is asked for.
    pub tier: Tier,
    /// Its options.
    pub options: &'static [OptionInfo],
    /// Makes the pass from options, every one of them present.
    pub build: fn(&PassOptions) -> Result<Box<dyn Pass>, PassError>,
}

/// The options of one step, defaults filled in.
#[derive(Debug)]
pub struct PassOptions {
    pass: &'static str,
    values: Vec<(&'static str, String)>,
}

impl PassOptions {
    /// Fills in defaults; refuses options that the pass does not have.
    fn new(info: &'static PassInfo, step: &Step) -> Result<Self, PassError> {
        for (given, _) in &step.options {
            if !info.options.iter().any(|o| o.name == given) {
                let names: Vec<_> = info.options.iter().map(|o| o.name).collect();
                let why = format!("not an option of this pass; it has: [{}]", names.join(", "));
                return Err(PassError::Option { pass: info.name, option: given.clone(), why });
            }
        }
        let value = |o: &'static OptionInfo| {
            let given = step.options.iter().rev().find(|(name, _)| name == o.name);
            (o.name, given.map_or_else(|| o.default.to_string(), |(_, v)| v.clone()))
        };
        Ok(PassOptions { pass: info.name, values: info.options.iter().map(value).collect() })
    }

    /// The text of an option that the registry declares.
    pub fn text(&self, name: &str) -> &str {
        self.values.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v)
    }

    /// An option as a count.
    ///
    /// # Errors
    /// When it is not a decimal number.
    pub fn count(&self, name: &str) -> Result<usize, PassError> {
        let text = self.text(name);
        text.parse().map_err(|_| self.refuse(name, format!("expected a number, found {text:?}")))
    }

    /// The error for a value that an option cannot take.
    pub fn refuse(&self, name: &str, why: String) -> PassError {
        PassError::Option { pass: self.pass, option: name.to_string(), why }
    }
}

/// What passes are given besides the module.
pub struct PassCx<'a> {
    /// The tier that `--numerics` allows.
    pub tier: Tier,
    /// Weight-only quantisation wanted.
    pub quant: Option<tensor::DType>,
    /// Whether to find out what each rewrite saves (a search per rewrite).
    pub attribute: bool,
    /// Whether to write a certificate.
    pub prove: bool,
    /// The target's prices.
    pub model: &'a dyn CostModel,
    /// The weights, where there are any.
    pub weights: Option<&'a dyn WeightSource>,
    /// Written by passes: rewrites, searches, quantised tensors.
    pub report: &'a mut Report,
    /// Written by the running pass; the manager files it.
    pub warnings: Vec<Warning>,
}

impl PassCx<'_> {
    /// Notes something that is no error.
    pub fn warn(&mut self, code: &'static str, text: impl Into<String>) {
        self.warnings.push(Warning { code, text: text.into() });
    }
}

/// What a run is asked to do besides the passes.
#[derive(Default)]
pub struct RunOptions<'a> {
    /// The tier allowed.
    pub tier: Tier,
    /// Weight-only quantisation wanted.
    pub quant: Option<tensor::DType>,
    /// Whether to find out what each rewrite saves.
    pub attribute: bool,
    /// Whether to write a certificate of the rewrites.
    pub prove: bool,
    /// Stop after this many passes: bisect a pipeline by its length.
    pub stop_after: Option<usize>,
    /// Called after each pass with its 1-based position, name, whether it changed anything, and the
    /// module: dumps of `--print-after`.
    #[allow(clippy::type_complexity, reason = "an alias would hide the four arguments")]
    pub observe: Option<Box<dyn FnMut(usize, &'static str, bool, &Module) + 'a>>,
    /// The weights, where there are any.
    pub weights: Option<&'a dyn WeightSource>,
}

/// Runs a pipeline string over a module.
///
/// # Errors
/// A pipeline that does not parse, a pass that fails (prefixed with its name), a module that is
/// invalid before the first pass or after one.
pub fn run(
    pipeline: &str,
    module: &mut Module,
    model: &dyn CostModel,
    options: RunOptions<'_>,
) -> Result<Report, PassError> {
    let steps = pipeline::parse(pipeline)?;
    let passes = steps.iter().map(build).collect::<Result<Vec<_>, _>>()?;
    run_passes(&passes, module, model, options)
}

type Built = (&'static PassInfo, Box<dyn Pass>);

fn run_passes(
    passes: &[Built],
    module: &mut Module,
    model: &dyn CostModel,
    mut options: RunOptions<'_>,
) -> Result<Report, PassError> {
    if let Some(violations) = violations(module) {
        return Err(PassError::Invalid { violations });
    }
    let before = module_cost(module, model);
    let mut report = Report { model: model.name().to_string(), ..Report::default() };
    let length = options.stop_after.unwrap_or(usize::MAX).min(passes.len());
    for (i, (info, pass)) in passes.iter().take(length).enumerate() {
        let index = i + 1;
        let within = |error| PassError::In { pass: info.name, index, error: Box::new(error) };
        let entry = run_one(info, pass.as_ref(), module, model, &options, &mut report);
        let entry = entry.map_err(within)?;
        if let Some(observe) = &mut options.observe {
            observe(index, info.name, entry.changed, module);
        }
        report.passes.push(entry);
        if let Some(violations) = violations(module) {
            return Err(within(PassError::Broken { violations }));
        }
    }
    report.cost = (before, module_cost(module, model));
    Ok(report)
}

fn run_one(
    info: &'static PassInfo,
    pass: &dyn Pass,
    module: &mut Module,
    model: &dyn CostModel,
    options: &RunOptions<'_>,
    report: &mut Report,
) -> Result<PassReport, PassError> {
    let start = Instant::now();
    let nodes_before = node_count(module);
    let mut cx = PassCx {
        tier: options.tier,
        quant: options.quant,
        attribute: options.attribute,
        prove: options.prove,
        model,
        weights: options.weights,
        report,
        warnings: Vec::new(),
    };
    let changed = pass.run(module, &mut cx)? == Changed::Yes;
    let warnings = std::mem::take(&mut cx.warnings);
    report.timings.push(start.elapsed());
    let nodes = (nodes_before, node_count(module));
    Ok(PassReport { name: info.name, changed, nodes, warnings })
}

fn build(step: &Step) -> Result<Built, PassError> {
    let info = registry::find(&step.name)?;
    let pass = (info.build)(&PassOptions::new(info, step)?)?;
    Ok((info, pass))
}

fn node_count(module: &Module) -> usize {
    module.graphs().map(|g| g.order().len()).sum()
}

/// What is wrong with a module, one violation per line.
fn violations(module: &Module) -> Option<String> {
    ir::verify(module).err().map(|v| v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NeutralCost;
    use crate::testing::Decoder;

    fn attempt(pipeline: &str, options: RunOptions<'_>) -> Result<Report, PassError> {
        run(pipeline, &mut Decoder::default().module(), &NeutralCost, options)
    }

    #[test]
    fn what_the_user_misspells_is_named() {
        let error = |pipeline| attempt(pipeline, RunOptions::default()).unwrap_err();
        assert_eq!(error("cse,optimise").code(), "SPK3002");
        assert!(error("optimise").to_string().contains("canonicalize"));
        assert_eq!(error("egraph{speed=9}").code(), "SPK3003");
        assert!(error("egraph{speed=9}").to_string().contains("nodes"));
        assert_eq!(error("egraph{nodes=many}").code(), "SPK3003");
        assert_eq!(error("cse,,dce").code(), "SPK3001");
    }

    #[test]
    fn every_level_runs_and_reports_each_pass() {
        for level in crate::Level::ALL {
            let report = attempt(level.pipeline(), RunOptions::default()).unwrap();
            assert_eq!(report.passes.len(), level.pipeline().split(',').count());
            assert_eq!(report.timings.len(), report.passes.len());
        }
    }

    #[test]
    fn a_pipeline_stops_where_it_is_told_and_shows_every_step() {
        let mut seen = Vec::new();
        let observe = |i: usize, name: &'static str, changed: bool, module: &Module| {
            seen.push((i, name, changed, module.main.order().len()));
        };
        let options = RunOptions {
            stop_after: Some(2),
            observe: Some(Box::new(observe)),
            ..RunOptions::default()
        };
        attempt("cse,dce,egraph", options).unwrap();
        assert_eq!(seen.iter().map(|s| (s.0, s.1)).collect::<Vec<_>>(), [(1, "cse"), (2, "dce")]);
        assert!(seen[0].2 && !seen[1].2);
    }

    #[test]
    fn an_invalid_module_is_refused_before_any_pass() {
        let mut module = Decoder::default().module();
        module.main.results.clear();
        let error = run("dce", &mut module, &NeutralCost, RunOptions::default()).unwrap_err();
        assert_eq!(error.code(), "SPK3006");
        assert!(!error.is_internal());
    }

    /// A pass that breaks what it is given.
    struct Vandal;

    impl Pass for Vandal {
        fn run(&self, module: &mut Module, _cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
            module.main.results.clear();
            Ok(Changed::Yes)
        }
    }

    #[test]
    fn the_pass_that_breaks_the_module_is_named() {
        static INFO: PassInfo = PassInfo {
            name: "vandal",
            summary: "Breaks things.",
            tier: Tier::Exact,
            options: &[],
            build: |_| Ok(Box::new(Vandal)),
        };
        let mut module = Decoder::default().module();
        let passes: Vec<Built> = vec![(&INFO, Box::new(Vandal))];
        let error = run_passes(&passes, &mut module, &NeutralCost, RunOptions::default());
        let error = error.unwrap_err();
        assert_eq!(error.code(), "SPK3090");
        assert!(error.is_internal());
        assert!(error.to_string().starts_with("pass vandal (number 1 of the pipeline)"), "{error}");
    }
}
