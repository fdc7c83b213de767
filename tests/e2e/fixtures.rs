//! Every reference model of `tests/fixtures`, through the real program in three ways: interpreter,
//! executable and simulated wafer. Each must give the logits of `transformers` within the tolerance of
//! design section "Numbers", and the same 24 greedy tokens.

#![allow(clippy::unwrap_used, reason = "a fixture that cannot be run is a failed test")]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use harness::fixture::{self, Fixture};
use harness::run::run;
use libtest_mimic::{Arguments, Trial};
use tensor::compare;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sparkc-under-test");

fn main() {
    let fixtures = fixture::all().unwrap();
    let trial = |fixture: Fixture| {
        let name = fixture.name.clone();
        Trial::test(name, move || check(&fixture).map_err(|e| format!("{e:#}").into()))
    };
    let trials = fixtures.into_iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn check(fixture: &Fixture) -> Result<()> {
    let place = tempfile::tempdir()?;
    let folder = place.path();
    copy_without_stop_tokens(&fixture.path, &folder.join("model"))?;
    let compiled = run(PROGRAM, folder, &["compile", "model", "-o", "out", "--json"])?;
    compiled.json()?;
    let executable = folder.join("out/model");
    let executable = executable.to_str().context("a path in UTF-8")?;
    compare_with(fixture, folder, PROGRAM, &["eval", "model"]).context("eval")?;
    compare_with(fixture, folder, executable, &["--greedy"]).context("executable")?;
    compare_with(fixture, folder, PROGRAM, &["simulate", "out"]).context("simulated wafer")
}

/// Copies a model; the reference continuation does not end at a stop token, so the copy has none.
fn copy_without_stop_tokens(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        let is_json = path.extension().is_some_and(|e| e == "json");
        if !is_json || name == "tokenizer.json" || name == "tokenizer_config.json" {
            fs::copy(&path, to.join(name))?;
            continue;
        }
        let mut object: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        if let Some(object) = object.as_object_mut() {
            object.remove("eos_token_id");
        }
        fs::write(to.join(name), serde_json::to_vec(&object)?)?;
    }
    Ok(())
}

/// Runs one way of computing logits and tokens, and compares both.
fn compare_with(fixture: &Fixture, folder: &Path, program: &str, args: &[&str]) -> Result<()> {
    let ids: Vec<String> = fixture.prompt.iter().map(u32::to_string).collect();
    let ids = ids.join(",");
    let count = fixture.greedy.len().to_string();
    let mut line = args.to_vec();
    line.extend(["--tokens", &ids, "-n", &count, "--logits", "logits.safetensors", "--json"]);
    let said = run(program, folder, &line)?.json()?;
    let (shape, logits) = fixture::logits_file(&folder.join("logits.safetensors"))?;
    if shape != [fixture.prompt.len(), fixture.logits.len() / fixture.prompt.len()] {
        bail!("logits have shape {shape:?}");
    }
    compare::check(&logits, &fixture.logits, fixture.tolerance)?;
    let tokens = said["tokens"].as_array().context("no tokens")?;
    let tokens: Vec<u32> = tokens.iter().filter_map(|t| t.as_u64()).map(|t| t as u32).collect();
    if tokens != fixture.greedy {
        bail!("greedy tokens\n{tokens:?}, expected\n{:?}", fixture.greedy);
    }
    Ok(())
}
