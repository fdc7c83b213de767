//! What comes with the weights: tokenizer, chat template, generation defaults, and warnings.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sparkc_frontend::{GenerationDefaults, Model, OpenOptions, load_tokenizer, open};
use support::{llama_config, llama_tensors, with, write, write_model};

fn chat_fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf/llama_chat")
}

/// A tiny model with these files beside it.
fn open_with(config: &Value, files: &[(&str, &str)]) -> Model {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    write_model(scratch.path(), config, &llama_tensors());
    files.iter().for_each(|(name, text)| drop(write(scratch.path(), name, text)));
    open(scratch.path(), &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn codes(model: &Model) -> Vec<&str> {
    model.warnings.iter().map(|w| w.code).collect()
}

#[test]
fn a_chat_model_comes_with_all_of_it() {
    let model = open(&chat_fixture(), &OpenOptions::default()).expect("opens");
    let assets = &model.assets;
    assert_eq!(assets.tokenizer.bos_token.as_deref(), Some("<|endoftext|>"));
    assert_eq!(assets.tokenizer.eos_token.as_deref(), Some("<|im_end|>"));
    assert_eq!(assets.tokenizer.add_bos_token, Some(false));
    assert!(assets.chat_template.as_ref().is_some_and(|t| t.contains("<|im_start|>")));
    assert_eq!(assets.generation.eos_token_ids, [0, 2]);
    assert_eq!(assets.generation.do_sample, Some(false));
    assert!(model.warnings.is_empty());
}

#[test]
fn the_tokenizer_encodes_as_transformers_does() {
    let model = open(&chat_fixture(), &OpenOptions::default()).expect("opens");
    let tokenizer = load_tokenizer(&model.assets.tokenizer_json.expect("has one")).expect("loads");
    let text = std::fs::read(chat_fixture().join("expected_text.json")).expect("committed");
    let expected: Value = serde_json::from_slice(&text).expect("JSON");
    let cases = expected["encoded"].as_array().expect("a list");
    assert!(cases.len() >= 5);
    for case in cases {
        let encoded = tokenizer.encode(case["text"].as_str().expect("a text"), false);
        assert_eq!(json!(encoded.expect("encodes").get_ids()), case["ids"], "{}", case["text"]);
    }
}

#[test]
fn a_bare_config_has_no_assets() {
    let model = open(&chat_fixture().join("config.json"), &OpenOptions::default()).expect("opens");
    assert!(model.assets.tokenizer_json.is_none());
    assert_eq!(model.assets.generation, GenerationDefaults::default());
}

#[test]
fn the_template_in_its_own_file_wins() {
    let settings = r#"{"chat_template": "inside", "bos_token": {"content": "<s>"}}"#;
    let file = ("tokenizer_config.json", settings);
    let model = open_with(&llama_config(), &[file, ("chat_template.jinja", "outside")]);
    assert_eq!(model.assets.chat_template.as_deref(), Some("outside"));
    assert_eq!(model.assets.tokenizer.bos_token.as_deref(), Some("<s>"));
    let inside = open_with(&llama_config(), &[file]);
    assert_eq!(inside.assets.chat_template.as_deref(), Some("inside"));
    let several = r#"{"chat_template": [{"name": "tool_use", "template": "a"},
                                        {"name": "default", "template": "b"}]}"#;
    let several = open_with(&llama_config(), &[("tokenizer_config.json", several)]);
    assert_eq!(several.assets.chat_template.as_deref(), Some("b"));
    let nameless = r#"{"chat_template": [{"name": "tool_use", "template": "a"}]}"#;
    let nameless = open_with(&llama_config(), &[("tokenizer_config.json", nameless)]);
    assert_eq!(
        (nameless.assets.chat_template.as_deref(), codes(&nameless)),
        (None, vec!["SPK2804"])
    );
}

#[test]
fn generation_defaults_come_from_their_file_and_tokens_else_from_the_config() {
    let config = with(llama_config(), json!({"eos_token_id": 3, "bos_token_id": 1, "top_k": 9}));
    let alone = open_with(&config, &[]).assets.generation;
    assert_eq!((alone.eos_token_ids, alone.bos_token_id, alone.top_k), (vec![3], Some(1), Some(9)));
    let text = r#"{"temperature": 0.5, "top_p": 0.75, "do_sample": true, "pad_token_id": 2}"#;
    let model = open_with(&config, &[("generation_config.json", text)]);
    let expected = GenerationDefaults {
        eos_token_ids: vec![3],
        bos_token_id: Some(1),
        pad_token_id: Some(2),
        do_sample: Some(true),
        temperature: Some(0.5),
        top_k: None,
        top_p: Some(0.75),
    };
    assert_eq!(model.assets.generation, expected);
    assert!(model.warnings.is_empty());
}

#[test]
fn what_the_sampler_lacks_and_tokens_out_of_range_are_warned_of() {
    let text = r#"{"repetition_penalty": 1.1, "num_beams": 1, "pad_token_id": -1,
                   "eos_token_id": [3, 16]}"#;
    let model = open_with(&llama_config(), &[("generation_config.json", text)]);
    assert_eq!(model.assets.generation.eos_token_ids, [3]);
    assert_eq!(model.assets.generation.pad_token_id, None);
    assert_eq!(codes(&model), ["SPK2806", "SPK2806", "SPK2805"]);
    assert!(model.warnings[2].message.contains("repetition_penalty 1.1"));
}

#[test]
fn tokenizers_that_do_not_fit_are_warned_of() {
    let json = std::fs::read_to_string(chat_fixture().join("tokenizer.json")).expect("committed");
    // 288 tokens, an embedding of 16 rows.
    let model = open_with(&llama_config(), &[("tokenizer.json", &json)]);
    assert_eq!(codes(&model), ["SPK2803"]);
    assert!(model.warnings[0].message.contains("287"), "{}", model.warnings[0]);
    assert_eq!(model.assets.tokenizer_json, Some(json.into_bytes()));
    let sentencepiece = open_with(&llama_config(), &[("tokenizer.model", "x")]);
    assert_eq!(codes(&sentencepiece), ["SPK2802"]);
}

#[test]
fn weights_may_lie_elsewhere() {
    let (here, there) = (tempfile::tempdir(), tempfile::tempdir());
    let (here, there) = (here.expect("a directory"), there.expect("a directory"));
    let config = write(here.path(), "config.json", llama_config().to_string());
    write_model(there.path(), &llama_config(), &llama_tensors());
    let file = there.path().join("model.safetensors");
    let options =
        |place: &Path| OpenOptions { weights: Some(place.to_path_buf()), ..OpenOptions::default() };
    for (path, place) in
        [(here.path(), &*file), (&config, there.path()), (here.path(), there.path())]
    {
        assert!(open(path, &options(place)).unwrap_or_else(|e| panic!("{e}")).weights.is_some());
    }
    let error = open(&file, &options(&file)).expect_err("weights twice");
    assert_eq!(error.code(), "SPK2114");
}
