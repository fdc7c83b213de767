//! GGUF files: what a well-formed one becomes, and that one which lies gets a coded error, never a
//! panic and never memory by a declared size.

#[path = "support/gguf.rs"]
mod gguf;

use std::panic::catch_unwind;
use std::path::PathBuf;

use ir::WeightSource;
use sparkc_frontend::{ErrorClass, FrontendError, Model, OpenOptions, load_tokenizer, open};
use tensor::{DType, Rng};

use ErrorClass::{Input, Unsupported};
use gguf::{F32, GgufFile, Meta, Q4_0, Q4_1, Q5_1, Q8_0, llama};

fn open_bytes(bytes: &[u8]) -> Result<Model, FrontendError> {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path: PathBuf = scratch.path().join("tiny.Q8_0.gguf");
    std::fs::write(&path, bytes).expect("writable");
    open(&path, &OpenOptions::default())
}

fn opened(file: &GgufFile) -> Model {
    open_bytes(&file.bytes()).unwrap_or_else(|e| panic!("{e}"))
}

fn load(model: &Model, name: &str) -> tensor::Tensor {
    model.weights.as_ref().expect("has weights").load(name).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn weights_keep_their_precision() {
    let kinds = [(F32, DType::F32), (Q8_0, DType::Q8), (Q4_0, DType::Q4), (Q4_1, DType::Q4M)];
    for (kind, dtype) in kinds {
        let file = llama(kind);
        let model = opened(&file);
        assert_eq!((model.info.family.as_str(), model.info.name.as_str()), ("llama", "tiny.Q8_0"));
        assert!(model.warnings.is_empty(), "{:?}", model.warnings);
        let down = load(&model, "model.layers.1.mlp.down_proj.weight");
        assert_eq!((down.dtype(), down.shape()), (dtype, &[32, 64][..]));
        let stored = file.tensors.iter().find(|t| t.name == "blk.1.ffn_down.weight").unwrap();
        assert_eq!(down.bytes()[..], stored.data[..], "a view of the file");
        assert!(ir::verify(&model.module).is_ok());
    }
    let model = opened(&llama(Q5_1));
    assert_eq!(load(&model, "model.embed_tokens.weight").dtype(), DType::F32);
    let widened = model.warnings.iter().find(|w| w.code == "SPK2808").expect("a warning");
    assert!(widened.message.contains("15 tensors of Q5_1"), "{widened}");
}

#[test]
fn rows_of_q_and_k_come_back_in_order() {
    let mut file = llama(F32);
    // Row r of the stored q is all r: four heads of eight, halves interleaved.
    let rows = (0..32u8).flat_map(|r| f32::from(r).to_le_bytes().repeat(32));
    file.tensor("blk.0.attn_q.weight").data = rows.collect();
    let q = load(&opened(&file), "model.layers.0.self_attn.q_proj.weight").to_f32();
    let first_of_rows: Vec<f32> = q.chunks(32).map(|row| row[0]).take(10).collect();
    assert_eq!(first_of_rows, [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0, 8.0, 10.0]);
    // Qwen's are stored in order.
    let mut qwen = llama(F32);
    for (key, _) in &mut qwen.metadata {
        *key = key.replace("llama.", "qwen3.");
    }
    qwen.set("general.architecture", Meta::Text("qwen3".into()));
    qwen.set("qwen3.attention.key_length", Meta::U32(8));
    for layer in 0..2 {
        for part in ["q", "k"] {
            let mut norm = qwen.tensor("blk.0.attn_norm.weight").clone();
            norm.name = format!("blk.{layer}.attn_{part}_norm.weight");
            norm.extents = vec![8];
            norm.data.truncate(32);
            qwen.tensors.push(norm);
        }
    }
    let model = opened(&qwen);
    let q = load(&model, "model.layers.0.self_attn.q_proj.weight");
    assert_eq!(q.bytes()[..], qwen.tensor("blk.0.attn_q.weight").data[..]);
    assert_eq!(model.info.family, "qwen3");
}

fn with_tokenizer(model: &str, tokens: &[&str], kinds: &[u32]) -> GgufFile {
    let mut file = llama(F32);
    let tokens: Vec<String> = tokens.iter().map(|t| (*t).to_string()).collect();
    file.set("tokenizer.ggml.model", Meta::Text(model.into()));
    file.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
    file.set("tokenizer.ggml.token_type", Meta::U32s(kinds.to_vec()));
    file.set("tokenizer.ggml.eos_token_id", Meta::U32(1));
    file
}

#[test]
fn a_byte_level_tokenizer_comes_with_the_file() {
    let tokens = ["<s>", "<end>", "a", "b", "Ġ", "ab", "1", "2"];
    let mut file = with_tokenizer("gpt2", &tokens, &[3, 3, 1, 1, 1, 1, 1, 1]);
    file.set("tokenizer.ggml.merges", Meta::Texts(vec!["a b".into()]));
    file.set("tokenizer.ggml.pre", Meta::Text("smollm".into()));
    file.set("tokenizer.ggml.bos_token_id", Meta::U32(0));
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    file.set("tokenizer.chat_template", Meta::Text("{{ messages }}".into()));
    let model = opened(&file);
    let assets = &model.assets;
    assert_eq!(assets.generation.eos_token_ids, [1]);
    assert_eq!(assets.tokenizer.bos_token.as_deref(), Some("<s>"));
    assert_eq!(assets.chat_template.as_deref(), Some("{{ messages }}"));
    let tokenizer = load_tokenizer(assets.tokenizer_json.as_ref().expect("has one")).unwrap();
    let encoded = tokenizer.encode("ab ab12<end>", true).unwrap();
    assert_eq!(encoded.get_ids(), [0, 5, 4, 5, 6, 7, 1]);

    let unknown = opened(file.set("tokenizer.ggml.pre", Meta::Text("nobody's".into())));
    assert!(unknown.assets.tokenizer_json.is_none());
    assert!(unknown.warnings.iter().any(|w| w.code == "SPK2802" && w.message.contains("nobody's")));
}

#[test]
fn a_sentencepiece_tokenizer_comes_with_the_file() {
    let tokens = ["<unk>", "</s>", "<0x41>", "▁", "a", "b", "▁a", "ab", "▁ab"];
    let mut file = with_tokenizer("llama", &tokens, &[2, 3, 6, 1, 1, 1, 1, 1, 1]);
    let scores = [0.0, 0.0, 0.0, -9.0, -8.0, -7.0, -2.0, -3.0, -1.0];
    file.set("tokenizer.ggml.scores", Meta::F32s(scores.to_vec()));
    file.set("tokenizer.ggml.unknown_token_id", Meta::U32(0));
    let model = opened(&file);
    let tokenizer = load_tokenizer(model.assets.tokenizer_json.as_ref().unwrap()).unwrap();
    let ids = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(ids("ab"), [8], "the space in front, then the best score first");
    assert_eq!(ids("abA"), [8, 2], "bytes for what has no piece");
    assert_eq!(ids("a€"), [6, 0]);
    assert_eq!(tokenizer.decode(&[8, 2, 3, 5], true).unwrap(), "abA b");
}

/// A fixture of transformers as a GGUF file of f32, rows of q and k interleaved as llama.cpp has it.
fn as_gguf(model: &Model) -> GgufFile {
    let mut file = llama(F32);
    let text = std::fs::read(fixture().join("config.json")).expect("committed");
    let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let number = |key: &str| config[key].as_u64().expect("a number") as u32;
    for (key, field) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
    ] {
        file.set(&format!("llama.{key}"), Meta::U32(number(field)));
    }
    let head_dim = number("hidden_size") / number("num_attention_heads");
    file.set("llama.rope.dimension_count", Meta::U32(head_dim));
    let eps = config["rms_norm_eps"].as_f64().expect("a number") as f32;
    file.set("llama.attention.layer_norm_rms_epsilon", Meta::F32(eps));
    file.tensors.clear();
    for name in model.weights.as_ref().expect("has weights").names() {
        let tensor = load(model, name);
        let mut values = tensor.to_f32();
        let cols = *tensor.shape().last().expect("has axes");
        if name.contains("q_proj") || name.contains("k_proj") {
            // Row 2 i + h of a stored head is row i of its half h.
            let (half, whole) = (head_dim as usize / 2, values.clone());
            for (row, out) in values.chunks_mut(cols).enumerate() {
                let (head, within) = (row / (2 * half), row % (2 * half));
                let from = head * 2 * half + within % 2 * half + within / 2;
                out.copy_from_slice(&whole[from * cols..][..cols]);
            }
        }
        let short = name
            .replace("model.embed_tokens", "token_embd")
            .replace("model.norm", "output_norm")
            .replace("lm_head", "output")
            .replace("model.layers.", "blk.")
            .replace("input_layernorm", "attn_norm")
            .replace("post_attention_layernorm", "ffn_norm")
            .replace("self_attn.o_proj", "attn_output")
            .replace("self_attn.", "attn_")
            .replace("mlp.", "ffn_")
            .replace("_proj", "");
        file.tensors.push(gguf::GgufTensor {
            name: short,
            extents: tensor.shape().iter().rev().map(|&d| d as u64).collect(),
            kind: F32,
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            offset: None,
        });
    }
    file
}

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf/llama_chat")
}

