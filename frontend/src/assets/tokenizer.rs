//! tokenizer.json and tokenizer_config.json.
//!
//! tokenizer.json is parsed once by the `tokenizers` crate, so that an executable never carries one
//! that it cannot read. Its tokens must have rows in the embedding; where they do not, text with
//! such a token would be out of range, which is worth a warning and no error.

use std::panic::catch_unwind;
use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::config::Fields;
use crate::error::{ErrorKind, FrontendError, Warning};
use crate::file;
use crate::json::{self, Object};

/// What tokenizer_config.json says about special tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerSettings {
    /// Token that begins a text.
    pub bos_token: Option<String>,
    /// Token that ends a text.
    pub eos_token: Option<String>,
    /// Token that stands for unknown text.
    pub unk_token: Option<String>,
    /// Token that fills up.
    pub pad_token: Option<String>,
    /// Whether encoding puts `bos_token` first.
    pub add_bos_token: Option<bool>,
    /// Whether encoding puts `eos_token` last.
    pub add_eos_token: Option<bool>,
}

/// A tokenizer from the bytes of a tokenizer.json.
///
/// # Errors
/// A sentence saying why it is none.
pub fn load_tokenizer(json: &[u8]) -> Result<Tokenizer, String> {
    // The crate panics on JSON that is cut off and on some merges: look before.
    let object = json::parse_object(json, Path::new("")).map_err(|e| e.kind.to_string())?;
    check_merges(&object)?;
    check_growth(&object)?;
    // And on what else its authors did not expect; the parser keeps no state that could be torn.
    catch_unwind(|| Tokenizer::from_bytes(json))
        .map_err(|_| "the tokenizers library cannot read it".to_string())?
        .map_err(|e| e.to_string())
}

/// Checks that every merge of a BPE model joins two tokens to a token.
fn check_merges(object: &Object) -> Result<(), String> {
    let Some(model) = object.get("model").and_then(Value::as_object) else { return Ok(()) };
    let (Some(merges), Some(vocab)) = (
        model.get("merges").and_then(Value::as_array),
        model.get("vocab").and_then(Value::as_object),
    ) else {
        return Ok(());
    };
    let prefix = model.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or("");
    for (i, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                _ => None,
            },
            _ => None,
        };
        // The prefix that marks b as a continuation is dropped where b is joined to a.
        let joined = pair.and_then(|(a, b)| Some(format!("{a}{}", b.get(prefix.len()..)?)));
        if joined.is_none_or(|token| !vocab.contains_key(&token)) {
            return Err(format!("merge {i}, {}, does not make a token", json::shown(merge)));
        }
    }
    Ok(())
}

/// Most bytes that replacing may make of one: a long prompt still fits into memory. Known tokenizers
/// write three for a space.
const GROWTH_MAX: u64 = 256;

/// Checks that the normalizer does not blow texts up: each replacement may lengthen what the one before
/// wrote.
fn check_growth(object: &Object) -> Result<(), String> {
    let mut growth = 1u64;
    let mut pending: Vec<&Value> = object.get("normalizer").into_iter().collect();
    while let Some(step) = pending.pop() {
        pending.extend(step.get("normalizers").and_then(Value::as_array).into_iter().flatten());
        let Some(content) = step.get("content").and_then(Value::as_str) else { continue };
        let literal = step.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str);
        // An expression may match one byte.
        let matched = literal.map_or(1, str::len).max(1);
        growth = growth.saturating_mul((content.len().div_ceil(matched) as u64).max(1));
    }
    if growth > GROWTH_MAX {
        return Err(format!(
            "its normalizer makes up to {growth} bytes of one, at most {GROWTH_MAX} are allowed"
        ));
    }
    Ok(())
}

/// The bytes of tokenizer.json, where there is one.
pub(super) fn read(
    directory: &Path,
    vocab_size: Option<usize>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Vec<u8>>, FrontendError> {
    let path = directory.join("tokenizer.json");
    if !file::exists(&path) {
        let sentencepiece = directory.join("tokenizer.model");
        if file::exists(&sentencepiece) {
            let message = "tokenizer.model is not supported, only tokenizer.json is: prompts must \
                           be given as token ids";
            let (code, message) = ("SPK2802", message.to_string());
            warnings.push(Warning { code, path: sentencepiece, message });
        }
        return Ok(None);
    }
    let bytes = file::read(&path)?;
    let tokenizer = load_tokenizer(&bytes).map_err(|why| ErrorKind::Tokenizer { why }.at(&path))?;
    let last_id = tokenizer.get_vocab(true).into_values().max();
    if let (Some(last_id), Some(vocab_size)) = (last_id, vocab_size)
        && last_id as usize >= vocab_size
    {
        let message = format!(
            "has tokens up to {last_id}, the embedding has only {vocab_size} rows: text with a \
             token beyond is refused"
        );
        warnings.push(Warning { code: "SPK2803", path, message });
    }
    Ok(Some(bytes))
}

/// The settings and the chat template of tokenizer_config.json. Fields about the Python class and
/// its way of splitting text are tokenizer.json's business and not looked at.
pub(super) fn read_settings(
    path: &Path,
    object: Object,
    warnings: &mut Vec<Warning>,
) -> Result<(TokenizerSettings, Option<String>), FrontendError> {
    let mut fields = Fields::new(path, object);
    let settings = TokenizerSettings {
        bos_token: token(&mut fields, "bos_token")?,
        eos_token: token(&mut fields, "eos_token")?,
        unk_token: token(&mut fields, "unk_token")?,
        pad_token: token(&mut fields, "pad_token")?,
        add_bos_token: fields.flag("add_bos_token")?,
        add_eos_token: fields.flag("add_eos_token")?,
    };
    let template = match fields.value("chat_template") {
        None => None,
        Some(Value::String(text)) => Some(text),
        Some(Value::Array(named)) => default_template(&named, path, warnings),
        Some(other) => {
            return Err(fields.wrong("chat_template", &other, "a text or a list of templates"));
        }
    };
    Ok((settings, template))
}

/// A token, spelled as a string or as an object with `content`.
fn token(fields: &mut Fields<'_>, key: &str) -> Result<Option<String>, FrontendError> {
    match fields.value(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Object(mut object)) => match object.swap_remove("content") {
            Some(Value::String(text)) => Ok(Some(text)),
            _ => Err(fields.wrong(key, &Value::Object(object), "an object with \"content\"")),
        },
        Some(other) => Err(fields.wrong(key, &other, "a string")),
    }
}

/// Of several templates, the one named `default`.
fn default_template(named: &[Value], path: &Path, warnings: &mut Vec<Warning>) -> Option<String> {
    let default = named.iter().find(|entry| entry.get("name").is_some_and(|n| n == "default"));
    let text = default.and_then(|entry| entry.get("template")).and_then(Value::as_str);
    if text.is_none() {
        let message = "none of the chat templates is called \"default\": chat is not available";
        let (code, message) = ("SPK2804", message.to_string());
        warnings.push(Warning { code, path: path.to_path_buf(), message });
    }
    text.map(str::to_string)
}
