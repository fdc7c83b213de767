//! One line of a batch: a JSON object that says what to continue and how.
//!
//! Strict: an unknown field, a second value of one, a number out of range are errors of that line. What
//! a line does not say, the command line says, then the model.

use serde::{Deserialize, Serialize};

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
            LineError::Text(TextError::Tokenizer { .. }) => "tokenizer",
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
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Id {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Strings {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    id: Option<Id>,
    prompt: Option<String>,
    tokens: Option<Vec<u32>>,
    chat: Option<bool>,
    max_tokens: Option<usize>,
    greedy: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    seed: Option<u64>,
    stop: Option<Strings>,
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
    let fields: Fields = serde_json::from_str(line).map_err(|e| {
        let why = e.to_string();
        (None, if e.is_data() { LineError::Field(why) } else { LineError::Json(why) })
    })?;
    let id = fields.id.clone();
    understood(fields, number, args, text, defaults).map_err(|e| (id, e))
}

fn understood(
    fields: Fields,
    number: u64,
    args: &Args,
    text: Option<&Text>,
    defaults: &GenerationDefaults,
) -> Result<Asked, LineError> {
    let field = |why: &str| LineError::Field(why.to_string());
    let stops = match fields.stop {
        None => Vec::new(),
        Some(Strings::One(stop)) => vec![stop],
        Some(Strings::Several(stops)) => stops,
    };
    if stops.len() > STOPS_MAX || stops.iter().any(String::is_empty) {
        return Err(field(&format!("stop: expected at most {STOPS_MAX} strings, none empty")));
    }
    if !stops.is_empty() && text.is_none() {
        return Err(TextError::NoTokenizer.into());
    }
    let sampled = fields.temperature.is_some() || fields.top_k.is_some() || fields.top_p.is_some();
    if fields.greedy == Some(true) && sampled {
        return Err(field("greedy excludes temperature, top_k and top_p"));
    }
    let here = Args {
        n: fields.max_tokens.or(args.n),
        greedy: fields.greedy.unwrap_or(args.greedy && !sampled),
        temperature: fields.temperature.or(args.temperature),
        top_k: fields.top_k.or(args.top_k),
        top_p: fields.top_p.or(args.top_p),
        seed: fields.seed.or(args.seed),
        ..Args::default()
    };
    let sampling: Sampling = here.sampling(defaults);
    here.check_sampling().map_err(|e| LineError::Field(e.to_string()))?;
    let prompt = match (fields.prompt, fields.tokens) {
        (Some(_), Some(_)) => return Err(field("prompt and tokens exclude each other")),
        (None, None) => return Err(field("no prompt: give one as `prompt` or as `tokens`")),
        (None, Some(tokens)) => tokens,
        (Some(prompt), None) => {
            let text = text.ok_or(TextError::NoTokenizer)?;
            if fields.chat.unwrap_or(args.chat) {
                text.encode_chat(&[ChatMessage::new("user", &prompt)])?
            } else {
                text.encode(&prompt)?
            }
        }
    };
    let stop_tokens = defaults.stop_tokens.clone();
    let limit = here.limit(defaults);
    let request = Request { id: number, prompt, limit, sampling, stop_tokens };
    Ok(Asked { id: fields.id, request, stops })
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
            (r#"{"prompt": "x"}"#, "no-tokenizer"),
            (r#"{"prompt": "\ud800"}"#, "not-json"),
            ("{}", "bad-field"),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
        let deep = format!(r#"{{"id": {}"#, "[".repeat(1 << 20));
        assert_eq!(code(&deep), "not-json");
        let (id, _) = ask(r#"{"id": 5}"#).err().unwrap();
        assert_eq!(id, Some(Id::Number(5)));
    }
}
