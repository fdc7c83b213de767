//! JSON of strangers: serde_json, made to refuse what it would let pass.
//!
//! Duplicate keys are an error (serde_json keeps the last, so two readers may see two models), as
//! are invalid UTF-8, NaN, nesting beyond 128 levels and anything after the value.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{ErrorKind, FrontendError};
use crate::file;

/// An object read from a file.
pub(crate) type Object = Map<String, Value>;

/// Marks the error message of a duplicate key, so that it can be told from the others.
const DUPLICATE: &str = "duplicate key ";

/// Reads a file that holds one JSON object.
///
/// # Errors
/// When the file cannot be read or does not hold one well-formed JSON object.
pub(crate) fn read_object(path: &Path) -> Result<Object, FrontendError> {
    parse_object(&file::read(path)?, path)
}

/// Parses one JSON object; `path` is for messages.
///
/// # Errors
/// When the bytes are not one well-formed JSON object.
pub(crate) fn parse_object(bytes: &[u8], path: &Path) -> Result<Object, FrontendError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| ErrorKind::NotUtf8 { offset: e.valid_up_to() }.at(path))?;
    match serde_json::from_str::<Strict>(text) {
        Ok(Strict(Value::Object(object))) => Ok(object),
        Ok(Strict(other)) => {
            let why = format!("expected an object, found {}", kind(&other));
            Err(ErrorKind::Json { line: 1, column: 1, why }.at(path))
        }
        Err(error) => Err(syntax_error(&error).at(path)),
    }
}

/// A value in a message: as JSON, cut when long.
pub(crate) fn shown(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= CHARS_MAX {
        return text;
    }
    text.chars().take(CHARS_MAX).chain("...".chars()).collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn syntax_error(error: &serde_json::Error) -> ErrorKind {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    // serde_json appends the place, which has its own fields here.
    let why = text.rsplit_once(" at line ").map_or(text.as_str(), |(why, _)| why);
    match why.strip_prefix(DUPLICATE) {
        Some(key) => ErrorKind::DuplicateKey { key: key.to_string(), line, column },
        None => ErrorKind::Json { line, column, why: why.to_string() },
    }
}

/// A value without duplicate keys.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("{DUPLICATE}{key}")));
            }
            let Strict(value) = map.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &[u8]) -> ErrorKind {
        *parse_object(text, Path::new("x.json")).expect_err("must be refused").kind
    }

    #[test]
    fn duplicate_keys_are_named_at_any_depth() {
        let kind = error(b"{\"a\": {\"b\": 1,\n \"b\": 1}}");
        assert!(matches!(kind, ErrorKind::DuplicateKey { key, line: 2, .. } if key == "b"));
    }

    #[test]
    fn nesting_nan_and_tails_are_refused() {
        let deep = [b"{\"a\":".repeat(100_000), b"1".to_vec()].concat();
        for text in [&deep[..], b"{\"a\": NaN}", b"{} {}", b"{\"a\": 1e999}", b"[1]", b"\xff{}"] {
            error(text);
        }
    }
}
