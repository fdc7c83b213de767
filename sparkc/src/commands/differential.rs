//! What passes make of a module, compared with the interpreter: shared by `passes fuzz` and `reduce`.
//!
//! Weights are random where none are given, each a function of its name, so that leaving out one does not
//! change the others. Prints nothing.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ir::eval::{EvalOptions, eval_module};
use ir::{Module, WeightMap, WeightSource};
use passes::{NeutralCost, RunOptions, Tier};
use tensor::{Rng, Tensor};

/// Tokens fed, as far as context and vocabulary allow; how many rows of logits are compared.
const TOKENS: [u32; 5] = [1, 5, 2, 10, 3];
const ROWS: usize = 4;

/// What a pipeline does to a module.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The interpreter does not evaluate the module to begin with.
    Unknown,
    Same,
    /// The result means something else, or nothing; why.
    Differs(String),
    /// The error of a pass: code and message.
    Fails(&'static str, String),
    /// A panic, with its message.
    Panics(String),
}

impl Outcome {
    /// Whether two outcomes are of one kind: the same error, whatever the numbers.
    pub(super) fn is_like(&self, other: &Outcome) -> bool {
        match (self, other) {
            (Outcome::Fails(a, _), Outcome::Fails(b, _)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// Whether the pipeline did something that it must not.
    pub(super) fn is_fault(&self) -> bool {
        !matches!(self, Outcome::Unknown | Outcome::Same)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Unknown => f.write_str("cannot be evaluated, before or after"),
            Outcome::Same => f.write_str("means the same"),
            Outcome::Differs(why) => write!(f, "means something else: {why}"),
            Outcome::Fails(code, why) => write!(f, "a pass fails: {code}: {why}"),
            Outcome::Panics(why) => write!(f, "a pass panics: {why}"),
        }
    }
}

/// Runs a pipeline on a module and compares; `given` are its weights, else they are random.
pub(super) fn outcome(
    module: &Module,
    pipeline: &str,
    tier: Tier,
    given: Option<&dyn WeightSource>,
) -> Outcome {
    let random = given.is_none().then(|| weights(module));
    let Some(source) = given.or(random.as_ref().map(|w| w as &dyn WeightSource)) else {
        return Outcome::Unknown;
    };
    let expected = logits(module, source);
    let mut after = module.clone();
    let options = RunOptions { tier, weights: given, ..RunOptions::default() };
    let run = AssertUnwindSafe(|| passes::run(pipeline, &mut after, &NeutralCost, options));
    match catch_unwind(run) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Outcome::Fails(error.code(), error.to_string()),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
            return Outcome::Panics(text.unwrap_or_default());
        }
    }
    let Some(expected) = expected else { return Outcome::Unknown };
    let Some(found) = logits(&after, source) else {
        return Outcome::Differs("the result cannot be evaluated".to_string());
    };
    // Random norms of small rows lose digits that a decoder keeps.
    let slack = if tier == Tier::Exact { tier } else { Tier::Reround };
    match tensor::compare::check(&found, &expected, slack.tolerance()) {
        Ok(_) => Outcome::Same,
        Err(mismatch) => Outcome::Differs(mismatch.to_string()),
    }
}

/// Normal numbers for every weight, scaled by the root of its last axis.
fn weights(module: &Module) -> WeightMap {
    let tensors = module.weights().into_iter().map(|w| {
        let seed = w.name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
        let mut rng = Rng::new(seed);
        let scale = (w.shape.last().copied().unwrap_or(1).max(1) as f32).sqrt().recip();
        let count: usize = w.shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| rng.normal() * scale).collect();
        let wide = Tensor::from_f32(w.shape, &values);
        let stored = wide.cast(w.dtype).unwrap_or(wide);
        (w.name, stored)
    });
    tensors.collect()
}

fn logits(module: &Module, weights: &dyn WeightSource) -> Option<Vec<f32>> {
    let result = module.main.ty(*module.main.results.first()?);
    let vocab = u32::try_from(result.as_tensor()?.dims.get(1)?.as_const()?).ok()?;
    let tokens: Vec<u32> = TOKENS.iter().take(module.context).map(|t| t % vocab.max(1)).collect();
    let rows = ROWS.min(tokens.len());
    let found = eval_module(module, weights, &tokens, rows, EvalOptions::default());
    found.ok().map(|t| t.to_f32())
}
