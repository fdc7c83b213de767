//! `.wplan` files: the stored form of a plan, with or without the model's weights.
//!
//! ```text
//! "SPKWPLAN"  version u32  sections u32
//! per section: tag 4 bytes  length u64  FNV-1a 64 of the payload  payload
//!   PLAN  the plan in postcard encoding, what it repeats pooled (`pools`); canonical for equal plans
//!   WGTS  optional: weights, see `write_weights`
//! ```
//!
//! Integers are little-endian. Decoding is bounds-checked, allocates no more than a fixed multiple of
//! the input, and never panics; `decode(encode(p)) == p`, and equal plans encode to equal bytes.
//! Does not verify: a decoded plan can be illegal, see [`crate::verify`](mod@crate::verify).

mod pools;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use tensor::{Bytes, DType, Tensor};

use crate::plan::Plan;

/// First bytes of every `.wplan` file.
pub const MAGIC: [u8; 8] = *b"SPKWPLAN";
/// Version written, and the only one read. Raised with every change of what a plan holds: the encoding
/// names no fields, so older bytes would be read as something else (`tests/codec.rs` notices).
pub const VERSION: u32 = 6;

const PLAN: [u8; 4] = *b"PLAN";
const WEIGHTS: [u8; 4] = *b"WGTS";
/// More sections than any version has.
const MAX_SECTIONS: u32 = 16;

/// Tag and payload.
type Section<'a> = ([u8; 4], &'a [u8]);

/// Why bytes are not a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Another kind of file.
    #[error("PLN0301: not a wafer plan: the file does not start with SPKWPLAN")]
    Magic,
    /// Written by another version.
    #[error(
        "PLN0302: plan format version {found}, this program reads version {VERSION}; compile the model again"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// The bytes end too early, or a length is a lie.
    #[error(
        "PLN0303: the plan is cut off: {needed} bytes needed at offset {offset}, {available} there"
    )]
    Truncated {
        /// Where.
        offset: usize,
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        available: usize,
    },
    /// A checksum differs.
    #[error("PLN0304: section `{section}` is damaged: its checksum differs")]
    Checksum {
        /// Tag of the section.
        section: String,
    },
    /// A malformed section.
    #[error("PLN0305: section `{section}`: {problem}")]
    Section {
        /// Tag of the section.
        section: String,
        /// What is wrong.
        problem: String,
    },
}

/// The bytes of a plan, without weights.
pub fn encode(plan: &Plan) -> Vec<u8> {
    encode_with_weights(plan, &BTreeMap::new())
}

/// The bytes of a plan; `weights` that are not empty are packed along.
pub fn encode_with_weights(plan: &Plan, weights: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let mut sections = vec![(PLAN, pools::write(plan))];
    if !weights.is_empty() {
        sections.push((WEIGHTS, write_weights(weights)));
    }
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((sections.len() as u32).to_le_bytes());
    for (tag, payload) in sections {
        out.extend(tag);
        out.extend((payload.len() as u64).to_le_bytes());
        out.extend(checksum(&payload).to_le_bytes());
        out.extend(payload);
    }
    out
}

