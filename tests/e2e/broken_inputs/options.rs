//! Options that make no sense.

use crate::case::{Case, Place, command};

fn nothing(_: &Place) {}

/// A usage error: exit code 2.
fn usage(name: &'static str, args: &'static [&'static str], says: &'static [&'static str]) -> Case {
    command(name, args, 2, says, nothing)
}

/// A value that cannot be: exit code 1.
fn bad(name: &'static str, args: &'static [&'static str], says: &'static [&'static str]) -> Case {
    command(name, args, 1, says, nothing)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = usage_errors();
    cases.extend(bad_values());
    cases.extend(targets());
    cases.extend(named_files());
    cases
}

/// Files beside the model that are not what they should be.
fn named_files() -> Vec<Case> {
    let defects = |name, text: &'static str, says| {
        let args = &["compile", "model", "--target", "small", "--defects", "dead.txt", "-o", "out"];
        command(name, args, 1, says, move |p| p.write("dead.txt", text))
    };
    vec![
        defects("a_defect_is_no_number", "3 4\n3 x\n", &["SPK5011", "line 2"]),
        defects("a_defect_is_below_the_wafer", "3 128\n", &["SPK5011", "line 1"]),
        defects("a_defect_is_on_no_wafer", "column 9999\n", &["SPK4105", "(9999, 0)"]),
        command("a_plan_is_endless", &["verify", "p.wplan"], 1, &["SPK5004", "p.wplan"], |p| {
            let file = std::fs::File::create(p.path("p.wplan")).unwrap();
            file.set_len(100 << 30).unwrap();
        }),
        command("a_certificate_is_no_text", &["verify-proof", "c"], 1, &["SPK5005", "3"], |p| {
            p.write("c", b"abc\xff");
        }),
    ]
}

fn usage_errors() -> Vec<Case> {
    vec![
        usage("no_model", &["compile"], &["<MODEL>"]),
        usage("unknown_command", &["compil", "model"], &["compil", "compile"]),
        usage("unknown_flag", &["compile", "model", "--fast"], &["--fast"]),
        usage("emit_is_unknown", &["compile", "model", "--emit", "gpu"], &["gpu", "cpu"]),
        usage("quant_is_unknown", &["compile", "model", "--quant", "q5"], &["q5", "q8"]),
        usage(
            "numerics_is_unknown",
            &["compile", "model", "--numerics", "fast"],
            &["fast", "exact"],
        ),
        usage("context_is_zero", &["compile", "model", "--context", "0"], &["--context"]),
        usage("context_is_negative", &["compile", "model", "--context=-4"], &["-4"]),
        usage("tokens_are_words", &["eval", "model", "--tokens", "one"], &["one"]),
        usage("tokens_are_negative", &["eval", "model", "--tokens=-1"], &["-1"]),
        usage("no_tokens_at_all", &["eval", "model"], &["--tokens"]),
        usage(
            "temperature_below_zero",
            &["eval", "model", "--tokens", "1", "--temp=-1"],
            &["temperature"],
        ),
        usage(
            "top_p_above_one",
            &["eval", "model", "--tokens", "1", "--top-p", "2"],
            &["probability"],
        ),
        usage(
            "greedy_and_random",
            &["eval", "model", "--tokens", "1", "--greedy", "--temp", "1"],
            &["--greedy"],
        ),
        usage("level_is_four", &["simulate", "out", "--tokens", "1", "--level", "4"], &["4"]),
        usage("tile_is_a_word", &["inspect", "model", "--tile", "here"], &["X,Y"]),
        usage(
            "weights_packed_into_no_plan",
            &["compile", "model", "--emit", "cpu", "--embed-weights", "-o", "out"],
            &["model.wplan", "add `wafer` to --emit"],
        ),
        usage("shell_is_unknown", &["completions", "dos"], &["dos", "bash"]),
    ]
}

fn bad_values() -> Vec<Case> {
    vec![
        bad("token_is_out_of_range", &["eval", "model", "--tokens", "96"], &["SPK1204", "96"]),
        command(
            "prompt_is_longer_than_the_context",
            &["eval", "model", "--tokens", "1,1,1,1,1"],
            3,
            &["5 tokens", "context"],
            |p| {
                p.replace(
                    "model/config.json",
                    "\"max_position_embeddings\": 128",
                    "\"max_position_embeddings\": 4",
                );
            },
        ),
        bad("text_without_tokenizer", &["eval", "model", "--prompt", "hi"], &["no tokenizer"]),
        bad(
            "pass_is_unknown",
            &["opt", "model/config.json", "--passes", "vectorise"],
            &["SPK3002", "vectorise"],
        ),
        bad(
            "pipeline_is_malformed",
            &["opt", "model/config.json", "--passes", "dce{"],
            &["SPK3001", "column"],
        ),
        bad(
            "pass_option_is_unknown",
            &["opt", "model/config.json", "--passes", "dce{speed=9}"],
            &["SPK3003", "speed"],
        ),
        bad(
            "print_after_a_pass_that_does_not_run",
            &["opt", "model/config.json", "--passes", "dce", "--print-after", "egraph"],
            &["SPK5024", "--print-after", "`egraph`", "one of dce"],
        ),
        bad(
            "target_is_a_folder",
            &["compile", "model", "--target", "model", "-o", "out"],
            &["SPK5003", "is a directory", "perhaps one inside"],
        ),
        bad(
            "executable_from_shapes",
            &["compile", "model/config.json", "--emit", "cpu", "-o", "out"],
            &["needs weights", "--emit"],
        ),
        bad(
            "tile_outside_of_the_wafer",
            &["inspect", "model", "--target", "tiny", "--tile", "9999,0"],
            &["9999"],
        ),
        bad(
            "region_is_unknown",
            &["inspect", "model", "--target", "small", "--region", "attic"],
            &["attic", "layer"],
        ),
        bad("preset_is_unknown", &["targets", "wse9"], &["wse9", "wse3"]),
        bad("kernel_is_unknown", &["simulate", "--kernel", "sort"], &["sort", "gemv"]),
        command(
            "kernel_is_larger_than_the_wafer",
            &["simulate", "--kernel", "gemv", "--target", "small", "--region", "999x999"],
            3,
            &["999"],
            nothing,
        ),
    ]
}

fn targets() -> Vec<Case> {
    let toml = |name, change: fn(String) -> String, says| {
        command(name, &["compile", "model", "--target", "t.toml", "-o", "out"], 1, says, move |p| {
            let text = plan::Target::preset_text("small").unwrap().to_string();
            p.write("t.toml", change(text));
        })
    };
    vec![
        bad(
            "target_is_unknown",
            &["compile", "model", "--target", "wse9", "-o", "out"],
            &["SPK5010", "wse9", "wse3"],
        ),
        bad(
            "target_is_a_device",
            &["compile", "model", "--target", "/dev/zero", "-o", "out"],
            &["SPK5003", "/dev/zero", "device"],
        ),
        bad(
            "defects_are_a_device",
            &["compile", "model", "--defects", "/dev/zero", "-o", "out"],
            &["SPK5003", "/dev/zero"],
        ),
        toml("target_is_no_toml", |_| "width: 12".to_string(), &["t.toml", "PLN0101"]),
        toml("target_has_an_unknown_field", |t| format!("warp = 9\n{t}"), &["warp"]),
        toml("target_lacks_a_field", |t| t.replace("clock_ghz", "# clock_ghz"), &["clock_ghz"]),
        toml(
            "target_has_no_rows",
            |t| t.replace("height = 128", "height = 0"),
            &["PLN0102", "height"],
        ),
        command(
            "model_does_not_fit_the_wafer",
            &["compile", "model", "--target", "t.toml", "-o", "out"],
            3,
            &["does not fit", "PEs"],
            |p| {
                let text = plan::Target::preset_text("small").unwrap();
                let text =
                    text.replace("width = 128", "width = 2").replace("height = 128", "height = 2");
                p.write("t.toml", text);
            },
        ),
    ]
}
