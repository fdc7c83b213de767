//! What an executable carries besides program and weights: tokenizer, template, generation defaults.

use frontend::Model;
use runtime::{Assets, GenerationDefaults};

use crate::cli::Quant;

/// Tokens kept when a model asks for sampling and says nothing of top-k, as in `transformers`.
const TOP_K_DEFAULT: u32 = 50;

/// The assets of a model, in the words of the runtime.
pub fn assets(model: &Model, quant: Quant) -> Assets {
    Assets {
        tokenizer: model.assets.tokenizer_json.clone(),
        chat_template: model.assets.chat_template.clone(),
        special_tokens: special_tokens(model),
        generation: generation(model),
        facts: facts(model, quant),
        ..Assets::default()
    }
}

fn special_tokens(model: &Model) -> Vec<(String, String)> {
    let settings = &model.assets.tokenizer;
    [
        ("bos_token", &settings.bos_token),
        ("eos_token", &settings.eos_token),
        ("pad_token", &settings.pad_token),
        ("unk_token", &settings.unk_token),
    ]
    .into_iter()
    .filter_map(|(name, token)| Some((name.to_string(), token.clone()?)))
    .collect()
}

fn generation(model: &Model) -> GenerationDefaults {
    let given = &model.assets.generation;
    GenerationDefaults {
        sample: given.do_sample.unwrap_or(false),
        temperature: given.temperature.unwrap_or(1.0),
        top_k: given.top_k.unwrap_or(TOP_K_DEFAULT),
        top_p: given.top_p.unwrap_or(1.0),
        stop_tokens: given.eos_token_ids.clone(),
        ..GenerationDefaults::default()
    }
}

/// What `--info` shows. No path and no time: the executable is a function of the model.
fn facts(model: &Model, quant: Quant) -> Vec<(String, String)> {
    let quant = match quant {
        Quant::None => "none",
        Quant::Q8 => "q8",
        Quant::Q4 => "q4",
        Quant::Q4m => "q4m",
    };
    [
        ("family", model.info.family.clone()),
        ("parameters", model.info.parameters.to_string()),
        ("dtype", model.info.dtype.to_string()),
        ("quantisation", quant.to_string()),
        ("digest", model.info.digest.to_string()),
        ("compiler", format!("sparkc {}", env!("CARGO_PKG_VERSION"))),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_string(), value))
    .collect()
}
