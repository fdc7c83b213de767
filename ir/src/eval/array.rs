//! Tensors while they are evaluated: f32 once computed, stored bytes while only moved.
//!
//! Rule for quantised values: `quantize` (or a quantised weight) yields groups along its last axis.
//! As long as movement keeps whole groups along the last axis, the bytes are kept; any other
//! movement (a transpose, a cut group) leaves the dequantised f32 values, and the dtype of the type
//! then only says how they were rounded.

use std::sync::Arc;

use tensor::{DType, Tensor, element_count};

/// A dense row-major tensor of any dtype.
#[derive(Clone, Debug)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) data: Data,
}

/// Elements in one of two forms; both are cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// Computed, decoded or dequantised values.
    F32(Arc<Vec<f32>>),
    /// Bytes as stored. The tensor's own shape may differ from the array's; its last axis holds
    /// whole quantised groups.
    Stored(Tensor),
}

impl Array {
    /// An array of computed values.
    pub(super) fn new(shape: &[usize], values: Vec<f32>) -> Self {
        debug_assert_eq!(element_count(shape), Some(values.len()));
        Array { shape: shape.to_vec(), data: Data::F32(Arc::new(values)) }
    }

    /// A stored tensor as it is; f32 is decoded at once.
    pub(super) fn stored(tensor: Tensor) -> Self {
        Array { shape: tensor.shape().to_vec(), data: Data::Stored(tensor) }
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The values as f32; free when they are already.
    pub(super) fn f32(&self) -> Arc<Vec<f32>> {
        match &self.data {
            Data::F32(values) => Arc::clone(values),
            Data::Stored(tensor) => Arc::new(tensor.to_f32()),
        }
    }

    /// The values of an integer array.
    pub(super) fn i32(&self) -> Vec<i32> {
        match &self.data {
            Data::Stored(tensor) => tensor.to_i32().unwrap_or_default(),
            Data::F32(_) => Vec::new(),
        }
    }

    /// The same array with floats decoded, for values that are read again and again.
    pub(super) fn decoded(self) -> Self {
        match &self.data {
            Data::Stored(t) if t.dtype().is_float() || t.dtype().is_quantized() => {
                Array { data: Data::F32(self.f32()), shape: self.shape }
            }
            _ => self,
        }
    }

    /// The array as a tensor: stored bytes in their dtype, everything else as f32.
    pub(super) fn into_tensor(self) -> Tensor {
        match self.data {
            Data::F32(values) => Tensor::from_f32(self.shape, &values),
            Data::Stored(t) if t.shape() == self.shape => t,
            Data::Stored(t) => match t.reshape(self.shape.clone()) {
                Ok(reshaped) => reshaped,
                // Unreachable for verified graphs: a reshape keeps the last axis of groups.
                Err(_) => Tensor::from_f32(self.shape, &t.to_f32()),
            },
        }
    }

    /// The values rounded to `dtype` (or quantised).
    pub(super) fn cast(&self, dtype: DType) -> Result<Self, String> {
        if dtype == DType::F32 {
            return Ok(Array { shape: self.shape.clone(), data: Data::F32(self.f32()) });
        }
        let tensor = match &self.data {
            Data::F32(values) => Tensor::from_f32(self.shape.clone(), values),
            Data::Stored(t) => t.reshape(self.shape.clone()).map_err(|e| e.to_string())?,
        };
        tensor.cast(dtype).map(Array::stored).map_err(|e| e.to_string())
    }
}
