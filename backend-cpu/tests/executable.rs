//! The executable file: same bytes every time, the contract of its command line, damaged files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ir::eval::{EvalOptions, Session as Eval};
use ir::random::{self, RandomOptions};
use ir::{Module, WeightMap};
use runtime::program::Activations;
use runtime::{Assets, GenerationDefaults};
use sparkc_backend_cpu::{compile, stub_bytes};
use tensor::compare::relative_to_max;

/// A model without tokenizer: prompts are token ids.
fn model() -> (Module, WeightMap) {
    let options = RandomOptions { half_activations: false, ..RandomOptions::default() };
    let module = random::module(7, &options);
    let weights = random::weights(&module, 7);
    (module, weights)
}

fn assets() -> Assets {
    Assets {
        generation: GenerationDefaults { max_new_tokens: Some(3), ..Default::default() },
        facts: vec![("origin".to_string(), "a test".to_string())],
        ..Assets::default()
    }
}

fn build(directory: &Path, name: &str) -> PathBuf {
    let (module, weights) = model();
    let path = directory.join(name);
    let mut last = None;
    let summary = compile(&module, Activations::Full, &weights, assets(), &path, &mut |p| {
        assert!(last.is_none_or(|l| l <= p.done) && p.done <= p.total);
        last = Some(p.done);
    });
    let summary = summary.expect("compiles");
    assert_eq!(last, Some(summary.weight_bytes));
    assert_eq!(std::fs::metadata(&path).expect("is there").len(), summary.file_bytes);
    path
}

fn run(path: &Path, args: &[&str]) -> Output {
    Command::new(path).args(args).stdin(Stdio::null()).output().expect("starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Held by each test: a program that one thread is still writing cannot be started while another
/// thread forks, because the child holds the file open until it executes (ETXTBSY).
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn bytes_are_the_same_every_time() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let (a, b) = (build(directory.path(), "a"), build(directory.path(), "b"));
    assert!(std::fs::read(a).expect("reads") == std::fs::read(b).expect("reads"));
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("lists").collect();
    assert_eq!(left.len(), 2, "no temporary file is left");
}

#[test]
fn logits_and_tokens_are_those_of_eval() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let path = build(directory.path(), "model");
    let logits = directory.path().join("logits.safetensors");
    let logits_arg = logits.to_str().expect("UTF-8");
    let (module, weights) = model();
    let prompt = [1u32, 5, 2, 8];
    let mut eval = Eval::new(&module, &weights, EvalOptions::default()).expect("verifies");
    let expected = eval.step(&prompt, 4).expect("evaluates");
    for extra in [&["--threads", "1"][..], &["--threads", "2"], &["--cpu", "portable"]] {
        let mut args = vec!["--tokens", "1,5,2,8", "--logits", logits_arg, "--json", "-n", "4"];
        args.extend(extra);
        let output = run(&path, &args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let bytes = std::fs::read(&logits).expect("written");
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let values = bytes[8 + header..].as_chunks::<4>().0;
        let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert!(relative_to_max(&values, &expected.to_f32()) < 1e-4);
        let mut greedy = Eval::new(&module, &weights, EvalOptions::default()).expect("verifies");
        let tokens = greedy.greedy(&prompt, 4, &[]).expect("evaluates");
        let tokens = format!("{tokens:?}").replace(' ', "");
        let json = text(&output.stdout);
        assert!(json.contains(&format!("\"tokens\":{tokens}")), "{json} lacks {tokens}");
        assert!(json.contains("\"prompt_tokens\":[1,5,2,8]"), "{json}");
    }
}

#[test]
fn the_command_line_keeps_its_contract() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let path = build(directory.path(), "model");
    let missing = directory.path().join("no/such/file");
    let long = (0..200).map(|_| "1").collect::<Vec<_>>().join(",");
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--help"], 0, ""),
        (&["--tokens", "1,2"], 0, ""),
        (&["--info"], 0, ""),
        (&["--nonsense"], 2, "--nonsense"),
        (&["a prompt"], 1, "no tokenizer"),
        (&["--tokens", "1,900"], 1, "token 900 is not in the vocabulary"),
        (&["--tokens", &long], 3, "200 tokens do not fit the context of 24"),
        (
            &["--tokens", "1", "--cpu", "aarch64"],
            if cfg!(target_arch = "aarch64") { 0 } else { 1 },
            "",
        ),
        (&["--tokens", "1", "--logits", missing.to_str().expect("UTF-8")], 1, "cannot write"),
    ];
    for (args, code, message) in cases {
        let output = run(&path, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(message), "{args:?}: {}", text(&output.stderr));
    }
    let ids = text(&run(&path, &["--tokens", "1,2"]).stdout);
    assert_eq!(
        ids.trim().split(',').count(),
        3,
        "three tokens, as the model's default says: {ids}"
    );
    assert!(text(&run(&path, &["--info"]).stdout).contains("a test"));
    let bench = text(&run(&path, &["--bench", "--json"]).stdout);
    assert!(bench.contains("\"decode_tokens_per_second\""), "{bench}");
}

#[test]
fn damaged_files_say_so() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let bytes = std::fs::read(build(directory.path(), "model")).expect("reads");
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).expect("writes");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("is ours");
        }
        path
    };
    let bare = run(&write("bare", stub_bytes()), &["--info"]);
    assert_eq!(bare.status.code(), Some(1));
    assert!(text(&bare.stderr).contains("no model inside"), "{}", text(&bare.stderr));
    // The footer is the last 64 bytes; the head lies before it.
    for (name, at) in [("head", bytes.len() - 200), ("place", bytes.len() - 45)] {
        let mut broken = bytes.clone();
        broken[at] ^= 0x55;
        let output = run(&write(name, &broken), &["--info"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(text(&output.stderr).contains("damaged"), "{name}: {}", text(&output.stderr));
    }
    let mut longer = bytes.clone();
    longer.splice(stub_bytes().len()..stub_bytes().len(), [0]);
    let output = run(&write("longer", &longer), &["--info"]);
    assert_eq!(output.status.code(), Some(1));
    let mut version = bytes;
    let at = version.len() - 56;
    version[at] = 99;
    let output = run(&write("version", &version), &["--info"]);
    assert!(text(&output.stderr).contains("version 99"), "{}", text(&output.stderr));
}

#[test]
fn a_failed_compilation_leaves_nothing() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let (module, mut weights) = model();
    weights.0.pop_last();
    let path = directory.path().join("model");
    assert!(compile(&module, Activations::Full, &weights, assets(), &path, &mut |_| {}).is_err());
    assert!(
        compile(&module, Activations::Full, &weights, assets(), &path.join("x/y"), &mut |_| {})
            .is_err()
    );
    assert_eq!(std::fs::read_dir(directory.path()).expect("lists").count(), 0);
}
