//! Tiny models, written byte by byte so that tests can lie in any place.
//!
//! Not a model that says anything: the bytes of the weights are a counter. What it must be is
//! well-formed, since a test breaks one thing at a time.

#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// A Llama of two layers, 8 wide.
pub(crate) fn llama_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": false,
        "torch_dtype": "float32",
    })
}

/// `config` with some fields replaced or added; a field given as `"remove"` is taken out.
pub(crate) fn with(mut config: Value, changes: Value) -> Value {
    let (Value::Object(fields), Value::Object(changes)) = (&mut config, changes) else {
        panic!("configs are objects");
    };
    for (key, value) in changes {
        if value == "remove" {
            fields.shift_remove(&key);
        } else {
            fields.insert(key, value);
        }
    }
    config
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
}

/// A tensor of f32.
pub(crate) fn f32_tensor(name: impl Into<String>, shape: &[usize]) -> Stored {
    Stored { name: name.into(), dtype: "F32", shape: shape.to_vec() }
}

/// The tensors of [`llama_config`].
pub(crate) fn llama_tensors() -> Vec<Stored> {
    let mut tensors = vec![
        f32_tensor("lm_head.weight", &[16, 8]),
        f32_tensor("model.embed_tokens.weight", &[16, 8]),
        f32_tensor("model.norm.weight", &[8]),
    ];
    for layer in 0..2 {
        let per_layer = [
            ("input_layernorm", vec![8]),
            ("post_attention_layernorm", vec![8]),
            ("self_attn.q_proj", vec![8, 8]),
            ("self_attn.k_proj", vec![4, 8]),
            ("self_attn.v_proj", vec![4, 8]),
            ("self_attn.o_proj", vec![8, 8]),
            ("mlp.gate_proj", vec![12, 8]),
            ("mlp.up_proj", vec![12, 8]),
            ("mlp.down_proj", vec![8, 12]),
        ];
        tensors.extend(per_layer.into_iter().map(|(part, shape)| {
            f32_tensor(format!("model.layers.{layer}.{part}.weight"), &shape)
        }));
    }
    tensors
}

/// The header and the data of a safetensors file that holds `tensors`.
pub(crate) fn header_and_data(tensors: &[Stored]) -> (Map<String, Value>, Vec<u8>) {
    let mut header = Map::new();
    header.insert("__metadata__".to_string(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in tensors {
        let width = match tensor.dtype {
            "F32" | "I32" => 4,
            "F64" | "I64" => 8,
            "F16" | "BF16" => 2,
            _ => 1,
        };
        let start = end;
        end += tensor.shape.iter().product::<usize>() * width;
        header.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}),
        );
    }
    let data = (0..end).map(|i| (i % 64) as u8).collect();
    (header, data)
}

/// The bytes of a safetensors file with this header text and data.
pub(crate) fn container(header: &[u8], data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header, data].concat()
}

/// The bytes of a safetensors file that holds `tensors`.
pub(crate) fn safetensors(tensors: &[Stored]) -> Vec<u8> {
    let (header, data) = header_and_data(tensors);
    container(Value::Object(header).to_string().as_bytes(), &data)
}

/// Writes a file into `directory` and returns its path.
pub(crate) fn write(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, bytes).expect("the temporary directory is writable");
    path
}

/// Writes a model directory: config and one weight file.
pub(crate) fn write_model(directory: &Path, config: &Value, tensors: &[Stored]) {
    write(directory, "config.json", config.to_string());
    write(directory, "model.safetensors", safetensors(tensors));
}

/// Writes `tensors` as two shards, dealt in turn, with an index.
pub(crate) fn write_shards(directory: &Path, tensors: &[Stored]) {
    let mut map = Map::new();
    for (i, name) in shard_names().into_iter().enumerate() {
        let part: Vec<Stored> = tensors.iter().skip(i).step_by(2).cloned().collect();
        for tensor in &part {
            map.insert(tensor.name.clone(), json!(name));
        }
        write(directory, name, safetensors(&part));
    }
    write_index(directory, &Value::Object(map));
}

/// Writes an index with this `weight_map`.
pub(crate) fn write_index(directory: &Path, map: &Value) {
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
    write(directory, "model.safetensors.index.json", index.to_string());
}

/// File names of the shards of [`write_shards`].
pub(crate) fn shard_names() -> [&'static str; 2] {
    ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
}
