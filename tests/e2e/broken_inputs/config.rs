//! config.json that is damaged, incomplete, contradictory or not understood.

use crate::case::{Case, Place, model};

const CONFIG: &str = "model/config.json";

/// A case that replaces one piece of config.json.
fn changed(
    name: &'static str,
    from: &'static str,
    to: &'static str,
    says: &'static [&'static str],
) -> Case {
    model(name, 1, says, move |place| place.replace(CONFIG, from, to))
}

/// A case that gives config.json another content.
fn content(name: &'static str, bytes: &'static [u8], says: &'static [&'static str]) -> Case {
    model(name, 1, says, move |place| place.write(CONFIG, bytes))
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = damaged();
    cases.extend(incomplete());
    cases.extend(wrong());
    cases.extend(contradictory());
    cases
}

fn damaged() -> Vec<Case> {
    vec![
        content("config_is_empty", b"", &["config.json", "empty"]),
        content("config_is_no_json", b"hidden_size = 32", &["SPK2102", "line 1"]),
        content("config_is_a_list", b"[1, 2, 3]", &["config.json"]),
        content("config_is_not_utf8", b"{\"model_type\": \"\xff\xfe\"}", &["SPK2101", "offset 16"]),
        content("config_is_binary_zeros", &[0; 4096], &["config.json"]),
        model("config_is_truncated", 1, &["SPK2102", "line"], |place: &Place| {
            let text = place.text(CONFIG);
            place.write(CONFIG, &text[..text.len() / 2]);
        }),
        model("config_has_a_tail", 1, &["SPK2102"], |place: &Place| {
            let text = place.text(CONFIG) + "}";
            place.write(CONFIG, text);
        }),
        model("config_is_nested_too_deeply", 1, &["config.json"], |place: &Place| {
            place.write(CONFIG, "{\"a\":".repeat(100_000));
        }),
        changed(
            "config_key_twice",
            "\"hidden_size\"",
            "\"hidden_size\": 32, \"hidden_size\"",
            &["SPK2103", "\"hidden_size\"", "twice"],
        ),
    ]
}

fn incomplete() -> Vec<Case> {
    vec![
        changed(
            "model_type_is_misspelt",
            "\"model_type\"",
            "\"modeltype\"",
            &["SPK2112", "modeltype"],
        ),
        changed(
            "config_without_hidden_size",
            "\"hidden_size\"",
            "\"hiddensize\"",
            &["hidden_size"],
        ),
        changed(
            "config_without_layers",
            "\"num_hidden_layers\"",
            "\"layers\"",
            &["num_hidden_layers"],
        ),
        changed(
            "config_without_heads",
            "\"num_attention_heads\"",
            "\"heads\"",
            &["num_attention_heads"],
        ),
        changed("config_without_vocabulary", "\"vocab_size\"", "\"words\"", &["vocab_size"]),
    ]
}

fn wrong() -> Vec<Case> {
    vec![
        changed("family_is_unknown", "\"llama\"", "\"mamba\"", &["mamba", "llama"]),
        changed(
            "hidden_size_is_zero",
            "\"hidden_size\": 32",
            "\"hidden_size\": 0",
            &["hidden_size"],
        ),
        changed(
            "hidden_size_is_negative",
            "\"hidden_size\": 32",
            "\"hidden_size\": -32",
            &["hidden_size"],
        ),
        changed(
            "hidden_size_is_a_fraction",
            "\"hidden_size\": 32",
            "\"hidden_size\": 32.5",
            &["hidden_size"],
        ),
        changed(
            "hidden_size_is_a_string",
            "\"hidden_size\": 32",
            "\"hidden_size\": \"32\"",
            &["hidden_size"],
        ),
        changed(
            "hidden_size_is_huge",
            "\"hidden_size\": 32",
            "\"hidden_size\": 99999999999999",
            &["hidden_size"],
        ),
        changed(
            "hidden_size_overflows",
            "\"hidden_size\": 32",
            "\"hidden_size\": 1e999",
            &["config.json"],
        ),
        changed(
            "layers_are_zero",
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 0",
            &["num_hidden_layers"],
        ),
        changed(
            "layers_are_billions",
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 4000000000",
            &["num_hidden_layers"],
        ),
        changed("vocabulary_is_zero", "\"vocab_size\": 96", "\"vocab_size\": 0", &["vocab_size"]),
        changed("activation_is_unknown", "\"silu\"", "\"swoosh\"", &["hidden_act", "swoosh"]),
        changed("theta_is_zero", "\"rope_theta\": 500000.0", "\"rope_theta\": 0", &["rope_theta"]),
        changed(
            "epsilon_is_negative",
            "\"rms_norm_eps\": 1e-05",
            "\"rms_norm_eps\": -1.0",
            &["rms_norm_eps"],
        ),
        changed(
            "field_is_not_understood",
            "\"vocab_size\"",
            "\"logit_softcap\": 30.0, \"vocab_size\"",
            &["SPK2112", "logit_softcap"],
        ),
        changed(
            "rope_type_is_unknown",
            "\"rope_theta\"",
            "\"rope_scaling\": {\"rope_type\": \"spiral\", \"factor\": 2.0}, \"rope_theta\"",
            &["spiral"],
        ),
        changed(
            "rope_without_factor",
            "\"rope_theta\"",
            "\"rope_scaling\": {\"rope_type\": \"linear\"}, \"rope_theta\"",
            &["factor"],
        ),
        changed(
            "rope_factor_is_zero",
            "\"rope_theta\"",
            "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 0.0}, \"rope_theta\"",
            &["factor"],
        ),
        changed(
            "model_is_quantised_elsewhere",
            "\"vocab_size\"",
            "\"quantization_config\": {\"quant_method\": \"gptq\"}, \"vocab_size\"",
            &["quantization_config"],
        ),
    ]
}

fn contradictory() -> Vec<Case> {
    vec![
        changed(
            "heads_do_not_divide_hidden_size",
            "\"num_attention_heads\": 4",
            "\"num_attention_heads\": 5",
            &["heads"],
        ),
        changed(
            "kv_heads_do_not_divide_heads",
            "\"num_key_value_heads\": 2",
            "\"num_key_value_heads\": 3",
            &["num_key_value_heads"],
        ),
        changed(
            "more_kv_heads_than_heads",
            "\"num_key_value_heads\": 2",
            "\"num_key_value_heads\": 8",
            &["num_key_value_heads"],
        ),
        changed(
            "more_layers_than_weights",
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            &["layers.2", "SPK2401"],
        ),
        changed(
            "fewer_layers_than_weights",
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 1",
            &["layers.1", "SPK2402"],
        ),
        changed(
            "other_hidden_size_than_weights",
            "\"hidden_size\": 32",
            "\"hidden_size\": 64",
            &["SPK2403", "shape"],
        ),
        changed(
            "other_vocabulary_than_weights",
            "\"vocab_size\": 96",
            "\"vocab_size\": 97",
            &["SPK2403", "[96, 32]", "[97, 32]"],
        ),
    ]
}
