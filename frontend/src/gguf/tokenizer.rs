//! The tokenizer inside a GGUF file, as a tokenizer.json.
//!
//! Two kinds: `gpt2` (byte-level BPE with merges; how text is cut before is a name that stands for
//! what the model's original tokenizer.json says) and `llama` (SentencePiece BPE: merges follow from
//! the scores, as in transformers' `SentencePieceExtractor`). What is not known becomes a warning and
//! no tokenizer, because a guess would give other tokens than the model was trained on.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::read::{Gguf, Value};
use crate::assets::{Assets, GenerationDefaults, TokenizerSettings, load_tokenizer};
use crate::error::{ErrorKind, Warning};

/// Types of tokens in `tokenizer.ggml.token_type`.
const UNKNOWN: f64 = 2.0;
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;
const UNUSED: f64 = 5.0;

/// Longest piece of a SentencePiece model, in bytes, that merges are derived for.
const PIECE_BYTES_MAX: usize = 512;

/// Tokenizer, template and stop tokens of a file.
///
/// # Errors
/// A tokenizer that contradicts itself.
pub(super) fn assets(
    gguf: &Gguf,
    path: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<Assets, ErrorKind> {
    let Some(tokens) = tokens(gguf)? else { return Ok(Assets::default()) };
    let vocabulary = Vocabulary { gguf, tokens, kinds: numbers(gguf, "token_type") };
    let json = match vocabulary.tokenizer() {
        Ok(json) => Some(json.to_string().into_bytes()),
        Err(Unread::Unknown(message)) => {
            warnings.push(Warning { code: "SPK2802", path: path.to_path_buf(), message });
            None
        }
        Err(Unread::Wrong(why)) => return Err(ErrorKind::Tokenizer { why }),
    };
    if let Some(json) = &json {
        load_tokenizer(json).map_err(|why| ErrorKind::Tokenizer { why })?;
    }
    let stops = ["eos_token_id", "eot_token_id", "eom_token_id"];
    let mut eos_token_ids: Vec<u32> = stops.iter().filter_map(|k| vocabulary.id(k)).collect();
    eos_token_ids.dedup();
    let spelled = |key: &str| {
        let id = vocabulary.id(key)?;
        Some(vocabulary.tokens.get(id as usize)?.to_string())
    };
    let template = gguf.metadata.get("tokenizer.chat_template").and_then(Value::text);
    Ok(Assets {
        tokenizer_json: json,
        tokenizer: TokenizerSettings {
            bos_token: spelled("bos_token_id"),
            eos_token: spelled("eos_token_id"),
            unk_token: spelled("unknown_token_id"),
            pad_token: spelled("padding_token_id"),
            add_bos_token: vocabulary.flag("add_bos_token"),
            add_eos_token: vocabulary.flag("add_eos_token"),
        },
        chat_template: template.map(str::to_string),
        generation: GenerationDefaults {
            eos_token_ids,
            bos_token_id: vocabulary.id("bos_token_id"),
            pad_token_id: vocabulary.id("padding_token_id"),
            ..GenerationDefaults::default()
        },
    })
}

/// Why there is no tokenizer.json.
enum Unread {
    /// A kind that sparkc does not know: the model runs on token ids.
    Unknown(String),
    /// The file contradicts itself.
    Wrong(String),
}

fn entry<'a>(gguf: &'a Gguf, key: &str) -> Option<&'a Value> {
    gguf.metadata.get(&format!("tokenizer.ggml.{key}"))
}

fn list<'a>(gguf: &'a Gguf, key: &str) -> Option<Vec<&'a [u8]>> {
    match entry(gguf, key)? {
        Value::List(list) => gguf.texts(list),
        _ => None,
    }
}

fn numbers(gguf: &Gguf, key: &str) -> Option<Vec<f64>> {
    match entry(gguf, key)? {
        Value::List(list) => gguf.numbers(list),
        _ => None,
    }
}

/// The texts of the tokens, by id.
fn tokens(gguf: &Gguf) -> Result<Option<Vec<&str>>, ErrorKind> {
    let Some(tokens) = list(gguf, "tokens") else { return Ok(None) };
    let texts = tokens.iter().enumerate().map(|(id, bytes)| {
        std::str::from_utf8(bytes)
            .map_err(|_| ErrorKind::Tokenizer { why: format!("token {id} is not UTF-8") })
    });
    texts.collect::<Result<_, _>>().map(Some)
}

