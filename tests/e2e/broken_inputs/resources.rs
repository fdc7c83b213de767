//! Machines that are full, locked or interrupted.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::run::{Outcome, command as program, run};

use crate::case::{Case, PROGRAM, Place, acting, command};

fn nothing(_: &Place) {}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        command(
            "logits_to_a_full_device",
            &["eval", "model", "--tokens", "1", "--logits", "/dev/full"],
            4,
            &["/dev/full", "No space left", "free some space"],
            nothing,
        ),
        acting("file_size_limit_while_compiling", 4, &["out/model", "ulimit"], nothing, |place| {
            shell(place, "trap '' XFSZ; ulimit -f 200; exec \"$0\" compile model -o out")
        }),
        acting("standard_output_is_full", 4, &["No space left"], nothing, |place| {
            shell(place, "exec \"$0\" inspect model > /dev/full")
        }),
        command(
            "output_is_below_a_file",
            &["compile", "model", "-o", "model/config.json/out"],
            1,
            &["out"],
            nothing,
        ),
        command(
            "output_is_a_file",
            &["compile", "model", "-o", "notes"],
            1,
            &["notes", "-o"],
            |place| place.write("notes", "mine"),
        ),
        command(
            "output_belongs_to_somebody_else",
            &["compile", "model", "-o", "thesis"],
            1,
            &["thesis", "not written by sparkc"],
            |place| {
                fs::create_dir(place.path("thesis")).unwrap();
                place.write("thesis/chapter1", "It was");
            },
        ),
        command(
            "logits_below_nothing",
            &["eval", "model", "--tokens", "1", "--logits", "no/such/folder/l.safetensors"],
            1,
            &["no/such/folder"],
            nothing,
        ),
        acting("interrupted_while_packing", 130, &[], large_model, interrupt),
        acting("terminated_while_packing", 130, &[], large_model, |place| stop(place, "TERM")),
    ]
}

/// Runs a shell script with the program as `$0`.
fn shell(place: &Place, script: &str) -> Result<Outcome, String> {
    run("bash", &place.folder, &["-c", script, PROGRAM]).map_err(|e| e.to_string())
}

/// Makes the model so large that packing takes a while: 400 MB of zeros, as a sparse file.
fn large_model(place: &Place) {
    let (vocab, hidden) = (1_500_000u64, 32u64);
    place.replace("model/config.json", "\"vocab_size\": 96", "\"vocab_size\": 1500000");
    let file = "model/model.safetensors";
    let mut container = crate::weights::Container::read(place, file);
    let mut offset = 0;
    for (name, entry) in container.header.iter_mut().filter(|(n, _)| *n != "__metadata__") {
        let shape: Vec<u64> = match name.as_str() {
            "model.embed_tokens.weight" | "lm_head.weight" => vec![vocab, hidden],
            _ => entry["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect(),
        };
        let bytes = 4 * shape.iter().product::<u64>();
        entry["shape"] = shape.into();
        entry["data_offsets"] = vec![offset, offset + bytes].into();
        offset += bytes;
    }
    container.data.clear();
    container.write(place, file);
    let path = place.path(file);
    let header = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(path).unwrap().set_len(header + offset).unwrap();
}

fn interrupt(place: &Place) -> Result<Outcome, String> {
    stop(place, "INT")
}

/// Starts compiling, sends a signal as soon as something half-written is there, and waits.
fn stop(place: &Place, signal: &str) -> Result<Outcome, String> {
    let child = program(PROGRAM, &place.folder)
        .args(["compile", "model", "--emit", "cpu", "-o", "out"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let begun = Instant::now();
    while !half_written(place) {
        if begun.elapsed() > Duration::from_secs(60) {
            return Err("compiling never began to write".to_string());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = child.id().to_string();
    run("kill", &place.folder, &["-s", signal, &pid]).map_err(|e| e.to_string())?;
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    Ok(output.into())
}

/// Whether the temporary directory holds a file already.
fn half_written(place: &Place) -> bool {
    let entries = fs::read_dir(&place.folder).unwrap().flatten();
    let mut temporary = entries.filter(|e| e.file_name().to_string_lossy().starts_with(".out"));
    temporary.any(|e| fs::read_dir(e.path()).is_ok_and(|mut inside| inside.next().is_some()))
}
