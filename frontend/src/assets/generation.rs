//! How the model's authors want text to be generated: generation_config.json.
//!
//! Where that file does not exist, the same fields of config.json count, as in transformers before
//! version 5. What sparkc's sampler does not have is not refused, because the user may override it
//! on the command line: it becomes a warning that names it.

use std::path::Path;

use serde_json::Value;

use crate::config::{Fields, ModelConfig};
use crate::error::{FrontendError, Warning};
use crate::file;
use crate::json::{self, Object};

/// Defaults of generation; `None` where the model does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end the text.
    pub eos_token_ids: Vec<u32>,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Token that fills up.
    pub pad_token_id: Option<u32>,
    /// Whether to sample; else greedy.
    pub do_sample: Option<bool>,
    /// Divides the logits; above 0.
    pub temperature: Option<f32>,
    /// Most likely tokens that are kept; 0 for all.
    pub top_k: Option<u32>,
    /// Probability mass that is kept, above 0, at most 1.
    pub top_p: Option<f32>,
}

/// Fields that change what is generated and that the sampler does not have, with the value at which
/// they do nothing.
const NOT_IMPLEMENTED: [(&str, f64); 11] = [
    ("repetition_penalty", 1.0),
    ("encoder_repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("num_beams", 1.0),
    ("num_beam_groups", 1.0),
    ("penalty_alpha", 0.0),
    ("typical_p", 1.0),
    ("min_p", 0.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("guidance_scale", 1.0),
];

/// Reads the defaults of a model directory.
pub(super) fn read(
    directory: &Path,
    config: &ModelConfig,
    config_object: &Object,
    warnings: &mut Vec<Warning>,
) -> Result<GenerationDefaults, FrontendError> {
    let config_path = directory.join("config.json");
    let mut from_config = Fields::new(&config_path, config_object.clone());
    let path = directory.join("generation_config.json");
    if !file::exists(&path) {
        return defaults(&mut from_config, config.vocab_size, warnings);
    }
    let mut fields = Fields::new(&path, json::read_object(&path)?);
    let mut found = defaults(&mut fields, config.vocab_size, warnings)?;
    // Only the tokens fall back: config.json is no place for sampling parameters any more.
    if found.eos_token_ids.is_empty() {
        found.eos_token_ids =
            tokens(&mut from_config, "eos_token_id", config.vocab_size, warnings)?;
    }
    if found.bos_token_id.is_none() {
        found.bos_token_id = token(&mut from_config, "bos_token_id", config.vocab_size, warnings)?;
    }
    Ok(found)
}

fn defaults(
    fields: &mut Fields<'_>,
    vocab_size: usize,
    warnings: &mut Vec<Warning>,
) -> Result<GenerationDefaults, FrontendError> {
    let number = |v: Option<f64>| v.map(|v| v as f32);
    let found = GenerationDefaults {
        eos_token_ids: tokens(fields, "eos_token_id", vocab_size, warnings)?,
        bos_token_id: token(fields, "bos_token_id", vocab_size, warnings)?,
        pad_token_id: token(fields, "pad_token_id", vocab_size, warnings)?,
        do_sample: fields.flag("do_sample")?,
        temperature: number(fields.number("temperature", "a number, not negative", |v| v >= 0.0)?),
        top_k: fields
            .integer("top_k", 0..=u64::from(u32::MAX))?
            .and_then(|n| u32::try_from(n).ok()),
        top_p: number(
            fields.number("top_p", "a number above 0, at most 1", |v| v > 0.0 && v <= 1.0)?,
        ),
    };
    for (key, idle) in NOT_IMPLEMENTED {
        let Some(value) = fields.value(key) else { continue };
        if value.as_f64() != Some(idle) {
            let message = format!("{key} {} is not implemented and left out", json::shown(&value));
            warnings.push(Warning { code: "SPK2805", path: fields.path().into(), message });
        }
    }
    Ok(found)
}

/// One token id.
fn token(
    fields: &mut Fields<'_>,
    key: &str,
    vocab_size: usize,
    warnings: &mut Vec<Warning>,
) -> Result<Option<u32>, FrontendError> {
    Ok(tokens(fields, key, vocab_size, warnings)?.first().copied())
}

/// Token ids, spelled as an integer or as a list. Ids outside the vocabulary are found in published
/// models (-1 for "none") and can never be generated: left out with a warning.
fn tokens(
    fields: &mut Fields<'_>,
    key: &str,
    vocab_size: usize,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<u32>, FrontendError> {
    let values = match fields.value(key) {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(value) => vec![value],
    };
    let mut ids = Vec::new();
    for value in values {
        if !(value.is_i64() || value.is_u64()) {
            return Err(fields.wrong(key, &value, "a token id or a list of token ids"));
        }
        let id = value.as_u64().filter(|&id| id < vocab_size as u64);
        match id.and_then(|id| u32::try_from(id).ok()) {
            Some(id) => ids.push(id),
            None => {
                let message =
                    format!("{key} {value} is outside the vocabulary of {vocab_size} and left out");
                warnings.push(Warning { code: "SPK2806", path: fields.path().into(), message });
            }
        }
    }
    Ok(ids)
}