struct Vocabulary<'a> {
    gguf: &'a Gguf,
    tokens: Vec<&'a str>,
    kinds: Option<Vec<f64>>,
}

impl Vocabulary<'_> {
    fn kind(&self, id: usize) -> f64 {
        self.kinds.as_ref().and_then(|kinds| kinds.get(id)).copied().unwrap_or(1.0)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        entry(self.gguf, key)?.flag()
    }

    /// A token id of the metadata that is one.
    fn id(&self, key: &str) -> Option<u32> {
        let id = u32::try_from(entry(self.gguf, key)?.unsigned()?).ok()?;
        ((id as usize) < self.tokens.len()).then_some(id)
    }

    fn tokenizer(&self) -> Result<Json, Unread> {
        let model = entry(self.gguf, "model").and_then(Value::text).unwrap_or_default();
        match model {
            "gpt2" => self.byte_level(),
            "llama" => self.sentencepiece(),
            other => {
                let why =
                    format!("tokenizer of kind \"{other}\" is not supported, gpt2 and llama are");
                Err(Unread::Unknown(format!("{why}: prompts must be given as token ids")))
            }
        }
    }

    /// Ids by text; the first of equal texts, without those that the file calls unused.
    fn ids(&self) -> Map<String, Json> {
        let mut vocab = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if self.kind(id) != UNUSED && !vocab.contains_key(*token) {
                vocab.insert((*token).to_string(), id.into());
            }
        }
        vocab
    }

    /// Tokens that are found in text before it is cut: markers, and what users defined.
    fn added(&self) -> Vec<Json> {
        let ids = (0..self.tokens.len()).filter(|&id| {
            [UNKNOWN, CONTROL, USER_DEFINED].contains(&self.kind(id)) && !self.tokens[id].is_empty()
        });
        ids.map(|id| {
            json!({"id": id, "content": self.tokens[id], "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": self.kind(id) != USER_DEFINED})
        })
        .collect()
    }

    /// The tokens that the model puts around every text.
    fn around(&self, bos_default: bool) -> Json {
        let marker = |flag: &str, default: bool, id: &str| {
            let wanted = self.flag(flag).unwrap_or(default);
            self.id(id).filter(|_| wanted).map(|id| (id, self.tokens[id as usize]))
        };
        let begin = marker("add_bos_token", bos_default, "bos_token_id");
        let end = marker("add_eos_token", false, "eos_token_id");
        if begin.is_none() && end.is_none() {
            return Json::Null;
        }
        let special = |(_, token): &(u32, &str), ty: u32| json!({"SpecialToken": {"id": token, "type_id": ty}});
        let template = |parts: &[(&str, u32)]| -> Vec<Json> {
            parts
                .iter()
                .flat_map(|&(id, ty)| {
                    let sequence = json!({"Sequence": {"id": id, "type_id": ty}});
                    let (b, e) = (begin.as_ref(), end.as_ref());
                    b.map(|t| special(t, ty))
                        .into_iter()
                        .chain([sequence])
                        .chain(e.map(|t| special(t, ty)))
                })
                .collect()
        };
        let tokens: Map<String, Json> = begin
            .iter()
            .chain(&end)
            .map(|(id, token)| {
                ((*token).to_string(), json!({"id": token, "ids": [id], "tokens": [token]}))
            })
            .collect();
        json!({"type": "TemplateProcessing", "single": template(&[("A", 0)]),
            "pair": template(&[("A", 0), ("B", 1)]), "special_tokens": tokens})
    }

    /// GPT-2's BPE on bytes.
    fn byte_level(&self) -> Result<Json, Unread> {
        let cut = entry(self.gguf, "pre").and_then(Value::text).unwrap_or("gpt-2");
        let Some(cut) = Cut::by_name(cut) else {
            return Err(Unread::Unknown(format!(
                "pre-tokenizer \"{cut}\" is not known: prompts must be given as token ids"
            )));
        };
        let merges = list(self.gguf, "merges")
            .ok_or_else(|| Unread::Wrong("it has no tokenizer.ggml.merges".to_string()))?;
        let pair = |(i, merge): (usize, &&[u8])| {
            let pair = std::str::from_utf8(merge).ok().and_then(|m| m.split_once(' '));
            pair.map(|(a, b)| json!([a, b]))
                .ok_or_else(|| Unread::Wrong(format!("merge {i} is no pair of tokens")))
        };
        let merges: Vec<Json> = merges.iter().enumerate().map(pair).collect::<Result<_, _>>()?;
        let bytes = |use_regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": use_regex})
        };
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added(),
            "normalizer": if cut.composes { json!({"type": "NFC"}) } else { Json::Null },
            "pre_tokenizer": match cut.pattern {
                Pattern::Gpt2 => bytes(true),
                Pattern::DigitsGpt2 => json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Digits", "individual_digits": true}, bytes(true)]}),
                Pattern::Regex(regex) => json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated",
                        "invert": false}, bytes(false)]}),
            },
            "post_processor": self.around(cut.begins),
            "decoder": bytes(true),
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                "byte_fallback": false, "ignore_merges": cut.whole_words, "vocab": self.ids(),
                "merges": merges},
        }))
    }

    /// SentencePiece's BPE, bytes for what has no piece.
    fn sentencepiece(&self) -> Result<Json, Unread> {
        let scores = numbers(self.gguf, "scores")
            .filter(|scores| scores.len() == self.tokens.len())
            .ok_or_else(|| Unread::Wrong("it has no score for every token".to_string()))?;
        let prefix = self.flag("add_space_prefix").unwrap_or(true);
        let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let mut normalizers = vec![space];
        if prefix {
            normalizers.insert(0, prepend);
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self.id("unknown_token_id").map(|id| self.tokens[id as usize]);
        let unknown = unknown.or_else(|| self.tokens.iter().copied().find(|t| *t == "<unk>"));
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added(),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": self.around(true),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "dropout": null, "unk_token": unknown,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "byte_fallback": true, "ignore_merges": false, "vocab": self.ids(),
                "merges": self.merges(&scores)},
        }))
    }

    /// Every pair of pieces that makes a piece, the best-scored piece first.
    fn merges(&self, scores: &[f64]) -> Vec<Json> {
        let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
        for (id, token) in self.tokens.iter().enumerate() {
            ids.entry(token).or_insert(id);
        }
        let mut found: Vec<(f64, usize, usize, usize, usize)> = Vec::new();
        for (&token, &id) in ids.iter().filter(|(t, _)| t.len() <= PIECE_BYTES_MAX) {
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                    found.push((scores[id], id, l, r, at));
                }
            }
        }
        let chars = |id: usize| self.tokens[id].chars().count();
        // As transformers sorts: score, then lengths of the parts, all descending; the sort is stable
        // over pieces by id and parts by their ids.
        found.sort_by_key(|&(_, id, l, r, _)| (id, l, r));
        found.sort_by(|a, b| {
            let lengths = |m: &(f64, usize, usize, usize, usize)| (chars(m.2), chars(m.3));
            b.0.total_cmp(&a.0).then_with(|| lengths(b).cmp(&lengths(a)))
        });
        found.iter().map(|&(_, _, l, r, _)| json!([self.tokens[l], self.tokens[r]])).collect()
    }
}

