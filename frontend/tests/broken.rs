//! A corpus of broken inputs: each gives the right code and class, and a message that says what is
//! wrong and where. Nothing panics, and nothing is allocated by a declared size.
//!
//! A case damages one thing of a well-formed tiny model. The last test damages bytes at random.

mod support;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sparkc_frontend::{ErrorClass, FrontendError, OpenOptions, open};
use support::{
    Stored, container, f32_tensor, header_and_data, llama_config, llama_tensors, safetensors,
    shard_names, with, write, write_index, write_model, write_shards,
};
use tensor::Rng;

use ErrorClass::{Input, Unsupported};

/// Expected code, class and parts of the message.
type Expected = (&'static str, ErrorClass, &'static [&'static str]);

/// Opens what `prepare` makes in an empty directory, and checks the error.
fn check(name: &str, expected: Expected, prepare: impl Fn(&Path) -> PathBuf) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = prepare(scratch.path());
    let result = catch_unwind(|| open(&path, &OpenOptions::default()).map(|m| m.info));
    match result {
        Err(_) => panic!("{name}: open panicked"),
        Ok(Ok(info)) => panic!("{name}: opened as {info:?}"),
        Ok(Err(error)) => check_error(name, expected, &error),
    }
}

fn check_error(name: &str, (code, class, parts): Expected, error: &FrontendError) {
    let message = error.to_string();
    assert_eq!(error.code(), code, "{name}: {message}");
    assert_eq!(error.class(), class, "{name}: {message}");
    for part in parts {
        assert!(message.contains(part), "{name}: no {part:?} in {message:?}");
    }
    assert!(!error.hint().is_empty(), "{name}: no hint");
    assert!(message.len() < 2000, "{name}: a message of {} bytes", message.len());
}

/// Checks a config with some fields replaced, added or (given as "remove") taken out.
fn check_config(changes: Value, expected: Expected) {
    let name = changes.to_string();
    check(&name, expected, |directory| {
        write(directory, "config.json", with(llama_config(), changes.clone()).to_string())
    });
}

/// Checks a model whose weight file has these bytes.
fn check_weights(name: &str, expected: Expected, bytes: impl Fn() -> Vec<u8>) {
    check(name, expected, |directory| {
        write(directory, "config.json", llama_config().to_string());
        write(directory, "model.safetensors", bytes());
        directory.to_path_buf()
    });
}

/// Checks a model whose weight file has this header over well-formed data.
fn check_header(
    name: &str,
    expected: Expected,
    edit: impl Fn(&mut serde_json::Map<String, Value>),
) {
    check_weights(name, expected, || {
        let (mut header, data) = header_and_data(&llama_tensors());
        edit(&mut header);
        container(Value::Object(header).to_string().as_bytes(), &data)
    });
}

/// Checks a model with these tensors.
fn check_tensors(name: &str, expected: Expected, edit: impl Fn(&mut Vec<Stored>)) {
    check_weights(name, expected, || {
        let mut tensors = llama_tensors();
        edit(&mut tensors);
        safetensors(&tensors)
    });
}

/// Checks a sharded model after `edit` has changed its directory.
fn check_shards(name: &str, expected: Expected, edit: impl Fn(&Path)) {
    check(name, expected, |directory| {
        write(directory, "config.json", llama_config().to_string());
        write_shards(directory, &llama_tensors());
        edit(directory);
        directory.to_path_buf()
    });
}

/// Checks a well-formed model with one more file.
fn check_beside(file: &str, content: &[u8], expected: Expected) {
    let start = &content[..content.len().min(80)];
    check(&format!("{file}: {}", start.escape_ascii()), expected, |directory| {
        write_model(directory, &llama_config(), &llama_tensors());
        write(directory, file, content);
        directory.to_path_buf()
    });
}

#[test]
fn paths_and_formats() {
    check("nothing there", ("SPK2001", Input, &["nowhere"]), |d| d.join("nowhere"));
    check("empty directory", ("SPK2008", Input, &["no config.json"]), Path::to_path_buf);
    check("weights without config", ("SPK2001", Input, &["config.json"]), |d| {
        write(d, "model.safetensors", safetensors(&llama_tensors()))
    });
    check("config without weights", ("SPK2009", Input, &["model.safetensors"]), |d| {
        write(d, "config.json", llama_config().to_string());
        d.to_path_buf()
    });
    check("several weight files", ("SPK2010", Input, &["a.safetensors, b.safetensors"]), |d| {
        write(d, "config.json", llama_config().to_string());
        write(d, "b.safetensors", safetensors(&llama_tensors()));
        write(d, "a.safetensors", safetensors(&llama_tensors()));
        d.to_path_buf()
    });
    let pickle = ("SPK2006", Unsupported, &["pickle"] as &[_]);
    check("pickled weights", pickle, |d| {
        write(d, "config.json", llama_config().to_string());
        write(d, "pytorch_model.bin", b"PK\x03\x04");
        d.to_path_buf()
    });
    check("pickle", pickle, |d| write(d, "model.pt", b"\x80\x02"));
    let gguf = ("SPK2702", Input, &["ends too early", "number of tensors"] as &[_]);
    check("GGUF", gguf, |d| write(d, "model.gguf", b"GGUF\x03\0\0\0"));
    check("GGUF by another name", gguf, |d| write(d, "model", b"GGUF\x03\0\0\0"));
    check("a directory with a GGUF", gguf, |d| {
        write(d, "model-q4.gguf", b"GGUF\x03\0\0\0");
        d.to_path_buf()
    });
    check("two GGUF files", ("SPK2010", Input, &["a.gguf, b.gguf"]), |d| {
        write(d, "b.gguf", b"GGUF");
        write(d, "a.gguf", b"GGUF");
        d.to_path_buf()
    });
    check("ONNX", ("SPK2006", Unsupported, &["ONNX"]), |d| write(d, "model.onnx", b"\x08\x07"));
    check("a text", ("SPK2007", Input, &["README.md"]), |d| write(d, "README.md", b"# hello"));
    check("an empty file", ("SPK2005", Input, &["is empty"]), |d| write(d, "model", b""));
    check("some JSON", ("SPK2007", Input, &["known format"]), |d| write(d, "x.json", b"{}"));
    check("a directory called config.json", ("SPK2003", Input, &["directory"]), |d| {
        fs::create_dir(d.join("config.json")).expect("writable");
        d.to_path_buf()
    });
    check("a directory called model.safetensors", ("SPK2003", Input, &["directory"]), |d| {
        write(d, "config.json", llama_config().to_string());
        fs::create_dir(d.join("model.safetensors")).expect("writable");
        d.to_path_buf()
    });
    #[cfg(unix)]
    check("a link to nothing", ("SPK2001", Input, &["config.json"]), |d| {
        std::os::unix::fs::symlink(d.join("gone"), d.join("config.json")).expect("writable");
        d.join("config.json")
    });
}

#[test]
fn json_of_the_config() {
    let cases: [(&[u8], Expected); 14] = [
        (b"", ("SPK2005", Input, &["config.json", "empty"])),
        (b"{", ("SPK2102", Input, &["line 1"])),
        (b"{\"model_type\": \"llama\",}", ("SPK2102", Input, &["line 1"])),
        (b"{\"model_type\": \"llama\"} x", ("SPK2102", Input, &["trailing"])),
        (b"[]", ("SPK2102", Input, &["expected an object, found an array"])),
        (b"null", ("SPK2102", Input, &["found null"])),
        (b"{\"rms_norm_eps\": NaN}", ("SPK2102", Input, &["line 1"])),
        (b"{\"rms_norm_eps\": Infinity}", ("SPK2102", Input, &["line 1"])),
        (b"{\"rms_norm_eps\": 1e999}", ("SPK2102", Input, &["out of range"])),
        (b"{\"model_type\": \"lla\xffma\"}", ("SPK2101", Input, &["offset 19"])),
        (b"\xef\xbb\xbf{}", ("SPK2102", Input, &["line 1"])),
        (b"{\"a\": 1,\n \"a\": 2}", ("SPK2103", Input, &["\"a\"", "line 2"])),
        (b"{\"model_type\": 3}", ("SPK2111", Input, &["model_type", "3", "string"])),
        (b"{\"hidden_size\": 4}", ("SPK2007", Input, &["config.json"])),
    ];
    for (bytes, expected) in cases {
        let name = bytes.escape_ascii().to_string();
        check(&name, expected, |directory| write(directory, "config.json", bytes));
    }
    let deep = "{\"a\":".repeat(100_000);
    check("deep nesting", ("SPK2102", Input, &["recursion"]), |directory| {
        write(directory, "config.json", &deep)
    });
    let twice = r#"{"model_type": "llama", "rope_scaling": {"factor": 2.0, "factor": 4.0}}"#;
    check("a duplicate inside", ("SPK2103", Input, &["factor"]), |directory| {
        write(directory, "config.json", twice)
    });
    check("no config in config.json", ("SPK2110", Input, &["model_type"]), |directory| {
        write(directory, "config.json", "{}");
        directory.to_path_buf()
    });
}

#[test]
fn numbers_of_the_config() {
    let wrong = |found: &'static [&'static str]| ("SPK2111", Input, found);
    check_config(json!({"vocab_size": 1u64 << 60}), wrong(&["vocab_size", "1152921504606846976"]));
    check_config(json!({"vocab_size": 1e30}), wrong(&["vocab_size", "1e+30"]));
    check_config(json!({"vocab_size": "16"}), wrong(&["vocab_size", "\"16\""]));
    check_config(json!({"hidden_size": 0}), wrong(&["hidden_size", "is 0", "from 1"]));
    check_config(json!({"hidden_size": -8}), wrong(&["hidden_size", "-8"]));
    check_config(json!({"hidden_size": 8.5}), wrong(&["hidden_size", "8.5", "integer"]));
    check_config(json!({"intermediate_size": true}), wrong(&["intermediate_size", "true"]));
    check_config(json!({"num_hidden_layers": 0}), wrong(&["num_hidden_layers", "is 0"]));
    check_config(json!({"num_hidden_layers": 1_000_000_000}), wrong(&["num_hidden_layers"]));
    check_config(json!({"num_attention_heads": 0}), wrong(&["num_attention_heads", "is 0"]));
    check_config(json!({"num_key_value_heads": 0}), wrong(&["num_key_value_heads", "is 0"]));
    check_config(json!({"head_dim": 0}), wrong(&["head_dim", "is 0"]));
    check_config(json!({"max_position_embeddings": 1u64 << 40}), wrong(&["1099511627776"]));
    check_config(json!({"rms_norm_eps": -1e-5}), wrong(&["rms_norm_eps", "-0.00001", "0 to 1"]));
    check_config(json!({"rms_norm_eps": "1e-5"}), wrong(&["rms_norm_eps"]));
    check_config(json!({"rms_norm_eps": [1]}), wrong(&["rms_norm_eps", "[1]"]));
    check_config(json!({"rope_theta": 0}), wrong(&["rope_theta", "above 1"]));
    check_config(json!({"rope_theta": null, "rope_scaling": 4}), wrong(&["rope_scaling"]));
    check_config(json!({"tie_word_embeddings": "yes"}), wrong(&["tie_word_embeddings", "yes"]));
    check_config(json!({"attention_bias": 1}), wrong(&["attention_bias", "true or false"]));
    check_config(json!({"architectures": [7]}), wrong(&["architectures", "7"]));
    check_config(json!({"is_encoder_decoder": true}), wrong(&["is_encoder_decoder"]));
    check_config(json!({"partial_rotary_factor": 0.5}), wrong(&["partial_rotary_factor", "0.5"]));
    let long = "x".repeat(100_000);
    check_config(json!({"hidden_size": long}), wrong(&["hidden_size", "..."]));
    for field in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"] {
        check_config(json!({field: "remove"}), ("SPK2110", Input, &["is missing"]));
        check_config(json!({field: null}), ("SPK2110", Input, &["is missing"]));
    }
}

