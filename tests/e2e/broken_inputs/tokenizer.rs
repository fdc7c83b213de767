//! Tokenizer and generation files that are damaged.

use crate::case::{Case, command, model};

/// A case that adds a file to the model.
fn added(
    name: &'static str,
    file: &'static str,
    text: &'static [u8],
    says: &'static [&'static str],
) -> Case {
    model(name, 1, says, move |place| place.write(file, text))
}

/// A byte-pair tokenizer of one token with a normalizer.
fn normalizing(
    name: &'static str,
    normalizer: &'static str,
    says: &'static [&'static str],
) -> Case {
    command(name, &["compile", "model", "--emit", "cpu", "-o", "out"], 1, says, move |place| {
        let json = format!(
            r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {normalizer}, "post_processor": null, "pre_tokenizer": {{"type": "ByteLevel",
            "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
            "decoder": null, "model": {{"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "vocab": {{"a": 0}}, "merges": []}}}}"#
        );
        place.write("model/tokenizer.json", json);
    })
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
        normalizing(
            "normalizer_blows_texts_up",
            r#"{"type": "Sequence", "normalizers": [
                {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaaaaaa"},
                {"type": "Replace", "pattern": {"Regex": "a"}, "content": "aaaaaaaaaaaaaaaaaaaa"}]}"#,
            &["SPK2501", "400 bytes of one"],
        ),
        normalizing(
            "tokenizer_on_which_its_library_panics",
            r#"{"type": "Replace", "pattern": {"String": ""}, "content": "z"}"#,
            &["SPK4008", "tokenizers library"],
        ),
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
