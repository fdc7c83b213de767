//! An opened model: what `open` returns.

use std::path::PathBuf;

use ir::Module;
use tensor::DType;

use crate::assets::Assets;
use crate::digest::Digest;
use crate::error::Warning;
use crate::weights::Weights;

/// How to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Most positions of a sequence, instead of what the config says.
    pub context: Option<usize>,
    /// Weights from elsewhere, for a `.spark` file, a bare config or a directory: a safetensors
    /// file or a directory with some.
    pub weights: Option<PathBuf>,
    /// Dtype in which the KV cache is stored: f32, f16 or bf16. `None`: f32 for f32 weights, else
    /// f16. A `.spark` file says it itself.
    pub kv_cache: Option<DType>,
}

/// A model.
#[derive(Debug)]
pub struct Model {
    /// What it computes, in primitive ops.
    pub module: Module,
    /// Its weights, mapped; `None` when only shapes are known.
    pub weights: Option<Weights>,
    /// Tokenizer, chat template, generation defaults.
    pub assets: Assets,
    /// Facts for reports.
    pub info: ModelInfo,
    /// What is odd about the files.
    pub warnings: Vec<Warning>,
}

/// Facts about a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Short name from the path: of the directory, or of the file without its ending. For naming
    /// outputs only; artefacts must not depend on it, so it is not the module's name.
    pub name: String,
    /// `model_type` of the family; `spark` for a `.spark` file.
    pub family: String,
    /// The dtype that most tensors are stored in.
    pub dtype: DType,
    /// Elements of all tensors that the model uses, a tied one counted once.
    pub parameters: u64,
    /// Digest of the config and of names, dtypes and shapes of the tensors. Costs no reading; see
    /// [`crate::contents_digest`] for one over the bytes.
    pub digest: Digest,
}