#[test]
fn a_model_is_the_same_from_both_formats() {
    let directory = open(&fixture(), &OpenOptions::default()).expect("opens");
    let file = opened(&as_gguf(&directory));
    assert_eq!(file.info.parameters, directory.info.parameters);
    let weights = directory.weights.as_ref().expect("has weights");
    let mut compared = 0;
    for name in weights.names() {
        let (a, b) = (load(&directory, name), load(&file, name));
        assert_eq!((a.shape(), a.to_f32()), (b.shape(), b.to_f32()), "{name}");
        compared += 1;
    }
    assert!(compared > 10);
    // The graphs differ only in how the numbers are stored; the digests are of different files.
    let without_dtypes = |m: &Model| {
        let text = m.module.to_string().replace("bf16", "f32").replace("f16", "f32");
        let lines = text.lines().filter(|l| l.contains(" = ") && !l.contains("meta \"digest\""));
        lines.map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(without_dtypes(&file), without_dtypes(&directory));
}

/// Checks that a damaged file is refused with this code and these words.
fn refused(
    name: &str,
    code: &str,
    class: ErrorClass,
    parts: &[&str],
    edit: impl Fn(&mut GgufFile),
) {
    let mut file = llama(Q8_0);
    edit(&mut file);
    refused_bytes(name, code, class, parts, &file.bytes());
}

fn refused_bytes(name: &str, code: &str, class: ErrorClass, parts: &[&str], bytes: &[u8]) {
    let result = catch_unwind(|| open_bytes(bytes).map(|m| m.info));
    let error = result.unwrap_or_else(|_| panic!("{name}: panicked")).expect_err(name);
    let message = error.to_string();
    assert_eq!((error.code(), error.class()), (code, class), "{name}: {message}");
    for part in parts {
        assert!(message.contains(part), "{name}: no {part:?} in {message:?}");
    }
    assert!(!error.hint().is_empty() && message.len() < 2000, "{name}: {message}");
}

#[test]
fn containers_that_lie() {
    refused("version 1", "SPK2701", Unsupported, &["version 1"], |f| f.version = 1);
    let big = |f: &mut GgufFile| f.version = 3u32.swap_bytes();
    refused("big-endian", "SPK2701", Unsupported, &["big-endian"], big);
    let many = |f: &mut GgufFile| f.tensor_count = Some(u64::MAX);
    refused("tensors beyond the file", "SPK2703", Input, &["18446744073709551615 tensors"], many);
    let more = |f: &mut GgufFile| f.pair_count = Some(1 << 40);
    refused("pairs beyond the file", "SPK2703", Input, &["1099511627776 metadata"], more);
    refused("one pair more", "SPK2702", Input, &["ends too early"], |f| f.pair_count = Some(13));
    refused("a key twice", "SPK2705", Input, &["llama.block_count"], |f| {
        f.metadata.push(("llama.block_count".into(), Meta::U32(3)));
    });
    refused("an endless key", "SPK2704", Input, &["65535"], |f| {
        f.metadata.push(("k".repeat(70_000), Meta::U32(3)));
    });
    refused("an unknown type", "SPK2704", Input, &["\"x\"", "type 13"], |f| {
        f.set("x", Meta::Raw(13, vec![0; 8]));
    });
    let list = |kind: u32, len: u64, rest: &[u8]| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(rest);
        Meta::Raw(9, bytes)
    };
    refused("a list in lists", "SPK2704", Input, &["lists of lists"], |f| {
        f.set("x", list(9, 1, &[0; 12]));
    });
    refused("a list whose size overflows", "SPK2702", Input, &["18446744073709551615"], |f| {
        f.set("x", list(10, u64::MAX / 4, &[]));
    });
    refused("texts beyond the file", "SPK2703", Input, &["list of texts"], |f| {
        f.set("x", list(8, 1 << 50, &[]));
    });
    refused("a text beyond the file", "SPK2702", Input, &["1152921504606846976"], |f| {
        f.set("x", Meta::Raw(8, (1u64 << 60).to_le_bytes().to_vec()));
    });
    refused("a text that is none", "SPK2704", Input, &["UTF-8"], |f| {
        f.set("x", Meta::Raw(8, [&1u64.to_le_bytes()[..], &[0xff]].concat()));
    });
    for alignment in [0, 1, 33, 1 << 30] {
        refused("alignment", "SPK2704", Input, &["general.alignment"], |f| {
            f.set("general.alignment", Meta::U32(alignment));
        });
    }
    refused("split", "SPK2113", Unsupported, &["split.count", "3"], |f| {
        f.set("split.count", Meta::U32(3));
    });
    let whole = llama(Q8_0).bytes();
    for len in [1, 4, 7, 8, 15, 23, 24, 30, 200, 1000] {
        let result = open_bytes(&whole[..len]);
        let error = result.map(|m| m.info).expect_err("cut off");
        assert!(error.code() >= "SPK2007", "{len}: {error}");
    }
}

