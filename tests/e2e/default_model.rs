//! The model of the README: three ways to the same tokens, the same bits however it is run, the same
//! bytes however it is compiled.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use harness::run::{command, run};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sparkc-under-test");

/// A prompt that the model continues with text, found by its own tokenizer.
const PROMPT: &str = "def ";

/// A folder with `tinypy.sparkc`, compiled once for all tests.
fn compiled() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let model = harness::default_model();
        let outcome = run(PROGRAM, folder.path(), &["compile", model.to_str().unwrap()]).unwrap();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert!(outcome.stdout.contains("tokens/s"), "{outcome}");
        folder
    });
    folder.path()
}

fn executable() -> PathBuf {
    compiled().join("tinypy.sparkc/model")
}

fn json(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Value {
    run(program, compiled(), args).unwrap().json().unwrap()
}

/// The ids of the prompt, comma-separated.
fn prompt_ids() -> String {
    let said = json(executable(), &[PROMPT, "-n", "1", "--greedy", "--json"]);
    let ids: Vec<String> =
        said["prompt_tokens"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert!(!ids.is_empty());
    ids.join(",")
}

/// Logits of a prompt, as the executable writes them.
fn logits(ids: &str, threads: &str, file: &str) -> Vec<u32> {
    let path = compiled().join(file);
    let args =
        ["--tokens", ids, "--threads", threads, "--logits", path.to_str().unwrap(), "--json"];
    json(executable(), &args);
    let (_, values) = harness::fixture::logits_file(&path).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn eval_executable_and_wafer_write_the_same_32_tokens() {
    let ids = prompt_ids();
    let model = harness::default_model();
    let model = model.to_str().unwrap();
    let eval = json(PROGRAM, &["eval", model, "--tokens", &ids, "-n", "32", "--json"]);
    let native = json(executable(), &["--tokens", &ids, "-n", "32", "--greedy", "--json"]);
    let wafer =
        json(PROGRAM, &["simulate", "tinypy.sparkc", "--tokens", &ids, "-n", "32", "--json"]);
    assert_eq!(eval["tokens"].as_array().unwrap().len(), 32);
    assert_eq!(native["tokens"], eval["tokens"]);
    assert_eq!(wafer["tokens"], eval["tokens"]);
    assert_eq!(native["text"], eval["text"]);
    assert_eq!(wafer["text"], eval["text"]);
    assert!(wafer["cycles"].as_u64().unwrap() > 0);
    assert!(wafer["breakdown"]["distance"].as_u64().unwrap() > 0);
}

#[test]
fn thread_counts_and_token_by_token_give_the_same_bits() {
    let ids = "5,17,99,1023,7,256,3,42";
    let whole = logits(ids, "1", "t1.safetensors");
    assert_eq!(logits(ids, "2", "t2.safetensors"), whole);
    assert_eq!(logits(ids, "4", "t4.safetensors"), whole);
    let positions = ids.split(',').count();
    let vocab = whole.len() / positions;
    let list: Vec<&str> = ids.split(',').collect();
    for n in 1..positions {
        let part = logits(&list[..n].join(","), "2", "part.safetensors");
        assert_eq!(part, whole[..n * vocab], "a prompt of {n} tokens");
    }
}

#[test]
fn a_batch_writes_what_single_texts_are() {
    let payload = runtime::find_payload(&executable()).unwrap();
    assert!(payload.program().rows_are_apart(), "sequences share steps");
    let begin = "import os\n\nclass Walker:\n    def __init__(self, path):\n".repeat(4);
    let prompts: Vec<String> =
        (0..6).map(|i| format!("{}def f{i}(", if i % 2 == 0 { "" } else { &begin })).collect();
    let request = |(i, prompt): (usize, &String)| {
        serde_json::json!({"id": i, "prompt": prompt, "max_tokens": 12, "seed": i}).to_string()
    };
    let lines: Vec<String> = prompts.iter().enumerate().map(request).collect();
    let file = compiled().join("requests.jsonl");
    fs::write(&file, lines.join("\n")).unwrap();
    let args = ["--batch", file.to_str().unwrap(), "--parallel", "4"];
    let output = run(executable(), compiled(), &args).unwrap();
    assert_eq!(output.code, Some(0), "{output}");
    let answers: Vec<Value> =
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), prompts.len());
    for answer in &answers {
        let i = answer["id"].as_u64().unwrap();
        let (prompt, seed) = (prompts[i as usize].as_str(), i.to_string());
        let single =
            json(executable(), &["--json", "-n", "12", "--seed", &seed, "--threads", "1", prompt]);
        assert_eq!((&answer["text"], &answer["tokens"]), (&single["text"], &single["tokens"]));
    }
    let shared = answers.iter().filter_map(|a| a["shared_length"].as_u64()).sum::<u64>();
    assert!(shared > 50, "{shared} tokens of the common beginning were shared");
}

#[test]
fn generation_continues_as_if_the_whole_text_was_the_prompt() {
    let ids = prompt_ids();
    let long = json(executable(), &["--tokens", &ids, "-n", "12", "--greedy", "--json"]);
    let tokens: Vec<String> =
        long["tokens"].as_array().unwrap().iter().map(Value::to_string).collect();
    let longer = format!("{ids},{}", tokens[..6].join(","));
    let rest = json(executable(), &["--tokens", &longer, "-n", "6", "--greedy", "--json"]);
    let rest: Vec<String> =
        rest["tokens"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(rest, tokens[6..]);
}

#[test]
fn compiling_again_elsewhere_gives_the_same_bytes() {
    let other = tempfile::tempdir().unwrap();
    let copy = other.path().join("deeper/tinypy");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(harness::default_model()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let status = command(PROGRAM, other.path())
        .args(["compile", "deeper/tinypy", "-o", "again"])
        .env("TZ", "Asia/Tokyo")
        .env("LANG", "tr_TR.UTF-8")
        .env("RAYON_NUM_THREADS", "7")
        .output()
        .unwrap()
        .status;
    assert!(status.success());
    for name in ["model", "model.wplan", "map.html", "model.spark", "report.json"] {
        let first = fs::read(compiled().join("tinypy.sparkc").join(name)).unwrap();
        let second = fs::read(other.path().join("again").join(name)).unwrap();
        assert!(first == second, "{name} differs");
    }
}

#[test]
fn quantisation_reports_what_it_costs() {
    let model = harness::default_model();
    let line = ["compile", model.to_str().unwrap(), "-o", "q8", "--quant", "q8", "--json"];
    let said = json(PROGRAM, &line);
    let tensors = said["quantisation"]["tensors"].as_array().unwrap();
    let errors: Vec<f64> =
        tensors.iter().filter_map(|t| t["relative_rms_error"].as_f64()).collect();
    assert!(errors.len() > 20 && errors.iter().all(|e| *e > 0.0 && *e < 0.02), "{errors:?}");
    let loss = &said["quantisation"]["heldout_loss"];
    assert!(loss["before"].as_f64().unwrap() > 0.5, "{loss}");
    let change = loss["change"].as_f64().unwrap().abs();
    assert!(change > 0.0 && change < 0.02, "rounded weights change the loss, a little: {loss}");
    let ids = prompt_ids();
    let native = compiled().join("q8/model");
    let native = json(native, &["--tokens", &ids, "-n", "16", "--greedy", "--json"]);
    let wafer = json(PROGRAM, &["simulate", "q8", "--tokens", &ids, "-n", "16", "--json"]);
    assert_eq!(native["tokens"], wafer["tokens"]);
}

#[test]
fn run_compiles_when_needed_and_passes_flags_on() {
    let folder = tempfile::tempdir().unwrap();
    let model = harness::default_model();
    let line =
        ["run", model.to_str().unwrap(), PROMPT, "-n", "8", "--greedy", "--threads", "2", "--json"];
    let first = run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    assert_eq!(first["tokens"].as_array().unwrap().len(), 8);
    let executable = folder.path().join("tinypy.sparkc/model");
    let made = fs::metadata(&executable).unwrap().modified().unwrap();
    let again = run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    assert_eq!(again["tokens"], first["tokens"]);
    assert_eq!(fs::metadata(&executable).unwrap().modified().unwrap(), made, "compiled again");
}

#[test]
fn run_quantises_into_a_folder_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let model = harness::default_model();
    let args = ["run", model.to_str().unwrap(), "--quant", "q8", "--info", "--json"];
    let info = run(PROGRAM, folder.path(), &args).unwrap();
    assert!(info.stdout.contains("q8"), "{info}");
    assert!(folder.path().join("tinypy-q8.sparkc/model").is_file());
}

#[test]
fn the_wafer_reads_text() {
    let line = ["simulate", "tinypy.sparkc", "--prompt", PROMPT, "-n", "2", "--json"];
    let text = json(PROGRAM, &line);
    let tokens = json(
        PROGRAM,
        &["simulate", "tinypy.sparkc", "--tokens", &prompt_ids(), "-n", "2", "--json"],
    );
    for field in ["text", "tokens", "prompt_tokens", "cycles", "position", "prefill_cycles"] {
        assert_eq!(text[field], tokens[field], "{field}");
    }
    assert_eq!(text["tokens"].as_array().unwrap().len(), 2);
}

#[test]
fn a_wafer_compiled_from_a_file_of_weights_finds_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let model = harness::default_model().join("model.safetensors");
    // As a hub keeps it: the name is a link to a file whose name says nothing.
    let kept = folder.path().join("kept");
    fs::create_dir(&kept).unwrap();
    fs::copy(&model, folder.path().join("0123abcd")).unwrap();
    std::os::unix::fs::symlink("../0123abcd", kept.join("model.safetensors")).unwrap();
    fs::copy(model.with_file_name("config.json"), kept.join("config.json")).unwrap();
    let models = [model.to_str().unwrap(), "kept/model.safetensors"];
    for (model, out) in models.into_iter().zip(["a", "b"]) {
        let compiled =
            run(PROGRAM, folder.path(), &["compile", model, "-o", out, "--emit", "wafer"]).unwrap();
        assert_eq!(compiled.code, Some(0), "{compiled}");
        let line = ["simulate", out, "--tokens", "1,2", "-n", "2", "--json"];
        let said = run(PROGRAM, folder.path(), &line).unwrap();
        assert_eq!(said.code, Some(0), "{said}");
        assert_eq!(said.json().unwrap()["tokens"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn embedded_weights_need_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = harness::fixture::named("llama_tied").unwrap();
    let line = [
        "compile",
        fixture.path.to_str().unwrap(),
        "-o",
        "out",
        "--emit",
        "wafer",
        "--embed-weights",
    ];
    assert_eq!(run(PROGRAM, folder.path(), &line).unwrap().code, Some(0));
    fs::copy(folder.path().join("out/model.wplan"), folder.path().join("alone.wplan")).unwrap();
    let line = ["simulate", "alone.wplan", "--tokens", "1,2", "-n", "4", "--json"];
    let said = run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    assert_eq!(said["tokens"].as_array().unwrap().len(), 4);
}
