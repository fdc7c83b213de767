//! Help, version, lists and usage errors of the real program, as snapshots.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up is a failed test")]

use std::path::Path;

use harness::run::{Outcome, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sparkc-under-test");

fn sparkc(args: &[&str]) -> Outcome {
    run(PROGRAM, Path::new("."), args).unwrap()
}

/// Compares with `tests/e2e/snapshots/NAME.snap`.
fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn every_screen_of_help() {
    let top = sparkc(&["--help"]);
    assert_eq!(top.code, Some(0), "{top}");
    snapshot("help", &top.stdout);
    for command in [
        "compile",
        "run",
        "bench",
        "simulate",
        "eval",
        "inspect",
        "verify",
        "repair",
        "verify-proof",
        "opt",
        "reduce",
        "passes",
        "explain",
        "targets",
        "completions",
    ] {
        let help = sparkc(&[command, "--help"]);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{help}");
        snapshot(&format!("help-{command}"), &help.stdout);
    }
}

#[test]
fn version_is_that_of_the_package() {
    let outcome = sparkc(&["--version"]);
    assert_eq!(outcome.stdout, format!("sparkc {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn nothing_asked_is_a_usage_error_with_help() {
    let outcome = sparkc(&[]);
    assert_eq!(outcome.code, Some(2), "{outcome}");
    assert!(outcome.stderr.contains("Usage: sparkc"), "{outcome}");
}

#[test]
fn passes_and_targets_are_listed_and_as_json() {
    let passes = sparkc(&["passes", "--json"]).json().unwrap();
    assert!(passes["passes"].as_array().unwrap().len() >= 5, "{passes}");
    let text = sparkc(&["passes"]).stdout;
    for pass in passes["passes"].as_array().unwrap() {
        assert!(text.contains(pass["name"].as_str().unwrap()), "{text}");
    }
    let targets = sparkc(&["targets"]).stdout;
    assert!(targets.contains("wse3") && targets.contains("wse2"), "{targets}");
    let toml = sparkc(&["targets", "wse3"]).stdout;
    assert_eq!(plan::Target::parse(&toml).unwrap().name, "wse3");
}

#[test]
fn completions_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = sparkc(&["completions", shell]);
        assert_eq!(script.code, Some(0), "{script}");
        assert!(script.stdout.contains("simulate"), "{shell}");
    }
}

#[test]
fn colour_only_when_wanted() {
    assert!(!sparkc(&["targets"]).stdout.contains('\x1b'));
    assert!(sparkc(&["targets", "--color", "always"]).stdout.contains('\x1b'));
    let error = sparkc(&["compile", "nowhere"]).stderr;
    assert!(!error.contains('\x1b'), "{error}");
}

#[test]
fn a_program_can_read_why_a_command_failed() {
    let outcome = sparkc(&["compile", "nowhere", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(said["error"]["code"], "SPK2001", "{outcome}");
    assert_eq!((said["error"]["exit"].as_i64(), outcome.code), (Some(1), Some(1)), "{outcome}");
    assert!(said["error"]["message"].as_str().unwrap().contains("nowhere"), "{outcome}");
    assert!(outcome.stderr.starts_with("error[SPK2001]: nowhere"), "{outcome}");
    assert_eq!(sparkc(&["compile", "nowhere"]).stdout, "");
}

#[test]
fn a_program_can_read_that_it_asked_the_wrong_thing() {
    for line in [["--context", "0"], ["--bogus", "1"], ["--quant", "q9"]] {
        let outcome = sparkc(&["compile", "nowhere", line[0], line[1], "--json"]);
        let said: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(said["error"]["code"], "SPK5001", "{outcome}");
        assert_eq!((said["error"]["exit"].as_i64(), outcome.code), (Some(2), Some(2)), "{outcome}");
        assert!(said["error"]["message"].as_str().unwrap().contains(line[0]), "{outcome}");
        assert!(outcome.stderr.starts_with("error[SPK5001]: "), "{outcome}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let script = format!("'{PROGRAM}' completions bash | head -n 1; exit ${{PIPESTATUS[0]}}");
    let outcome = run("bash", Path::new("."), &["-c", script.as_str()]).unwrap();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome}");
}

#[test]
fn an_optimised_module_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = harness::fixture::named("qwen3").unwrap();
    let config = fixture.path.join("config.json");
    let line = ["compile", config.to_str().unwrap(), "-o", "out", "--json"];
    let said = run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    let files: Vec<&String> = said["files"].as_object().unwrap().keys().collect();
    assert_eq!(files, ["model.wplan", "map.html", "model.spark"]);
    let opt = run(PROGRAM, folder.path(), &["opt", "out/model.spark", "--passes", "O1"]).unwrap();
    assert_eq!(opt.code, Some(0), "{opt}");
    ir::parse(&opt.stdout).unwrap();
    let legal = run(PROGRAM, folder.path(), &["verify", "out", "--json"]).unwrap().json().unwrap();
    assert_eq!(legal["legal"], true);
    let tile = run(PROGRAM, folder.path(), &["inspect", "out", "--tile", "1,1", "--json"]).unwrap();
    assert!(tile.json().unwrap()["weights"].as_array().is_some(), "{tile}");
}

#[test]
fn the_next_step_after_compiling_works_with_and_without_a_tokenizer() {
    for name in ["llama_chat", "qwen3"] {
        let folder = tempfile::tempdir().unwrap();
        let model = harness::fixture::named(name).unwrap().path;
        let line = ["compile", model.to_str().unwrap(), "--emit", "cpu", "-o", "out"];
        let said = run(PROGRAM, folder.path(), &line).unwrap();
        let advised = said.stdout.lines().map(str::trim).find(|line| line.starts_with("out/model"));
        let advised = advised.unwrap_or_else(|| panic!("{said}"));
        let followed = run("sh", folder.path(), &["-c", &format!("{advised} -n 1")]).unwrap();
        assert_eq!(followed.code, Some(0), "{name}: {advised}: {followed}");
    }
}

#[test]
fn an_8b_model_becomes_a_legal_plan_from_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = harness::root().join("tests/configs/llama-3.1-8b/config.json");
    let line = ["compile", config.to_str().unwrap(), "--context", "4096", "-o", "out", "--json"];
    let said = run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    assert_eq!(said["wafer"]["target"], "wse3");
    assert!(said["wafer"]["tokens_per_second"].as_f64().unwrap() > 100.0, "{said}");
    let legal = run(PROGRAM, folder.path(), &["verify", "out"]).unwrap();
    assert_eq!(legal.code, Some(0), "{legal}");
    let line = ["simulate", "out", "--tokens", "1", "--timing-only", "--level", "0", "--json"];
    let timed = run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    assert!(timed["cycles"].as_u64().unwrap() > 0, "{timed}");
}

#[test]
fn a_finished_plan_is_led_around_a_pe_that_died() {
    let folder = tempfile::tempdir().unwrap();
    let config = harness::root().join("tests/configs/llama-3.1-8b/config.json");
    let line = ["compile", config.to_str().unwrap(), "--context", "4096", "-o", "out", "--json"];
    run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    let read = |file: &str| {
        plan::codec::decode(&std::fs::read(folder.path().join(file)).unwrap()).unwrap()
    };
    let before = read("out/model.wplan");
    let line = ["repair", "out", "--dead", "300,500", "-o", "one.wplan", "--json"];
    let said = run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    assert_eq!(read("out/model.wplan"), before, "-o leaves the old plan");
    let after = read("one.wplan");
    // Nothing but the repair and its price differs.
    let mut same = after.clone();
    (same.repair, same.claims.token_cycles) = (None, before.claims.token_cycles);
    assert_eq!(same, before);
    let moved = said["moved"].as_array().unwrap();
    assert!(!moved.is_empty() && moved.iter().all(|p| p[1] == 500), "{said}");
    let map = plan::RepairMap::new(after.repair.as_ref().unwrap(), 755, 1170);
    let other_rows = (0..1170).filter(|&y| y != 500).flat_map(|y| [(0, y), (300, y), (754, y)]);
    for (x, y) in other_rows {
        assert_eq!(map.physical(plan::Point { x, y }), plan::Point { x, y });
    }
    let legal = run(PROGRAM, folder.path(), &["verify", "one.wplan"]).unwrap();
    assert_eq!(legal.code, Some(0), "{legal}");
    // In place, once more, with the map; then a PE that is nowhere.
    let line = ["repair", "one.wplan", "--dead", "301,500", "--dead", "4,4"];
    let again = run(PROGRAM, folder.path(), &line).unwrap();
    assert_eq!(again.code, Some(0), "{again}");
    assert_eq!(read("one.wplan").repair.unwrap().dead, [(4, 4), (300, 500), (301, 500)]);
    let none = run(PROGRAM, folder.path(), &["repair", "out", "--dead", "814,3"]).unwrap();
    // In a directory the report follows the plan, and is else as it was.
    let report = || -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(folder.path().join("out/report.json")).unwrap())
            .unwrap()
    };
    let old = report();
    let line = ["repair", "out", "--dead", "300,500", "--json"];
    let said = run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    let mut new = report();
    assert_ne!(said["digest"], old["wafer"]["plan_digest"]);
    assert_eq!(new["wafer"]["plan_digest"], said["digest"]);
    assert_eq!(new["wafer"]["token_cycles"], said["token_cycles"]["after"]);
    let bytes = std::fs::metadata(folder.path().join("out/model.wplan")).unwrap().len();
    assert_eq!(new["files"]["model.wplan"]["bytes"], bytes);
    for part in ["wafer", "files"] {
        new[part] = old[part].clone();
    }
    assert_eq!(new, old);
    assert!(none.code == Some(1) && none.stderr.contains("SPK4105"), "{none}");
    // A plan that is not legal is refused, and left as it is.
    let mut illegal = before;
    illegal.regions[1].rect.x += 1;
    std::fs::write(folder.path().join("illegal.wplan"), plan::codec::encode(&illegal)).unwrap();
    let refused =
        run(PROGRAM, folder.path(), &["repair", "illegal.wplan", "--dead", "3,3"]).unwrap();
    assert!(
        refused.code == Some(1) && refused.stderr.contains("not a legal plan: PLN"),
        "{refused}"
    );
    assert_eq!(read("illegal.wplan"), illegal);
}

