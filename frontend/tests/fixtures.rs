//! Every fixture of `tests/fixtures/hf` and the default model, opened and evaluated by `ir::eval`.
//!
//! The expectations come from transformers (see `tests/fixtures/generate.py`): logits of the whole
//! prompt within the tolerance of the weights' dtype, and 24 greedy tokens. They are read with the
//! `safetensors` crate, not with the code under test.

use std::path::{Path, PathBuf};

use ir::eval::{EvalOptions, Session, argmax, eval_module};
use safetensors::SafeTensors;
use sparkc_frontend::{Model, OpenOptions, open};
use tensor::{DType, Tolerance};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Directories of the fixtures, sorted.
fn fixtures() -> Vec<PathBuf> {
    let folder = root().join("tests/fixtures/hf");
    let entries = std::fs::read_dir(folder).expect("the fixtures are committed");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("readable").path()).collect();
    paths.retain(|p| p.join("expected.safetensors").is_file());
    paths.sort();
    assert!(paths.len() >= 30, "only {} fixtures found", paths.len());
    paths
}

/// What transformers computed.
struct Expected {
    prompt: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
    /// Continuation without a KV cache, where it differs from the one with (dynamic RoPE).
    greedy_whole: Option<Vec<u32>>,
}

impl Expected {
    fn read(directory: &Path) -> Self {
        let bytes = std::fs::read(directory.join("expected.safetensors")).expect("readable");
        let file = SafeTensors::deserialize(&bytes).expect("well-formed");
        let words = |name: &str| {
            let view = file.tensor(name).ok()?;
            Some(view.data().as_chunks::<4>().0.to_vec())
        };
        let ids = |name: &str| words(name).map(|w| w.into_iter().map(u32::from_le_bytes).collect());
        let logits = words("logits").expect("logits").into_iter().map(f32::from_le_bytes).collect();
        Expected {
            prompt: ids("prompt").expect("prompt"),
            logits,
            greedy: ids("greedy").expect("greedy"),
            greedy_whole: ids("greedy_whole"),
        }
    }
}

fn open_fixture(directory: &Path) -> Model {
    open(directory, &OpenOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn tolerance(model: &Model) -> Tolerance {
    if model.info.dtype == DType::F32 { Tolerance::F32 } else { Tolerance::HALF }
}

/// The continuation without a cache: the whole text is fed for every token.
fn greedy_whole(model: &Model, prompt: &[u32], n: usize) -> Vec<u32> {
    let weights = model.weights.as_ref().expect("fixtures have weights");
    let mut text = prompt.to_vec();
    for _ in 0..n {
        let last = eval_module(&model.module, weights, &text, 1, EvalOptions::default());
        text.push(argmax(&last.expect("evaluates").to_f32()));
    }
    text.split_off(prompt.len())
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    let mut failures = Vec::new();
    for directory in fixtures() {
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (model, expected) = (open_fixture(&directory), Expected::read(&directory));
        assert_eq!(ir::verify(&model.module), Ok(()), "{name}");
        let weights = model.weights.as_ref().expect("fixtures have weights");
        let mut session =
            Session::new(&model.module, weights, EvalOptions::default()).expect("verifies");
        let logits = session.step(&expected.prompt, expected.prompt.len()).expect("evaluates");
        let logits = logits.to_f32();
        if let Err(worst) = tensor::compare::check(&logits, &expected.logits, tolerance(&model)) {
            failures.push(format!("{name}: {worst}"));
        }
        session.reset();
        let count = expected.greedy.len();
        let greedy = session.greedy(&expected.prompt, count, &[]).expect("evaluates");
        if greedy != expected.greedy {
            failures.push(format!("{name}: {greedy:?}, expected {:?}", expected.greedy));
        }
        if let Some(whole) = &expected.greedy_whole {
            let found = greedy_whole(&model, &expected.prompt, count);
            if found != *whole {
                failures.push(format!("{name} without cache: {found:?}, expected {whole:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_prompt_gives_the_same_bits_whole_and_token_by_token() {
    for directory in fixtures() {
        let (model, expected) = (open_fixture(&directory), Expected::read(&directory));
        if expected.greedy_whole.is_some() {
            // Dynamic RoPE rotates by the length of the text so far: the two differ by definition.
            continue;
        }
        let weights = model.weights.as_ref().expect("fixtures have weights");
        let options = EvalOptions::default();
        let whole = eval_module(&model.module, weights, &expected.prompt, 1, options);
        let mut session = Session::new(&model.module, weights, options).expect("verifies");
        let mut last = Vec::new();
        for token in &expected.prompt {
            last = session.step(&[*token], 1).expect("evaluates").to_f32();
        }
        let whole = whole.expect("evaluates").to_f32();
        tensor::compare::check(&last, &whole, Tolerance::Exact)
            .unwrap_or_else(|worst| panic!("{}: {worst}", directory.display()));
    }
}

#[test]
fn shapes_alone_give_the_same_module_as_the_weights() {
    for directory in fixtures() {
        let full = open_fixture(&directory);
        let bare = open(&directory.join("config.json"), &OpenOptions::default());
        let bare = bare.unwrap_or_else(|e| panic!("{e}"));
        assert!(bare.weights.is_none());
        assert_eq!(bare.module.main, full.module.main, "{}", directory.display());
        assert_eq!(bare.module.blocks, full.module.blocks, "{}", directory.display());
        assert_eq!(bare.info.parameters, full.info.parameters);
    }
}

#[test]
fn a_module_as_text_with_its_weights_is_the_same_model() {
    for directory in fixtures() {
        let model = open_fixture(&directory);
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let text = scratch.path().join("model.spark");
        std::fs::write(&text, model.module.to_string()).expect("writable");
        let options = OpenOptions { weights: Some(directory.clone()), ..OpenOptions::default() };
        let again = open(&text, &options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(again.module, model.module, "{}", directory.display());
        assert_eq!(again.info.parameters, model.info.parameters);
        assert!(again.weights.is_some());
    }
}

/// The greedy sample of the default model's card, written by transformers when it was trained.
fn sample_of_the_card(directory: &Path) -> String {
    let card = std::fs::read_to_string(directory.join("README.md")).expect("the card is committed");
    let (_, rest) = card.split_once("Prompt `def `, greedy:").expect("the card has a sample");
    let (_, rest) = rest.split_once("```python\n").expect("the sample is a code block");
    rest.split_once("\n```").expect("the block ends").0.to_string()
}

#[test]
fn the_default_model_writes_what_its_card_says() {
    let directory = root().join("models/tinypy");
    let model = open_fixture(&directory);
    assert!(model.warnings.is_empty(), "{:?}", model.warnings);
    let json = model.assets.tokenizer_json.as_ref().expect("has a tokenizer");
    let tokenizer = sparkc_frontend::load_tokenizer(json).expect("loads");
    let prompt = tokenizer.encode("def ", false).expect("encodes");
    let weights = model.weights.as_ref().expect("has weights");
    let mut session =
        Session::new(&model.module, weights, EvalOptions::default()).expect("verifies");
    let mut tokens = prompt.get_ids().to_vec();
    tokens.extend(session.greedy(&tokens, 24, &[]).expect("evaluates"));
    let text = tokenizer.decode(&tokens, false).expect("decodes");
    let sample = sample_of_the_card(&directory);
    assert!(sample.starts_with(&text), "{text:?}, the card says {sample:?}");
}
