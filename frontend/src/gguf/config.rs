//! Metadata of a GGUF file in the words of config.json, so that one reader checks both.
//!
//! A field without a counterpart keeps its GGUF key, and is then refused by name like every field of
//! config.json that is not understood. Errors are renamed to the key that the file has. Keys are
//! those of llama.cpp's `gguf-py/gguf/constants.py`.

use serde_json::{Number, json};

use super::names::{ROPE_DIVISORS, TIED_HEAD};
use super::read::{Gguf, List, Value};
use crate::error::{ErrorKind, FrontendError};
use crate::json::Object;

/// Longest list that can be a config field.
const LIST_MAX: usize = 4096;

/// Keys behind `ARCHITECTURE.` and the fields of config.json that say the same.
const FIELDS: [(&str, &str); 9] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
];

/// Keys that say how the file was made, or repeat what tensors and tokenizer say.
const WITHOUT_EFFECT: [&str; 3] = ["vocab_size", "tensor_data_layout", "rope.scaling.finetuned"];

/// The name of the architecture, and the fields of its config.json.
///
/// # Errors
/// A missing architecture, one that sparkc does not have, RoPE divisors of no known kind.
pub(super) fn translate(gguf: &Gguf) -> Result<Object, ErrorKind> {
    let architecture = architecture(gguf)?;
    let prefix = format!("{architecture}.");
    let mut out = Object::new();
    let mut scaling = Object::new();
    let mut window = None;
    for (full, value) in &gguf.metadata {
        let Some(key) = full.strip_prefix(&prefix) else { continue };
        let value = to_json(gguf, full, value)?;
        if let Some((_, field)) = FIELDS.iter().find(|(k, _)| *k == key) {
            out.insert((*field).to_string(), value);
            continue;
        }
        match key {
            _ if WITHOUT_EFFECT.contains(&key) => {}
            "attention.sliding_window" if matches!(architecture, "llama" | "mistral") => {
                window = Some(value);
            }
            "attention.value_length"
            | "rope.dimension_count"
            | "attention.causal"
            | "expert_count"
            | "expert_used_count" => {
                check_neutral(gguf, architecture, key, full, &value)?;
            }
            "rope.scaling.type" => drop(scaling.insert("rope_type".to_string(), value)),
            "rope.scaling.factor" => drop(scaling.insert("factor".to_string(), value)),
            "rope.scaling.original_context_length" => {
                scaling.insert("original_max_position_embeddings".to_string(), value);
            }
            "rope.scaling.attn_factor" => {
                scaling.insert("attention_factor".to_string(), value);
            }
            "rope.scaling.yarn_beta_fast" => drop(scaling.insert("beta_fast".to_string(), value)),
            "rope.scaling.yarn_beta_slow" => drop(scaling.insert("beta_slow".to_string(), value)),
            _ => drop(out.insert(full.clone(), value)),
        }
    }
    let is_mistral = architecture == "mistral" || window.is_some();
    let family = if is_mistral { "mistral" } else { architecture };
    out.insert("model_type".to_string(), family.into());
    if is_mistral {
        out.insert("sliding_window".to_string(), window.unwrap_or_default());
    }
    add_rope(gguf, scaling, &mut out)?;
    add_tensors(gguf, family, &mut out);
    Ok(out)
}

/// `general.architecture`, one of those that are read.
///
/// # Errors
/// When it is missing or another.
pub(super) fn architecture(gguf: &Gguf) -> Result<&'static str, ErrorKind> {
    const KEY: &str = "general.architecture";
    const READ: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];
    let missing = || ErrorKind::FieldMissing { field: KEY.to_string() };
    let found = gguf.metadata.get(KEY).and_then(Value::text).ok_or_else(missing)?;
    READ.into_iter().find(|name| *name == found).ok_or_else(|| ErrorKind::FieldUnsupported {
        field: KEY.to_string(),
        found: format!("\"{found}\""),
        supported: READ.join(", "),
    })
}

/// Fields that may only say what these decoders do anyway.
fn check_neutral(
    gguf: &Gguf,
    architecture: &str,
    key: &str,
    full: &str,
    found: &serde_json::Value,
) -> Result<(), ErrorKind> {
    let number = |k: &str| gguf.metadata.get(&format!("{architecture}.{k}"))?.unsigned();
    let head_dim = number("attention.key_length")
        .or_else(|| number("embedding_length")?.checked_div(number("attention.head_count")?));
    let expected = match key {
        "attention.causal" => json!(true),
        "expert_count" | "expert_used_count" => json!(0),
        _ => json!(head_dim),
    };
    if *found == expected {
        return Ok(());
    }
    Err(ErrorKind::FieldUnsupported {
        field: full.to_string(),
        found: found.to_string(),
        supported: expected.to_string(),
    })
}

