//! Every Hugging Face fixture: optimised under the wafer's cost model, compiled, proven legal,
//! simulated, and compared with what `transformers` computed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use backend_wafer::{Options, WaferCost, compile};
use frontend::{Model, OpenOptions};
use ir::WeightSource;
use safetensors::SafeTensors;
use tensor::{DType, Tensor, Tolerance, compare};

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hf");
    let entries = std::fs::read_dir(folder).expect("the fixtures are committed");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("readable").path()).collect();
    paths.retain(|p| p.join("expected.safetensors").is_file());
    paths.sort();
    assert!(paths.len() >= 30, "only {} fixtures found", paths.len());
    paths
}

struct Expected {
    prompt: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

impl Expected {
    fn read(directory: &Path) -> Self {
        let bytes = std::fs::read(directory.join("expected.safetensors")).expect("readable");
        let file = SafeTensors::deserialize(&bytes).expect("well-formed");
        let words = |name: &str| {
            let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
            view.data().as_chunks::<4>().0.to_vec()
        };
        let ids = |name: &str| words(name).into_iter().map(u32::from_le_bytes).collect();
        let logits = words("logits").into_iter().map(f32::from_le_bytes).collect();
        Expected { prompt: ids("prompt"), logits, greedy: ids("greedy") }
    }
}

fn plan_of(model: &Model, target: &plan::Target) -> Result<plan::Plan, String> {
    let cost = WaferCost::new(target);
    let (module, _) = passes::optimize(model.module.clone(), &passes::Options::default(), &cost)
        .map_err(|e| format!("passes: {e}"))?;
    let (plan, _) = compile(&module, target, &Options::default(), &|_| {})
        .map_err(|e| format!("compile: {e}"))?;
    plan::verify::verify(&plan).map_err(|v| format!("verify: {} {}", v.len(), v[0]))?;
    Ok(plan)
}

fn check(directory: &Path, target: &plan::Target) -> Result<(), String> {
    let expected = Expected::read(directory);
    let model = frontend::open(directory, &OpenOptions::default()).map_err(|e| e.to_string())?;
    let plan = plan_of(&model, target)?;
    let weights = model.weights.as_ref().ok_or("no weights")?;
    let names = plan.weights.iter().filter(|w| w.data == plan::WeightData::Model);
    let source: BTreeMap<String, Tensor> = names
        .map(|w| Ok((w.name.clone(), weights.load(&w.name)?)))
        .collect::<Result<_, String>>()?;
    let mut sim = simulator::Simulator::new(&plan, &source).map_err(|e| e.to_string())?;
    let n = expected.greedy.len();
    let (tokens, logits) = sim.generate(&expected.prompt, n).map_err(|e| e.to_string())?;
    let found: Vec<f32> = logits[..expected.prompt.len()].concat();
    let exact = model.info.dtype == DType::F32;
    let tolerance = if exact { Tolerance::F32 } else { Tolerance::HALF };
    compare::check(&found, &expected.logits, tolerance).map_err(|e| e.to_string())?;
    if tokens != expected.greedy {
        return Err(format!("greedy {tokens:?}, expected {:?}", expected.greedy));
    }
    Ok(())
}

/// Simulates a fixture that was quantised, and compares with `ir::eval` of the same module.
#[test]
fn quantised_models_are_what_eval_says() {
    let target = plan::Target::preset("tiny").expect("preset");
    let cost = WaferCost::new(&target);
    for (name, quant) in [("llama3", DType::Q8), ("qwen2", DType::Q8), ("llama_tied", DType::Q4)] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hf").join(name);
        let model = frontend::open(&folder, &OpenOptions::default()).expect("opens");
        let options = passes::Options { quant: Some(quant), ..passes::Options::default() };
        let (module, _) =
            passes::optimize(model.module.clone(), &options, &cost).expect("optimises");
        let (plan, _) = compile(&module, &target, &Options::default(), &|_| {})
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(plan.templates.iter().any(|t| t.buffers.iter().any(|b| b.storage.is_quantized())));
        plan::verify::verify(&plan).unwrap_or_else(|v| panic!("{name}: {}", v[0]));
        let weights = model.weights.as_ref().expect("weights");
        let names = plan.weights.iter().filter(|w| w.data == plan::WeightData::Model);
        let source: BTreeMap<String, Tensor> =
            names.map(|w| (w.name.clone(), weights.load(&w.name).expect("loads"))).collect();
        let prompt = [1, 5, 9, 2, 7];
        let mut session =
            ir::eval::Session::new(&module, weights, Default::default()).expect("eval");
        let expected = session.step(&prompt, prompt.len()).expect("eval").to_f32();
        let mut sim = simulator::Simulator::new(&plan, &source).expect("simulates");
        let (_, logits) = sim.generate(&prompt, 1).expect("simulates");
        compare::check(&logits.concat(), &expected, Tolerance::F32)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn simulated_plans_give_the_logits_and_tokens_of_transformers() {
    let target = plan::Target::preset("tiny").expect("preset");
    let mut failures = Vec::new();
    for directory in fixtures() {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Err(why) = check(&directory, &target) {
            failures.push(format!("{name}: {why}"));
        }
    }
    assert!(failures.is_empty(), "{} fixtures fail:\n{}", failures.len(), failures.join("\n"));
}
