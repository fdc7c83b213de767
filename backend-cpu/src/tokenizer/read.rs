//! What of a tokenizer.json the tables can do; everything else is refused in a sentence.
//!
//! Fields are those of the `tokenizers` library. A field that is not looked at here would be a
//! difference that only the comparison finds; so what matters is matched in full.

use runtime::tokenizer::{Normalizer, Pattern};
use serde_json::{Value, json};

/// How tokens become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoding {
    /// By GPT-2's alphabet of bytes.
    Bytes,
    /// Pieces with `▁` for a space, and bytes spelled `<0x41>`.
    Pieces {
        /// The first space is left out.
        strip: bool,
    },
}

/// How text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cutting {
    pub(super) digits: bool,
    pub(super) pattern: Pattern,
    /// Words are spelled in bytes.
    pub(super) bytes: bool,
}

/// Tokens around every text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

/// A reason not to make tables of this model at all.
pub(super) fn refuse(json: &Value, model: &Value) -> Option<String> {
    let kind = model.get("type").and_then(Value::as_str);
    // Older files leave the type out; then merges say that it is BPE.
    if kind != Some("BPE") && !(kind.is_none() && model.get("merges").is_some()) {
        return Some(format!("a model of type {} has no tables", kind.unwrap_or("(none)")));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix", "dropout"] {
        let idle = |v: &Value| v.is_null() || v == "" || v == 0.0;
        if model.get(key).is_some_and(|v| !idle(v)) {
            return Some(format!("{key} has no tables"));
        }
    }
    let normalizes = json.get("normalizer").is_some_and(|v| !v.is_null());
    let added = json.get("added_tokens").and_then(Value::as_array);
    added.into_iter().flatten().find_map(|token| {
        let content = token["content"].as_str().unwrap_or("");
        if token["single_word"] == true || content.is_empty() {
            return Some(format!("added token {content:?} matches whole words only or nothing"));
        }
        let differs = token["normalized"] == true && normalizes;
        differs.then(|| format!("added token {content:?} is matched after normalising"))
    })
}

/// The normalizer.
pub(super) fn normalizer(value: &Value) -> Result<Normalizer, String> {
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    match value {
        Value::Null => Ok(Normalizer::None),
        v if v["type"] == "NFC" => Ok(Normalizer::Compose),
        v if *v == replace => Ok(Normalizer::Spaces { prepend: false }),
        v if v["type"] == "Sequence" && v["normalizers"] == json!([replace]) => {
            Ok(Normalizer::Spaces { prepend: false })
        }
        v if v["type"] == "Sequence" && v["normalizers"] == json!([prepend, replace]) => {
            Ok(Normalizer::Spaces { prepend: true })
        }
        v if v["type"] == "Sequence" && v["normalizers"] == json!([]) => Ok(Normalizer::None),
        other => Err(format!("normalizer {} has no tables", shown(other))),
    }
}

/// The pre-tokenizer.
pub(super) fn cutting(value: &Value) -> Result<Cutting, String> {
    let mut cutting = Cutting { digits: false, pattern: Pattern::Whole, bytes: false };
    let steps: Vec<&Value> = match value {
        Value::Null => return Ok(cutting),
        v if v["type"] == "Sequence" => {
            v["pretokenizers"].as_array().into_iter().flatten().collect()
        }
        v => vec![v],
    };
    for step in steps {
        let refused = || Err(format!("pre-tokenizer {} has no tables", shown(step)));
        let fresh = cutting.pattern == Pattern::Whole && !cutting.bytes;
        match step["type"].as_str() {
            Some("Digits") if step["individual_digits"] == true && fresh => cutting.digits = true,
            Some("Split") if fresh && step["behavior"] == "Isolated" && step["invert"] == false => {
                let source = step["pattern"]["Regex"].as_str();
                let known = Pattern::KNOWN.into_iter().find(|p| source == Some(p.source()));
                let Some(known) = known else { return refused() };
                cutting.pattern = known;
            }
            Some("ByteLevel") if !cutting.bytes && step["add_prefix_space"] == false => {
                cutting.bytes = true;
                // Without the field the library uses its expression.
                if step["use_regex"] != false {
                    if cutting.pattern != Pattern::Whole {
                        return refused();
                    }
                    cutting.pattern = Pattern::Gpt2;
                }
            }
            _ => return refused(),
        }
    }
    Ok(cutting)
}

/// The decoder.
pub(super) fn decoding(value: &Value) -> Result<Decoding, String> {
    let pieces = json!([
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]);
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    match value["type"].as_str() {
        Some("ByteLevel") => Ok(Decoding::Bytes),
        Some("Sequence") => {
            let steps = value["decoders"].as_array().map_or(&[][..], Vec::as_slice);
            let same = |n: usize| steps.get(..n).is_some_and(|s| json!(s) == pieces);
            match steps.len() {
                3 if same(3) => Ok(Decoding::Pieces { strip: false }),
                4 if same(3) && steps[3] == strip => Ok(Decoding::Pieces { strip: true }),
                _ => Err(format!("decoder {} has no tables", shown(value))),
            }
        }
        _ => Err(format!("decoder {} has no tables", shown(value))),
    }
}

/// The post-processor: a template around a single text.
pub(super) fn around(value: &Value) -> Result<Around, String> {
    let mut around = Around::default();
    let steps: Vec<&Value> = match value {
        Value::Null => return Ok(around),
        v if v["type"] == "Sequence" => v["processors"].as_array().into_iter().flatten().collect(),
        v => vec![v],
    };
    let refused = |step: &Value| format!("post-processor {} has no tables", shown(step));
    for step in steps {
        match step["type"].as_str() {
            // Concerns offsets only.
            Some("ByteLevel") => {}
            Some("TemplateProcessing") if around == Around::default() => {
                around = template(step).ok_or_else(|| refused(step))?;
            }
            _ => return Err(refused(step)),
        }
    }
    Ok(around)
}

fn template(step: &Value) -> Option<Around> {
    let mut around = Around::default();
    let mut seen = false;
    for piece in step["single"].as_array()? {
        if let Some(special) = piece.get("SpecialToken") {
            let ids = step["special_tokens"].get(special["id"].as_str()?)?["ids"].as_array()?;
            let side = if seen { &mut around.after } else { &mut around.before };
            for id in ids {
                side.push(u32::try_from(id.as_u64()?).ok()?);
            }
        } else {
            piece.get("Sequence").filter(|_| !seen)?;
            seen = true;
        }
    }
    seen.then_some(around)
}

/// The beginning of a value, for messages.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(120).collect()
}
