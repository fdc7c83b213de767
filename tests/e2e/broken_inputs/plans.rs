//! Plans and executables that are damaged or do not belong together.

use harness::run::{Outcome, run};

use crate::case::{Case, PROGRAM, Place, acting, command};

/// Compiles the model of the case into `out`.
fn compile(place: &Place) {
    let line = ["compile", "model", "-o", "out", "--target", "small"];
    let outcome = run(PROGRAM, &place.folder, &line).unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome}");
}

/// A case that damages the plan before it is verified.
fn damaged(
    name: &'static str,
    says: &'static [&'static str],
    damage: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static,
) -> Case {
    command(name, &["verify", "out"], 1, says, move |place| {
        compile(place);
        place.write("out/model.wplan", damage(place.bytes("out/model.wplan")));
    })
}

/// A case that damages the executable before it is started.
fn damaged_executable(
    name: &'static str,
    says: &'static [&'static str],
    damage: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static,
) -> Case {
    let act = |place: &Place| -> Result<Outcome, String> {
        run(PROGRAM, &place.folder, &["inspect", "out/model"]).map_err(|e| e.to_string())
    };
    let breaks = move |place: &Place| {
        compile(place);
        place.write("out/model", damage(place.bytes("out/model")));
    };
    acting(name, 1, says, breaks, act)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        damaged("plan_is_empty", &["PLN03"], |_| Vec::new()),
        damaged("plan_is_text", &["PLN0301"], |_| b"a plan, honestly".to_vec()),
        damaged("plan_is_truncated", &["PLN0303"], |b| b[..b.len() / 2].to_vec()),
        damaged("plan_has_a_flipped_bit", &["PLN0304"], |mut b| {
            let middle = b.len() / 2;
            b[middle] ^= 1;
            b
        }),
        damaged("plan_is_of_another_version", &["PLN0302"], |mut b| {
            b[8] = 99;
            b
        }),
        damaged("plan_has_a_tail", &["PLN03"], |mut b| {
            b.push(0);
            b
        }),
        damaged_executable("executable_lost_its_end", &["out/model"], |b| {
            b[..b.len() - 5].to_vec()
        }),
        damaged_executable("executable_lost_its_model", &["out/model"], |b| b[..4096].to_vec()),
        damaged_executable("executable_head_is_damaged", &["out/model"], |mut b| {
            let at = b.len() - 80;
            b[at] ^= 1;
            b
        }),
    ];
    cases.extend(apart());
    cases.extend(unfit_questions());
    cases
}

/// What a compiled directory cannot be asked.
fn unfit_questions() -> Vec<Case> {
    vec![
        command(
            "simulate_text_without_tokenizer",
            &["simulate", "out", "--prompt", "hi"],
            1,
            &["SPK5203", "no tokenizer"],
            compile,
        ),
        command(
            "a_compiled_directory_is_quantised",
            &["run", "out", "--quant", "q8", "--tokens", "1"],
            1,
            &["SPK5013", "compiled already"],
            compile,
        ),
    ]
}

fn apart() -> Vec<Case> {
    vec![
        command(
            "verify_a_directory_without_plan",
            &["verify", "model"],
            1,
            &["model.wplan"],
            |_| {},
        ),
        command(
            "simulate_a_token_out_of_range",
            &["simulate", "out", "--tokens", "96"],
            1,
            &["SIM0204", "96"],
            compile,
        ),
        command("simulate_without_tokens", &["simulate", "out"], 2, &["--tokens"], compile),
        command(
            "model_moved_away",
            &["simulate", "out", "--tokens", "1"],
            1,
            &["--model"],
            |place| {
                compile(place);
                std::fs::rename(place.path("model"), place.path("elsewhere")).unwrap();
            },
        ),
        command(
            "model_changed_since",
            &["simulate", "out", "--tokens", "1"],
            1,
            &["digest", "compile the model again"],
            |place| {
                compile(place);
                let mut bytes = place.bytes("model/model.safetensors");
                let last = bytes.len() - 1;
                bytes[last] ^= 0x10;
                place.write("model/model.safetensors", bytes);
            },
        ),
        command(
            "run_without_executable",
            &["run", "out", "--tokens", "1"],
            1,
            &["no executable"],
            |place| {
                compile(place);
                place.delete("out/model");
            },
        ),
        command(
            "executable_has_no_map",
            &["inspect", "out/model", "--map"],
            1,
            &["no map"],
            compile,
        ),
    ]
}
