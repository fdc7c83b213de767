//! An executable reads and writes text: prompts, streams, stop tokens, conversations, interruption.
//!
//! The model counts: after byte b it writes byte b + 1. So every text is known.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ir::{Builder, Dim, Module, Op, ParamKind, Symbol, TensorType, WeightMap};
use runtime::program::Activations;
use runtime::{Assets, GenerationDefaults};
use sparkc_backend_cpu::compile;
use tensor::{DType, Tensor};

/// Bytes, `<s>` and `</s>`.
const VOCAB: usize = 258;

/// logits = head[embedding[token]], with one-hot embeddings and a head that is shifted by one.
fn counting_model() -> (Module, WeightMap) {
    let mut b = Builder::new("main");
    let tokens = TensorType::new(DType::I32, [Symbol::T]);
    let tokens = b.param(ParamKind::Input, tokens, "tokens");
    let table = b.weight("embedding", DType::F32, &[VOCAB, VOCAB]).expect("a weight");
    let x = b.apply(Op::Gather, &[table, tokens]).expect("types fit");
    let end = Dim::from(Symbol::T);
    let start = &end - &Dim::from(Symbol::R);
    let last = b.apply(Op::Slice { axis: 0, start, end }, &[x]).expect("types fit");
    let head = b.weight("head", DType::F32, &[VOCAB, VOCAB]).expect("a weight");
    let logits = b.linear(last, head).expect("types fit");
    let module = Module::new("counting", 64, b.finish(vec![logits]));
    let ones = |shift: usize| {
        let one = |i: usize| f32::from(u8::from(i / VOCAB == (i % VOCAB + shift) % VOCAB));
        let values: Vec<f32> = (0..VOCAB * VOCAB).map(one).collect();
        Tensor::from_f32(vec![VOCAB, VOCAB], &values)
    };
    let weights = [("embedding".to_string(), ones(0)), ("head".to_string(), ones(1))];
    (module, weights.into_iter().collect())
}

/// A byte-level tokenizer without merges: token i is byte i.
fn byte_tokenizer() -> Vec<u8> {
    let mut vocab = serde_json::Map::new();
    let mut next = 256;
    for byte in 0u32..256 {
        let shown = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if shown { byte } else { next };
        next += u32::from(!shown);
        vocab.insert(char::from_u32(code).expect("a letter").to_string(), byte.into());
    }
    let mut special = Vec::new();
    for (id, content) in [(256, "<s>"), (257, "</s>")] {
        vocab.insert(content.to_string(), id.into());
        special.push(serde_json::json!({"id": id, "content": content, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true}));
    }
    let bytes = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": true});
    let model = serde_json::json!({"type": "BPE", "dropout": null, "unk_token": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
        "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []});
    serde_json::json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special, "normalizer": null, "pre_tokenizer": bytes,
        "post_processor": null, "decoder": bytes, "model": model})
    .to_string()
    .into_bytes()
}

fn build(directory: &Path) -> PathBuf {
    let (module, weights) = counting_model();
    let template = "{% for m in messages %}<s>{{ m.content }}{% endfor %}";
    let assets = Assets {
        tokenizer: Some(byte_tokenizer()),
        chat_template: Some(template.to_string()),
        generation: GenerationDefaults {
            stop_tokens: vec![u32::from(b'p')],
            ..GenerationDefaults::default()
        },
        ..Assets::default()
    };
    let path = directory.join("model");
    compile(&module, Activations::Full, &weights, assets, &path, &mut |_| {}).expect("compiles");
    path
}

fn run(path: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(path)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("is piped");
    stdin.write_all(input.as_bytes()).expect("reads");
    drop(stdin);
    child.wait_with_output().expect("ends")
}

fn stdout(path: &Path, args: &[&str], input: &str) -> String {
    let output = run(path, args, input);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Held by each test: a program that one thread is still writing cannot be started while another
/// thread forks, because the child holds the file open until it executes (ETXTBSY).
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn text_goes_in_and_comes_out() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let path = build(directory.path());
    assert_eq!(stdout(&path, &["a", "-n", "3"], ""), "bcd\n");
    assert_eq!(stdout(&path, &["-n", "3"], "x = a"), "bcd\n", "the prompt comes from stdin");
    assert_eq!(stdout(&path, &["m"], ""), "no\n", "p ends the text and is not written");
    // 0xc3 begins a character that 0xc4 does not continue: replaced, never half-written.
    assert_eq!(stdout(&path, &["--tokens", "194", "-n", "2"], ""), "\u{fffd}\u{fffd}\n");
    let said = stdout(&path, &["m", "--json"], "");
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["text"], "no");
    assert_eq!(said["tokens"], serde_json::json!([110, 111, 112]));
    assert_eq!(said["prompt_tokens"], serde_json::json!([109]));
    assert_eq!(said["stop"], "stop");
    assert!(said["timings"]["tokens_per_second"].is_number());
}