#[test]
fn tensors_that_lie() {
    let down = "blk.1.ffn_down.weight";
    let extents = |e: &'static [u64]| move |f: &mut GgufFile| f.tensor(down).extents = e.to_vec();
    refused("no axes", "SPK2706", Input, &[down, "0 axes"], extents(&[]));
    refused("five axes", "SPK2706", Input, &[down, "5 axes"], extents(&[32, 1, 1, 1, 1]));
    refused("overflow", "SPK2706", Input, &[down, "no size"], extents(&[1 << 40, 1 << 40]));
    refused("nothing", "SPK2706", Input, &[down, "no size"], extents(&[0, 32]));
    refused("cut blocks", "SPK2706", Input, &[down, "33", "Q8_0"], extents(&[33, 64]));
    refused("too large", "SPK2706", Input, &[down, "occupies"], extents(&[1 << 30, 32]));
    refused("transposed", "SPK2403", Input, &["[64, 32]", "[32, 64]"], extents(&[32, 64]));
    refused("unaligned", "SPK2706", Input, &[down, "multiple of 32"], |f| {
        f.tensor(down).offset = Some(33);
    });
    refused("outside", "SPK2706", Input, &[down, "occupies"], |f| {
        f.tensor(down).offset = Some(1 << 40);
    });
    refused("overlap", "SPK2706", Input, &["inside the one before"], |f| {
        f.tensor(down).offset = Some(0);
    });
    refused("offset overflow", "SPK2706", Input, &[down], |f| {
        f.tensor(down).offset = Some(u64::MAX - 31);
    });
    refused("unknown encoding", "SPK2707", Unsupported, &[down, "39"], |f| {
        f.tensor(down).kind = 39;
    });
    refused("a name twice", "SPK2705", Input, &["blk.0.ffn_up.weight"], |f| {
        f.tensor(down).name = "blk.0.ffn_up.weight".into();
    });
    refused("missing", "SPK2401", Input, &["layers.1.mlp.down_proj"], |f| {
        f.tensors.retain(|t| t.name != down);
    });
    refused("unknown", "SPK2402", Input, &["blk.1.ffn_gate_inp.weight"], |f| {
        let mut extra = f.tensor(down).clone();
        extra.name = "blk.1.ffn_gate_inp.weight".into();
        f.tensors.push(extra);
    });
}

