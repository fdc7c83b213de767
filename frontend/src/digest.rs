//! Digests that name a model's content: the same for the same tensors, however they are sharded.
//!
//! SHA-256 over the sorted list of tensors. [`headers`] covers names, dtypes and shapes and costs
//! nothing; [`contents`] covers the bytes too and reads all of them.

use std::fmt;

use ir::WeightSource;
use sha2::{Digest as _, Sha256};

use crate::json::Object;
use crate::weights::Weights;

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// 64 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Digest of config and tensor headers; no weight byte is read.
pub(crate) fn headers(config: Option<&Object>, weights: Option<&Weights>) -> Digest {
    let mut hash = Sha256::new();
    if let Some(config) = config {
        let sorted: std::collections::BTreeMap<_, _> = config.iter().collect();
        for (key, value) in sorted {
            field(&mut hash, key.as_bytes());
            field(&mut hash, value.to_string().as_bytes());
        }
    }
    if let Some(weights) = weights {
        weights.names().for_each(|name| header(&mut hash, weights, name));
    }
    Digest(hash.finalize().into())
}

/// Digest of all tensors with their bytes.
///
/// # Errors
/// A sentence naming a tensor of a dtype that sparkc does not have.
pub fn contents(weights: &Weights) -> Result<Digest, String> {
    let mut hash = Sha256::new();
    for name in weights.names() {
        header(&mut hash, weights, name);
        field(&mut hash, weights.load(name)?.bytes());
    }
    Ok(Digest(hash.finalize().into()))
}

fn header(hash: &mut Sha256, weights: &Weights, name: &str) {
    field(hash, name.as_bytes());
    if let Some(header) = weights.header(name) {
        field(hash, header.stored_dtype.as_bytes());
        field(hash, format!("{:?}", header.shape).as_bytes());
    }
}

/// A field with its length, so that no two lists of fields hash the same bytes.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}