/// What `tokenizer.ggml.pre` stands for.
struct Cut {
    pattern: Pattern,
    /// Text is brought into form NFC first.
    composes: bool,
    /// A word that is a token is taken whole, whatever the merges say.
    whole_words: bool,
    /// The default of `add_bos_token`.
    begins: bool,
}

enum Pattern {
    Gpt2,
    DigitsGpt2,
    Regex(&'static str),
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Cut {
    /// From llama.cpp's `llm_load_vocab` and the tokenizer.json of the models that the names are of.
    fn by_name(name: &str) -> Option<Cut> {
        let plain =
            Cut { pattern: Pattern::Gpt2, composes: false, whole_words: false, begins: false };
        Some(match name {
            "gpt-2" | "gpt2" | "phi-2" | "jina-es" | "jina-de" | "roberta-bpe" => plain,
            "smollm" | "starcoder" | "refact" | "codeshell" => {
                Cut { pattern: Pattern::DigitsGpt2, ..plain }
            }
            "llama3" | "llama-v3" | "llama-bpe" => {
                Cut { pattern: Pattern::Regex(LLAMA3), whole_words: true, begins: true, ..plain }
            }
            "qwen2" | "deepseek-r1-qwen" => {
                Cut { pattern: Pattern::Regex(QWEN2), composes: true, ..plain }
            }
            "tekken" => {
                Cut { pattern: Pattern::Regex(TEKKEN), whole_words: true, begins: true, ..plain }
            }
            _ => return None,
        })
    }
}