#[test]
fn a_sweep_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = harness::fixture::named("qwen3").unwrap();
    let model = fixture.path.to_str().unwrap();
    let axes = "context=16,32;quant=none,q8";
    let sweep = |more: &[&str]| {
        let mut line = vec!["compile", model, "--target", "small", "--sweep", axes, "-o", "out"];
        line.extend(["--json"].iter().chain(more));
        run(PROGRAM, folder.path(), &line).unwrap().json().unwrap()
    };
    assert_eq!(sweep(&["--shard", "1/2"])["points"].as_array().map(Vec::len), Some(2));
    let results = || -> Vec<_> {
        let names = std::fs::read_dir(folder.path().join("out")).unwrap();
        names
            .map(|e| e.unwrap().path())
            .filter(|p| p.to_string_lossy().contains("point-"))
            .collect()
    };
    // A point that is there is taken as it is.
    let [first, _] = results().try_into().unwrap();
    std::fs::write(first, r#"{ "kept": true }"#).unwrap();
    let all = sweep(&[]);
    let points = all["points"].as_array().unwrap();
    assert_eq!((points.len(), results().len()), (4, 4));
    assert_eq!(points.iter().filter(|p| p["kept"] == true).count(), 1);
    assert!(points.iter().filter(|p| p["token_cycles"].as_u64() > Some(0)).count() == 3, "{all}");
    let chart = std::fs::read_to_string(folder.path().join("out/chart.svg")).unwrap();
    assert_eq!(chart.matches("<circle").count(), 3);
    let wrong = ["compile", model, "--sweep", "speed=9", "-o", "out"];
    assert_eq!(run(PROGRAM, folder.path(), &wrong).unwrap().code, Some(1));
}

