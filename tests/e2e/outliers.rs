//! Channels with outliers, as large models have them, flip no greedy answer of quantised executables.
//!
//! The default model is given outliers that leave its function alone: some channels in front of every
//! product become 64 times as large, and the weights that read them 64 times as small, both exact.
//! With the same quantised weights, 16 bits of activations must answer as `eval` does, which knows no
//! activation in few bits, and the short ones of `--numerics lossy` as 16 bits do.

#![allow(clippy::unwrap_used, reason = "a model that cannot be run is a failed test")]

use std::sync::Arc;

use frontend::{Model, OpenOptions};
use ir::eval::{EvalOptions, eval_module};
use ir::{Module, WeightMap, WeightSource};
use runtime::program::Activations;
use runtime::{Assets, Session, SessionOptions, Wanted};
use tensor::{DType, Tensor, compare};

/// How much larger the outliers are: half of what is told of the largest published models.
const FACTOR: f32 = 64.0;
/// Channels of the normalised activations, two in one group of 32, and of the gated ones.
const HIDDEN: [usize; 3] = [5, 17, 133];
const GATED: [usize; 3] = [70, 75, 401];
/// Texts and their length in tokens.
const TEXTS: usize = 2;
const LENGTH: usize = 128;
/// Largest error of a logit, as a share of the largest logit. 16 bits of an outlier leave the other
/// channels of its group an error of 64 * 1.6e-5 = 1e-3 of a typical value, layer after layer; weights
/// of 4 bits make the model five times as sensitive.
const FULL_BOUND: [(DType, f32); 2] = [(DType::Q8, 2e-3), (DType::Q4, 1e-2)];
/// The same for 8 bits without outliers: 0.4 % of the largest of a group.
const SHORT_BOUND: f32 = 0.03;

/// Multiplies some rows (axis 0) or columns (axis 1) of a tensor.
fn scale(tensor: &Tensor, axis: usize, at: &[usize], by: f32) -> Tensor {
    let mut values = tensor.to_f32();
    let columns = if axis == 0 { values.len() / tensor.shape()[0] } else { tensor.shape()[1] };
    for (i, v) in values.iter_mut().enumerate() {
        let index = if axis == 0 { i / columns } else { i % columns };
        *v *= if at.contains(&index) { by } else { 1.0 };
    }
    Tensor::from_f32(tensor.shape().to_vec(), &values).cast(tensor.dtype()).unwrap()
}

/// The default model's weights with outliers.
fn with_outliers(model: &Model) -> WeightMap {
    let weights = model.weights.as_ref().unwrap();
    let changed = |name: &str| {
        let tensor = weights.load(name).unwrap();
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        if ends(&["input_layernorm.weight", "post_attention_layernorm.weight"]) {
            scale(&tensor, 0, &HIDDEN, FACTOR)
        } else if ends(&["q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight"]) {
            scale(&tensor, 1, &HIDDEN, 1.0 / FACTOR)
        } else if ends(&["up_proj.weight"]) {
            scale(&scale(&tensor, 1, &HIDDEN, 1.0 / FACTOR), 0, &GATED, FACTOR)
        } else if ends(&["down_proj.weight"]) {
            scale(&tensor, 1, &GATED, 1.0 / FACTOR)
        } else {
            tensor
        }
    };
    weights.names().map(|name| (name.to_string(), changed(name))).collect()
}

fn texts(model: &Model) -> Vec<Vec<u32>> {
    let folder = harness::default_model();
    let file = frontend::Weights::open(&[folder.join("heldout.safetensors")]).unwrap();
    let tokens = file.load("tokens").unwrap();
    let length = *tokens.shape().last().unwrap();
    assert!(length >= LENGTH && LENGTH <= model.module.context);
    let pieces = tokens.to_i32().unwrap();
    let text = |piece: &[i32]| piece[..LENGTH].iter().map(|&t| t as u32).collect();
    pieces.chunks_exact(length).take(TEXTS).map(text).collect()
}

fn executable(module: &Module, weights: &WeightMap, bits: Activations, text: &[u32]) -> Vec<f32> {
    let payload = backend_cpu::compile_in_memory(module, bits, weights, Assets::default()).unwrap();
    let mut session = Session::new(Arc::new(payload), SessionOptions::default()).unwrap();
    let mut logits = Vec::new();
    session.feed(text, Wanted::All, &mut |rows| logits.extend_from_slice(rows)).unwrap();
    logits
}

/// Likeliest token, and by how much of the largest logit it leads.
fn answer(row: &[f32]) -> (usize, f32) {
    let best = |skip: Option<usize>| {
        let others = row.iter().enumerate().filter(|(i, _)| Some(*i) != skip);
        others.max_by(|a, b| a.1.total_cmp(b.1)).unwrap()
    };
    let (first, top) = best(None);
    let largest = row.iter().fold(0f32, |m, v| m.max(v.abs()));
    (first, (top - best(Some(first)).1) / largest)
}

/// Checks every position: errors within the bound, the same answer wherever the lead exceeds it.
/// Returns how many positions answer differently all the same.
fn check(what: &str, found: &[f32], expected: &[f32], bound: f32) -> usize {
    let vocab = expected.len() / LENGTH;
    let rows = found.chunks_exact(vocab).zip(expected.chunks_exact(vocab));
    let mut flips = 0;
    for (i, (found, expected)) in rows.enumerate() {
        let error = compare::relative_to_max(found, expected);
        assert!(error <= bound, "{what}: error {error} at {i}");
        let ((a, _), (b, lead)) = (answer(found), answer(expected));
        assert!(a == b || lead <= bound, "{what}: {a} for {b} at {i}, which led by {lead}");
        flips += usize::from(a != b);
    }
    flips
}

#[test]
fn outliers_flip_no_answer() {
    let model = frontend::open(&harness::default_model(), &OpenOptions::default()).unwrap();
    let weights = with_outliers(&model);
    for (quant, bound) in FULL_BOUND {
        let options =
            passes::Options { quant: Some(quant), weights: Some(&weights), ..Default::default() };
        let optimised = passes::optimize(model.module.clone(), &options, &backend_cpu::CpuCost);
        let module = optimised.unwrap().0;
        let mut flips = 0;
        for text in texts(&model) {
            let all = text.len();
            let expected = eval_module(&module, &weights, &text, all, EvalOptions::default())
                .unwrap()
                .to_f32();
            let full = executable(&module, &weights, Activations::Full, &text);
            let short = executable(&module, &weights, Activations::Short, &text);
            assert_eq!(check(&format!("{quant}"), &full, &expected, bound), 0);
            flips += check(&format!("{quant}, short"), &short, &full, SHORT_BOUND);
        }
        // Between answers that are all but equal, a coin may fall the other way.
        assert!(flips * 100 <= TEXTS * LENGTH, "{quant}: {flips} answers differ");
    }
}
