//! What passes make of a module, compared with the interpreter: shared by `passes fuzz`, `passes bound` and
//! `reduce`.
//!
//! Tier `exact` is compared bit by bit, `reassoc` by what running error analysis allows these two modules on
//! this prompt (`passes::distance`), higher tiers by the tolerance of `reround`. Weights are random where none are
//! given. Prints nothing.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ir::eval::{EvalOptions, eval_module};
use ir::{Module, WeightMap, WeightSource, random};
use passes::{Moved, NeutralCost, RunOptions, Tier};

/// Tokens fed, as far as context and vocabulary allow; how many rows of logits are compared.
const TOKENS: [u32; 5] = [1, 5, 2, 10, 3];
const ROWS: usize = 4;

/// What a pipeline does to a module.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The interpreter does not evaluate the module to begin with.
    Unknown,
    /// The same; at tier `reassoc`, how far apart the two may be and are.
    Same(Option<Moved>),
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
        !matches!(self, Outcome::Unknown | Outcome::Same(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Unknown => f.write_str("cannot be evaluated, before or after"),
            Outcome::Same(_) => f.write_str("means the same"),
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
    let random = given.is_none().then(|| random_weights(module));
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
    if tier == Tier::Reassoc {
        return reassociated(module, &after, source);
    }
    // What quantisation does is a difference too: that is what one reduces by.
    match tensor::compare::check(&found, &expected, tier.min(Tier::Reround).tolerance()) {
        Ok(_) => Outcome::Same(None),
        Err(mismatch) => Outcome::Differs(mismatch.to_string()),
    }
}

/// Whether two modules compute one function of real numbers, as far as this prompt tells.
fn reassociated(before: &Module, after: &Module, weights: &dyn WeightSource) -> Outcome {
    let Some((tokens, rows)) = prompt(before) else { return Outcome::Unknown };
    match passes::distance(before, after, weights, &tokens, rows) {
        Ok(moved) if moved.holds() => Outcome::Same(Some(moved)),
        Ok(moved) => Outcome::Differs(format!(
            "in f64 the logits are {:.2e} of the largest apart, and may be {:.2e}; in f32 {:.2e} and {:.2e}",
            moved.function.found, moved.function.bound, moved.found, moved.running.bound
        )),
        Err(error) => Outcome::Differs(error.to_string()),
    }
}

/// Weights for a module that comes without.
pub(super) fn random_weights(module: &Module) -> WeightMap {
    random::weights(module, 7)
}

/// A prompt that a module understands, and how many rows of logits are compared.
pub(super) fn prompt(module: &Module) -> Option<(Vec<u32>, usize)> {
    let result = module.main.ty(*module.main.results.first()?);
    let vocab = u32::try_from(result.as_tensor()?.dims.get(1)?.as_const()?).ok()?;
    let tokens: Vec<u32> = TOKENS.iter().take(module.context).map(|t| t % vocab.max(1)).collect();
    let rows = ROWS.min(tokens.len());
    Some((tokens, rows))
}

fn logits(module: &Module, weights: &dyn WeightSource) -> Option<Vec<f32>> {
    let (tokens, rows) = prompt(module)?;
    let found = eval_module(module, weights, &tokens, rows, EvalOptions::default());
    found.ok().map(|t| t.to_f32())
}
