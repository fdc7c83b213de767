//! What the tiers promise, on every model of the repository: `exact` has the bits of the module as the front end
//! wrote it, `reassoc` lies within the bound that `sparkc passes bound` prints.

use std::path::{Path, PathBuf};

use backend_cpu::CpuCost;
use backend_wafer::WaferCost;
use frontend::OpenOptions;
use ir::eval::{EvalOptions, Session};
use ir::{Module, WeightMap, WeightSource};
use passes::{CostModel, Level, NeutralCost, RunOptions, Tier};
use plan::Target;
use serde_json::{Value, json};

use crate::models;

/// A module with weights: the file's, or random ones.
struct Model {
    name: String,
    module: Module,
    weights: Weights,
}

enum Weights {
    File(frontend::Weights),
    Random(WeightMap),
}

impl Weights {
    fn source(&self) -> &dyn WeightSource {
        match self {
            Weights::File(weights) => weights,
            Weights::Random(weights) => weights,
        }
    }
}

fn open(path: &Path) -> Model {
    let model = frontend::open(path, &OpenOptions::default());
    let model = model.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let weights = match model.weights {
        Some(weights) => Weights::File(weights),
        None => Weights::Random(ir::random::weights(&model.module, 11)),
    };
    Model { name: path.display().to_string(), module: model.module, weights }
}

/// A configuration with its features and few numbers: heads of 16, two layers, two groups of heads.
fn small(config: &Path) -> Model {
    let text = std::fs::read_to_string(config).unwrap();
    let mut object: Value = serde_json::from_str(&text).unwrap();
    let get = |object: &Value, key: &str| object[key].as_u64().unwrap();
    let heads = get(&object, "num_attention_heads");
    let groups = object["num_key_value_heads"].as_u64().unwrap_or(heads);
    let each = heads / groups;
    for (key, value) in [
        ("num_attention_heads", 2 * each),
        ("num_key_value_heads", 2),
        ("hidden_size", 2 * each * 16),
        ("intermediate_size", 96),
        ("num_hidden_layers", 2),
        ("vocab_size", 70),
    ] {
        object[key] = json!(value);
    }
    if object.get("head_dim").is_some() {
        object["head_dim"] = json!(16);
    }
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        object.as_object_mut().unwrap().remove(key);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, object.to_string()).unwrap();
    Model { name: config.display().to_string(), ..open(&path) }
}

/// Text modules of the test folders that return logits.
fn texts() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["tests/board", "tests/cases/decoder", "tests/cases/passes"] {
        for entry in std::fs::read_dir(harness::root().join(folder)).unwrap() {
            found.push(entry.unwrap().path());
        }
    }
    found.retain(|p| p.extension().is_some_and(|e| e == "spark"));
    found.sort();
    found
}

fn all() -> Vec<Model> {
    let is_config = |p: &PathBuf| p.ends_with("config.json");
    let (configs, files): (Vec<_>, Vec<_>) = models::paths().into_iter().partition(is_config);
    assert!(configs.len() >= 7 && files.len() > 30, "{configs:?} {files:?}");
    let mut models: Vec<Model> = configs.iter().map(|p| small(p)).collect();
    models.extend(files.iter().map(|p| open(p)));
    let texts = texts();
    assert!(texts.len() > 30, "{texts:?}");
    for path in texts {
        let text = std::fs::read_to_string(&path).unwrap();
        // Some are single graphs, some are wrong on purpose.
        let Ok(module) = ir::parse(&text) else { continue };
        if ir::verify(&module).is_err() || vocabulary(&module).is_none() {
            continue;
        }
        let weights = Weights::Random(ir::random::weights(&module, 13));
        models.push(Model { name: path.display().to_string(), module, weights });
    }
    assert!(models.len() > 60, "{}", models.len());
    models
}

fn vocabulary(module: &Module) -> Option<u32> {
    let logits = module.main.ty(*module.main.results.first()?).as_tensor()?;
    u32::try_from(logits.dims.get(1)?.as_const()?).ok()
}

fn optimised(model: &Model, cost: &dyn CostModel, tier: Tier) -> Module {
    reported(model, cost, tier).0
}

