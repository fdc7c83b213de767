//! Compiled programs compute what `ir::eval` says, on every instruction set, thread count and split
//! of the prompt.

use std::sync::Arc;

use ir::eval::{EvalOptions, Session as Eval};
use ir::random::{self, RandomOptions};
use ir::{Module, WeightMap};
use runtime::kernels::Kernels;
use runtime::program::Activations;
use runtime::{Assets, Isa, Payload, Session, SessionOptions, Wanted};
use sparkc_backend_cpu::compile_in_memory;
use tensor::Rng;
use tensor::compare::relative_to_max;

fn payload(module: &Module, weights: &WeightMap) -> Arc<Payload> {
    Arc::new(
        compile_in_memory(module, Activations::Full, weights, Assets::default()).expect("compiles"),
    )
}

/// Logits of every token, fed in steps of `step`.
fn logits(
    payload: &Arc<Payload>,
    options: SessionOptions,
    tokens: &[u32],
    step: usize,
) -> Vec<f32> {
    let mut session = Session::new(Arc::clone(payload), options).expect("starts");
    let mut out = Vec::new();
    for tokens in tokens.chunks(step) {
        session.feed(tokens, Wanted::All, &mut |rows| out.extend_from_slice(rows)).expect("runs");
    }
    out
}

fn options(threads: usize, isa: Isa) -> SessionOptions {
    SessionOptions { threads, isa: Some(isa), ..SessionOptions::default() }
}

fn expected(module: &Module, weights: &WeightMap, tokens: &[u32]) -> Vec<f32> {
    let mut eval = Eval::new(module, weights, EvalOptions::default()).expect("verifies");
    eval.step(tokens, tokens.len()).expect("evaluates").to_f32()
}

fn tokens(module: &Module, n: usize, seed: u64) -> Vec<u32> {
    let logits = module.main.ty(module.main.results[0]).as_tensor().expect("logits").clone();
    let vocab = logits.dims[1].as_const().expect("a constant vocabulary");
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(vocab) as u32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn random_modules_compute_what_eval_says() {
    let mut compared = 0;
    for seed in 0..100 {
        let options_of = RandomOptions {
            // Rounded activations and quantised ones may flip by a step where sums differ in bits.
            half_activations: false,
            second_carry: seed >= 60,
            ..RandomOptions::default()
        };
        let module = random::module(seed, &options_of);
        let weights = random::weights(&module, seed);
        let tokens = tokens(&module, 12, seed);
        let expected = expected(&module, &weights, &tokens);
        let payload = payload(&module, &weights);
        for isa in Isa::ALL.into_iter().filter(|&isa| Kernels::new(isa).is_some()) {
            let whole = logits(&payload, options(1, isa), &tokens, tokens.len());
            let error = relative_to_max(&whole, &expected);
            assert!(error < 1e-4, "seed {seed} on {isa}: {error}");
            for (threads, step) in [(1, 1), (2, 5), (4, tokens.len())] {
                let split = logits(&payload, options(threads, isa), &tokens, step);
                assert_eq!(bits(&split), bits(&whole), "seed {seed} {isa} {threads} by {step}");
            }
            compared += 1;
        }
    }
    assert!(compared >= 100);
}

#[test]
fn rounded_activations_stay_within_their_steps() {
    for seed in 100..130 {
        let module = random::module(seed, &RandomOptions::default());
        let weights = random::weights(&module, seed);
        let tokens = tokens(&module, 8, seed);
        let expected = expected(&module, &weights, &tokens);
        let found = logits(&payload(&module, &weights), options(2, Isa::best()), &tokens, 8);
        let error = relative_to_max(&found, &expected);
        // A bf16 step is 2^-8 of a value.
        assert!(error < 0.02, "seed {seed}: {error}");
    }
}

/// Runs a block of two carries over three layers: what it computes is what `eval` says.
fn compare_carries(body: &str) {
    let text = format!(
        r#"module "carries" context 8 {{
  block @layer(carry %x: f32[T, 8], carry %before: f32[T, 8]) {{
    %sum = add %x, %before : f32[T, 8]
    %twice = add %sum, %sum : f32[T, 8]
    %y = tanh %twice : f32[T, 8]
    {body}
  }}
  graph @main(input %tokens: i32[T]) {{
    %table = weight "table" : f32[8, 8]
    %x = gather %table, %tokens : f32[T, 8]
    %half = const 0.5 : f32[]
    %other = mul %x, %half : f32[T, 8]
    %y, %before = repeat @layer 0..3 (%x, %other) : f32[T, 8], f32[T, 8]
    %first = const 3.0 : f32[]
    %scaled = mul %y, %first : f32[T, 8]
    %sum = add %scaled, %before : f32[T, 8]
    %logits = slice %sum {{axis=0, start=T - R, end=T}} : f32[R, 8]
    return %logits
  }}
}}"#
    );
    let module = ir::parse(&text).unwrap_or_else(|e| panic!("{body}: {e}"));
    let values: Vec<f32> = (0..64).map(|i| i as f32 / 32.0 - 1.0).collect();
    let table = tensor::Tensor::from_f32(vec![8, 8], &values);
    let weights: WeightMap = [("table".to_string(), table)].into_iter().collect();
    let tokens = [3, 0, 2];
    let found = logits(&payload(&module, &weights), options(1, Isa::Portable), &tokens, 3);
    let error = relative_to_max(&found, &expected(&module, &weights, &tokens));
    assert!(error < 1e-5, "{body}: {error}");
}

#[test]
fn carries_may_take_the_places_of_each_other() {
    for results in ["%y, %x", "%before, %y", "%before, %x", "%y, %y", "%y, %before", "%x, %y"] {
        compare_carries(&format!("return {results}"));
    }
}

#[test]
fn a_carry_may_be_part_of_a_larger_value() {
    compare_carries(
        "%both = concat %y, %sum {axis=0} : f32[2*T, 8]
    %part = slice %both {axis=0, start=0, end=T} : f32[T, 8]
    return %part, %x",
    );
    compare_carries(
        "%both = concat %y, %sum {axis=0} : f32[2*T, 8]
    %part = slice %both {axis=0, start=0, end=T} : f32[T, 8]
    return %part, %y",
    );
}
