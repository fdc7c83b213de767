//! Random modules are what they promise: valid, reproducible, finite, indifferent to feeding.

use super::*;
use crate::eval::{EvalOptions, Session, eval_module};
use crate::verify;

#[test]
fn random_modules_verify_and_repeat() {
    for seed in 0..300 {
        let options = RandomOptions::default();
        let module = super::module(seed, &options);
        if let Err(found) = verify(&module) {
            panic!("seed {seed}: {found}\n{module}");
        }
        assert_eq!(module, super::module(seed, &options));
        assert_eq!(module, module.compact());
    }
}

#[test]
fn options_are_kept() {
    let options = RandomOptions {
        steps: 5,
        blocks: 0,
        quantized: false,
        half_activations: false,
        names: false,
        second_carry: false,
    };
    for seed in 0..100 {
        let module = super::module(seed, &options);
        assert!(module.blocks.is_empty());
        let cc = module.main.compile_time_constants();
        for (_, node) in module.main.nodes() {
            assert!(!matches!(node.op, Op::Quantize(_)));
            assert!(!matches!(node.op, Op::Cast(_)) || cc[node.results[0].index()]);
        }
    }
}

#[test]
fn random_modules_give_one_finite_answer_however_they_are_fed() {
    let tokens: Vec<u32> = vec![3, 9, 0, 10, 3, 7, 1];
    for seed in 0..150 {
        let module = super::module(seed, &RandomOptions::default());
        let weights = super::weights(&module, seed);
        let options = EvalOptions::default();
        let whole =
            eval_module(&module, &weights, &tokens, tokens.len(), options).unwrap().to_f32();
        assert!(whole.iter().all(|v| v.is_finite()), "seed {seed}\n{module}");
        let mut session = Session::new(&module, &weights, options).unwrap();
        let mut parts = session.step(&tokens[..3], 3).unwrap().to_f32();
        for token in &tokens[3..] {
            parts.extend(session.step(&[*token], 1).unwrap().to_f32());
        }
        assert_eq!(whole, parts, "seed {seed}\n{module}");
        let vocab = whole.len() / tokens.len();
        // Answers say something about the tokens, so that tests which compare them can fail.
        assert_ne!(whole[..vocab], whole[vocab..2 * vocab], "seed {seed}\n{module}");
    }
}
