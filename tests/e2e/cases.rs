//! Runs every `.spark` case of `tests/cases` through the treatments its header asks for.
//!
//! One meaning, many ways: `ir::eval` of the module as it stands is the reference; the tolerance is
//! that of f32 with another order of accumulation (bf16 and f16 weights widen exactly). What passes
//! print is a snapshot beside the case.

#![allow(clippy::unwrap_used, reason = "a case that cannot be run is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use harness::case::{self, Case, Treatment};
use ir::eval::{EvalOptions, eval_module};
use ir::{Module, WeightMap};
use libtest_mimic::{Arguments, Trial};
use passes::{CostModel, NeutralCost, RunOptions};
use runtime::program::Activations;
use runtime::{Assets, Session, SessionOptions, Wanted};
use tensor::{Tensor, Tolerance, compare};

fn main() {
    let folder = harness::root().join("tests/cases");
    let mut paths = Vec::new();
    collect(&folder, &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "no case in {}", folder.display());
    let trial = |path: PathBuf| {
        let name = path.strip_prefix(&folder).unwrap().with_extension("");
        let name = name.to_string_lossy().replace('/', "::");
        Trial::test(name, move || check(&path).map_err(|e| format!("{e:#}").into()))
    };
    let trials = paths.into_iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|e| e == "spark") {
            paths.push(path);
        }
    }
}

fn check(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let case = case::parse(&text)?;
    if let Some(piece) = &case.error {
        return check_error(&text, piece);
    }
    let module = ir::parse(&text).map_err(anyhow::Error::new)?;
    ir::verify(&module)?;
    let printed = module.to_string();
    let again = ir::parse(&printed).map_err(anyhow::Error::new)?;
    if again.to_string() != printed {
        bail!("does not print as it parses");
    }
    let weights = case::weights(&module)?;
    let expected = logits_of(&module, &weights, &case)?;
    for pipeline in &case.passes {
        let optimised = run_passes(pipeline, &module, &weights)?;
        snapshot(path, &format!("// pass: {pipeline}\n{optimised}"));
        compare_logits(pipeline, &logits_of(&optimised, &weights, &case)?, &expected)?;
    }
    for &treatment in &case.same {
        let found = treat(treatment, &module, &weights, &case)?;
        compare_logits(&format!("{treatment:?}"), &found, &expected)?;
    }
    Ok(())
}

fn check_error(text: &str, piece: &str) -> Result<()> {
    let refusal = match ir::parse(text) {
        Err(error) => error.to_string(),
        Ok(module) => match ir::verify(&module) {
            Err(violations) => violations.to_string(),
            Ok(()) => bail!("accepted, expected: {piece}"),
        },
    };
    if !refusal.contains(piece) {
        bail!("expected: {piece}\nfound: {refusal}");
    }
    Ok(())
}

fn logits_of(module: &Module, weights: &WeightMap, case: &Case) -> Result<Vec<f32>> {
    let tokens = &case.tokens;
    Ok(eval_module(module, weights, tokens, tokens.len(), EvalOptions::default())?.to_f32())
}

fn run_passes(pipeline: &str, module: &Module, weights: &WeightMap) -> Result<Module> {
    let mut module = module.clone();
    let options = RunOptions { weights: Some(weights), ..RunOptions::default() };
    passes::run(pipeline, &mut module, &NeutralCost, options)?;
    Ok(module.compact())
}

fn optimise(module: &Module, level: passes::Level, cost: &dyn CostModel) -> Result<Module> {
    let options = passes::Options { level, ..passes::Options::default() };
    Ok(passes::optimize(module.clone(), &options, cost)?.0)
}

fn treat(
    treatment: Treatment,
    module: &Module,
    weights: &WeightMap,
    case: &Case,
) -> Result<Vec<f32>> {
    match treatment {
        Treatment::Level(level) => {
            logits_of(&optimise(module, level, &NeutralCost)?, weights, case)
        }
        Treatment::Cpu => {
            let module = optimise(module, passes::Level::O2, &backend_cpu::CpuCost)?;
            let payload = backend_cpu::compile_in_memory(
                &module,
                Activations::Full,
                weights,
                Assets::default(),
            )?;
            let mut session = Session::new(Arc::new(payload), SessionOptions::default())?;
            let mut logits = Vec::new();
            let mut sink = |rows: &[f32]| logits.extend_from_slice(rows);
            session.feed(&case.tokens, Wanted::All, &mut sink)?;
            Ok(logits)
        }
        Treatment::Wafer => {
            let target = plan::Target::preset("small").context("a preset")?;
            let cost = backend_wafer::WaferCost::new(&target);
            let module = optimise(module, passes::Level::O2, &cost)?;
            let options = backend_wafer::Options::default();
            let (plan, _) = backend_wafer::compile(&module, &target, &options, &|_| {})?;
            let tensors: &BTreeMap<String, Tensor> = &weights.0;
            let mut simulator = simulator::Simulator::new(&plan, tensors)?;
            let (_, logits) = simulator.generate(&case.tokens, 0)?;
            Ok(logits.concat())
        }
    }
}

fn compare_logits(what: &str, found: &[f32], expected: &[f32]) -> Result<()> {
    compare::check(found, expected, Tolerance::F32).with_context(|| what.to_string())
}

/// A snapshot beside the case, with its name.
fn snapshot(path: &Path, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(path.parent().unwrap());
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    settings.bind(|| insta::assert_snapshot!(name, text));
}
