//! Tokenizer and generation files that are damaged.

use crate::case::{Case, model};

/// A case that adds a file to the model.
fn added(
    name: &'static str,
    file: &'static str,
    text: &'static [u8],
    says: &'static [&'static str],
) -> Case {
    model(name, 1, says, move |place| place.write(file, text))
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        added("tokenizer_is_empty", "model/tokenizer.json", b"", &["tokenizer.json"]),
        added(
            "tokenizer_is_no_json",
            "model/tokenizer.json",
            b"hello",
            &["SPK2501", "tokenizer.json"],
        ),
        added("tokenizer_is_an_empty_object", "model/tokenizer.json", b"{}", &["SPK2501"]),
        added(
            "tokenizer_settings_are_no_json",
            "model/tokenizer_config.json",
            b"{\"bos_token\": ",
            &["SPK2102", "tokenizer_config.json"],
        ),
        added(
            "bos_token_is_a_number",
            "model/tokenizer_config.json",
            b"{\"bos_token\": 3}",
            &["bos_token"],
        ),
        added(
            "generation_settings_are_no_json",
            "model/generation_config.json",
            b"nope",
            &["SPK2102", "generation_config.json"],
        ),
        added(
            "stop_token_is_text",
            "model/generation_config.json",
            b"{\"eos_token_id\": \"</s>\"}",
            &["eos_token_id"],
        ),
        added(
            "temperature_is_negative",
            "model/generation_config.json",
            b"{\"temperature\": -1.0}",
            &["temperature"],
        ),
    ]
}