#[test]
fn a_plan_explains_its_lower_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = harness::fixture::named("qwen3").unwrap();
    let line =
        ["inspect", fixture.path.to_str().unwrap(), "--target", "small", "--bounds", "--json"];
    let said = run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    for template in said["templates"].as_array().unwrap() {
        let (claim, bound) = (template["cycles"].as_u64(), template["critical_path"].as_u64());
        assert!(claim >= bound, "a claim below its bound: {template}");
        assert!(template["pes_needed"].as_u64() <= template["pes"].as_u64(), "{template}");
        assert!(template["colors_at_least"].as_u64() <= template["colors"].as_u64(), "{template}");
    }
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = harness::fixture::named("qwen3").unwrap();
    let line = ["compile", fixture.path.to_str().unwrap(), "--dry-run", "--json"];
    let said = run(PROGRAM, folder.path(), &line).unwrap().json().unwrap();
    assert!(said["wafer"]["token_cycles"].as_u64().unwrap() > 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn kernels_are_timed_without_a_model() {
    let line = [
        "simulate",
        "--kernel",
        "allreduce",
        "--target",
        "small",
        "--pes",
        "16",
        "--level",
        "3",
        "--json",
    ];
    let said = sparkc(&line).json().unwrap();
    assert!(said["cycles"].as_u64().unwrap() > 0, "{said}");
    // What loads the operands counts nowhere.
    let row = &said["templates"][0];
    assert_eq!(row["phases"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!([&row["cycles"], &row["phases"][0]["cycles"]], [&said["cycles"]; 2], "{said}");
    let missing = sparkc(&["simulate", "--kernel", "meshgemv", "--grid", "8"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("--tile"), "{}", missing.stderr);
    let foreign = sparkc(&["simulate", "--kernel", "reduce", "--grid", "8"]);
    assert_eq!(foreign.code, Some(2));
    assert!(foreign.stderr.contains("no --grid"), "{}", foreign.stderr);
}

#[test]
fn a_layer_of_a_large_grid_is_timed_from_its_sizes() {
    let line = ["simulate", "--kernel", "decode-layer", "--target", "wse3", "--json"];
    let sizes = "--grid 96 --d 12 --s 12 --f 40 --groups 8";
    let line: Vec<&str> = line.into_iter().chain(sizes.split(' ')).collect();
    let said = sparkc(&line).json().unwrap();
    assert!(said["cycles"].as_u64().unwrap() > 5000, "{said}");
    assert_eq!(said["templates"][0]["phases"].as_array().unwrap().len(), 11);
}

#[test]
fn a_module_is_reduced_to_what_shows() {
    let case = harness::root().join("tests/cases/decoder/llama.spark");
    let case = case.to_str().unwrap();
    // Quantising changes the logits; embedding and head are enough to show it.
    let found =
        sparkc(&["reduce", case, "--passes", "quantize{to=q4}", "--numerics", "lossy", "--json"]);
    assert_eq!(found.code, Some(0), "{found}");
    let object: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    let count = |key: &str| object[key].as_u64().unwrap();
    assert!(count("nodes_after") < 10 && count("nodes_before") > 50, "{object}");
    assert!(object["shows"].as_str().unwrap().contains("means something else"), "{object}");
    let module = ir::parse(object["module"].as_str().unwrap()).unwrap();
    assert!(ir::verify(&module).is_ok());
    // A command decides.
    let kept = sparkc(&["reduce", case, "--command", "grep -q softmax {}"]);
    assert_eq!(kept.code, Some(0), "{kept}");
    assert!(kept.stdout.contains("softmax") && !kept.stdout.contains("rope"), "{kept}");
    // One that does not end is ended, with what it started.
    let begin = std::time::Instant::now();
    let slow = sparkc(&["reduce", case, "--command", "sleep 300 & wait", "--timeout", "1"]);
    assert_eq!(slow.code, Some(1), "{slow}");
    assert!(slow.stderr.contains("within 1 s") && begin.elapsed().as_secs() < 60, "{slow}");
    // Nothing wrong, nothing to reduce.
    let fine = sparkc(&["reduce", case]);
    assert_eq!(fine.code, Some(1), "{fine}");
    assert!(fine.stderr.contains("nothing to reduce"), "{fine}");
}

#[test]
fn a_certificate_is_about_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str| harness::root().join("tests/fixtures/hf").join(name);
    let (this, other) = (model("llama2"), model("llama_gelu"));
    let (this, other) = (this.to_str().unwrap(), other.to_str().unwrap());
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let compiled = sparkc(&["compile", this, "-o", out, "--emit", "proof"]);
    assert_eq!(compiled.code, Some(0), "{compiled}");
    for name in ["cpu.proof", "wafer.proof"] {
        let file = format!("{out}/{name}");
        for line in [&["verify-proof", &file][..], &["verify-proof", &file, "--model", this]] {
            let found = sparkc(line);
            assert_eq!(found.code, Some(0), "{found}");
        }
        let found = sparkc(&["verify-proof", &file, "--model", other]);
        assert_eq!(found.code, Some(1), "{found}");
        assert!(found.stderr.contains("SPK3308"), "{found}");
        // Renaming a weight makes it a certificate about a model of that weight.
        let text = std::fs::read_to_string(&file).unwrap();
        let renamed = text.replacen("q_proj", "r_proj", 1);
        assert_ne!(renamed, text);
        std::fs::write(&file, renamed).unwrap();
        assert_eq!(sparkc(&["verify-proof", &file, "--model", this]).code, Some(1));
    }
}

#[test]
fn the_bound_of_a_model_is_printed() {
    let folder = harness::root().join("tests/fixtures/hf");
    let (mut exact, mut weaker) = (0, 0);
    for name in ["llama_bf16", "llama2"] {
        let found = sparkc(&["passes", "bound", folder.join(name).to_str().unwrap(), "--json"]);
        let object = found.json().unwrap();
        for target in object["targets"].as_array().unwrap() {
            assert_eq!(target["exact_same_bits"], true, "{object}");
            let of = |key: &str| target["reassoc"][key].as_f64().unwrap();
            assert!(of("found") <= of("bound") && of("bound") < 1e-3, "{object}");
            // The bound is 0 where, and only where, every rewrite kept the bits.
            let kept = target["reassoc"]["only_exact_rewrites"] == true;
            assert_eq!(kept, of("bound") == 0.0, "{object}");
            *(if kept { &mut exact } else { &mut weaker }) += 1;
        }
    }
    assert!(exact > 0 && weaker > 0, "{exact} targets exact, {weaker} not");
}

#[test]
fn what_was_written_or_cannot_be_had_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let model = harness::fixture::named("llama3").unwrap().path;
    let model = model.to_str().unwrap();
    let run = |args: &[&str]| run(PROGRAM, folder.path(), args).unwrap();
    let map = run(&["inspect", model, "--target", "small", "--svg", "map.svg"]);
    assert_eq!((map.code, map.stdout.as_str()), (Some(0), ""), "{map}");
    assert!(map.stderr.starts_with("wrote map.svg (") && folder.path().join("map.svg").exists());
    let line = ["compile", model, "--target", "small", "--emit", "wafer", "--requests"];
    let many = run(&[&line[..], &["500"]].concat());
    assert_eq!(many.code, Some(0), "{many}");
    assert!(many.stderr.contains("warning[SPK4803]: not all of 500 requests"), "{many}");
    let one = run(&[&line[..], &["1"]].concat());
    assert_eq!((one.code, one.stderr.as_str()), (Some(0), ""), "{one}");
}

#[test]
fn rewrites_are_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("steps.html");
    let config = harness::root().join("tests/configs/llama-135m/config.json");
    let args =
        ["inspect", config.to_str().unwrap(), "--rewrites", "--html", page.to_str().unwrap()];
    let found = sparkc(&args);
    assert_eq!(found.code, Some(0), "{found}");
    let text = std::fs::read_to_string(page).unwrap();
    for part in [
        "<h2>cpu</h2>",
        "<h2>wafer</h2>",
        "<b>attention</b>",
        "@main",
        "softmax(",
        "class=\"n falls\"",
    ] {
        assert!(text.contains(part), "no {part}");
    }
    assert!(!text.contains("<script"));
}