/// The optimised module, and the weakest tier that the report says any of its graphs is of.
fn reported(model: &Model, cost: &dyn CostModel, tier: Tier) -> (Module, Tier) {
    let mut module = model.module.clone();
    let options =
        RunOptions { tier, weights: Some(model.weights.source()), ..RunOptions::default() };
    let report = passes::run(Level::O2.pipeline(), &mut module, cost, options)
        .unwrap_or_else(|e| panic!("{} {tier}: {e}", model.name));
    let weakest = report.searches.iter().map(|s| s.tier).max();
    (module, weakest.expect("every module has a graph that is searched"))
}

/// Bits of the logits of a prompt and of two more steps.
fn bits(module: &Module, weights: &dyn WeightSource) -> Vec<u32> {
    let vocab = vocabulary(module).unwrap();
    let mut session = Session::new(module, weights, EvalOptions::default()).unwrap();
    let mut out = Vec::new();
    for (tokens, rows) in [(&[3, 1, 4, 1, 5, 9][..], 4), (&[2], 1), (&[6, 5], 2)] {
        let tokens: Vec<u32> = tokens.iter().map(|t| t % vocab).collect();
        if session.position() + tokens.len() > module.context {
            break;
        }
        let logits = session.step(&tokens, rows).unwrap().to_f32();
        out.extend(logits.into_iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }));
    }
    assert!(!out.is_empty());
    out
}

#[test]
fn exact_has_the_bits_of_the_module_as_written() {
    let target = Target::preset("wse3").unwrap();
    let wafer = WaferCost::new(&target);
    let targets: [&dyn CostModel; 3] = [&CpuCost, &wafer, &NeutralCost];
    let mut rewritten = 0;
    for model in all() {
        let expected = bits(&model.module, model.weights.source());
        for cost in targets {
            let after = optimised(&model, cost, Tier::Exact);
            rewritten += usize::from(after != model.module);
            let found = bits(&after, model.weights.source());
            assert!(found == expected, "{} for {}", model.name, cost.name());
        }
    }
    assert!(rewritten > 120, "{rewritten}");
}

#[test]
fn what_is_reported_exact_at_the_default_tier_has_the_bits_as_written() {
    let target = Target::preset("wse3").unwrap();
    let wafer = WaferCost::new(&target);
    let targets: [&dyn CostModel; 2] = [&CpuCost, &wafer];
    let (mut exact, mut weaker) = (0, 0);
    for model in all() {
        for cost in targets {
            let (after, tier) = reported(&model, cost, Tier::Reassoc);
            if tier > Tier::Exact {
                weaker += 1;
                continue;
            }
            exact += 1;
            let expected = bits(&model.module, model.weights.source());
            let found = bits(&after, model.weights.source());
            assert!(found == expected, "{} for {}", model.name, cost.name());
        }
    }
    assert!(exact > 40 && weaker > 40, "{exact} exact, {weaker} not");
}

#[test]
fn reassoc_lies_within_the_bound_that_is_printed() {
    let target = Target::preset("wse3").unwrap();
    let wafer = WaferCost::new(&target);
    let targets: [&dyn CostModel; 2] = [&CpuCost, &wafer];
    let (mut moved_at_all, mut tight, mut count) = (0, 0, 0);
    for model in all() {
        let vocab = vocabulary(&model.module).unwrap();
        let tokens = [1, 5, 2, 10, 3].map(|t| t % vocab);
        let tokens = &tokens[..tokens.len().min(model.module.context)];
        for cost in targets {
            let after = optimised(&model, cost, Tier::Reassoc);
            let (before, weights) = (&model.module, model.weights.source());
            let moved = passes::distance(before, &after, weights, tokens, tokens.len().min(3));
            let moved = moved.unwrap_or_else(|e| panic!("{}: {e}", model.name));
            assert!(moved.holds(), "{} for {}: {moved:?}", model.name, cost.name());
            moved_at_all += usize::from(moved.found > 0.0);
            tight += usize::from(moved.bound() < 1e-3);
            count += 1;
        }
    }
    assert!(moved_at_all > 40, "{moved_at_all} of {count} change any bit");
    assert!(tight * 10 > count * 9, "{tight} of {count} bounds say something");
}