#[test]
fn metadata_that_is_not_understood() {
    let text = |t: &str| Meta::Text(t.to_string());
    refused("no architecture", "SPK2110", Input, &["general.architecture"], |f| {
        f.remove("general.architecture");
    });
    refused("another architecture", "SPK2113", Unsupported, &["\"mamba\"", "qwen3"], |f| {
        f.set("general.architecture", text("mamba"));
    });
    refused("an unknown field", "SPK2112", Unsupported, &["llama.logit_scale"], |f| {
        f.set("llama.logit_scale", Meta::F32(2.0));
    });
    refused("experts", "SPK2113", Unsupported, &["llama.expert_count", "8"], |f| {
        f.set("llama.expert_count", Meta::U32(8));
    });
    refused("a missing field", "SPK2110", Input, &["llama.block_count"], |f| {
        f.remove("llama.block_count");
    });
    refused("a field of text", "SPK2111", Input, &["llama.block_count"], |f| {
        f.set("llama.block_count", text("two"));
    });
    refused("no layers", "SPK2111", Input, &["llama.block_count", "0"], |f| {
        f.set("llama.block_count", Meta::U64(0));
    });
    refused("not a number", "SPK2704", Input, &["freq_base"], |f| {
        f.set("llama.rope.freq_base", Meta::F32(f32::NAN));
    });
    refused("partial RoPE", "SPK2113", Unsupported, &["dimension_count", "4"], |f| {
        f.set("llama.rope.dimension_count", Meta::U32(4));
    });
    refused("widths by layer", "SPK2704", Input, &["feed_forward_length"], |f| {
        f.set("llama.feed_forward_length", Meta::U32s(vec![64, 32]));
    });
    refused("strange divisors", "SPK2706", Input, &["rope_freqs.weight"], |f| {
        let mut divisors = f.tensor("output_norm.weight").clone();
        divisors.name = "rope_freqs.weight".into();
        divisors.extents = vec![4];
        divisors.data = [1f32, 9.0, 3.0, 8.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        f.tensors.push(divisors);
    });
    let same = opened(llama(F32).set("llama.feed_forward_length", Meta::U32s(vec![64, 64])));
    assert_eq!(same.info.parameters, 20_128);
}

#[test]
fn files_damaged_at_random_never_panic() {
    let tokens = ["<s>", "<end>", "a", "b", "Ġ", "ab", "1", "2"];
    let mut file = with_tokenizer("gpt2", &tokens, &[3, 3, 1, 1, 1, 1, 1, 1]);
    file.set("tokenizer.ggml.merges", Meta::Texts(vec!["a b".into()]));
    let intact = file.bytes();
    let header = intact.windows(4).rposition(|w| w == b"blk.").expect("names") + 60;
    let mut rng = Rng::new(2);
    let (mut refused, mut opened) = (0, 0);
    for _ in 0..1500 {
        let mut bytes = intact.clone();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(header);
            match rng.below(5) {
                0 => bytes[at] = rng.next_u64() as u8,
                1 => bytes[at] ^= 1 << rng.below(8),
                2 => bytes.truncate(at.max(header / 2)),
                3 => bytes[at..at + 8].copy_from_slice(&(u64::MAX >> rng.below(64)).to_le_bytes()),
                _ => drop(bytes.splice(at..at, b"\0".repeat(1 + rng.below(9)))),
            }
            bytes.resize(bytes.len().max(header + 8), 0);
        }
        match catch_unwind(|| open_bytes(&bytes).map(|m| m.info)) {
            Err(_) => panic!("panicked on {}", bytes[..header].escape_ascii()),
            Ok(Ok(_)) => opened += 1,
            Ok(Err(error)) => {
                refused += 1;
                assert!(error.class() != ErrorClass::Internal, "{error}");
            }
        }
    }
    assert!(refused > 1000 && opened > 5, "{refused} refused, {opened} opened");
}
