//! Tokenizer tables: proven against the `tokenizers` library when they are made, refused where they
//! would not do the same, and harmless when damaged.

use std::path::Path;

use runtime::tokenizer::{Pattern, Tables};
use serde_json::{Value, json};
use sparkc_backend_cpu::tokenizer_tables;
use tensor::Rng;

fn file(path: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A tokenizer on GPT-2's alphabet with a few merges.
fn byte_level(edit: impl Fn(&mut Value)) -> Vec<u8> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut vocab = serde_json::Map::new();
    let mut next = 256;
    for byte in 0u32..256 {
        let code = if printable(byte) { byte } else { next };
        next += u32::from(!printable(byte));
        vocab.insert(char::from_u32(code).expect("a byte is a char").to_string(), byte.into());
    }
    let merges =
        [("t", "h"), ("th", "e"), ("Ġ", "the"), ("e", "r"), ("Ġ", "Ġ"), ("1", "2"), ("Ã", "©")];
    for (left, right) in merges {
        vocab.insert(format!("{left}{right}"), vocab.len().into());
    }
    let added = |id: usize, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    let end = vocab.len();
    let mut json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(end, "<|end|>", true), added(end + 1, "<|end|>>", true),
            added(end + 2, "<tool>", false)],
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab,
            "merges": merges.map(|(a, b)| json!([a, b]))},
    });
    edit(&mut json);
    json.to_string().into_bytes()
}

fn split(pattern: Pattern) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern.source()}, "behavior": "Isolated",
            "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
}

/// A SentencePiece tokenizer as the front end makes it from GGUF.
fn pieces(edit: impl Fn(&mut Value)) -> Vec<u8> {
    let mut vocab = serde_json::Map::new();
    let mut add = |text: &str| {
        let id = vocab.len();
        vocab.insert(text.to_string(), id.into());
    };
    ["<unk>", "<s>", "</s>"].into_iter().for_each(&mut add);
    (0..256).for_each(|b| add(&format!("<0x{b:02X}>")));
    ["▁", "t", "h", "e", "a", "é", "日", "▁t", "he", "▁the", "▁▁", "1"].into_iter().for_each(add);
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let mut json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": vocab,
            "merges": [["▁", "t"], ["h", "e"], ["▁t", "he"], ["▁", "▁"]]},
    });
    edit(&mut json);
    json.to_string().into_bytes()
}

#[test]
fn tables_do_what_the_library_does() {
    // Making them compares thousands of texts; that it succeeds is the test.
    let made = |name: &str, json: Vec<u8>| {
        tokenizer_tables(&json).unwrap_or_else(|why| panic!("{name}: {why}"))
    };
    made("tinypy", file("models/tinypy/tokenizer.json"));
    made("chat", file("tests/fixtures/hf/llama_chat/tokenizer.json"));
    made("gpt2", byte_level(|_| {}));
    for pattern in Pattern::KNOWN {
        made(pattern.source(), byte_level(|json| json["pre_tokenizer"] = split(pattern)));
    }
    made("whole words", byte_level(|json| json["model"]["ignore_merges"] = true.into()));
    made("composed", byte_level(|json| json["normalizer"] = json!({"type": "NFC"})));
    made(
        "digits",
        byte_level(|json| {
            let bytes = json["pre_tokenizer"].take();
            let digits = json!({"type": "Digits", "individual_digits": true});
            json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [digits, bytes]});
        }),
    );
    made(
        "strip",
        byte_level(|json| {
            json["added_tokens"][0]["lstrip"] = true.into();
            json["added_tokens"][2]["rstrip"] = true.into();
        }),
    );
    made("pieces", pieces(|_| {}));
    made(
        "pieces without prefix",
        pieces(|json| {
            json["normalizer"]["normalizers"].as_array_mut().unwrap().remove(0);
            json["decoder"]["decoders"].as_array_mut().unwrap().pop();
        }),
    );
    made("unknown pieces", pieces(|json| json["model"]["byte_fallback"] = false.into()));
    made(
        "unknown pieces apart",
        pieces(|json| {
            json["model"]["byte_fallback"] = false.into();
            json["model"]["fuse_unk"] = false.into();
        }),
    );
}

#[test]
fn other_tokenizers_stay_with_the_library() {
    let refused = |json: Vec<u8>, part: &str| {
        let why = tokenizer_tables(&json).expect_err(part);
        assert!(why.contains(part), "{why}");
    };
    refused(b"{}".to_vec(), "no JSON of a tokenizer");
    refused(b"[".to_vec(), "EOF");
    refused(byte_level(|j| j["model"]["type"] = "WordPiece".into()), "WordPiece");
    refused(byte_level(|j| j["model"]["dropout"] = 0.1.into()), "dropout");
    refused(byte_level(|j| j["normalizer"] = json!({"type": "NFKC"})), "NFKC");
    refused(byte_level(|j| j["decoder"] = json!({"type": "WordPiece"})), "decoder");
    refused(byte_level(|j| j["added_tokens"][0]["single_word"] = true.into()), "whole words");
    refused(byte_level(|j| j["pre_tokenizer"]["add_prefix_space"] = true.into()), "ByteLevel");
    let mut near = split(Pattern::Qwen2);
    near["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\s+".into();
    refused(byte_level(|j| j["pre_tokenizer"] = near.clone()), "Split");
}

#[test]
fn truncation_and_padding_are_left_out_as_in_transformers() {
    let cut =
        json!({"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    let made = tokenizer_tables(&byte_level(|j| j["truncation"] = cut.clone()));
    assert_eq!(
        made.expect("has tables").bytes,
        tokenizer_tables(&byte_level(|_| {})).unwrap().bytes
    );
}

#[test]
fn damaged_tables_never_panic() {
    for json in [byte_level(|_| {}), pieces(|_| {})] {
        let made = tokenizer_tables(&json).expect("has tables");
        let mut rng = Rng::new(3);
        for _ in 0..400 {
            let mut bytes = made.bytes.clone();
            for _ in 0..1 + rng.below(20) {
                let at = rng.below(bytes.len());
                bytes[at] = rng.next_u64() as u8;
            }
            let tables = Tables::new(&made.head, &bytes.into()).expect("the lengths fit");
            // Odd tokens or none at all are fine.
            let text = "the other 12 é 日本 <|end|> \u{1f642}  x";
            let _ = tables.encode(text, true);
            let ids: Vec<u32> = (0..20).map(|_| rng.below(400) as u32).collect();
            let _ = tables.decode(&ids);
        }
        let mut head = made.head.clone();
        head.lengths[3] = u64::MAX;
        assert!(Tables::new(&head, &made.bytes.clone().into()).is_none());
        assert!(head.bytes().is_none());
    }
}
