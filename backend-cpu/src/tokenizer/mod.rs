//! Makes tokenizer tables from a tokenizer.json, and proves them against the `tokenizers` library.
//!
//! In: the JSON. Out: [`TableHead`] and the bytes of its sections, or why the executable
//! must carry the JSON instead (a kind of tokenizer or an expression that the tables do not know).
//! `check` encodes and decodes the same texts with both: tables that differ anywhere are not used.
//! The classes of letters and numbers are those of the library's regular expressions.

mod check;
mod read;

use std::collections::BTreeMap;

use regex_syntax::hir::{Class, HirKind};
use runtime::tokenizer::{AddedToken, Spelling, TableHead, TableSections, Tables, flags};
use serde_json::{Map, Value};

use crate::error::CpuError;
use read::{Around, Decoding};

/// Tables of a tokenizer.
#[derive(Clone, Debug)]
pub struct TokenizerTables {
    /// What ships in the head of the payload.
    pub head: TableHead,
    /// What ships beside the weights.
    pub bytes: Vec<u8>,
}

/// Whether executables could do anything with a tokenizer.
///
/// # Errors
/// When the library does not load it, or panics on ordinary text.
pub(crate) fn survives(json: &[u8]) -> Result<(), CpuError> {
    check::survives(json).map_err(|error| CpuError::Tokenizer { why: error.to_string() })
}

/// Tables that do what the tokenizer of `json` does.
///
/// # Errors
/// A sentence saying why there are none; the tokenizer itself may be fine.
pub fn tables(json: &[u8]) -> Result<TokenizerTables, String> {
    let value: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let made = make(&value).ok_or("it is no JSON of a tokenizer")??;
    let tables = Tables::new(&made.head, &made.bytes.clone().into())
        .ok_or("the tables do not fit together")?;
    check::compare(json, &tables)?;
    Ok(made)
}

/// `None` where the JSON has not the form of the library.
fn make(json: &Value) -> Option<Result<TokenizerTables, String>> {
    let model = json.get("model")?;
    if let Some(why) = read::refuse(json, model) {
        return Some(Err(why));
    }
    let vocab = model.get("vocab")?.as_object()?;
    let decoding = match read::decoding(json.get("decoder")?) {
        Ok(decoding) => decoding,
        Err(why) => return Some(Err(why)),
    };
    let normalizer = match read::normalizer(json.get("normalizer")?) {
        Ok(normalizer) => normalizer,
        Err(why) => return Some(Err(why)),
    };
    let cutting = match read::cutting(json.get("pre_tokenizer")?) {
        Ok(cutting) => cutting,
        Err(why) => return Some(Err(why)),
    };
    let around = match read::around(json.get("post_processor")?) {
        Ok(around) => around,
        Err(why) => return Some(Err(why)),
    };
    if cutting.bytes != (decoding == Decoding::Bytes) {
        return Some(Err("text is cut into bytes and not joined from them".to_string()));
    }
    let added = json.get("added_tokens")?.as_array()?;
    let ids = vocab.values().chain(added.iter().filter_map(|token| token.get("id")));
    let largest = ids.filter_map(Value::as_u64).max().unwrap_or(0);
    if largest >= TOKENS_MAX {
        return Some(Err(format!("token {largest} is beyond the {TOKENS_MAX} of the tables")));
    }
    let parts = Parts { model, vocab, added, decoding };
    let sections = parts.sections()?;
    let spelling = match decoding {
        Decoding::Bytes => Spelling::Bytes,
        Decoding::Pieces { strip } => Spelling::Pieces {
            unknown: model.get("unk_token")?.as_str().and_then(|t| id(vocab.get(t)?)),
            fuse: model.get("fuse_unk")?.as_bool()?,
            byte_fallback: model.get("byte_fallback")?.as_bool()?,
            strip,
        },
    };
    let Around { before, after } = around;
    let (bytes, lengths) = sections.encode();
    let head = TableHead {
        lengths,
        spelling,
        normalizer,
        digits: cutting.digits,
        pattern: cutting.pattern,
        whole_words: model.get("ignore_merges").and_then(Value::as_bool).unwrap_or(false),
        added: parts.added_tokens()?,
        before,
        after,
    };
    Some(Ok(TokenizerTables { head, bytes }))
}

fn id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// Most tokens: ids index tables.
const TOKENS_MAX: u64 = 1 << 22;

struct Parts<'a> {
    model: &'a Value,
    vocab: &'a Map<String, Value>,
    added: &'a [Value],
    decoding: Decoding,
}

