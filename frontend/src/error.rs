//! What can be wrong with a model file: one enum, each variant with a stable code.
//!
//! An error says which file, what was found and what was expected, in numbers; [`ErrorKind::hint`]
//! says what to try. Rendering (colours, wrapping) is the command line's.
//! Codes: SPK20xx files and formats, 21xx JSON and config fields, 22xx safetensors containers,
//! 23xx shard indices, 24xx tensors against the config, 25xx tokenizer, 26xx `.spark`,
//! 27xx GGUF, 28xx warnings, 29xx bugs.

use std::fmt;
use std::path::{Path, PathBuf};

use tensor::DType;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The file is damaged, incomplete or contradicts itself.
    Input,
    /// The file may be fine, sparkc does not understand it (yet).
    Unsupported,
    /// A bug in sparkc.
    Internal,
}

/// An error with the file it was found in.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct FrontendError {
    /// The file or directory, as it was reached from the path given to `open`.
    pub path: PathBuf,
    /// What is wrong with it. Boxed: errors are rare, results are passed around a lot.
    pub kind: Box<ErrorKind>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ErrorKind {
    #[error("does not exist")]
    NotFound,
    #[error("cannot be read: {why}")]
    Unreadable { why: String },
    #[error("is a {found}, expected a regular file")]
    NotAFile { found: &'static str },
    #[error("has {bytes} bytes, more than the {limit} a file of this kind may have")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("is empty")]
    Empty,
    #[error("{format} is not supported yet")]
    UnsupportedFormat { format: &'static str },
    #[error("is not a model in any known format")]
    UnknownFormat,
    #[error("contains no config.json")]
    NoConfig,
    #[error("contains no weights: neither model.safetensors nor model.safetensors.index.json")]
    NoWeights,
    #[error("contains {} weight files and no index: {}", files.len(), files.join(", "))]
    AmbiguousWeights { files: Vec<String> },

    #[error("is not UTF-8: invalid byte at offset {offset}")]
    NotUtf8 { offset: usize },
    #[error("is not valid JSON: {why} at line {line}, column {column}")]
    Json { line: usize, column: usize, why: String },
    #[error("key \"{key}\" is given twice, again at line {line}, column {column}")]
    DuplicateKey { key: String, line: usize, column: usize },
    #[error("field \"{field}\" is missing")]
    FieldMissing { field: String },
    #[error("field \"{field}\" is {found}, expected {expected}")]
    FieldValue { field: String, found: String, expected: String },
    #[error("{} not understood for a {family} model: {}", plural(fields.len(), "field"), fields.join(", "))]
    UnknownFields { fields: Vec<String>, family: String },
    #[error("field \"{field}\" is {found}, supported: {supported}")]
    FieldUnsupported { field: String, found: String, supported: String },
    #[error("field \"{field}\" contradicts the rest: {why}")]
    FieldConflict { field: String, why: String },

    #[error("has {bytes} bytes, too few for the 8 bytes of the header length")]
    HeaderTruncated { bytes: usize },
    #[error("declares a header of {declared} bytes, at most {available} are possible")]
    HeaderLength { declared: u64, available: u64 },
    #[error("header entry \"{tensor}\": {why}")]
    HeaderEntry { tensor: String, why: String },
    #[error("tensor \"{tensor}\" starts at byte {start} of the data, expected {expected}: {}",
        if start < expected { "it overlaps the one before" } else { "there is a gap before it" })]
    Layout { tensor: String, start: usize, expected: usize },
    #[error("tensor \"{tensor}\" occupies {found} bytes, its dtype and shape ask for {expected}")]
    TensorBytes { tensor: String, found: usize, expected: usize },
    #[error("holds {found} bytes of data, its header describes {expected}")]
    DataLength { found: usize, expected: usize },

    #[error("tensor \"{tensor}\" is said to be in \"{shard}\", which is not a plain file name")]
    ShardPath { tensor: String, shard: String },
    #[error("shard \"{shard}\" does not exist, though \"{tensor}\" should be in it")]
    ShardMissing { shard: String, tensor: String },
    #[error("tensor \"{tensor}\" is not in \"{shard}\", where the index says it is")]
    IndexMismatch { tensor: String, shard: String },
    #[error("tensor \"{tensor}\" is in two shards: \"{first}\" and \"{second}\"")]
    TensorTwice { tensor: String, first: String, second: String },

    #[error("{}", join_problems(problems))]
    Tensors { problems: Vec<TensorProblem> },

    #[error("is not a tokenizer: {why}")]
    Tokenizer { why: String },

    #[error("is GGUF version {found}{}, read are 2 and 3", if *big_endian { " (big-endian)" } else { "" })]
    GgufVersion { found: u32, big_endian: bool },
    #[error("ends too early: {what} at byte {offset} needs {wanted} bytes, {available} are left")]
    GgufTruncated { what: String, offset: usize, wanted: u64, available: u64 },
    #[error("declares {declared} {what}, at most {most} fit into what is left of it")]
    GgufCount { what: &'static str, declared: u64, most: u64 },
    #[error("metadata key \"{key}\": {why}")]
    GgufKey { key: String, why: String },
    #[error("{what} \"{name}\" is there twice")]
    GgufTwice { what: &'static str, name: String },
    #[error("tensor \"{tensor}\" {why}")]
    GgufTensor { tensor: String, why: String },
    #[error("tensor \"{tensor}\" has GGML encoding {id}, which is not supported")]
    GgufEncoding { tensor: String, id: u32 },

    #[error("line {line}, column {column}: {why}")]
    Spark { line: usize, column: usize, why: String },
    #[error("is not a valid module: {why}")]
    Verify { why: String },

    #[error("sparkc built an ill-formed graph: {why}")]
    Internal { why: String },
}

/// How a tensor of the file and the tensor that the config asks for differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum TensorProblem {
    #[error("tensor \"{tensor}\" {expected:?} is missing")]
    Missing { tensor: String, expected: Vec<usize> },
    #[error("tensor \"{tensor}\" {found:?} in {file} is not part of this architecture")]
    Unknown { tensor: String, file: String, found: Vec<usize> },
    #[error("tensor \"{tensor}\" in {file} has shape {found:?}, expected {expected:?}")]
    Shape { tensor: String, file: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("tensor \"{tensor}\" in {file} has dtype {found}, expected {}", dtype_list(expected))]
    DType { tensor: String, file: String, found: String, expected: Vec<DType> },
}

impl ErrorKind {
    /// This error, found in `path`.
    pub fn at(self, path: &Path) -> FrontendError {
        FrontendError { path: path.to_path_buf(), kind: Box::new(self) }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            ErrorKind::NotFound => "SPK2001",
            ErrorKind::Unreadable { .. } => "SPK2002",
            ErrorKind::NotAFile { .. } => "SPK2003",
            ErrorKind::TooLarge { .. } => "SPK2004",
            ErrorKind::Empty => "SPK2005",
            ErrorKind::UnsupportedFormat { .. } => "SPK2006",
            ErrorKind::UnknownFormat => "SPK2007",
            ErrorKind::NoConfig => "SPK2008",
            ErrorKind::NoWeights => "SPK2009",
            ErrorKind::AmbiguousWeights { .. } => "SPK2010",
            ErrorKind::NotUtf8 { .. } => "SPK2101",
            ErrorKind::Json { .. } => "SPK2102",
            ErrorKind::DuplicateKey { .. } => "SPK2103",
            ErrorKind::FieldMissing { .. } => "SPK2110",
            ErrorKind::FieldValue { .. } => "SPK2111",
            ErrorKind::UnknownFields { .. } => "SPK2112",
            ErrorKind::FieldUnsupported { .. } => "SPK2113",
            ErrorKind::FieldConflict { .. } => "SPK2114",
            ErrorKind::HeaderTruncated { .. } => "SPK2201",
            ErrorKind::HeaderLength { .. } => "SPK2202",
            ErrorKind::HeaderEntry { .. } => "SPK2203",
            ErrorKind::Layout { .. } => "SPK2204",
            ErrorKind::TensorBytes { .. } => "SPK2205",
            ErrorKind::DataLength { .. } => "SPK2206",
            ErrorKind::ShardPath { .. } => "SPK2301",
            ErrorKind::ShardMissing { .. } => "SPK2302",
            ErrorKind::IndexMismatch { .. } => "SPK2303",
            ErrorKind::TensorTwice { .. } => "SPK2304",
            ErrorKind::Tensors { problems } => problems.first().map_or("SPK2400", |p| p.code()),
            ErrorKind::Tokenizer { .. } => "SPK2501",
            ErrorKind::GgufVersion { .. } => "SPK2701",
            ErrorKind::GgufTruncated { .. } => "SPK2702",
            ErrorKind::GgufCount { .. } => "SPK2703",
            ErrorKind::GgufKey { .. } => "SPK2704",
            ErrorKind::GgufTwice { .. } => "SPK2705",
            ErrorKind::GgufTensor { .. } => "SPK2706",
            ErrorKind::GgufEncoding { .. } => "SPK2707",
            ErrorKind::Spark { .. } => "SPK2601",
            ErrorKind::Verify { .. } => "SPK2602",
            ErrorKind::Internal { .. } => "SPK2900",
        }
    }

    /// Whose fault it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            ErrorKind::UnsupportedFormat { .. }
            | ErrorKind::UnknownFields { .. }
            | ErrorKind::FieldUnsupported { .. }
            | ErrorKind::GgufVersion { .. }
            | ErrorKind::GgufEncoding { .. } => ErrorClass::Unsupported,
            ErrorKind::Tensors { problems }
                if problems.iter().all(|p| matches!(p, TensorProblem::DType { .. })) =>
            {
                ErrorClass::Unsupported
            }
            ErrorKind::Internal { .. } => ErrorClass::Internal,
            _ => ErrorClass::Input,
        }
    }

    /// What to try.
    pub fn hint(&self) -> &'static str {
        match self {
            ErrorKind::NotFound => "check the path",
            ErrorKind::Unreadable { .. } => "check the permissions and the disk",
            ErrorKind::NotAFile { .. } => "give a model directory, or a file that is a model",
            ErrorKind::TooLarge { .. } => "check that the file is what its name says",
            ErrorKind::Empty => "download or export it again",
            ErrorKind::UnsupportedFormat { .. } => {
                "convert the model to a directory with config.json and *.safetensors"
            }
            ErrorKind::UnknownFormat => {
                "give a directory with config.json and *.safetensors, a .safetensors file with \
                 config.json beside it, a config.json, a .gguf file, or a .spark file"
            }
            ErrorKind::NoConfig => "copy config.json from the model's repository into it",
            ErrorKind::NoWeights => {
                "download the *.safetensors files, or give config.json itself to plan by shapes only"
            }
            ErrorKind::AmbiguousWeights { .. } => "give one of the files, or add the index",
            ErrorKind::NotUtf8 { .. } | ErrorKind::Json { .. } => {
                "open it in an editor at that place, or download it again"
            }
            ErrorKind::DuplicateKey { .. } => "remove one of the two",
            ErrorKind::FieldMissing { .. } | ErrorKind::FieldValue { .. } => {
                "correct it; the model's repository has the original"
            }
            ErrorKind::FieldUnsupported { field, .. } => unsupported_field_hint(field),
            ErrorKind::UnknownFields { .. } => MAY_MATTER,
            ErrorKind::FieldConflict { .. } => "remove or correct one of the two",
            ErrorKind::HeaderTruncated { .. }
            | ErrorKind::HeaderLength { .. }
            | ErrorKind::HeaderEntry { .. }
            | ErrorKind::Layout { .. }
            | ErrorKind::TensorBytes { .. }
            | ErrorKind::DataLength { .. } => {
                "the file is damaged or its download was cut off: fetch it again"
            }
            ErrorKind::ShardPath { .. } => "a shard lies beside its index, under a plain name",
            ErrorKind::ShardMissing { .. } => "download the missing shard into the directory",
            ErrorKind::IndexMismatch { .. } | ErrorKind::TensorTwice { .. } => {
                "index and shards are from different versions: download all of them again"
            }
            ErrorKind::Tensors { problems } => problems.first().map_or("", |p| p.hint()),
            ErrorKind::Tokenizer { .. } => "download tokenizer.json again",
            ErrorKind::GgufVersion { .. } => "convert it again with a current llama.cpp",
            ErrorKind::GgufTruncated { .. }
            | ErrorKind::GgufCount { .. }
            | ErrorKind::GgufKey { .. }
            | ErrorKind::GgufTwice { .. }
            | ErrorKind::GgufTensor { .. } => {
                "the file is damaged or its download was cut off: fetch it again"
            }
            ErrorKind::GgufEncoding { .. } => {
                "quantise the model to Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K or IQ4_NL"
            }
            ErrorKind::Spark { .. } | ErrorKind::Verify { .. } => {
                "`sparkc compile --emit ir` writes valid .spark files to compare with"
            }
            ErrorKind::Internal { .. } => "please report this, with the model's config.json",
        }
    }
}

