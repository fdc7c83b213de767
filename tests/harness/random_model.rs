//! Models of real shapes with random weights, made where they are needed: a configuration of
//! `tests/configs` and a seed give the same bytes on every machine.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use tensor::Rng;

use crate::root;

/// Writes config.json and model.safetensors (bf16) of the Llama-like configuration `name` to `folder`.
///
/// Matrices have a standard deviation that keeps activations near 1, gains lie around 1.
///
/// # Errors
/// A configuration without the fields of a Llama, a folder that cannot be written.
pub fn write(name: &str, folder: &Path, seed: u64) -> Result<()> {
    let source = root().join("tests/configs").join(name).join("config.json");
    let text = fs::read_to_string(&source).context("the configuration is committed")?;
    let config: Value = serde_json::from_str(&text)?;
    let size = |field: &str| {
        let n = config.get(field).and_then(Value::as_u64);
        n.map(|n| n as usize).with_context(|| format!("config.json has no {field}"))
    };
    let (hidden, ffn, vocab) =
        (size("hidden_size")?, size("intermediate_size")?, size("vocab_size")?);
    let kv = hidden / size("num_attention_heads")? * size("num_key_value_heads")?;
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_string(), vec![vocab, hidden]),
        ("model.norm.weight".to_string(), vec![hidden]),
    ];
    for layer in 0..size("num_hidden_layers")? {
        let each = [
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![ffn, hidden]),
            ("mlp.up_proj", vec![ffn, hidden]),
            ("mlp.down_proj", vec![hidden, ffn]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ];
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        shapes.extend(each.map(|(part, shape)| (name(part), shape)));
    }
    if config.get("tie_word_embeddings").and_then(Value::as_bool) != Some(true) {
        shapes.push(("lm_head.weight".to_string(), vec![vocab, hidden]));
    }
    let mut rng = Rng::new(seed);
    let bytes: Vec<Vec<u8>> = shapes.iter().map(|(_, shape)| values(shape, &mut rng)).collect();
    let views: Vec<(&str, TensorView<'_>)> = shapes
        .iter()
        .zip(&bytes)
        .map(|((name, shape), data)| {
            Ok((name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), data)?))
        })
        .collect::<Result<_>>()?;
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors"))?;
    fs::write(folder.join("config.json"), text)?;
    Ok(())
}

/// bf16 bytes: uniform with the variance of 1 / columns for a matrix, 0.8 to 1.2 for a gain.
fn values(shape: &[usize], rng: &mut Rng) -> Vec<u8> {
    let elements = shape.iter().product();
    let scale = match shape {
        [_, columns] => (12.0 / *columns as f32).sqrt(),
        _ => 0.4,
    };
    let center = if shape.len() == 1 { 1.0 } else { 0.0 };
    let mut bytes = Vec::with_capacity(elements * 2);
    for _ in 0..elements {
        let value = center + (rng.uniform() - 0.5) * scale;
        // bfloat16 is the upper half of an f32.
        bytes.extend_from_slice(&value.to_le_bytes()[2..]);
    }
    bytes
}