impl Parts<'_> {
    fn sections(&self) -> Option<TableSections> {
        let mut ids: BTreeMap<u32, &str> = BTreeMap::new();
        for (text, value) in self.vocab {
            ids.insert(id(value)?, text);
        }
        let model_ids: Vec<u32> = ids.keys().copied().collect();
        for token in self.added {
            ids.insert(id(token.get("id")?)?, token.get("content")?.as_str()?);
        }
        let count = *ids.keys().next_back()? as usize + 1;
        let mut sections = TableSections { flags: vec![0; count], ..TableSections::default() };
        for i in 0..count {
            sections.offsets.push(u32::try_from(sections.texts.len()).ok()?);
            let Some(text) = ids.get(&(i as u32)) else { continue };
            let (written, raw) = self.written(text);
            sections.texts.extend(written);
            sections.flags[i] = flags::EXISTS | if raw { flags::RAW_BYTE } else { 0 };
        }
        sections.offsets.push(u32::try_from(sections.texts.len()).ok()?);
        for token in self.added.iter().filter(|t| t["special"] == true) {
            sections.flags[id(&token["id"])? as usize] |= flags::SPECIAL;
        }
        self.add_words(&model_ids, &ids, &mut sections);
        self.add_merges(count, &mut sections)?;
        sections.letters = ranges(r"\p{L}")?;
        sections.numbers = ranges(r"\p{N}")?;
        Some(sections)
    }

    /// What a token is written as, and whether that is a byte of a character.
    fn written(&self, text: &str) -> (Vec<u8>, bool) {
        match self.decoding {
            Decoding::Bytes => {
                let bytes: Option<Vec<u8>> = text.chars().map(byte_of).collect();
                (bytes.unwrap_or_else(|| text.as_bytes().to_vec()), false)
            }
            Decoding::Pieces { .. } => match raw_byte(text) {
                Some(byte) => (vec![byte], true),
                None => (text.replace('\u{2581}', " ").into_bytes(), false),
            },
        }
    }

    /// Fills what words are looked up in.
    fn add_words(
        &self,
        model_ids: &[u32],
        ids: &BTreeMap<u32, &str>,
        sections: &mut TableSections,
    ) {
        sections.bytes = vec![u32::MAX; 256];
        let mut words: Vec<(Vec<u8>, u32)> = Vec::new();
        for &id in model_ids {
            let text = ids[&id];
            match self.decoding {
                Decoding::Bytes => {
                    let bytes: Option<Vec<u8>> = text.chars().map(byte_of).collect();
                    let Some(bytes) = bytes else { continue };
                    if let [byte] = bytes[..] {
                        sections.bytes[usize::from(byte)] = id;
                    }
                    words.push((bytes, id));
                }
                Decoding::Pieces { .. } => match raw_byte(text) {
                    Some(byte) => sections.bytes[usize::from(byte)] = id,
                    // Looked up as written, so that one copy of the texts serves both ways.
                    None => words.push((text.replace('\u{2581}', " ").into_bytes(), id)),
                },
            }
        }
        words.sort();
        words.dedup_by(|a, b| a.0 == b.0);
        sections.by_text = words.into_iter().map(|(_, id)| id).collect();
    }

    fn add_merges(&self, count: usize, sections: &mut TableSections) -> Option<()> {
        let prefix = self.model.get("continuing_subword_prefix").and_then(Value::as_str);
        let skip = prefix.map_or(0, str::len);
        let mut merges: BTreeMap<(u32, u32), (u32, u32)> = BTreeMap::new();
        for (rank, merge) in self.model.get("merges")?.as_array()?.iter().enumerate() {
            let (left, right) = match merge {
                Value::String(text) => text.split_once(' ')?,
                Value::Array(pair) => (pair.first()?.as_str()?, pair.get(1)?.as_str()?),
                _ => return None,
            };
            let joined = format!("{left}{}", right.get(skip..)?);
            let token = |text: &str| id(self.vocab.get(text)?);
            let pair = (token(left)?, token(right)?);
            // The last of equal pairs holds, as in the library.
            merges.insert(pair, (u32::try_from(rank).ok()?, token(&joined)?));
        }
        let mut left_done = 0;
        for (&(left, right), &(rank, token)) in &merges {
            while left_done <= left {
                sections.rows.push(u32::try_from(sections.merges.len()).ok()?);
                left_done += 1;
            }
            sections.merges.push([right, rank, token]);
        }
        sections.rows.resize(count + 1, u32::try_from(sections.merges.len()).ok()?);
        Some(())
    }

    fn added_tokens(&self) -> Option<Vec<AddedToken>> {
        let token = |value: &Value| {
            let flag = |name: &str| value.get(name)?.as_bool();
            Some(AddedToken {
                text: value.get("content")?.as_str()?.to_string(),
                id: id(value.get("id")?)?,
                strip_left: flag("lstrip")?,
                strip_right: flag("rstrip")?,
            })
        };
        self.added.iter().map(token).collect()
    }
}

/// The byte that a character of GPT-2's alphabet stands for.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = c as u32;
    if printable(code) {
        return u8::try_from(code).ok();
    }
    // The others are numbered from 256 on.
    let nth = usize::try_from(code.checked_sub(256)?).ok()?;
    (0u32..256).filter(|&b| !printable(b)).nth(nth).and_then(|b| u8::try_from(b).ok())
}

/// The byte of a token `<0x41>`.
fn raw_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (text.len() == 6).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The ranges of a class of characters.
fn ranges(class: &str) -> Option<Vec<[u32; 2]>> {
    let hir = regex_syntax::parse(class).ok()?;
    let HirKind::Class(Class::Unicode(class)) = hir.kind() else { return None };
    Some(class.ranges().iter().map(|r| [r.start() as u32, r.end() as u32]).collect())
}
