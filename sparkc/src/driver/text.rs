//! Prompts and texts of commands that compute logits themselves: the runtime's tokenizer and
//! sampler, so that `eval`, `simulate` and the executable agree on everything but the logits.

use anyhow::Result;
use frontend::Model;
use runtime::{Sampler, Sampling, Text, TextError};

use super::assets;
use crate::cli::{Quant, SamplingArgs};

/// The tokenizer of a model, when it has one.
///
/// # Errors
/// When it does not load.
pub fn tokenizer(model: &Model) -> Result<Option<Text>> {
    match Text::new(&assets::assets(model, Quant::None)) {
        Ok(text) => Ok(Some(text)),
        Err(TextError::NoTokenizer) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The sampler that the flags ask for; greedy unless told otherwise.
pub fn sampler(args: &SamplingArgs, vocab: usize) -> Sampler {
    let asked = args.temp.is_some() || args.top_k.is_some() || args.top_p.is_some();
    let sampling = if asked && !args.greedy {
        Sampling {
            temperature: args.temp.unwrap_or(1.0),
            top_k: args.top_k.unwrap_or(0) as usize,
            top_p: args.top_p.unwrap_or(1.0),
            seed: args.seed.unwrap_or(0),
        }
    } else {
        Sampling::GREEDY
    };
    Sampler::new(sampling, vocab)
}

/// The text of generated tokens after a prompt, without the stop token.
///
/// # Errors
/// Tokens that the tokenizer refuses.
pub fn continuation(text: &Text, prompt: &[u32], tokens: &[u32], stop: &[u32]) -> Result<String> {
    let shown = match tokens.split_last() {
        Some((last, rest)) if stop.contains(last) => rest,
        _ => tokens,
    };
    let mut stream = text.stream(prompt);
    let mut all = String::new();
    for &token in shown {
        all.push_str(&stream.push(token)?);
    }
    all.push_str(&stream.finish()?);
    Ok(all)
}
