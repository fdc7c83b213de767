//! The payload of an executable: what is appended to the stub.
//!
//! ```text
//! stub | zeros to the alignment | weights | tokenizer tables | head | footer
//! ```
//!
//! The footer is the last 64 bytes of the file: magic, version, places of weights and head, digest
//! of head and footer, and length of the file, all little-endian u64. Weights start at a multiple of
//! [`WEIGHT_ALIGN`] (or of a page, for a small model); they and the tables, which end where the head
//! begins, are read where they are mapped. The head is the program, what of the tokenizer is not in
//! tables, and the defaults, as postcard.
//!
//! Reading hostile bytes gives an error. The digest (FNV-1a) finds accidents, not attacks: who can
//! change the payload can change the program beside it.

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tensor::Bytes;

use crate::mmap;
use crate::program::{self, Layout, Program, ProgramError, Weight};
use crate::text::tokenizer::TableHead;

/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 64;
/// Alignment of large weight segments in the file: a huge page.
pub const WEIGHT_ALIGN: u64 = 2 << 20;

const MAGIC: [u8; 8] = *b"sparkCPU";
const VERSION: u64 = 4;

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
    /// `tokenizer.json`, where there are no tables.
    pub tokenizer: Option<Vec<u8>>,
    /// The tokenizer as tables, which lie beside the weights.
    pub tables: Option<TableHead>,
    /// Jinja template of a conversation.
    pub chat_template: Option<String>,
    /// Names of special tokens for the template: `bos_token`, `eos_token`, ...
    pub special_tokens: Vec<(String, String)>,
    /// Sampling and stopping.
    pub generation: GenerationDefaults,
    /// The processor it was compiled for, as `--cpu` spells it; `None` for any.
    pub cpu: Option<String>,
    /// Facts for `--info`, as (name, value).
    pub facts: Vec<(String, String)>,
}

impl Assets {
    /// Whether there is a tokenizer, in either form.
    pub fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some() || self.tables.is_some()
    }
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
    tables: Bytes,
}

impl Payload {
    /// A payload in memory.
    ///
    /// # Errors
    /// When the program does not fit the weights.
    pub fn new(program: Program, weights: Bytes, assets: Assets) -> Result<Self, PayloadError> {
        Payload::with_tables(program, weights, assets, Vec::new().into())
    }

    /// A payload in memory whose assets have their tokenizer in `tables`.
    ///
    /// # Errors
    /// As [`Payload::new`].
    pub fn with_tables(
        program: Program,
        weights: Bytes,
        assets: Assets,
        tables: Bytes,
    ) -> Result<Self, PayloadError> {
        program.check(weights.len() as u64)?;
        let payload = Payload { program, weights, assets, tables };
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

    /// The sections of the tokenizer.
    pub(crate) fn table_bytes(&self) -> &Bytes {
        &self.tables
    }

    /// Bytes of the weight segment.
    pub fn weight_bytes(&self) -> usize {
        self.weights.len()
    }

    /// All weights.
    pub(crate) fn weight_segment(&self) -> &[u8] {
        &self.weights
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

/// Head and footer of a payload whose weights are `weight_bytes` from `weight_offset` of the file,
/// and whose tables are `table_bytes` right behind them; head and footer belong right behind those.
pub fn write_tail(
    head: &PayloadHead,
    weight_offset: u64,
    weight_bytes: u64,
    table_bytes: u64,
) -> Vec<u8> {
    let mut out =
        postcard::to_allocvec(head).expect("a vector takes any bytes and every type has a length");
    let head_bytes = out.len() as u64;
    let head_offset = weight_offset + weight_bytes + table_bytes;
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
    let table_bytes = match &head.assets.tables {
        Some(tables) => tables.bytes().unwrap_or(u64::MAX),
        None => 0,
    };
    let start = field(4).checked_sub(table_bytes);
    let start = start.ok_or_else(|| damaged(format!("{table_bytes} bytes of tokenizer tables")))?;
    Payload::with_tables(program, weights, head.assets, part(start, table_bytes)?)
}

/// FNV-1a, 64 bits (Fowler, Noll and Vo), of the head and of all of the footer but the digest.
fn digest(head: &[u8], places: &[u64; 5], file_bytes: u64) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let fields = places.iter().chain([&file_bytes]).map(|field| field.to_le_bytes());
    let of_head = head.iter().fold(0xcbf2_9ce4_8422_2325, step);
    fields.fold(of_head, |hash, field| field.iter().fold(hash, step))
}