#[test]
fn fields_that_contradict_each_other() {
    let conflict = |parts: &'static [&'static str]| ("SPK2114", Input, parts);
    check_config(json!({"hidden_size": 9}), conflict(&["hidden_size", "9", "2 attention heads"]));
    check_config(json!({"num_key_value_heads": 3}), conflict(&["2 query heads", "3"]));
    check_config(json!({"head_dim": 5}), conflict(&["head_dim", "5"]));
    check_config(json!({"head_dim": 1 << 28}), conflict(&["head_dim"]));
    let qwen2 = json!({"model_type": "qwen2", "architectures": "remove"});
    let silent = json!({"model_type": "qwen2", "architectures": "remove",
                        "num_key_value_heads": "remove"});
    check_config(silent, conflict(&["num_key_value_heads", "32 (the default of the family)"]));
    let slides = json!(["sliding_attention", "full_attention"]);
    let idle = with(qwen2, json!({"layer_types": slides}));
    check_config(idle, conflict(&["layer_types", "no window"]));
    check_config(json!({"layer_types": slides}), conflict(&["layer_types"]));
    check_config(json!({"layer_types": ["full_attention"]}), conflict(&["1 layers", "is 2"]));
    let rope = |parameters: Value| json!({"rope_scaling": parameters});
    check_config(rope(json!({"type": "linear", "rope_type": "yarn"})), conflict(&["rope_type"]));
    check_config(
        json!({"rope_scaling": {"type": "linear", "factor": 2.0},
               "rope_parameters": {"type": "linear", "factor": 4.0}}),
        conflict(&["rope_parameters"]),
    );
    check_config(
        json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}),
        conflict(&["rope_theta", "5", "10000"]),
    );
    check_config(json!({"original_max_position_embeddings": 8}), conflict(&["default"]));
    let flat = json!({"type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
                      "high_freq_factor": 4.0});
    check_config(rope(flat), conflict(&["high_freq_factor", "4"]));
    let narrow = json!({"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}});
    check_config(narrow, conflict(&["rope_type", "2"]));
}

#[test]
fn fields_that_are_not_understood() {
    let unknown = |parts: &'static [&'static str]| ("SPK2112", Unsupported, parts);
    let refused = |parts: &'static [&'static str]| ("SPK2113", Unsupported, parts);
    check_config(json!({"attn_logit_softcapping": 50.0}), unknown(&["attn_logit_softcapping"]));
    check_config(
        json!({"num_local_experts": 8, "final_norm": 1}),
        unknown(&["2 fields", "final_norm, num_local_experts", "llama"]),
    );
    check_config(json!({"quantization_config": {"bits": 4}}), unknown(&["quantization_config"]));
    check_config(json!({"auto_map": {"AutoModel": "x.Y"}}), unknown(&["auto_map"]));
    check_config(
        json!({"rope_scaling": {"type": "linear", "factor": 2.0, "ramp": 1}}),
        unknown(&["rope_scaling.ramp", "linear"]),
    );
    check_config(json!({"rope_scaling": {"factor": 2.0}}), unknown(&["rope_scaling.factor"]));
    check_config(json!({"model_type": "gemma2"}), refused(&["gemma2", "llama, mistral"]));
    check_config(json!({"model_type": "mistral"}), refused(&["LlamaForCausalLM", "Mistral"]));
    let class = json!({"architectures": ["LlamaForSequenceClassification"]});
    check_config(class, refused(&["LlamaForSequenceClassification"]));
    check_config(json!({"hidden_act": "quick_gelu"}), refused(&["hidden_act", "quick_gelu"]));
    check_config(json!({"torch_dtype": "int8"}), refused(&["torch_dtype", "int8", "bfloat16"]));
    check_config(json!({"sliding_window": 8}), refused(&["sliding_window", "8"]));
    check_config(json!({"layer_types": ["mamba", "mamba"]}), refused(&["layer_types", "mamba"]));
    let longrope = json!({"rope_scaling": {"type": "longrope", "factor": 2.0}});
    check_config(longrope, refused(&["longrope", "default, linear, dynamic, llama3, yarn"]));
    let missing = |parts: &'static [&'static str]| ("SPK2110", Input, parts);
    check_config(json!({"rope_scaling": {"type": "linear"}}), missing(&["rope_scaling.factor"]));
    check_config(
        json!({"rope_scaling": {"type": "llama3", "factor": 2.0}}),
        missing(&["rope_scaling.low_freq_factor"]),
    );
    check_config(json!({"rope_scaling": {"type": "yarn"}}), missing(&["rope_scaling.factor"]));
    let zero = json!({"rope_scaling": {"type": "linear", "factor": 0.0}});
    check_config(zero, ("SPK2111", Input, &["rope_scaling.factor", "above 0"]));
}

