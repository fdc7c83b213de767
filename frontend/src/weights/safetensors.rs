//! One safetensors file: its header is checked completely, its data is mapped and not looked at.
//!
//! Layout (safetensors format description): 8 bytes little-endian header length N, N bytes of JSON
//! `{name: {dtype, shape, data_offsets}, "__metadata__": {...}}`, then the data. Invariant of what
//! [`open`] returns: tensors tile the data exactly (no gap, no overlap, no rest), and each has the
//! bytes that its dtype and shape ask for. Dtype sizes and the last word on a header are the
//! `safetensors` crate's; the checks before it exist to name the tensor and give the numbers.
//! Nothing is allocated by a declared size.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;
use tensor::Bytes;

use super::container::{Container, Encoding, Stored};
use crate::error::{ErrorKind, FrontendError};
use crate::{file, json};

/// Bytes of the header length field.
const LENGTH_BYTES: usize = 8;
/// Longest header that is read; the limit of the `safetensors` crate.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Maps a file and checks its header.
///
/// # Errors
/// When the file cannot be mapped or its header is wrong in any way.
pub(super) fn open(path: &Path) -> Result<Container, FrontendError> {
    let bytes = file::map(path)?;
    let (header, data_start) = split(&bytes).map_err(|e| e.at(path))?;
    let entries = json::parse_object(header, path)?;
    let infos = entries
        .into_iter()
        .filter_map(|(name, entry)| parse_entry(name, entry).transpose())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.at(path))?;
    let tensors = lay_out(infos, data_start, bytes.len()).map_err(|e| e.at(path))?;
    Ok(Container { path: path.to_path_buf(), tensors, bytes })
}

/// The header, and where the data starts.
fn split(bytes: &Bytes) -> Result<(&[u8], usize), ErrorKind> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(ErrorKind::HeaderTruncated { bytes: bytes.len() });
    };
    let declared = u64::from_le_bytes(*length);
    let available = (rest.len() as u64).min(HEADER_BYTES_MAX);
    match usize::try_from(declared).ok().and_then(|n| rest.get(..n)) {
        Some(header) if declared <= available => Ok((header, LENGTH_BYTES + header.len())),
        _ => Err(ErrorKind::HeaderLength { declared, available }),
    }
}

/// A tensor's entry; `None` for `__metadata__`, which says nothing about tensors.
fn parse_entry(name: String, entry: Value) -> Result<Option<(String, TensorInfo)>, ErrorKind> {
    let wrong = |tensor: String, why: String| Err(ErrorKind::HeaderEntry { tensor, why });
    let Value::Object(fields) = &entry else {
        return wrong(name, format!("expected an object, found {}", json::shown(&entry)));
    };
    if name == "__metadata__" {
        return match fields.iter().find(|(_, v)| !v.is_string()) {
            Some((key, v)) => {
                wrong(name, format!("\"{key}\" is {}, expected a string", json::shown(v)))
            }
            None => Ok(None),
        };
    }
    if let Some(key) =
        fields.keys().find(|k| !matches!(k.as_str(), "dtype" | "shape" | "data_offsets"))
    {
        return wrong(name, format!("unknown key \"{key}\""));
    }
    match serde_json::from_value::<TensorInfo>(entry) {
        Ok(info) => Ok(Some((name, info))),
        Err(error) => wrong(name, error.to_string()),
    }
}

/// Checks that the tensors tile the data, and places them in the file.
fn lay_out(
    mut infos: Vec<(String, TensorInfo)>,
    data_start: usize,
    file_len: usize,
) -> Result<BTreeMap<String, Stored>, ErrorKind> {
    infos.sort_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));
    let mut expected_start = 0;
    for (name, info) in &infos {
        let (start, end) = info.data_offsets;
        if start != expected_start {
            let (tensor, expected) = (name.clone(), expected_start);
            return Err(ErrorKind::Layout { tensor, start, expected });
        }
        check_size(name, info)?;
        expected_start = end;
    }
    let found = file_len - data_start;
    if expected_start != found {
        return Err(ErrorKind::DataLength { found, expected: expected_start });
    }
    // The crate that defines the format has the last word.
    Metadata::new(None, infos.clone()).map_err(|e| ErrorKind::HeaderEntry {
        tensor: infos.last().map_or_else(String::new, |(name, _)| name.clone()),
        why: e.to_string(),
    })?;
    let place = |(name, info): (String, TensorInfo)| {
        let (start, end) = info.data_offsets;
        let range = data_start + start..data_start + end;
        let encoding = Encoding::Safetensors(info.dtype);
        (name, Stored { encoding, shape: info.shape, range, interleaved_heads: None })
    };
    Ok(infos.into_iter().map(place).collect())
}

/// Checks that a tensor occupies the bytes that its dtype and shape ask for.
fn check_size(name: &str, info: &TensorInfo) -> Result<(), ErrorKind> {
    let (start, end) = info.data_offsets;
    let wrong = |why: String| Err(ErrorKind::HeaderEntry { tensor: name.to_string(), why });
    let Some(found) = end.checked_sub(start) else {
        return wrong(format!("ends at byte {end}, before it starts at {start}"));
    };
    let bits = tensor::element_count(&info.shape).and_then(|n| n.checked_mul(info.dtype.bitsize()));
    match bits {
        None => wrong(format!("shape {:?} of {} has no size", info.shape, info.dtype)),
        Some(bits) if !bits.is_multiple_of(8) => {
            wrong(format!("shape {:?} of {} is no whole number of bytes", info.shape, info.dtype))
        }
        Some(bits) if bits / 8 != found => {
            Err(ErrorKind::TensorBytes { tensor: name.to_string(), found, expected: bits / 8 })
        }
        Some(_) => Ok(()),
    }
}
