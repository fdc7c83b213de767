//! Types of values: tensors and KV caches.

use std::fmt;

use tensor::DType;

use crate::Dim;

/// Dtype and dims of a tensor; no dims is a scalar.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub dims: Vec<Dim>,
}

/// One KV cache of a layer, or a stack of one per layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheType {
    /// How many layers are stacked; `None` for one layer's cache, inside a block.
    pub layers: Option<u32>,
    /// Stored element type.
    pub dtype: DType,
    /// Tokens held.
    pub len: Dim,
    /// Key/value heads.
    pub heads: usize,
    /// Elements per head and token.
    pub head_dim: usize,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    /// A tensor, freely copied.
    Tensor(TensorType),
    /// A cache, linear.
    Cache(CacheType),
}

impl TensorType {
    /// A tensor type from anything that converts to dims.
    pub fn new<D: Into<Dim>>(dtype: DType, dims: impl IntoIterator<Item = D>) -> Self {
        TensorType { dtype, dims: dims.into_iter().map(Into::into).collect() }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The extents when none is symbolic.
    pub fn const_shape(&self) -> Option<Vec<usize>> {
        self.dims.iter().map(Dim::as_const).collect()
    }
}

impl CacheType {
    /// The tensor that `cache_read` yields: `[len, heads, head_dim]`.
    pub fn tensor(&self) -> TensorType {
        TensorType {
            dtype: self.dtype,
            dims: vec![self.len.clone(), self.heads.into(), self.head_dim.into()],
        }
    }
}

impl Type {
    /// The tensor type, unless this is a cache.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(t) => Some(t),
            Type::Cache(_) => None,
        }
    }

    /// The cache type, unless this is a tensor.
    pub fn as_cache(&self) -> Option<&CacheType> {
        match self {
            Type::Cache(c) => Some(c),
            Type::Tensor(_) => None,
        }
    }
}

impl From<TensorType> for Type {
    fn from(t: TensorType) -> Self {
        Type::Tensor(t)
    }
}

impl From<CacheType> for Type {
    fn from(c: CacheType) -> Self {
        Type::Cache(c)
    }
}

/// `f32[T, 64]`.
impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(", "))
    }
}

/// `cache f32[C, 2, 16]` or `cache x4 f32[C, 2, 16]`.
impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cache ")?;
        if let Some(layers) = self.layers {
            write!(f, "x{layers} ")?;
        }
        self.tensor().fmt(f)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(t) => t.fmt(f),
            Type::Cache(c) => c.fmt(f),
        }
    }
}