#[test]
fn headers_of_weight_files() {
    let valid = || safetensors(&llama_tensors());
    let truncated: Expected = ("SPK2201", Input, &["model.safetensors", "8 bytes"]);
    check_weights("cut inside the length", truncated, || valid()[..5].to_vec());
    check_weights("an empty file", ("SPK2005", Input, &["is empty"]), Vec::new);
    let length: Expected = ("SPK2202", Input, &["header of"]);
    check_weights("cut inside the header", length, || valid()[..100].to_vec());
    check_weights("the longest length", ("SPK2202", Input, &["18446744073709551615"]), || {
        let mut bytes = valid();
        bytes[..8].fill(0xff);
        bytes
    });
    check_weights("a length one too long for the file", length, || {
        let mut bytes = valid();
        let n = bytes.len() as u64 - 7;
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        bytes
    });
    let cut: Expected = ("SPK2206", Input, &["bytes of data"]);
    check_weights("cut inside the data", cut, || valid()[..valid().len() - 1].to_vec());
    check_weights("bytes after the data", cut, || [valid(), vec![0]].concat());
    let json: Expected = ("SPK2102", Input, &["model.safetensors"]);
    check_weights("no header", json, || container(b"", b""));
    check_weights("a header that is no JSON", json, || container(b"{{{", b""));
    check_weights("a header that is an array", json, || container(b"[1, 2]", b""));
    check_weights("a header of the wrong encoding", ("SPK2101", Input, &["offset 2"]), || {
        container(b"{\"\xff\": {}}", b"")
    });
    check_weights("a deep header", ("SPK2102", Input, &["recursion"]), || {
        container("{\"a\":".repeat(50_000).as_bytes(), b"")
    });
    let entry = r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    check_weights("a name twice", ("SPK2103", Input, &["\"a\""]), || {
        container(format!(r#"{{"a":{entry},"a":{entry}}}"#).as_bytes(), b"x")
    });
    check_weights("only zeros", json, || vec![0; 64]);
}

#[test]
fn entries_of_weight_files() {
    const NORM: &str = "model.norm.weight";
    let entry: Expected = ("SPK2203", Input, &[NORM]);
    let set = |name: &str, expected: Expected, key: &'static str, value: Value| {
        check_header(name, expected, |h| h[NORM][key] = value.clone());
    };
    set("an unknown dtype", entry, "dtype", json!("F33"));
    set("a dtype that is a number", entry, "dtype", json!(32));
    set("a negative extent", entry, "shape", json!([-8]));
    set("a shape that is a number", entry, "shape", json!(8));
    let huge = json!([1u64 << 62, 1u64 << 62]);
    set("a shape without size", ("SPK2203", Input, &["no size"]), "shape", huge);
    let size: Expected = ("SPK2205", Input, &[NORM, "32 bytes", "4398046511104"]);
    set("a huge shape", size, "shape", json!([1u64 << 40]));
    set("a shape that is too small", ("SPK2205", Input, &[NORM]), "shape", json!([7]));
    set("another size by dtype", ("SPK2205", Input, &["ask for 16"]), "dtype", json!("BF16"));
    set(
        "offsets in reverse",
        ("SPK2203", Input, &["before it starts"]),
        "data_offsets",
        json!([1024, 8]),
    );
    set("three offsets", entry, "data_offsets", json!([1024, 1056, 1056]));
    set("an offset that is no integer", entry, "data_offsets", json!([0.5, 32]));
    set("an overlap", ("SPK2204", Input, &["overlaps"]), "data_offsets", json!([1020, 1052]));
    set("a gap", ("SPK2204", Input, &["gap"]), "data_offsets", json!([1028, 1060]));
    let far = json!([u64::MAX - 32, u64::MAX]);
    set("offsets beyond any file", ("SPK2204", Input, &[]), "data_offsets", far);
    set("an unknown key", ("SPK2203", Input, &["compressed"]), "compressed", json!(true));
    check_header("a missing key", entry, |h| {
        h[NORM].as_object_mut().expect("an entry").remove("shape");
    });
    check_header("an entry that is null", entry, |h| h[NORM] = Value::Null);
    check_header("metadata that is no text", ("SPK2203", Input, &["__metadata__"]), |h| {
        h["__metadata__"] = json!({"format": 1});
    });
    check_header("a tensor left out", ("SPK2204", Input, &["gap"]), |h| {
        h.remove(NORM);
    });
}

#[test]
fn tensors_that_do_not_fit_the_config() {
    const Q: &str = "model.layers.1.self_attn.q_proj.weight";
    let place = |tensors: &[Stored]| tensors.iter().position(|t| t.name == Q).expect("is there");
    check_tensors("missing", ("SPK2401", Input, &[Q, "[8, 8]", "missing"]), |tensors| {
        tensors.remove(place(tensors));
    });
    check_tensors("renamed", ("SPK2401", Input, &[Q, "wq", "not part"]), |tensors| {
        let i = place(tensors);
        tensors[i].name = "model.layers.1.self_attn.wq".to_string();
    });
    check_tensors("unknown", ("SPK2402", Input, &["adapter", "[3]"]), |tensors| {
        tensors.push(f32_tensor("adapter", &[3]));
    });
    check_tensors("a third layer", ("SPK2402", Input, &["layers.2."]), |tensors| {
        tensors.push(f32_tensor("model.layers.2.input_layernorm.weight", &[8]));
    });
    check_tensors("a bias", ("SPK2402", Input, &["q_proj.bias"]), |tensors| {
        tensors.push(f32_tensor("model.layers.1.self_attn.q_proj.bias", &[8]));
    });
    let shape: Expected = ("SPK2403", Input, &[Q, "[4, 8]", "[8, 8]"]);
    check_tensors("too small", shape, |tensors| {
        let i = place(tensors);
        tensors[i].shape = vec![4, 8];
    });
    check_tensors("transposed", ("SPK2403", Input, &["[12, 8]", "[8, 12]"]), |tensors| {
        let down = tensors.iter_mut().find(|t| t.name.ends_with("down_proj.weight"));
        down.expect("is there").shape = vec![12, 8];
    });
    check_tensors("of another rank", ("SPK2403", Input, &["[64]"]), |tensors| {
        let i = place(tensors);
        tensors[i].shape = vec![64];
    });
    for dtype in ["F64", "I32", "U8", "F8_E4M3"] {
        check_tensors(dtype, ("SPK2404", Unsupported, &[Q, "f32 or f16 or bf16"]), |tensors| {
            let i = place(tensors);
            tensors[i].dtype = dtype;
        });
    }
    check_tensors("no tensor", ("SPK2401", Input, &["and 15 more"]), Vec::clear);
    check_tensors("no output weight", ("SPK2401", Input, &["lm_head.weight"]), |tensors| {
        tensors.retain(|t| t.name != "lm_head.weight");
    });
}

#[test]
fn shard_indices() {
    let [first, second] = shard_names();
    let path: Expected = ("SPK2301", Input, &["index.json", "not a plain file name"]);
    for escape in ["../model.safetensors", "/etc/passwd", "..", "a/../b", "..\\x", ""] {
        check_shards(escape, path, |directory| write_index(directory, &json!({"a": escape})));
    }
    let missing: Expected = ("SPK2302", Input, &["model-00002-of-00002.safetensors"]);
    check_shards("a missing shard", missing, |directory| {
        fs::remove_file(directory.join(second)).expect("is there");
    });
    check_shards("a shard cut off", ("SPK2206", Input, &["00002-of"]), |directory| {
        let path = directory.join(second);
        let bytes = fs::read(&path).expect("is there");
        fs::write(path, &bytes[..bytes.len() - 40]).expect("writable");
    });
    check_shards(
        "a tensor twice",
        ("SPK2304", Input, &["lm_head.weight", "00001-of", "00002-of"]),
        |d| {
            write(d, second, safetensors(&llama_tensors()));
        },
    );
    let mismatch: Expected = ("SPK2303", Input, &["lm_head.weight", "00002-of"]);
    check_shards("a tensor elsewhere", mismatch, |directory| {
        write_index(directory, &json!({"lm_head.weight": second, "model.norm.weight": first}));
    });
    check_shards("a tensor nowhere", ("SPK2303", Input, &["ghost"]), |directory| {
        write_index(directory, &json!({"ghost": first, "model.embed_tokens.weight": second}));
    });
    check_shards("a shard not listed", ("SPK2401", Input, &["missing"]), |directory| {
        write_index(directory, &json!({"lm_head.weight": first}));
    });
    let field: Expected = ("SPK2111", Input, &["weight_map"]);
    check_shards("an empty map", field, |directory| write_index(directory, &json!({})));
    check_shards("a map that is a list", field, |directory| write_index(directory, &json!([1])));
    check_shards("a shard that is a number", field, |d| write_index(d, &json!({"a": 1})));
    check_shards("no map", ("SPK2110", Input, &["weight_map"]), |directory| {
        write(directory, "model.safetensors.index.json", "{}");
    });
    check_shards("an index that is no JSON", ("SPK2102", Input, &["index.json"]), |directory| {
        write(directory, "model.safetensors.index.json", "not JSON");
    });
    check_shards("a duplicate in the index", ("SPK2103", Input, &["\"a\""]), |directory| {
        let text = format!(r#"{{"weight_map": {{"a": "{first}", "a": "{second}"}}}}"#);
        write(directory, "model.safetensors.index.json", text);
    });
}

#[test]
fn files_beside_the_weights() {
    let tokenizer: Expected = ("SPK2501", Input, &["tokenizer.json"]);
    check_beside("tokenizer.json", b"{}", tokenizer);
    check_beside("tokenizer.json", b"not JSON", tokenizer);
    check_beside("tokenizer.json", b"", ("SPK2005", Input, &["tokenizer.json", "empty"]));
    check_beside("tokenizer.json", b"{\"model\": {\"type\": \"Magic\"}}", tokenizer);
    let fixture = "../tests/fixtures/hf/llama_chat/tokenizer.json";
    let whole = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture)).expect("committed");
    check_beside("tokenizer.json", &whole[..whole.len() / 2], tokenizer);
    let merge = br#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}"#;
    let expected: Expected = ("SPK2501", Input, &["tokenizer.json", "merge 0, \"a b\""]);
    check_beside("tokenizer.json", merge, expected);
    let field: Expected = ("SPK2111", Input, &["tokenizer_config.json", "bos_token", "7"]);
    check_beside("tokenizer_config.json", b"{\"bos_token\": 7}", field);
    let field: Expected = ("SPK2111", Input, &["chat_template"]);
    check_beside("tokenizer_config.json", b"{\"chat_template\": 7}", field);
    check_beside("tokenizer_config.json", b"{", ("SPK2102", Input, &["tokenizer_config.json"]));
    check_beside("chat_template.jinja", b"\xff", ("SPK2101", Input, &["chat_template.jinja"]));
    let generation = "generation_config.json";
    check_beside(generation, b"{\"a\": 1, \"a\": 1}", ("SPK2103", Input, &["generation_config"]));
    let cases: [(&[u8], &[&str]); 5] = [
        (b"{\"temperature\": -1}", &["temperature", "-1"]),
        (b"{\"top_p\": 1.5}", &["top_p", "1.5"]),
        (b"{\"top_k\": 1.5}", &["top_k", "1.5"]),
        (b"{\"eos_token_id\": \"</s>\"}", &["eos_token_id", "</s>"]),
        (b"{\"do_sample\": 1}", &["do_sample"]),
    ];
    for (content, parts) in cases {
        check_beside(generation, content, ("SPK2111", Input, parts));
    }
}

