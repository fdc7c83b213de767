//! What quantisation costs: the held-out loss of a model, computed by the CPU runtime.
//!
//! The text is `heldout.safetensors` beside the weights: i32 "tokens" `[N, L]`, N pieces of L tokens.
//! Loss: mean over all pieces and positions of -ln p(next token), in nats.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use frontend::Model;
use ir::{Module, WeightSource};
use runtime::{Session, SessionOptions, Wanted};

use super::{assets, weights};
use crate::cli::BuildArgs;

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

impl HeldOut {
    /// Mean loss in nats per token of a module.
    ///
    /// # Errors
    /// A module without executable, tokens outside of the vocabulary.
    pub fn loss(&self, model: &Model, module: &Module, build: &BuildArgs) -> Result<f64> {
        let assets = assets::assets(model, build.quant);
        let payload = backend_cpu::compile_in_memory(module, weights(model)?, assets)?;
        let mut session = Session::new(Arc::new(payload), SessionOptions::default())?;
        let mut sum = 0.0;
        let mut count = 0usize;
        for piece in &self.pieces {
            session.truncate(0);
            let (fed, next) = (&piece[..piece.len() - 1], &piece[1..]);
            let mut logits = Vec::new();
            session.feed(fed, Wanted::All, &mut |rows| logits.extend_from_slice(rows))?;
            let vocab = logits.len() / fed.len();
            for (row, &token) in logits.chunks_exact(vocab).zip(next) {
                sum += negative_log_probability(row, token as usize);
                count += 1;
            }
        }
        Ok(sum / count.max(1) as f64)
    }
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
