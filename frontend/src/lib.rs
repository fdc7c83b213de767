//! Model file formats of sparkc: from untrusted files to an IR module and mapped weights.
//!
//! [`open`] recognises what is at a path and returns a [`Model`]: the module in primitive ops, the
//! weights as a lazy [`ir::WeightSource`], tokenizer and generation defaults, facts for reports.
//! The only crate that knows file formats. Invariants: no input makes it panic, no declared size is
//! allocated, no weight byte is read, and no config field that is not understood is ignored.
//!
//! Reading order: `open`; `config` (config.json in one neutral form), `arch` (the registry of
//! families, their tensors, the shared decoder), `weights` (safetensors), `gguf`, `assets`; `error` lists
//! everything that can be wrong. To add a family of Llama-like decoders: a row in `arch::family`.
//! Does not do: optimisation, evaluation, tokenizing.

mod arch;
mod assets;
mod config;
mod digest;
mod error;
mod file;
mod gguf;
mod json;
mod mmap;
mod model;
mod open;
mod spark;
mod weights;

pub use arch::{AttentionBias, FAMILIES, Family, WindowRule};
pub use assets::{Assets, GenerationDefaults, TokenizerSettings, load_tokenizer};
pub use digest::{Digest, contents as contents_digest};
pub use error::{ErrorClass, ErrorKind, FrontendError, TensorProblem, Warning};
pub use model::{Model, ModelInfo, OpenOptions};
pub use open::open;
pub use weights::{TensorHeader, Weights};