#[test]
fn modules_as_text() {
    check("an empty module", ("SPK2005", Input, &["is empty"]), |d| write(d, "m.spark", ""));
    check("no module", ("SPK2601", Input, &["line 1, column 1"]), |d| write(d, "m.spark", "hello"));
    check("bytes", ("SPK2101", Input, &["offset 0"]), |d| write(d, "m.spark", b"\xff"));
    let unknown =
        "module \"m\" context 8 {\n  graph @main(input %t: i32[T]) {\n    return %x\n  }\n}";
    check("an unknown value", ("SPK2601", Input, &["line 3", "%x"]), |d| {
        write(d, "m.spark", unknown)
    });
    let wrong =
        "module \"m\" context 8 {\n  graph @main(input %t: i32[T]) {\n    return %t\n  }\n}";
    check("no logits", ("SPK2602", Input, &["m.spark"]), |d| write(d, "m.spark", wrong));
}

#[test]
fn weights_that_do_not_fit_a_module_as_text() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    write_model(scratch.path(), &llama_config(), &llama_tensors());
    let model = open(scratch.path(), &OpenOptions::default()).expect("opens");
    let text = write(scratch.path(), "m.spark", model.module.to_string());
    type Edit = fn(&mut Vec<Stored>);
    let cases: [(Expected, Edit); 3] = [
        (("SPK2401", Input, &["lm_head.weight"]), |t| drop(t.remove(0))),
        (("SPK2403", Input, &["[8, 16]"]), |t| t[0].shape = vec![8, 16]),
        (("SPK2404", Unsupported, &["BF16", "f32"]), |t| t[0].dtype = "BF16"),
    ];
    for (expected, edit) in cases {
        let mut tensors = llama_tensors();
        edit(&mut tensors);
        let weights = Some(write(scratch.path(), "w.safetensors", safetensors(&tensors)));
        let error = open(&text, &OpenOptions { weights, ..OpenOptions::default() });
        check_error("weights of a module", expected, &error.expect_err("must be refused"));
    }
}

