//! The optimiser: that depth costs nothing, that flat graphs are rolled, that blocks are extracted fast.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use backend_cpu::CpuCost;
use backend_wafer::WaferCost;
use frontend::OpenOptions;
use harness::{flat, root};
use ir::Module;
use passes::{CostModel, NeutralCost, Options, RunOptions, optimize};
use plan::Target;

use crate::Figures;
use crate::programs;

/// Writes the configuration of Llama-3.1-8B with other values into a folder: its path.
pub(crate) fn config(folder: &Path, with: &[(&str, serde_json::Value)]) -> Result<PathBuf> {
    let path = root().join("tests/configs/llama-3.1-8b/config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    for (key, value) in with {
        config[*key] = value.clone();
    }
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

fn module(path: &Path) -> Result<Module> {
    Ok(frontend::open(path, &OpenOptions::default())?.module)
}

/// Seconds from a configuration to the optimised module, and the digest of its recipes.
fn parse_to_extraction(path: &Path) -> Result<(f64, Vec<String>)> {
    let begin = Instant::now();
    let (_, report) = optimize(module(path)?, &Options::default(), &CpuCost)?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok((seconds, report.searches.into_iter().map(|s| s.recipe).collect()))
}

/// Interleaved, the least of so many runs each.
const RUNS: usize = 15;

/// A configuration of 126 layers (the depth of Llama-3.1-405B) against one of 1, in the same process.
pub(crate) fn depth(figures: &mut Figures) -> Result<()> {
    let folders = (tempfile::tempdir()?, tempfile::tempdir()?);
    let layers = |folder: &tempfile::TempDir, n: u32| {
        config(folder.path(), &[("num_hidden_layers", n.into())])
    };
    let (one, many) = (layers(&folders.0, 1)?, layers(&folders.1, 126)?);
    let (mut least, mut most) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..RUNS {
        let (shallow, recipe) = parse_to_extraction(&one)?;
        let (deep, same) = parse_to_extraction(&many)?;
        ensure!(recipe == same, "the recipes of 1 and 126 layers differ");
        (least, most) = (least.min(shallow), most.min(deep));
    }
    figures.free("1 layer, parse to extraction", least * 1e3, "ms");
    figures.at_most("126 layers, parse to extraction", most, "s", 1.0);
    figures.at_most("126 layers against 1", most / least, "times", 1.1);
    let path = many.to_str().context("a path that is no text")?;
    let measured =
        programs::sparkc(folders.1.path(), &["compile", path, "--emit", "ir", "-o", "out.sparkc"])?;
    figures.at_most("126 layers, the program as a whole", measured.seconds, "s", 1.0);
    if let Some(peak) = measured.peak_mb {
        figures.at_most("126 layers, most memory", peak, "MB", 300.0);
    }
    Ok(())
}

/// 80 layers written out: of one kind, and of two that take turns (a window on every other).
pub(crate) fn roll(figures: &mut Figures) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let same = module(&config(folder.path(), &[("num_hidden_layers", 80.into())])?)?;
    let turns: Vec<&str> = ["sliding_attention", "full_attention"].repeat(40);
    let with = [
        ("num_hidden_layers", 80.into()),
        ("architectures", serde_json::json!(["Qwen2ForCausalLM"])),
        ("model_type", "qwen2".into()),
        ("use_sliding_window", true.into()),
        ("sliding_window", 1024.into()),
        ("layer_types", serde_json::json!(turns)),
        ("rope_scaling", serde_json::Value::Null),
    ];
    let turns = module(&config(folder.path(), &with)?)?;
    for (name, rolled, blocks) in [("of one kind", same, 1), ("of two kinds in turn", turns, 2)] {
        let written = flat::flat(&rolled);
        let mut seconds = f64::INFINITY;
        for _ in 0..RUNS / 3 {
            let mut module = written.clone();
            let begin = Instant::now();
            passes::run("roll", &mut module, &NeutralCost, RunOptions::default())?;
            seconds = seconds.min(begin.elapsed().as_secs_f64());
            ensure!(module.blocks.len() == blocks, "{name}: {} blocks", module.blocks.len());
            ensure!(module.weights() == rolled.weights(), "{name}: other weights");
        }
        figures.at_most(&format!("80 layers {name} rolled"), seconds * 1e3, "ms", 200.0);
    }
    Ok(())
}

/// Every committed configuration and fixture, for both targets: all of optimising, extraction among it.
pub(crate) fn blocks(figures: &mut Figures) -> Result<()> {
    let target = Target::preset("wse3").context("no preset wse3")?;
    let wafer = WaferCost::new(&target);
    let targets: [&dyn CostModel; 2] = [&CpuCost, &wafer];
    let mut times = Vec::new();
    let mut open = 0;
    for folder in ["tests/configs", "tests/fixtures/hf"] {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(root().join(folder))?
            .map(|entry| entry.map(|e| e.path().join("config.json")))
            .collect::<Result<_, _>>()?;
        paths.retain(|p| p.is_file());
        paths.sort();
        for path in paths {
            let module = module(&path)?;
            for cost in targets {
                let begin = Instant::now();
                let (_, report) = optimize(module.clone(), &Options::default(), cost)?;
                times.push(begin.elapsed().as_secs_f64() * 1e3);
                open += report.searches.iter().filter(|s| s.bound < s.cost.1).count();
            }
        }
    }
    times.sort_by(f64::total_cmp);
    figures.at_most("blocks not proven optimal", open as f64, "", 0.0);
    figures.at_most("optimising a model, median", times[times.len() / 2], "ms", 100.0);
    figures.free("optimising a model, most", times[times.len() - 1], "ms");
    Ok(())
}