#[test]
fn a_full_context_ends_with_a_note() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let path = build(directory.path());
    let output = run(&path, &["q", "-n", "1000"], "");
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("context of 64 tokens is full"));
}

#[test]
fn conversations_take_turns() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let path = build(directory.path());
    assert_eq!(stdout(&path, &["--chat", "-n", "2"], "a\nx\n\nnot read"), "bc\nyz\n");
    assert_eq!(stdout(&path, &["--chat", "m"], ""), "no\n");
    // Every turn sees the whole conversation, so it fills the context.
    let long = "yyyyyyyyyyyyyyyyyyyy\n".repeat(4);
    let output = run(&path, &["--chat", "-n", "1"], &long);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Objects of the output, and the exit code.
fn answers(path: &Path, args: &[&str], input: &str) -> (Vec<serde_json::Value>, Option<i32>) {
    let output = run(path, args, input);
    let out = String::from_utf8(output.stdout).expect("UTF-8");
    let objects = out.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    (objects.collect(), output.status.code())
}

#[test]
fn a_batch_answers_line_by_line() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let path = build(directory.path());
    let lines = [
        r#"{"id": "x", "prompt": "a", "max_tokens": 3}"#,
        r#"{"prompt": "m"}"#,
        "",
        r#"{"id": 7, "prompt": "q", "max_tokens": 20, "stop": ["wx", "uv"]}"#,
        r#"{"tokens": [113], "max_tokens": 1000}"#,
        r#"{"prompt": "a", "chat": true, "max_tokens": 1}"#,
    ];
    let (mut answers_of, code) = answers(&path, &["--batch", "-"], &lines.join("\n"));
    assert_eq!(code, Some(0));
    answers_of.sort_by_key(|a| a["line"].as_u64());
    let facts: Vec<_> = answers_of.iter().map(|a| (&a["line"], &a["text"], &a["stop"])).collect();
    let full: String = (b'r'..).take(64).map(char::from).collect();
    let expected = [(1, "bcd", "length"), (2, "no", "stop"), (4, "rst", "stop")];
    for (found, (line, text, stop)) in facts.iter().zip(expected) {
        assert_eq!((found.0, found.1, found.2), (&line.into(), &text.into(), &stop.into()));
    }
    assert_eq!((facts[3].0, facts[3].2), (&5.into(), &"context".into()));
    assert!(facts[3].1.as_str().is_some_and(|text| text.starts_with(&full[..10])));
    assert_eq!(facts[4].1, &serde_json::Value::from("b"));
    assert_eq!((&answers_of[0]["id"], &answers_of[2]["id"]), (&"x".into(), &7.into()));
    assert_eq!(answers_of[1]["tokens"], serde_json::json!([110, 111, 112]));
}

#[test]
fn a_line_that_is_wrong_is_no_ones_trouble_but_its_own() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let path = build(directory.path());
    let file = directory.path().join("requests.jsonl");
    let mut bytes = br#"{"prompt": "a", "max_tokens": 2}"#.to_vec();
    bytes.extend(b"\n{\"id\": 3, \"prompt\": 4}\n\xff\n");
    bytes.extend(vec![b'['; 100_000]);
    bytes.extend(
        br#"
{"id": 9, "tokens": [258]}
{"prompt": "a", "max_tokens": 2}"#,
    );
    bytes.extend(format!("\n{{\"prompt\": \"{}\"}}", "a".repeat(65)).bytes());
    std::fs::write(&file, &bytes).expect("writes");
    let file = file.to_str().expect("UTF-8");
    let (found, code) = answers(&path, &["--batch", file, "--parallel", "2"], "");
    assert_eq!(code, Some(1));
    let error = |line: u64| {
        let of = found.iter().find(|a| a["line"] == line).expect("an answer for each line");
        of["error"]["code"].as_str().unwrap_or("none").to_string()
    };
    let codes: Vec<String> = (1..=7).map(error).collect();
    let expected =
        ["none", "bad-field", "not-utf8", "not-json", "unknown-token", "none", "context-full"];
    assert_eq!(codes, expected);
    // A file gives the same output every time.
    let again = answers(&path, &["--batch", file, "--parallel", "2"], "").0;
    let order =
        |all: &[serde_json::Value]| all.iter().map(|a| a["line"].clone()).collect::<Vec<_>>();
    assert_eq!(order(&found), order(&again));
    let missing = run(&path, &["--batch", "no-such-file"], "");
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(
        run(&path, &["--batch", file, "--greedy", "--temp", "1"], "").status.code(),
        Some(2)
    );
}

#[cfg(unix)]
#[test]
fn an_interruption_ends_with_130() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let path = build(directory.path());
    let mut child = Command::new(&path)
        .arg("--chat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("is piped");
    stdin.write_all(b"m\n").expect("reads");
    // The answer proves that the handler is installed.
    let mut answer = [0; 3];
    let mut out = child.stdout.take().expect("is piped");
    std::io::Read::read_exact(&mut out, &mut answer).expect("answers");
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("runs").success());
    assert_eq!(child.wait().expect("ends").code(), Some(130));
}
