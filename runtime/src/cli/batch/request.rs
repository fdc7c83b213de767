//! One line of a batch: a JSON object that says what to continue and how.
//!
//! Strict: an unknown field, a second value of one, a number out of range are errors of that line. What
//! a line does not say, the command line says, then the model.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::batch::{BatchError, Request};
use crate::cli::Args;
use crate::exec::SessionError;
use crate::payload::GenerationDefaults;
use crate::sample::Sampling;
use crate::text::{ChatMessage, Text, TextError};

/// Most strings that end a text.
const STOPS_MAX: usize = 16;

/// Why a line is not answered by a text.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) enum LineError {
    #[error("the line is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("not UTF-8 from byte {byte} on")]
    Utf8 { byte: usize },
    #[error("not JSON: {0}")]
    Json(String),
    #[error("{0}")]
    Field(String),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("{why}")]
    Refused { code: &'static str, why: String },
}

impl LineError {
    /// A name for programs; stable.
    pub(super) fn code(&self) -> &'static str {
        match self {
            LineError::TooLong { .. } => "line-too-long",
            LineError::Utf8 { .. } => "not-utf8",
            LineError::Json(_) => "not-json",
            LineError::Field(_) => "bad-field",
            LineError::Text(TextError::NoTokenizer) => "no-tokenizer",
            LineError::Text(TextError::Tokenizer { .. } | TextError::Library) => "tokenizer",
            LineError::Text(TextError::NoTemplate) => "no-template",
            LineError::Text(TextError::Template { .. }) => "template",
            LineError::Refused { code, .. } => code,
        }
    }
}

impl From<BatchError> for LineError {
    fn from(error: BatchError) -> Self {
        let code = match &error {
            BatchError::KvBudget { .. } => "kv-budget",
            BatchError::Session(SessionError::ContextFull { .. }) => "context-full",
            BatchError::Session(SessionError::NoTokens) => "no-tokens",
            BatchError::Session(SessionError::Token { .. }) => "unknown-token",
            BatchError::Session(SessionError::Logits { .. }) => "no-distribution",
            BatchError::Session(_) => "resource",
        };
        LineError::Refused { code, why: error.to_string() }
    }
}

/// The caller's name for a request, given back as it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Id {
    Number(u64),
    Text(String),
}

/// A line as JSON: what the values are is looked at field by field, to name the field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    id: Option<Value>,
    prompt: Option<Value>,
    tokens: Option<Tokens>,
    chat: Option<Value>,
    max_tokens: Option<Value>,
    greedy: Option<Value>,
    temperature: Option<Value>,
    top_k: Option<Value>,
    top_p: Option<Value>,
    seed: Option<Value>,
    stop: Option<Value>,
}

/// Token ids, or the first element that is none; read without a tree, because there may be millions.
struct Tokens(Result<Vec<u32>, String>);

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = Tokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of token ids")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tokens, A::Error> {
                let (mut ids, mut wrong) = (Vec::new(), None);
                while let Some(id) = list.next_element::<Value>()? {
                    match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                        Some(id) => ids.push(id),
                        None if wrong.is_none() => wrong = Some(shown(&id)),
                        None => {}
                    }
                }
                Ok(Tokens(wrong.map_or(Ok(ids), Err)))
            }
        }
        source.deserialize_any(Ids)
    }
}

