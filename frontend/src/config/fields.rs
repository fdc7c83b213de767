//! Reading a JSON object field by field, so that what nobody read is known at the end.
//!
//! Every reader *takes* its field. [`Fields::finish`] then refuses whatever is left, is not null and
//! is not on a list of fields known to be without effect: this is how "a field that is not
//! understood is refused by name" holds by construction and not by diligence.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::Value;

use crate::error::{ErrorKind, FrontendError};
use crate::json::{self, Object};

/// The fields of one object that were not taken yet.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// Path to the object within the file, for messages: empty, or `rope_scaling.`
    prefix: String,
    object: Object,
}

impl<'a> Fields<'a> {
    /// All fields of the top object of a file.
    pub(crate) fn new(path: &'a Path, object: Object) -> Self {
        Fields { path, prefix: String::new(), object }
    }

    /// All fields of an object inside the file.
    pub(crate) fn nested(path: &'a Path, name: &str, object: Object) -> Self {
        Fields { path, prefix: format!("{name}."), object }
    }

    /// The file.
    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// The full name of a field.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Whether the field is there, null or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// Takes a field as it is; null counts as not given.
    pub(crate) fn value(&mut self, key: &str) -> Option<Value> {
        self.object.swap_remove(key).filter(|v| !v.is_null())
    }

    /// Takes an integer within `range`.
    pub(crate) fn integer(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<usize>, FrontendError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_u64().filter(|n| range.contains(n)).and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => {
                let expected = format!("an integer from {} to {}", range.start(), range.end());
                Err(self.wrong(key, &value, &expected))
            }
        }
    }

    /// Takes an integer that must be given.
    pub(crate) fn required_integer(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<usize, FrontendError> {
        self.integer(key, range)?.ok_or_else(|| self.missing(key))
    }

    /// Takes a finite number for which `accept` holds; `expected` says in words which those are.
    pub(crate) fn number(
        &mut self,
        key: &str,
        expected: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, FrontendError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_f64().filter(|v| v.is_finite() && accept(*v)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, &value, expected)),
        }
    }

    /// Takes a boolean.
    pub(crate) fn flag(&mut self, key: &str) -> Result<Option<bool>, FrontendError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.wrong(key, &other, "true or false")),
        }
    }

    /// Takes a string.
    pub(crate) fn text(&mut self, key: &str) -> Result<Option<String>, FrontendError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, &other, "a string")),
        }
    }

    /// Takes an array.
    pub(crate) fn array(&mut self, key: &str) -> Result<Option<Vec<Value>>, FrontendError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(self.wrong(key, &other, "an array")),
        }
    }

    /// Takes an object.
    pub(crate) fn object(&mut self, key: &str) -> Result<Option<Object>, FrontendError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(self.wrong(key, &other, "an object")),
        }
    }

    /// Names of the fields left that are neither null nor in `without_effect`.
    pub(crate) fn left(&self, without_effect: &[&str]) -> Vec<String> {
        let odd = |(key, value): &(&String, &Value)| {
            !value.is_null() && !without_effect.contains(&key.as_str())
        };
        let mut names: Vec<String> =
            self.object.iter().filter(odd).map(|(key, _)| self.name(key)).collect();
        names.sort();
        names
    }

    /// Refuses every field left that is neither null nor in `without_effect`.
    ///
    /// # Errors
    /// The names of such fields.
    pub(crate) fn finish(
        &self,
        family: &str,
        without_effect: &[&str],
    ) -> Result<(), FrontendError> {
        let fields = self.left(without_effect);
        if fields.is_empty() {
            return Ok(());
        }
        Err(ErrorKind::UnknownFields { fields, family: family.to_string() }.at(self.path))
    }

    /// The error for a field of the wrong type or out of range.
    pub(crate) fn wrong(&self, key: &str, found: &Value, expected: &str) -> FrontendError {
        let (found, expected) = (json::shown(found), expected.to_string());
        ErrorKind::FieldValue { field: self.name(key), found, expected }.at(self.path)
    }

    /// The error for a field that must be given.
    pub(crate) fn missing(&self, key: &str) -> FrontendError {
        ErrorKind::FieldMissing { field: self.name(key) }.at(self.path)
    }

    /// The error for a value that sparkc has no implementation of.
    pub(crate) fn unsupported(&self, key: &str, found: &str, supported: &str) -> FrontendError {
        let (found, supported) = (format!("\"{found}\""), supported.to_string());
        ErrorKind::FieldUnsupported { field: self.name(key), found, supported }.at(self.path)
    }

    /// The error for fields that cannot both be meant.
    pub(crate) fn conflict(&self, key: &str, why: String) -> FrontendError {
        ErrorKind::FieldConflict { field: self.name(key), why }.at(self.path)
    }
}
