//! What each family of rewrites buys: tokens per second of the executable, predicted cycles of the wafer.
//!
//! Per model and family: optimised with all rules but that family, compiled, measured; `none` has no rule at
//! all. The CPU runs one layer of the large shapes (random weights, a vocabulary of 1024), because that is what the
//! families change; the wafer is planned whole, with a context of 4096. Runs of the executables are interleaved.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use backend_cpu::CpuCost;
use backend_wafer::{Options, WaferCost, Wafers};
use frontend::OpenOptions;
use ir::{Module, WeightSource};
use passes::{CostModel, RunOptions, pipeline};
use plan::Target;
use runtime::program::Activations;
use simulator::timing::{Level, time};
use tensor::Tensor;

use crate::Figures;
use crate::optimiser::config;

/// Interleaved runs of each executable; the best counts.
const RUNS: usize = 3;
const CONTEXT: usize = 4096;

pub(crate) fn tinypy(figures: &mut Figures) -> Result<()> {
    let model = frontend::open(&harness::default_model(), &OpenOptions::default())?;
    let weights = model.weights.context("the default model has weights")?;
    measure(figures, &model.module, &weights, &model.module, "128")
}

pub(crate) fn llama_1b(figures: &mut Figures) -> Result<()> {
    let shape: [(&str, serde_json::Value); 5] = [
        ("hidden_size", 2048.into()),
        ("intermediate_size", 8192.into()),
        ("num_hidden_layers", 16.into()),
        ("head_dim", 64.into()),
        ("tie_word_embeddings", true.into()),
    ];
    shaped(figures, &shape)
}

pub(crate) fn llama_8b(figures: &mut Figures) -> Result<()> {
    shaped(figures, &[])
}

fn shaped(figures: &mut Figures, shape: &[(&str, serde_json::Value)]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = OpenOptions { context: Some(CONTEXT), ..OpenOptions::default() };
    let whole = frontend::open(&config(folder.path(), shape)?, &options)?.module;
    let mut one = shape.to_vec();
    one.extend([("num_hidden_layers", 1.into()), ("vocab_size", 1024.into())]);
    let layer = frontend::open(&config(folder.path(), &one)?, &options)?.module;
    measure(figures, &layer, &Repeated(&layer), &whole, "64")
}

/// Weights of the right types with some hundred different values.
struct Repeated<'a>(&'a Module);

impl WeightSource for Repeated<'_> {
    fn load(&self, name: &str) -> Result<Tensor, String> {
        let found = self.0.weights().into_iter().find(|w| w.name == name);
        let weight = found.ok_or("there is no such tensor")?;
        let count: usize = weight.shape.iter().product();
        let value = |i: usize| ((i * 37 % 251) as f32 - 125.0) / 6400.0;
        let values: Vec<f32> = (0..count).map(value).collect();
        Tensor::from_f32(weight.shape, &values).cast(weight.dtype).map_err(|e| e.to_string())
    }
}

/// The module without the rewrites of these families.
fn optimised(module: &Module, without: &str, cost: &dyn CostModel) -> Result<Module> {
    let list = pipeline::O2.replace("egraph", &format!("egraph{{without={without}}}"));
    let mut module = module.clone();
    passes::run(&list, &mut module, cost, RunOptions::default())?;
    Ok(module)
}

/// Names of variants and the families each does without.
fn variants() -> Vec<(String, String)> {
    let mut families: Vec<&str> = passes::rewrite_rules().iter().map(|r| r.family).collect();
    families.dedup();
    let without = families.iter().map(|f| (format!("without {f}"), (*f).to_string()));
    let all = [("with all".to_string(), String::new())];
    all.into_iter().chain(without).chain([("with none".to_string(), families.join("+"))]).collect()
}

fn measure(
    figures: &mut Figures,
    small: &Module,
    weights: &dyn WeightSource,
    whole: &Module,
    text: &str,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let variants = variants();
    // Equal modules are one executable: families that do nothing here cost nothing to measure.
    let mut built: Vec<(Module, Option<PathBuf>, [f64; 2])> = Vec::new();
    let mut of_variant = Vec::new();
    for (_, without) in &variants {
        let module = optimised(small, without, &CpuCost)?;
        let known = built.iter().position(|b| b.0 == module);
        of_variant.push(known.unwrap_or(built.len()));
        if known.is_none() {
            let path = folder.path().join(format!("model{}", built.len()));
            let (full, assets) = (Activations::Full, runtime::Assets::default());
            let done = backend_cpu::compile(&module, full, weights, assets, &path, &mut |_| {});
            built.push((module, done.is_ok().then_some(path), [0.0; 2]));
        }
    }
    for _ in 0..RUNS {
        for (_, path, best) in &mut built {
            if let Some(path) = path {
                let found = rates(path, text)?;
                *best = [best[0].max(found[0]), best[1].max(found[1])];
            }
        }
    }
    for ((name, _), &at) in variants.iter().zip(&of_variant) {
        match &built[at] {
            (_, Some(_), [prompt, text]) => {
                figures.free(&format!("CPU {name}, text"), *text, "tokens/s");
                figures.free(&format!("CPU {name}, prompt"), *prompt, "tokens/s");
            }
            _ => figures.free(&format!("CPU {name}: not executable"), 0.0, "tokens/s"),
        }
    }
    let target = Target::preset("wse3").context("no preset wse3")?;
    for (name, without) in &variants {
        let module = optimised(whole, without, &WaferCost::new(&target))?;
        let options = Options { wafers: Wafers::Fewest, ..Options::default() };
        match backend_wafer::compile(&module, &target, &options, &|_| {}) {
            Ok((plan, _)) => {
                let cycles = time(&plan, Level::L0, 0)?.token_cycles;
                figures.free(&format!("wafer {name}"), cycles as f64, "cycles/token");
            }
            Err(_) => figures.free(&format!("wafer {name}: no plan"), 0.0, "cycles/token"),
        }
    }
    Ok(())
}

/// Tokens per second of a prompt of 128 and of text by an executable, on all cores.
fn rates(path: &Path, text: &str) -> Result<[f64; 2]> {
    let threads = std::thread::available_parallelism()?.to_string();
    let run = Command::new(path).args(["--bench", "128", text, &threads]).output()?;
    let shown = String::from_utf8_lossy(&run.stdout);
    ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let line = shown.lines().find_map(|l| l.strip_prefix("RESULT ")).context("no RESULT")?;
    let found: serde_json::Value = serde_json::from_str(line)?;
    let rate = |name: &str| found[name].as_f64().with_context(|| format!("no {name}"));
    Ok([rate("prefill_tps")?, rate("decode_tps")?])
}