#[test]
fn files_damaged_at_random_never_panic() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path();
    write(directory, "config.json", llama_config().to_string());
    write_shards(directory, &llama_tensors());
    let names = ["config.json", "model.safetensors.index.json", shard_names()[0], shard_names()[1]];
    let mut rng = Rng::new(0);
    let (mut refused, mut opened) = (0, 0);
    for _ in 0..800 {
        let path = directory.join(names[rng.below(names.len())]);
        let intact = fs::read(&path).expect("is there");
        // Damage where the meaning is: in the first kilobyte.
        let mut bytes = intact.clone();
        let at = rng.below(bytes.len().min(1024));
        match rng.below(4) {
            0 => bytes[at] = rng.next_u64() as u8,
            1 => bytes[at] ^= 1 << rng.below(8),
            2 => bytes.truncate(at),
            _ => drop(bytes.splice(at..at, b"9".repeat(1 + rng.below(30)))),
        }
        fs::write(&path, &bytes).expect("writable");
        let result = catch_unwind(|| open(directory, &OpenOptions::default()).map(|m| m.info));
        fs::write(&path, &intact).expect("writable");
        match result.unwrap_or_else(|_| panic!("{path:?}: {}", bytes.escape_ascii())) {
            Ok(_) => opened += 1,
            Err(error) => {
                refused += 1;
                assert!(error.class() != ErrorClass::Internal, "{error}");
            }
        }
    }
    // Some damage is harmless (a changed eps, whitespace), most must be noticed.
    assert!(refused > 500 && opened > 5, "{refused} refused, {opened} opened");
}
