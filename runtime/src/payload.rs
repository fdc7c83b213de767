//! The payload of an executable: what is appended to the stub.
//!
//! ```text
//! stub | zeros to the alignment | weights | head | footer
//! ```
//!
//! The footer is the last 64 bytes of the file: magic, version, places of weights and head, digest
//! of head and footer, and length of the file, all little-endian u64. Weights start at a multiple of
//! [`WEIGHT_ALIGN`] (or of a page, for a small model) and are read where they are mapped. The head is
//! the program, the tokenizer and the defaults, as postcard.
//!
//! Reading hostile bytes gives an error. The digest (FNV-1a) finds accidents, not attacks: who can
//! change the payload can change the program beside it.

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tensor::Bytes;

use crate::mmap;
use crate::program::{self, Layout, Program, ProgramError, Weight};

/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 64;
/// Alignment of large weight segments in the file: a huge page.
pub const WEIGHT_ALIGN: u64 = 2 << 20;

const MAGIC: [u8; 8] = *b"sparkCPU";
const VERSION: u64 = 1;

/// Why a file is no executable of ours, or a broken one.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The file cannot be read.
    #[error("cannot read the executable: {0}")]
    Io(#[from] std::io::Error),
    /// There is no footer: a bare stub, or another kind of file.
    #[error("no model inside: the file does not end with a sparkc footer")]
    Missing,
    /// The footer contradicts the file.
    #[error("the executable is damaged: {why}")]
    Damaged {
        /// What is wrong, in numbers.
        why: String,
    },
    /// Made by another version.
    #[error(
        "payload version {found}, this program reads version {VERSION}: compile the model again"
    )]
    Version {
        /// Version found.
        found: u64,
    },
    /// The program inside is not valid.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Sampling and stopping as the model's files ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationDefaults {
    /// Sample, rather than take the most likely token.
    pub sample: bool,
    /// Divides the logits.
    pub temperature: f32,
    /// Most likely tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Probability mass kept; 1 keeps all.
    pub top_p: f32,
    /// Tokens that end a text.
    pub stop_tokens: Vec<u32>,
    /// Tokens to generate unless told otherwise.
    pub max_new_tokens: Option<u32>,
}

impl Default for GenerationDefaults {
    fn default() -> Self {
        GenerationDefaults {
            sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            stop_tokens: Vec::new(),
            max_new_tokens: None,
        }
    }
}

/// What is needed beside the program to read and write text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Assets {
    /// `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// Jinja template of a conversation.
    pub chat_template: Option<String>,
    /// Names of special tokens for the template: `bos_token`, `eos_token`, ...
    pub special_tokens: Vec<(String, String)>,
    /// Sampling and stopping.
    pub generation: GenerationDefaults,
    /// Facts for `--info`, as (name, value).
    pub facts: Vec<(String, String)>,
}

/// The head of a payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PayloadHead {
    /// The encoded program.
    pub program: Vec<u8>,
    /// Tokenizer and defaults.
    pub assets: Assets,
}

/// A model ready to run: checked program, mapped weights, assets.
#[derive(Clone, Debug)]
pub struct Payload {
    program: Program,
    weights: Bytes,
    assets: Assets,
}

