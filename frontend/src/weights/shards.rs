//! Which safetensors files make up a model: one file, or the shards that an index lists.
//!
//! As in `transformers`, `model.safetensors` comes before `model.safetensors.index.json`. A
//! directory with one safetensors file of another name is taken too. The index is a promise that is
//! checked: plain file names only, every shard there, every tensor in the shard that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::Weights;
use crate::error::{ErrorKind, FrontendError};
use crate::{file, json};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Opens the weights of a model directory.
///
/// # Errors
/// When there are none, it is unclear which, or they are wrong.
pub(crate) fn find(directory: &Path) -> Result<Weights, FrontendError> {
    let (single, index) = (directory.join(SINGLE), directory.join(INDEX));
    if file::exists(&single) {
        return Weights::open(&[single]);
    }
    if file::exists(&index) {
        return open_index(&index);
    }
    let mut others = safetensors_in(directory)?;
    match (others.pop(), others.is_empty()) {
        (None, _) => Err(ErrorKind::NoWeights.at(directory)),
        (Some(only), true) => Weights::open(&[directory.join(only)]),
        (Some(last), false) => {
            others.push(last);
            Err(ErrorKind::AmbiguousWeights { files: others }.at(directory))
        }
    }
}

/// The index beside a safetensors file, when it lists that file as a shard.
pub(crate) fn index_beside(path: &Path) -> Option<PathBuf> {
    let index = path.with_file_name(INDEX);
    let name = path.file_name()?.to_str()?;
    let map = read_index(&index).ok()?;
    map.values().any(|shard| shard == name).then_some(index)
}

/// Names of the safetensors files of a directory, sorted.
fn safetensors_in(directory: &Path) -> Result<Vec<String>, FrontendError> {
    let unreadable = |e: std::io::Error| ErrorKind::Unreadable { why: e.to_string() }.at(directory);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let is_weights = Path::new(&name).extension() == Some(OsStr::new("safetensors"));
        names.extend(name.into_string().ok().filter(|_| is_weights));
    }
    names.sort();
    Ok(names)
}

fn open_index(index: &Path) -> Result<Weights, FrontendError> {
    let map = read_index(index)?;
    let mut shards = BTreeSet::new();
    for (tensor, shard) in &map {
        if !is_plain_name(shard) {
            let (tensor, shard) = (tensor.clone(), shard.clone());
            return Err(ErrorKind::ShardPath { tensor, shard }.at(index));
        }
        if shards.insert(shard) && !file::exists(&index.with_file_name(shard)) {
            let (tensor, shard) = (tensor.clone(), shard.clone());
            return Err(ErrorKind::ShardMissing { shard, tensor }.at(index));
        }
    }
    let paths: Vec<PathBuf> = shards.into_iter().map(|s| index.with_file_name(s)).collect();
    let weights = Weights::open(&paths)?;
    for (tensor, shard) in map {
        let found = weights.find(&tensor).map(|(container, _)| &container.path);
        if found != Some(&index.with_file_name(&shard)) {
            return Err(ErrorKind::IndexMismatch { tensor, shard }.at(index));
        }
    }
    Ok(weights)
}

/// The `weight_map` of an index: shard by tensor.
fn read_index(index: &Path) -> Result<BTreeMap<String, String>, FrontendError> {
    let wrong = |field: String, found: &Value, expected: &str| {
        let (found, expected) = (json::shown(found), expected.to_string());
        ErrorKind::FieldValue { field, found, expected }.at(index)
    };
    let object = json::read_object(index)?;
    let map = match object.get("weight_map") {
        None => return Err(ErrorKind::FieldMissing { field: "weight_map".to_string() }.at(index)),
        Some(Value::Object(map)) if !map.is_empty() => map,
        Some(other) => {
            let expected = "an object that gives the shard of each tensor";
            return Err(wrong("weight_map".to_string(), other, expected));
        }
    };
    map.iter()
        .map(|(tensor, shard)| match shard {
            Value::String(shard) => Ok((tensor.clone(), shard.clone())),
            other => Err(wrong(format!("weight_map.{tensor}"), other, "a file name")),
        })
        .collect()
}

/// Whether a name stays in its directory: one component, no separator of any platform.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
        && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_not_plain() {
        for name in ["", ".", "..", "../a", "/a", "a/b", "a\\b", "C:a", "a/", "a\0"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
    }
}
