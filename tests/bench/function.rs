//! Function at full scale: one decode token of a 135M-parameter Llama on the whole wse3.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use frontend::OpenOptions;
use harness::random_model;
use ir::WeightSource;
use safetensors::SafeTensors;
use tensor::{DType, Tensor, compare};

use crate::Figures;
use crate::programs::{self, sparkc};

/// The token fed.
const TOKEN: &str = "1234";

/// Logits of the simulated wafer against eval, and how long they take.
pub(crate) fn llama_135m(figures: &mut Figures) -> Result<()> {
    let folder = tempfile::tempdir()?;
    random_model::write("llama-135m", folder.path(), 7)?;
    let built = programs::compile(folder.path(), &["--target", "wse3"])?;
    let tiles: u64 = built.plan()?.regions.iter().map(|r| r.rect.area()).sum();
    figures.free("tiles", tiles as f64, "tiles");
    let args = ["simulate", "out.sparkc", "--tokens", TOKEN, "--logits", "wafer.safetensors"];
    let run = sparkc(built.folder(), &args)?;
    figures.at_most("one token, whole program", run.seconds, "s", 10.0);
    if let Some(peak) = run.peak_mb {
        figures.at_most("peak memory", peak, "MB", 4e3);
    }
    inside(figures, &built, folder.path())?;
    let model = folder.path().to_str().context("a path that is no text")?;
    let args = ["eval", model, "--tokens", TOKEN, "--logits", "eval.safetensors"];
    let eval = sparkc(built.folder(), &args)?;
    figures.free("eval of the same token", eval.seconds, "s");
    let logits = |name: &str| -> Result<Vec<f32>> {
        let bytes = std::fs::read(built.folder().join(name))?;
        let file = SafeTensors::deserialize(&bytes)?;
        let data = file.tensor("logits")?.data().as_chunks::<4>().0.to_vec();
        Ok(data.into_iter().map(f32::from_le_bytes).collect())
    };
    let (found, expected) = (logits("wafer.safetensors")?, logits("eval.safetensors")?);
    ensure!(found.len() == expected.len(), "{} and {} logits", found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let off = found.iter().zip(&expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    // The rule for bf16 weights with f32 accumulation: docs/numerics.md.
    figures.at_most("largest difference to eval", f64::from(off / largest), "of max", 2e-3);
    compare::check(&found, &expected, tensor::Tolerance::HALF)
        .map_err(|e| anyhow::anyhow!("logits differ from eval: {e}"))?;
    Ok(())
}

/// The parts of a simulation, in this process.
fn inside(figures: &mut Figures, built: &programs::Built, model: &std::path::Path) -> Result<()> {
    let plan = built.plan()?;
    let model = frontend::open(model, &OpenOptions::default())?;
    let weights = model.weights.as_ref().context("the model has weights")?;
    let names = plan.weights.iter().filter(|w| w.data == plan::WeightData::Model);
    let load = |w: &plan::WeightDecl| {
        Ok((w.name.clone(), weights.load(&w.name).map_err(anyhow::Error::msg)?))
    };
    let source: BTreeMap<String, Tensor> = names.map(load).collect::<Result<_>>()?;
    ensure!(source.values().all(|t| t.dtype() == DType::BF16), "weights are bf16");
    let begin = std::time::Instant::now();
    let mut simulator = simulator::Simulator::new(&plan, &source)?;
    figures.free("verify, schedule, pin weights", begin.elapsed().as_secs_f64(), "s");
    let mut times = Vec::new();
    let busy = programs::processor_seconds().0;
    for token in [1234, 5, 77] {
        let begin = std::time::Instant::now();
        simulator.step(token)?;
        times.push(begin.elapsed().as_secs_f64());
    }
    let best = times.iter().copied().fold(f64::INFINITY, f64::min);
    figures.free("one token", best, "s");
    let busy = (programs::processor_seconds().0 - busy) / times.len() as f64;
    figures.free("one token, processor time", busy, "s");
    let prompt: Vec<u32> = (0..8).collect();
    let begin = std::time::Instant::now();
    simulator.feed(&prompt, 1)?;
    figures.free("each of 8 prompt tokens", begin.elapsed().as_secs_f64() / 8.0, "s");
    Ok(())
}
