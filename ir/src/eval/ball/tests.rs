//! Midpoints are the interpreter's values, radii hold what other roundings give, and no more than that.

use tensor::Tensor;

use super::*;
use crate::eval::{Accumulate, EvalOptions, eval_module};
use crate::random::{self, RandomOptions};
use crate::testing::{Style, decoder, weights};
use crate::{WeightMap, WeightSource};

const TOKENS: [u32; 5] = [1, 5, 2, 10, 3];

fn of(module: &Module, weights: &WeightMap, rounding: Rounding) -> Enclosure {
    enclose(module, weights, &TOKENS, 4, rounding, 1 << 24).unwrap()
}

fn eval(module: &Module, weights: &WeightMap, accumulate: Accumulate) -> Vec<f32> {
    let options = EvalOptions { accumulate, ..EvalOptions::default() };
    eval_module(module, weights, &TOKENS, 4, options).unwrap().to_f32()
}

/// Largest difference as a share of the radii.
fn share(found: &[f32], of: &Enclosure) -> f64 {
    let values = found.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    Enclosure { radii: vec![0.0; values.len()], values }.distance(of).share
}

#[test]
fn midpoints_are_the_values_of_the_interpreter() {
    for seed in 0..60 {
        let module = random::module(seed, &RandomOptions::default());
        let weights = random::weights(&module, seed);
        let found = of(&module, &weights, Rounding::Reference).values;
        let found: Vec<f32> = found.into_iter().map(|v| v as f32).collect();
        tensor::compare::check(
            &found,
            &eval(&module, &weights, Accumulate::F64),
            tensor::Tolerance::Exact,
        )
        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn radii_hold_what_other_precisions_give() {
    let mut tight = 0;
    for seed in 0..60 {
        let module = random::module(seed, &RandomOptions::default());
        let weights = random::weights(&module, seed);
        let wide = of(&module, &weights, Rounding::Wide);
        let reference = of(&module, &weights, Rounding::Reference);
        let distance = reference.distance(&wide);
        assert!(distance.share <= 1.0, "seed {seed}: {distance:?}");
        let kernels = of(&module, &weights, Rounding::Kernels);
        let in_f32 = eval(&module, &weights, Accumulate::F32);
        let both = Enclosure { radii: kernels.radii.iter().map(|r| 2.0 * r).collect(), ..kernels };
        assert!(share(&in_f32, &both) <= 1.0, "seed {seed}");
        tight += usize::from(wide.distance(&wide).bound < 1e-6);
    }
    assert!(tight > 40, "{tight} of 60 bounds in f64 are of use");
}

#[test]
fn two_spellings_of_one_function_lie_within_the_bound_and_two_functions_do_not() {
    let (primitive, fused) = (decoder(Style::Primitive), decoder(Style::Fused));
    let given = random::weights(&primitive, 2);
    for rounding in [Rounding::Reference, Rounding::Kernels, Rounding::Wide] {
        let distance = of(&primitive, &given, rounding).distance(&of(&fused, &given, rounding));
        assert!(distance.share <= 1.0 && distance.bound < 0.1, "{rounding:?} {distance:?}");
    }
    // One weight of one layer off by a millionth: less than f32 tells apart, not less than f64 does.
    let mut other = given.clone();
    let up = other.load("1.up").unwrap();
    let mut values = up.to_f32();
    values[3] *= 1.0 + 1e-6;
    other.0.insert("1.up".to_string(), Tensor::from_f32(up.shape().to_vec(), &values));
    let reference = |w| of(&fused, w, Rounding::Reference);
    assert!(reference(&given).distance(&reference(&other)).share <= 1.0);
    let wide = |w| of(&fused, w, Rounding::Wide);
    let distance = wide(&given).distance(&wide(&other));
    assert!(distance.share > 1.0, "{distance:?}");
}

#[test]
fn errors_are_those_of_the_interpreter() {
    let module = decoder(Style::Fused);
    let given = weights(&module, 5);
    let run = |tokens: &[u32], rows, w: &WeightMap, limit| {
        enclose(&module, w, tokens, rows, Rounding::Wide, limit).map_err(|e| e.code())
    };
    assert_eq!(run(&[1], 2, &given, 1 << 20), Err("SPK1208"));
    assert_eq!(run(&[1 << 20], 1, &given, 1 << 20), Err("SPK1204"));
    assert_eq!(run(&[1], 1, &WeightMap::default(), 1 << 20), Err("SPK1202"));
    assert_eq!(run(&[1], 1, &given, 100), Err("SPK1206"));
}