/// RoPE scaling: named in the metadata, or as the divisors that llama.cpp stores for Llama 3.
fn add_rope(gguf: &Gguf, mut scaling: Object, out: &mut Object) -> Result<(), ErrorKind> {
    if scaling.get("rope_type").is_some_and(|kind| kind == "none") {
        scaling.clear();
    }
    if let Some(tensor) = gguf.tensors.get(ROPE_DIVISORS) {
        let bytes = gguf.bytes().get(tensor.range.clone()).unwrap_or_default();
        let divisors: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let theta = out.get("rope_theta").and_then(serde_json::Value::as_f64).unwrap_or(1e4);
        scaling = llama3(&divisors, theta).ok_or_else(|| ErrorKind::GgufTensor {
            tensor: ROPE_DIVISORS.to_string(),
            why: "holds divisors that are not those of Llama 3's RoPE scaling".to_string(),
        })?;
    }
    if !scaling.is_empty() {
        out.insert("rope_scaling".to_string(), scaling.into());
    }
    Ok(())
}

/// The parameters of Llama 3's scaling that give these divisors. The file has the divisors only; all
/// published models share the bounds 1 and 4 and the trained context of 8192, and the largest
/// divisor is the factor.
fn llama3(divisors: &[f32], theta: f64) -> Option<Object> {
    let (low, high, original) = (1.0, 4.0, 8192.0);
    let factor = f64::from(*divisors.last()?);
    for (i, &divisor) in divisors.iter().enumerate() {
        let exponent = i as f64 / divisors.len() as f64;
        let wavelength = std::f64::consts::TAU * theta.powf(exponent);
        let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - smooth) / factor + smooth);
        if (f64::from(divisor) - expected).abs() > 1e-4 * expected {
            return None;
        }
    }
    let fields = json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low,
        "high_freq_factor": high, "original_max_position_embeddings": original as u64,
    });
    fields.as_object().map(|o| o.clone().into_iter().collect())
}

/// What config.json says and a GGUF file shows by its tensors.
fn add_tensors(gguf: &Gguf, family: &str, out: &mut Object) {
    let has = |name: &str| gguf.tensors.contains_key(name);
    let embedding = gguf.tensors.get("token_embd.weight");
    if let Some(rows) = embedding.and_then(|t| t.shape.first()) {
        out.insert("vocab_size".to_string(), (*rows).into());
    }
    out.insert("tie_word_embeddings".to_string(), (!has(TIED_HEAD)).into());
    if matches!(family, "llama" | "qwen3") && has("blk.0.attn_q.bias") {
        out.insert("attention_bias".to_string(), true.into());
    }
    if family == "llama" && has("blk.0.ffn_gate.bias") {
        out.insert("mlp_bias".to_string(), true.into());
    }
}

fn to_json(gguf: &Gguf, key: &str, value: &Value) -> Result<serde_json::Value, ErrorKind> {
    let wrong = |why: String| ErrorKind::GgufKey { key: key.to_string(), why };
    let float = |n: f64| match Number::from_f64(n) {
        Some(number) => Ok(number.into()),
        None => Err(wrong(format!("it is {n}, expected a finite number"))),
    };
    match value {
        Value::Unsigned(n) => Ok((*n).into()),
        Value::Signed(n) => Ok((*n).into()),
        Value::Float(n) => float(*n),
        Value::Flag(flag) => Ok((*flag).into()),
        Value::Text(text) => Ok(text.clone().into()),
        Value::List(list) => one_for_all(gguf, list)
            .map_or_else(
                || Err(wrong(format!("it is a list of {}, not one value", list.len))),
                float,
            )
            .map(|n: serde_json::Value| match n.as_f64() {
                Some(n) if n.fract() == 0.0 && n >= 0.0 => (n as u64).into(),
                _ => n,
            }),
    }
}

/// The number that all elements of a per-layer list are.
fn one_for_all(gguf: &Gguf, list: &List) -> Option<f64> {
    let numbers = (list.len <= LIST_MAX).then(|| gguf.numbers(list))??;
    let first = *numbers.first()?;
    numbers.iter().all(|&n| n == first).then_some(first)
}

/// An error of the config reader, with fields as the file spells them.
pub(super) fn renamed(mut error: FrontendError, architecture: &str) -> FrontendError {
    let field = match error.kind.as_mut() {
        ErrorKind::FieldMissing { field }
        | ErrorKind::FieldValue { field, .. }
        | ErrorKind::FieldUnsupported { field, .. }
        | ErrorKind::FieldConflict { field, .. } => field,
        _ => return error,
    };
    if let Some((key, _)) = FIELDS.iter().find(|(_, f)| f == field) {
        *field = format!("{architecture}.{key}");
    } else if field == "vocab_size" {
        *field = "token_embd.weight".to_string();
    }
    error
}
