//! The tensors of a decoder, compared with what the files hold.
//!
//! Collects every difference before it complains, because they explain each other (one wrong number
//! in config.json shows in each layer). Reads headers only, with one exception: where the config
//! ties the output weight to the embedding and the file has both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tensor::DType;

use super::names::{self, Role, Row};
use crate::config::ModelConfig;
use crate::error::{ErrorKind, FrontendError, TensorProblem, Warning};
use crate::weights::Weights;

/// The dtypes that weights may have.
const SUPPORTED: [DType; 6] =
    [DType::F32, DType::F16, DType::BF16, DType::Q8, DType::Q4, DType::Q4M];

/// Which tensor fills which role, in which dtype.
#[derive(Debug)]
pub(crate) struct Tensors {
    /// Dtype by role and layer (0 outside the layers).
    dtypes: BTreeMap<(Role, usize), DType>,
    /// Role of the tensor that embeds: `Head` in tied checkpoints that store only that one.
    pub(crate) embedding: Role,
    /// Role of the tensor that yields logits: `Embedding` where tied.
    pub(crate) head: Role,
    /// Elements of all tensors together.
    pub(crate) parameters: u64,
}

impl Tensors {
    /// The dtype of a tensor, if the decoder has it.
    pub(crate) fn dtype(&self, role: Role, layer: usize) -> Option<DType> {
        self.dtypes.get(&(role, layer)).copied()
    }

    /// Dtypes of all tensors of a layer, to compare layers by.
    pub(crate) fn layer_dtypes(&self, layer: usize) -> Vec<DType> {
        let per_layer = names::table().iter().filter(|row| row.is_per_layer());
        per_layer.filter_map(|row| self.dtype(row.role, layer)).collect()
    }

    /// The dtype that most tensors have; ties go to the first in declaration order.
    pub(crate) fn main_dtype(&self) -> DType {
        let count = |d: DType| self.dtypes.values().filter(|x| **x == d).count();
        SUPPORTED.into_iter().rev().max_by_key(|&d| count(d)).unwrap_or(DType::F32)
    }
}

/// The tensors of a decoder without files: all of the dtype that the config names, else f32.
pub(crate) fn from_config(config: &ModelConfig) -> Tensors {
    let dtype = config.dtype.unwrap_or(DType::F32);
    let mut tensors = empty(config);
    for (row, layer, _) in expected(config, tensors.embedding) {
        tensors.dtypes.insert((row.role, layer), dtype);
        tensors.parameters += elements(&row.shape(config));
    }
    tensors
}

/// The tensors of a decoder as the files have them.
///
/// # Errors
/// Every tensor that is missing, unknown, or of another shape or dtype than the config asks for.
pub(crate) fn from_weights(
    config: &ModelConfig,
    weights: &Weights,
    path: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<Tensors, FrontendError> {
    let mut tensors = empty(config);
    if config.tied {
        resolve_tie(weights, path, &mut tensors, warnings);
    }
    let mut problems = Vec::new();
    let mut known = BTreeSet::new();
    let mut wanted = expected(config, tensors.embedding);
    if tensors.head == Role::Head && config.tied {
        wanted.push((names::row(Role::Head), 0, names::row(Role::Head).name.to_string()));
    }
    for (row, layer, name) in wanted {
        let shape = row.shape(config);
        match judge(weights, &name, &shape) {
            Ok(dtype) => {
                tensors.dtypes.insert((row.role, layer), dtype);
                tensors.parameters += elements(&shape);
            }
            Err(problem) => problems.push(problem),
        }
        known.insert(name);
    }
    // Whatever of a tied pair is not in use equals the one that is.
    let tied = [Role::Head, Role::Embedding].map(|role| names::row(role).name);
    let idle = |name: &str| names::is_ignorable(name) || config.tied && tied.contains(&name);
    for name in weights.names().filter(|n| !known.contains(*n) && !idle(n)) {
        if let Some(header) = weights.header(name) {
            let (tensor, file, found) = (name.to_string(), header.file, header.shape);
            problems.push(TensorProblem::Unknown { tensor, file, found });
        }
    }
    if problems.is_empty() { Ok(tensors) } else { Err(ErrorKind::Tensors { problems }.at(path)) }
}

fn empty(config: &ModelConfig) -> Tensors {
    Tensors {
        dtypes: BTreeMap::new(),
        embedding: Role::Embedding,
        head: if config.tied { Role::Embedding } else { Role::Head },
        parameters: 0,
    }
}

/// Decides which tensors a tied decoder uses, as `tie_weights` of transformers 5 does: the one that
/// is there; and if both are there and differ, each its own.
fn resolve_tie(weights: &Weights, path: &Path, tensors: &mut Tensors, warnings: &mut Vec<Warning>) {
    let (embedding, head) = (names::row(Role::Embedding).name, names::row(Role::Head).name);
    match (weights.header(embedding).is_some(), weights.header(head).is_some()) {
        (false, true) => (tensors.embedding, tensors.head) = (Role::Head, Role::Head),
        (true, true) if !weights.are_equal(embedding, head) => {
            tensors.head = Role::Head;
            warnings.push(Warning {
                code: "SPK2801",
                path: path.to_path_buf(),
                message: format!(
                    "config.json ties {head} to {embedding}, but both are stored and differ: \
                     they are not tied"
                ),
            });
        }
        _ => {}
    }
}

/// Every tensor that the config asks for: row, layer (0 outside the layers), name.
fn expected(config: &ModelConfig, embedding: Role) -> Vec<(&'static Row, usize, String)> {
    let present = names::table().iter().filter(|row| row.is_in(config));
    let rows = present.map(|row| match row.role {
        Role::Embedding => names::row(embedding),
        _ => row,
    });
    rows.flat_map(|row| {
        let layers = if row.is_per_layer() { config.layers } else { 1 };
        (0..layers).map(move |layer| (row, layer, row.name_in(layer)))
    })
    .collect()
}

/// The dtype of a stored tensor that must have this shape.
fn judge(weights: &Weights, name: &str, shape: &[usize]) -> Result<DType, TensorProblem> {
    let tensor = name.to_string();
    let Some(header) = weights.header(name) else {
        return Err(TensorProblem::Missing { tensor, expected: shape.to_vec() });
    };
    if header.shape != shape {
        let (file, found, expected) = (header.file, header.shape, shape.to_vec());
        return Err(TensorProblem::Shape { tensor, file, found, expected });
    }
    header.dtype.filter(|d| SUPPORTED.contains(d)).ok_or_else(|| TensorProblem::DType {
        tensor,
        file: header.file,
        found: header.stored_dtype,
        expected: SUPPORTED.to_vec(),
    })
}

fn elements(shape: &[usize]) -> u64 {
    shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64))
}