/// A value as a message shows it: not much of it.
fn shown(value: &Value) -> String {
    const MOST: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

/// The value of a field that is there and not null.
fn field<T>(
    name: &str,
    value: Option<Value>,
    expected: &str,
    of: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, LineError> {
    let read = |value: Value| {
        let wrong =
            || LineError::Field(format!("{name} is {}, expected {expected}", shown(&value)));
        of(&value).ok_or_else(wrong)
    };
    value.filter(|v| !v.is_null()).map(read).transpose()
}

/// What serde says of a line, in words of the format: the line is one of a file, so only the column
/// tells where.
fn not_understood(line: &str, error: &serde_json::Error) -> LineError {
    let why = error.to_string();
    let why = why.split(" at line ").next().unwrap_or(&why);
    let at = error.column();
    if !error.is_data() {
        return LineError::Json(format!("{why} at column {at}"));
    }
    if !line.trim_start().starts_with('{') {
        let example = r#"{"prompt": "..."} or {"tokens": [1, 2]}"#;
        return LineError::Field(format!("a request is an object, {example}"));
    }
    // Of all fields only `tokens` has a type that serde knows.
    let why = match why.strip_prefix("invalid type: ") {
        Some(why) if why.starts_with("map,") => format!("tokens is an object{}", &why[3..]),
        Some(why) => format!("tokens is {why}"),
        None => why.to_string(),
    };
    LineError::Field(format!("{why} at column {at}"))
}

/// A line that was understood.
pub(super) struct Asked {
    pub(super) id: Option<Id>,
    pub(super) request: Request,
    /// Strings that end the text.
    pub(super) stops: Vec<String>,
}

/// Reads a line; `number` becomes the number of the request. With an error comes the id, where there
/// is one.
pub(super) fn read(
    line: &str,
    number: u64,
    args: &Args,
    text: Option<&Text>,
    defaults: &GenerationDefaults,
) -> Result<Asked, (Option<Id>, LineError)> {
    let mut fields: Fields =
        serde_json::from_str(line).map_err(|e| (None, not_understood(line, &e)))?;
    let id = field("id", fields.id.take(), "a string or a whole number", |v| {
        v.as_u64().map(Id::Number).or_else(|| v.as_str().map(|id| Id::Text(id.to_string())))
    });
    let id = id.map_err(|e| (None, e))?;
    let asked = understood(fields, number, args, text, defaults);
    let (request, stops) = asked.map_err(|e| (id.clone(), e))?;
    Ok(Asked { id, request, stops })
}

fn understood(
    fields: Fields,
    number: u64,
    args: &Args,
    text: Option<&Text>,
    defaults: &GenerationDefaults,
) -> Result<(Request, Vec<String>), LineError> {
    let wrong = |why: &str| LineError::Field(why.to_string());
    let stops = field("stop", fields.stop, "a string or a list of strings", strings)?;
    let stops = stops.unwrap_or_default();
    if stops.len() > STOPS_MAX || stops.iter().any(String::is_empty) {
        return Err(wrong(&format!("stop: expected at most {STOPS_MAX} strings, none empty")));
    }
    if !stops.is_empty() && text.is_none() {
        return Err(TextError::NoTokenizer.into());
    }
    let whole = "a whole number from 0";
    let truth = "true or false";
    let temperature = field("temperature", fields.temperature, "a number from 0 up", |v| {
        float(v).filter(|&t| t >= 0.0 && t.is_finite())
    })?;
    let top_k = field("top_k", fields.top_k, whole, |v| v.as_u64()?.try_into().ok())?;
    let top_p = field("top_p", fields.top_p, "a number above 0, at most 1", |v| {
        float(v).filter(|&p| p > 0.0 && p <= 1.0)
    })?;
    let greedy = field("greedy", fields.greedy, truth, Value::as_bool)?;
    let sampled = temperature.is_some() || top_k.is_some() || top_p.is_some();
    if greedy == Some(true) && sampled {
        return Err(wrong("greedy excludes temperature, top_k and top_p"));
    }
    let most = field("max_tokens", fields.max_tokens, whole, |v| v.as_u64()?.try_into().ok())?;
    let here = Args {
        n: most.or(args.n),
        greedy: greedy.unwrap_or(args.greedy && !sampled),
        temperature: temperature.or(args.temperature),
        top_k: top_k.or(args.top_k),
        top_p: top_p.or(args.top_p),
        seed: field("seed", fields.seed, whole, Value::as_u64)?.or(args.seed),
        ..Args::default()
    };
    let sampling: Sampling = here.sampling(defaults);
    let chat = field("chat", fields.chat, truth, Value::as_bool)?;
    let given = field("prompt", fields.prompt, "a string", |v| v.as_str().map(str::to_string))?;
    let prompt = match (given, fields.tokens) {
        (Some(_), Some(_)) => return Err(wrong("prompt and tokens exclude each other")),
        (None, None) => return Err(wrong("no prompt: give one as `prompt` or as `tokens`")),
        (None, Some(Tokens(Ok(tokens)))) => tokens,
        (None, Some(Tokens(Err(id)))) => {
            return Err(wrong(&format!("tokens: {id} is no token id, a whole number from 0")));
        }
        (Some(prompt), None) => {
            let text = text.ok_or(TextError::NoTokenizer)?;
            if chat.unwrap_or(args.chat) {
                text.encode_chat(&[ChatMessage::new("user", &prompt)])?
            } else {
                text.encode(&prompt)?
            }
        }
    };
    let stop_tokens = defaults.stop_tokens.clone();
    let limit = here.limit(defaults);
    Ok((Request { id: number, prompt, limit, sampling, stop_tokens }, stops))
}

fn float(value: &Value) -> Option<f32> {
    Some(value.as_f64()? as f32)
}

/// A string, or several.
fn strings(value: &Value) -> Option<Vec<String>> {
    let text = |v: &Value| v.as_str().map(str::to_string);
    match value {
        Value::Array(list) => list.iter().map(text).collect(),
        one => Some(vec![text(one)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Result<Asked, (Option<Id>, LineError)> {
        read(line, 7, &Args::default(), None, &GenerationDefaults::default())
    }

    fn code(line: &str) -> &'static str {
        ask(line).err().map_or("", |(_, error)| error.code())
    }

    #[test]
    fn a_request_says_what_and_how() {
        let asked =
            ask(r#"{"id": "a", "tokens": [1, 2], "max_tokens": 5, "temperature": 0.5, "seed": 3}"#);
        let asked = asked.map_err(|(_, e)| e).unwrap();
        assert_eq!(asked.id, Some(Id::Text("a".to_string())));
        assert_eq!(
            (asked.request.id, asked.request.prompt, asked.request.limit),
            (7, vec![1, 2], 5)
        );
        let Sampling { temperature, seed, .. } = asked.request.sampling;
        assert_eq!((temperature, seed), (0.5, 3));
    }

    #[test]
    fn flags_hold_where_a_line_is_silent() {
        let args = Args { n: Some(9), seed: Some(4), greedy: true, ..Args::default() };
        let defaults = GenerationDefaults { sample: true, ..GenerationDefaults::default() };
        let of = |line| read(line, 1, &args, None, &defaults).map_err(|(_, e)| e).unwrap().request;
        let silent = of(r#"{"tokens": [1]}"#);
        assert_eq!((silent.limit, silent.sampling.temperature), (9, 0.0));
        assert_eq!(of(r#"{"tokens": [1], "temperature": 2}"#).sampling.temperature, 2.0);
        assert_eq!(of(r#"{"tokens": [1], "greedy": false}"#).sampling.temperature, 1.0);
        assert_eq!(of(r#"{"tokens": [1], "max_tokens": 2}"#).limit, 2);
    }

    #[test]
    fn what_is_wrong_has_a_code() {
        for (line, expected) in [
            ("", "not-json"),
            ("{", "not-json"),
            ("[1]", "bad-field"),
            (r#"{"tokens": [1]} x"#, "not-json"),
            (r#"{"tokens": [1], "tokens": [2]}"#, "bad-field"),
            (r#"{"tokens": [1], "size": 2}"#, "bad-field"),
            (r#"{"tokens": [-1]}"#, "bad-field"),
            (r#"{"tokens": [1], "max_tokens": 1e99}"#, "bad-field"),
            (r#"{"tokens": [1], "temperature": -1}"#, "bad-field"),
            (r#"{"tokens": [1], "temperature": 1e999}"#, "not-json"),
            (r#"{"tokens": [1], "top_p": 0}"#, "bad-field"),
            (r#"{"tokens": [1], "greedy": true, "top_k": 4}"#, "bad-field"),
            (r#"{"tokens": [1], "stop": ""}"#, "bad-field"),
            (r#"{"tokens": [1], "stop": ["x"]}"#, "no-tokenizer"),
            (r#"{"tokens": [1], "prompt": "x"}"#, "bad-field"),
            (r#"{"tokens": [1], "top_k": 4294967296}"#, "bad-field"),
            (r#"{"tokens": [4294967296]}"#, "bad-field"),
            (r#"{"tokens": [1], "greedy": 1}"#, "bad-field"),
            (r#"{"tokens": [1], "seed": 1.5}"#, "bad-field"),
            (r#"{"tokens": [1], "id": [1]}"#, "bad-field"),
            (r#"{"tokens": [1], "stop": [1]}"#, "bad-field"),
            (r#"{"tokens": [1], "stop": null, "id": null}"#, ""),
            (r#"{"prompt": "x"}"#, "no-tokenizer"),
            (r#"{"prompt": "\ud800"}"#, "not-json"),
            ("{}", "bad-field"),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
        for line in ["7", "\"x\"", "[{}]", "null"] {
            assert_eq!(code(line), "bad-field", "{line}");
        }
        let deep = format!(r#"{{"id": {}"#, "[".repeat(1 << 20));
        assert_eq!(code(&deep), "not-json");
        let (id, _) = ask(r#"{"id": 5}"#).err().unwrap();
        assert_eq!(id, Some(Id::Number(5)));
    }

    #[test]
    fn messages_speak_of_the_format() {
        for (line, expected) in [
            ("[1]", r#"a request is an object, {"prompt": "..."} or {"tokens": [1, 2]}"#),
            (
                r#"{"tokens": "x"}"#,
                "tokens is string \"x\", expected a list of token ids at column 14",
            ),
            (r#"{"tokens": {}}"#, "tokens is an object, expected a list of token ids at column 13"),
            (r#"{"tokens": [1, -2, "x"]}"#, "tokens: -2 is no token id, a whole number from 0"),
            (
                r#"{"tokens": [1], "temperature": -1}"#,
                "temperature is -1, expected a number from 0 up",
            ),
            (r#"{"tokens": [1], "stop": 7}"#, "stop is 7, expected a string or a list of strings"),
            (
                r#"{"tokens": [1], "max_tokens": "many"}"#,
                "max_tokens is \"many\", expected a whole number from 0",
            ),
            (r#"{"prompt": 5}"#, "prompt is 5, expected a string"),
            (r#"{"tokens": [1]"#, "not JSON: EOF while parsing an object at column 14"),
        ] {
            let error = ask(line).err().map_or(String::new(), |(_, e)| e.to_string());
            assert_eq!(error, expected, "{line}");
        }
        let long = format!(r#"{{"prompt": [{}]}}"#, "1, ".repeat(1000) + "1");
        assert!(ask(&long).err().is_some_and(|(_, e)| e.to_string().len() < 100));
    }
}
