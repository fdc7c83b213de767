//! From a path to artefacts: load, optimise, back ends. Commands ask, this calls the crates.
//!
//! Reading order: [`open`], [`target`], [`optimise`], then [`cpu`] and [`wafer`]; [`plan_file`]
//! reads plans back. Each back end gets the module optimised under its own cost model. Does not write files, and prints nothing but the
//! front end's warnings.

pub mod assets;
pub mod cpu;
pub mod heldout;
pub mod plan_file;
pub mod text;
pub mod wafer;

use std::path::Path;

use anyhow::{Context, Result};
use frontend::{Model, OpenOptions};
use ir::{Module, WeightSource};
use passes::{CostModel, Report, Tier};
use plan::Target;
use runtime::program::Activations;
use tensor::DType;

use crate::cli::{BuildArgs, KvCache, ModelArgs, Numerics, Quant};
use crate::exit::Fault;
use crate::input;
use crate::report::diag;

/// Opens a model and shows what is odd about it.
///
/// # Errors
/// Everything the front end finds wrong.
pub fn open(args: &ModelArgs, context: Option<u32>) -> Result<Model> {
    let options = OpenOptions {
        context: context.map(|c| c as usize),
        weights: args.weights.clone(),
        kv_cache: args.kv_cache.map(KvCache::dtype),
    };
    let model = frontend::open(&args.model, &options)?;
    for warning in &model.warnings {
        diag::warn(warning.code, &warning.to_string());
    }
    Ok(model)
}

/// The wafer that `--target` names: a preset, or a TOML file.
///
/// # Errors
/// A name that is neither, or a file that is no target.
pub fn target(name: &str) -> Result<Target> {
    if let Some(target) = Target::preset(name) {
        return Ok(target);
    }
    let path = Path::new(name);
    if !path.exists() {
        let presets: Vec<&str> = Target::preset_names().collect();
        let fault =
            Fault::bad_input("SPK5010", format!("target `{name}` is no preset and no file"));
        return Err(fault.advise(format!("one of {}, or a TOML file", presets.join(", "))).into());
    }
    let text = input::read_text(path, input::SMALL)?;
    Target::parse(&text).with_context(|| format!("target `{name}`"))
}

/// The wafer that the options describe, with the dead PEs of `--defects`.
///
/// # Errors
/// As [`target`]; a file of defects that cannot be read.
pub fn target_of(build: &BuildArgs) -> Result<Target> {
    let mut target = target(&build.target)?;
    if let Some(path) = &build.defects {
        let shown = path.display();
        let text = input::read_text(path, input::SMALL)?;
        target.dead.extend(defects(&text, &target).with_context(|| format!("`{shown}`"))?);
        target.dead.sort_unstable_by_key(|&(x, y)| (y, x));
        target.dead.dedup();
    }
    Ok(target)
}

/// The most wafers whose defects can be listed.
const DEFECT_WAFERS: u32 = 1024;

/// Dead PEs from the lines of a file: `X Y`, or `column X`; `#` begins a comment.
fn defects(text: &str, target: &Target) -> Result<Vec<(u32, u32)>> {
    let mut dead = Vec::new();
    let width = target.built_width().saturating_mul(DEFECT_WAFERS);
    for (i, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> =
            line.split([' ', ',', '\t']).filter(|word| !word.is_empty()).collect();
        let number = |word: &str, end: u32| word.parse().ok().filter(|&n: &u32| n < end);
        let found = match *words.as_slice() {
            [] => continue,
            ["column", x] => number(x, width).map(|x| (0..target.height).map(|y| (x, y)).collect()),
            [x, y] => number(x, width).zip(number(y, target.height)).map(|pe| vec![pe]),
            _ => None,
        };
        let found: Vec<(u32, u32)> = found.ok_or_else(|| {
            let rows = target.height;
            Fault::bad_input("SPK5011", format!("line {i}: `{}` is no dead PE", line.trim()))
                .advise(format!("a line is `X Y` with Y below {rows}, or `column X`"))
        })?;
        dead.extend(found);
    }
    Ok(dead)
}

/// The weights of a model.
///
/// # Errors
/// When it is a bare configuration.
pub fn weights(model: &Model) -> Result<&frontend::Weights> {
    model.weights.as_ref().ok_or_else(|| {
        let name = &model.info.name;
        Fault::bad_input("SPK5012", format!("`{name}` has shapes only, this needs its weights"))
            .advise("give the directory with the *.safetensors files")
            .into()
    })
}

/// The weights as the passes and the CPU back end read them.
pub fn weight_source(model: &Model) -> Option<&dyn WeightSource> {
    model.weights.as_ref().map(|w| w as &dyn WeightSource)
}

/// What to find out about the rewrites besides making them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// What each saves; a search per rewrite.
    pub attribution: bool,
    /// A certificate.
    pub proof: bool,
    /// The error of each quantised tensor; takes as long as quantising them.
    pub errors: bool,
}

/// The module that a back end compiles, and how it came about.
///
/// # Errors
/// What the passes find wrong.
pub fn optimise(
    model: &Model,
    build: &BuildArgs,
    cost: &dyn CostModel,
    ask: Ask,
) -> Result<(Module, Report)> {
    let options = passes::Options {
        tier: tier(build.numerics),
        quant: quant(build.quant),
        attribute: ask.attribution,
        prove: ask.proof,
        weights: weight_source(model).filter(|_| ask.errors),
        ..passes::Options::default()
    };
    Ok(passes::optimize(model.module.clone(), &options, cost)?)
}

/// `--numerics` in the words of `passes`.
pub fn tier(numerics: Numerics) -> Tier {
    match numerics {
        Numerics::Exact => Tier::Exact,
        Numerics::Reassoc => Tier::Reassoc,
        Numerics::Reround => Tier::Reround,
        Numerics::Lossy => Tier::Lossy,
    }
}

/// What products of the executable see of activations: rounding them to few bits is lossy.
pub fn activations(numerics: Numerics) -> Activations {
    if numerics == Numerics::Lossy { Activations::Short } else { Activations::Full }
}

/// `--quant` in the words of `passes`.
pub fn quant(quant: Quant) -> Option<DType> {
    match quant {
        Quant::None => None,
        Quant::Q8 => Some(DType::Q8),
        Quant::Q4 => Some(DType::Q4),
        Quant::Q4m => Some(DType::Q4M),
    }
}