impl Payload {
    /// A payload in memory.
    ///
    /// # Errors
    /// When the program does not fit the weights.
    pub fn new(program: Program, weights: Bytes, assets: Assets) -> Result<Self, PayloadError> {
        program.check(weights.len() as u64)?;
        let payload = Payload { program, weights, assets };
        let unaligned = |w: &&Weight| w.layout == Layout::Plain && payload.plain(w).is_none();
        if let Some(weight) = payload.program.weights.iter().find(unaligned) {
            let why = format!("weight {} is not aligned in memory", weight.name);
            return Err(PayloadError::Damaged { why });
        }
        Ok(payload)
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Tokenizer and defaults.
    pub fn assets(&self) -> &Assets {
        &self.assets
    }

    /// Bytes of the weight segment.
    pub fn weight_bytes(&self) -> usize {
        self.weights.len()
    }

    /// The bytes of a weight; `check` has seen to the range.
    pub(crate) fn weight(&self, weight: &Weight) -> &[u8] {
        let start = weight.offset as usize;
        &self.weights[start..start + weight.bytes as usize]
    }

    /// The elements of a `Plain` weight.
    pub(crate) fn plain(&self, weight: &Weight) -> Option<&[f32]> {
        mmap::as_f32(self.weight(weight))
    }
}

/// Head and footer of a payload whose weights are `weight_bytes` from `weight_offset` of the file;
/// they belong right behind the weights.
pub fn write_tail(head: &PayloadHead, weight_offset: u64, weight_bytes: u64) -> Vec<u8> {
    let mut out =
        postcard::to_allocvec(head).expect("a vector takes any bytes and every type has a length");
    let head_bytes = out.len() as u64;
    let head_offset = weight_offset + weight_bytes;
    let file_bytes = head_offset + head_bytes + FOOTER_BYTES as u64;
    let places = [VERSION, weight_offset, weight_bytes, head_offset, head_bytes];
    let digest = digest(&out, &places, file_bytes);
    out.extend(MAGIC);
    for field in places.into_iter().chain([digest, file_bytes]) {
        out.extend(field.to_le_bytes());
    }
    out
}

/// Maps the file at `path` and finds the payload at its end.
///
/// # Errors
/// When the file cannot be mapped, has no payload, or a damaged one.
pub fn find_payload(path: &Path) -> Result<Payload, PayloadError> {
    let file = File::open(path)?;
    if file.metadata()?.len() < FOOTER_BYTES as u64 {
        return Err(PayloadError::Missing);
    }
    read_payload(&mmap::map_file(&file)?)
}

/// Finds the payload at the end of a whole file.
fn read_payload(file: &Bytes) -> Result<Payload, PayloadError> {
    let footer = file.last_chunk::<FOOTER_BYTES>().ok_or(PayloadError::Missing)?;
    let (words, _) = footer.as_chunks::<8>();
    if words[0] != MAGIC {
        return Err(PayloadError::Missing);
    }
    let field = |i: usize| u64::from_le_bytes(words[i]);
    if field(1) != VERSION {
        return Err(PayloadError::Version { found: field(1) });
    }
    let damaged = |why: String| PayloadError::Damaged { why };
    if field(7) != file.len() as u64 {
        return Err(damaged(format!("{} bytes long, written as {}", file.len(), field(7))));
    }
    let part = |offset: u64, len: u64| {
        let end = offset.checked_add(len).filter(|&end| end <= file.len() as u64);
        let range = end.map(|end| offset as usize..end as usize);
        let part = range.and_then(|range| file.slice(range));
        part.ok_or_else(|| damaged(format!("{len} bytes at {offset} of {}", file.len())))
    };
    let (weights, head) = (part(field(2), field(3))?, part(field(4), field(5))?);
    if digest(&head, &[1, 2, 3, 4, 5].map(field), field(7)) != field(6) {
        return Err(damaged("the digest of the program does not match".to_string()));
    }
    let head: PayloadHead = postcard::from_bytes(&head)
        .map_err(|e| damaged(format!("the head does not parse: {e}")))?;
    let program = program::decode(&head.program, weights.len() as u64)?;
    Payload::new(program, weights, head.assets)
}

/// FNV-1a, 64 bits (Fowler, Noll and Vo), of the head and of all of the footer but the digest.
fn digest(head: &[u8], places: &[u64; 5], file_bytes: u64) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let fields = places.iter().chain([&file_bytes]).map(|field| field.to_le_bytes());
    let of_head = head.iter().fold(0xcbf2_9ce4_8422_2325, step);
    fields.fold(of_head, |hash, field| field.iter().fold(hash, step))
}
