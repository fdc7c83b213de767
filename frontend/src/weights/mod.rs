//! The weights of a model: one or more mapped files behind one lookup by name.
//!
//! Invariant: every name belongs to exactly one file. Opening touches headers only; [`load`] hands
//! out a view of the mapping, so bytes are read by whoever looks at them (blocks of GGUF that sparkc
//! has no dtype for are decoded there and then).
//! Does not know architectures: `arch::check` compares names, shapes and dtypes with a config.
//!
//! [`load`]: ir::WeightSource::load

mod container;
mod safetensors;
mod shards;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tensor::{DType, Tensor};

use crate::error::{ErrorKind, FrontendError};
use crate::file;
pub(crate) use container::{Container, Encoding, Stored};
pub(crate) use shards::{find, index_beside};

/// Mapped weights.
#[derive(Debug)]
pub struct Weights {
    containers: Vec<Container>,
    /// Which container holds a tensor.
    holder: BTreeMap<String, usize>,
}

/// What a header says about a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorHeader {
    /// Name of the file it is in.
    pub file: String,
    /// The dtype that it is loaded in, where sparkc can.
    pub dtype: Option<DType>,
    /// The dtype as the format spells it: `F64`, `F8_E4M3`, `Q6_K`.
    pub stored_dtype: String,
    /// Extents.
    pub shape: Vec<usize>,
}

impl Weights {
    /// Opens files that together hold a model.
    ///
    /// # Errors
    /// When a file is not a well-formed safetensors file, or two hold a tensor of the same name.
    pub fn open(paths: &[PathBuf]) -> Result<Self, FrontendError> {
        let containers = paths.iter().map(|p| safetensors::open(p));
        Weights::join(containers.collect::<Result<Vec<_>, FrontendError>>()?)
    }

    /// The weights of opened files.
    ///
    /// # Errors
    /// When two hold a tensor of the same name.
    pub(crate) fn join(containers: Vec<Container>) -> Result<Self, FrontendError> {
        let mut holder: BTreeMap<String, usize> = BTreeMap::new();
        for (i, container) in containers.iter().enumerate() {
            for name in container.tensors.keys() {
                if let Some(first) = holder.insert(name.clone(), i) {
                    return Err(ErrorKind::TensorTwice {
                        tensor: name.clone(),
                        first: file_name(&containers[first].path),
                        second: file_name(&container.path),
                    }
                    .at(&container.path));
                }
            }
        }
        Ok(Weights { containers, holder })
    }

    /// Opens the weights at a path, a directory or one file, and says which directory that is.
    ///
    /// # Errors
    /// As [`Weights::open`], and when a directory has no weights or an index is wrong.
    pub(crate) fn open_at(place: &Path) -> Result<(Self, PathBuf), FrontendError> {
        if file::is_directory(place)? {
            return Ok((shards::find(place)?, place.to_path_buf()));
        }
        Ok((Weights::open(&[place.to_path_buf()])?, file::parent(place)))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.holder.keys().map(String::as_str)
    }

    /// What the header says about a tensor; reads no weight byte.
    pub fn header(&self, name: &str) -> Option<TensorHeader> {
        let (container, stored) = self.find(name)?;
        Some(TensorHeader {
            file: file_name(&container.path),
            dtype: stored.dtype(),
            stored_dtype: stored.encoding.to_string(),
            shape: stored.shape.clone(),
        })
    }

    /// The files, in the order they were given.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.containers.iter().map(|c| c.path.as_path())
    }

    /// Whether two tensors have the same dtype, shape and bytes. Reads both, up to the first
    /// difference.
    pub(crate) fn are_equal(&self, a: &str, b: &str) -> bool {
        let (Some((ca, sa)), Some((cb, sb))) = (self.find(a), self.find(b)) else { return false };
        let (Some(x), Some(y)) = (ca.data(sa), cb.data(sb)) else { return false };
        sa.encoding == sb.encoding && sa.shape == sb.shape && x[..] == y[..]
    }

    fn find(&self, name: &str) -> Option<(&Container, &Stored)> {
        let container = self.containers.get(*self.holder.get(name)?)?;
        Some((container, container.tensors.get(name)?))
    }
}

impl ir::WeightSource for Weights {
    fn load(&self, name: &str) -> Result<Tensor, String> {
        let (container, stored) =
            self.find(name).ok_or_else(|| format!("no weight file has a tensor \"{name}\""))?;
        container.load(stored).map_err(|why| format!("tensor \"{name}\" {why}"))
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}