/// SHA-256 of the plan (weights packed along do not count), in hex: for comparing artefacts.
pub fn digest(plan: &Plan) -> String {
    Sha256::digest(pools::write(plan)).iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads a plan.
///
/// # Errors
/// Anything that is not exactly one plan of this version.
pub fn decode(bytes: &[u8]) -> Result<Plan, CodecError> {
    let mut plan = None;
    for (tag, payload) in sections(bytes)? {
        let bad =
            |problem: &str| CodecError::Section { section: name(tag), problem: problem.into() };
        match tag {
            PLAN if plan.is_some() => return Err(bad("there twice")),
            PLAN => {
                let (p, rest) = pools::read(payload).map_err(|e| bad(&e))?;
                if !rest.is_empty() {
                    return Err(bad("bytes are left over"));
                }
                plan = Some(p);
            }
            WEIGHTS => {}
            _ => return Err(bad("unknown")),
        }
    }
    plan.ok_or_else(|| CodecError::Section { section: name(PLAN), problem: "missing".into() })
}

/// Reads the weights that were packed along; empty when there are none.
///
/// # Errors
/// Malformed bytes.
pub fn decode_weights(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, CodecError> {
    let found = sections(bytes)?.into_iter().find(|(tag, _)| *tag == WEIGHTS);
    found.map_or_else(|| Ok(BTreeMap::new()), |(_, payload)| read_weights(payload))
}

/// Checks the frame and every checksum.
fn sections(bytes: &[u8]) -> Result<Vec<Section<'_>>, CodecError> {
    let mut r = Reader { bytes, at: 0 };
    if r.array::<8>().map_err(|_| CodecError::Magic)? != MAGIC {
        return Err(CodecError::Magic);
    }
    let found = r.u32()?;
    if found != VERSION {
        return Err(CodecError::Version { found });
    }
    let count = r.u32()?;
    let frame = |problem: String| CodecError::Section { section: "frame".into(), problem };
    if count > MAX_SECTIONS {
        return Err(frame(format!("{count} sections")));
    }
    let mut list = Vec::new();
    for _ in 0..count {
        let tag = r.array::<4>()?;
        let (len, sum) = (r.u64()?, r.u64()?);
        let payload = r.take(len)?;
        if checksum(payload) != sum {
            return Err(CodecError::Checksum { section: name(tag) });
        }
        list.push((tag, payload));
    }
    if r.at != bytes.len() {
        return Err(frame(format!("{} bytes after the last section", bytes.len() - r.at)));
    }
    Ok(list)
}

fn name(tag: [u8; 4]) -> String {
    tag.escape_ascii().to_string()
}

/// FNV-1a, 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    let fold = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold)
}

/// Per weight, by name: name length u32, name, dtype u8 (index in `DType::ALL`), rank u8, dims u64 each,
/// byte length u64, bytes.
fn write_weights(weights: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend((weights.len() as u32).to_le_bytes());
    for (name, tensor) in weights {
        out.extend((name.len() as u32).to_le_bytes());
        out.extend(name.as_bytes());
        let dtype = DType::ALL.iter().position(|d| *d == tensor.dtype()).unwrap_or(0);
        out.push(dtype as u8);
        out.push(tensor.shape().len() as u8);
        tensor.shape().iter().for_each(|&d| out.extend((d as u64).to_le_bytes()));
        out.extend((tensor.bytes().len() as u64).to_le_bytes());
        out.extend(&**tensor.bytes());
    }
    out
}

fn read_weights(payload: &[u8]) -> Result<BTreeMap<String, Tensor>, CodecError> {
    let bad = |problem: String| CodecError::Section { section: name(WEIGHTS), problem };
    let mut r = Reader { bytes: payload, at: 0 };
    let mut weights = BTreeMap::new();
    for _ in 0..r.u32()? {
        let len = r.u32()?;
        let name = std::str::from_utf8(r.take(len.into())?).map_err(|e| bad(e.to_string()))?;
        let dtype = r.array::<1>()?[0];
        let dtype = DType::ALL.get(usize::from(dtype));
        let dtype = *dtype.ok_or_else(|| bad(format!("`{name}` has an unknown dtype")))?;
        let rank = r.array::<1>()?[0];
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(usize::try_from(r.u64()?).map_err(|e| bad(e.to_string()))?);
        }
        let len = r.u64()?;
        let data = Bytes::from(r.take(len)?.to_vec());
        let tensor = Tensor::new(dtype, shape, data).map_err(|e| bad(format!("`{name}`: {e}")))?;
        if weights.insert(name.to_owned(), tensor).is_some() {
            return Err(bad(format!("`{name}` is there twice")));
        }
    }
    if r.at != payload.len() {
        return Err(bad("bytes are left over".into()));
    }
    Ok(weights)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], CodecError> {
        let available = self.bytes.len() - self.at;
        match usize::try_from(n).ok().filter(|&n| n <= available) {
            Some(n) => {
                self.at += n;
                Ok(&self.bytes[self.at - n..self.at])
            }
            None => Err(CodecError::Truncated { offset: self.at, needed: n, available }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}