/// What to do about a field that may change what the model computes.
const MAY_MATTER: &str = "it may change what the model computes, so it is not ignored: if it does \
                          not concern this model, remove it";

/// What to do about a field of `config.json` whose value asks for what sparkc does not have.
fn unsupported_field_hint(field: &str) -> &'static str {
    match field {
        _ if ARCHITECTURE_FIELDS.contains(&field) => {
            "sparkc cannot read this architecture yet; its graph can be given as a .spark file, \
             with --weights"
        }
        "hidden_act" => "the model needs this activation, and sparkc does not have it yet",
        _ => MAY_MATTER,
    }
}

impl FrontendError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// Whose fault it is.
    pub fn class(&self) -> ErrorClass {
        self.kind.class()
    }

    /// What to try.
    pub fn hint(&self) -> &'static str {
        // JSON in the header of a binary file is nothing to correct by hand.
        let binary = self.path.extension().is_some_and(|e| e == "safetensors");
        match &*self.kind {
            ErrorKind::NotUtf8 { .. } | ErrorKind::Json { .. } if binary => {
                "the file is damaged or its download was cut off: fetch it again"
            }
            kind => kind.hint(),
        }
    }
}

impl TensorProblem {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            TensorProblem::Missing { .. } => "SPK2401",
            TensorProblem::Unknown { .. } => "SPK2402",
            TensorProblem::Shape { .. } => "SPK2403",
            TensorProblem::DType { .. } => "SPK2404",
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            TensorProblem::Missing { .. } => {
                "config.json and the weights are of different models, or a shard is missing"
            }
            TensorProblem::Unknown { .. } => {
                "sparkc would leave it out of the computation: check model_type and \
                 num_hidden_layers in config.json"
            }
            TensorProblem::Shape { .. } => "config.json and the weights are of different models",
            TensorProblem::DType { .. } => "convert the weights to f32, f16 or bf16",
        }
    }
}

/// Fields that say which kind of model it is.
const ARCHITECTURE_FIELDS: [&str; 3] = ["model_type", "architectures", "general.architecture"];

/// Problems shown in a message; the rest is counted.
const PROBLEMS_SHOWN: usize = 6;

fn join_problems(problems: &[TensorProblem]) -> String {
    let mut lines: Vec<String> =
        problems.iter().take(PROBLEMS_SHOWN).map(TensorProblem::to_string).collect();
    if problems.len() > PROBLEMS_SHOWN {
        lines.push(format!("and {} more", problems.len() - PROBLEMS_SHOWN));
    }
    lines.join("; ")
}

fn dtype_list(dtypes: &[DType]) -> String {
    dtypes.iter().map(|d| d.name()).collect::<Vec<_>>().join(" or ")
}

fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Something odd that does not stop the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Stable code, SPK28xx.
    pub code: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What, in numbers.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}
