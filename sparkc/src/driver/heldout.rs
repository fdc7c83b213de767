//! What quantisation costs: held-out loss and logits of a model, computed by the CPU runtime.
//!
//! The text is `heldout.safetensors` beside the weights: i32 "tokens" `[N, L]`, N pieces of L tokens.
//! Loss: mean over all pieces and positions of -ln p(next token), in nats. Error of logits: mean over
//! positions of the largest difference, as a share of the largest logit.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use frontend::Model;
use ir::{Module, WeightSource};
use runtime::program::Activations;
use runtime::{Assets, Session, SessionOptions, Wanted};

use super::weights;

/// Pieces evaluated at most: enough for two digits of a difference, a second or two of time.
const PIECES_MAX: usize = 32;

/// The file's name.
const FILE: &str = "heldout.safetensors";

/// Held-out text.
#[derive(Clone, Debug)]
pub struct HeldOut {
    pieces: Vec<Vec<u32>>,
}

/// The held-out text beside a model's weights, where there is one that fits its context.
///
/// # Errors
/// A file that is there and is broken.
pub fn beside(model: &Model) -> Result<Option<HeldOut>> {
    let folder = model.weights.as_ref().and_then(|w| w.paths().next()).and_then(Path::parent);
    let Some(path) = folder.map(|f| f.join(FILE)).filter(|p| p.is_file()) else {
        return Ok(None);
    };
    let file = frontend::Weights::open(std::slice::from_ref(&path))?;
    let shown = path.display();
    let tokens =
        file.load("tokens").map_err(anyhow::Error::msg).with_context(|| format!("{shown}"))?;
    let ids = tokens.to_i32().with_context(|| format!("{shown}: tokens are not i32"))?;
    let length = tokens.shape().last().copied().unwrap_or(0);
    if length < 2 || length > model.module.context {
        return Ok(None);
    }
    let id = |&t: &i32| u32::try_from(t).unwrap_or(u32::MAX);
    let pieces = ids.chunks_exact(length).take(PIECES_MAX);
    Ok(Some(HeldOut { pieces: pieces.map(|p| p.iter().map(id).collect()).collect() }))
}

/// One model beside another on held-out text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Mean loss of the first, in nats per token.
    pub before: f64,
    /// Mean loss of the second.
    pub after: f64,
    /// Mean error of the second's logits against the first's.
    pub logit_error: f64,
}

/// A module and what its products see of activations.
pub type Variant<'a> = (&'a Module, Activations);

impl HeldOut {
    /// What the second variant of a model costs against the first.
    ///
    /// # Errors
    /// A module without executable, tokens outside of the vocabulary.
    pub fn cost(
        &self,
        model: &Model,
        before: Variant<'_>,
        after: Variant<'_>,
    ) -> Result<Difference> {
        let (mut first, mut second) = (session(model, before)?, session(model, after)?);
        let (mut sums, mut errors, mut count) = ([0.0; 2], 0.0, 0usize);
        for piece in &self.pieces {
            let (fed, next) = (&piece[..piece.len() - 1], &piece[1..]);
            let logits = [logits(&mut first, fed)?, logits(&mut second, fed)?];
            let vocab = logits[0].len() / fed.len();
            let rows = logits[0].chunks_exact(vocab).zip(logits[1].chunks_exact(vocab));
            for ((a, b), &token) in rows.zip(next) {
                sums[0] += negative_log_probability(a, token as usize);
                sums[1] += negative_log_probability(b, token as usize);
                errors += f64::from(tensor::compare::relative_to_max(b, a));
                count += 1;
            }
        }
        let mean = |sum: f64| sum / count.max(1) as f64;
        Ok(Difference { before: mean(sums[0]), after: mean(sums[1]), logit_error: mean(errors) })
    }
}

fn session(model: &Model, (module, activations): Variant<'_>) -> Result<Session> {
    let assets = Assets::default();
    let payload = backend_cpu::compile_in_memory(module, activations, weights(model)?, assets)?;
    Ok(Session::new(Arc::new(payload), SessionOptions::default())?)
}

/// Logits of all positions of a text.
fn logits(session: &mut Session, fed: &[u32]) -> Result<Vec<f32>> {
    session.truncate(0);
    let mut logits = Vec::new();
    session.feed(fed, Wanted::All, &mut |rows| logits.extend_from_slice(rows))?;
    Ok(logits)
}

/// -ln softmax(logits)\[token\], in f64, with the maximum taken out.
fn negative_log_probability(logits: &[f32], token: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    let Some(&logit) = logits.get(token) else { return f64::INFINITY };
    sum.ln() - f64::from(logit - largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_guess_costs_the_logarithm_of_the_vocabulary() {
        assert!((negative_log_probability(&[3.0; 8], 5) - 8f64.ln()).abs() < 1e-12);
        assert!(negative_log_probability(&[100.0, 0.0], 0) < 1e-12);
        assert_eq!(negative_log_probability(&[0.0], 1), f64::INFINITY);
    }
}
