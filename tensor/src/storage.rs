//! `Tensor`: dtype, shape and bytes, row-major, little-endian.

use half::{bf16, f16};

use crate::{Bytes, DType, quant};

/// A dense row-major tensor; rank 0 is a scalar of one element.
///
/// Invariant: `data` holds exactly the bytes that `dtype` and `shape` ask for.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
}

/// Why bytes do not form the tensor that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The element count overflows, or the last axis is not a whole number of quantised groups.
    #[error("shape {shape:?} of {dtype} has no byte size")]
    Shape {
        /// The shape asked for.
        shape: Vec<usize>,
        /// The dtype asked for.
        dtype: DType,
    },
    /// The byte count differs from what dtype and shape ask for.
    #[error("{shape:?} of {dtype} needs {expected} bytes, found {found}")]
    Length {
        /// The shape asked for.
        shape: Vec<usize>,
        /// The dtype asked for.
        dtype: DType,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

/// Product of the dims, `None` on overflow. The empty shape has one element.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

impl Tensor {
    /// A tensor over existing bytes.
    ///
    /// # Errors
    /// When the byte count is not what `dtype` and `shape` ask for.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Self, TensorError> {
        let expected = byte_count(dtype, &shape)
            .ok_or_else(|| TensorError::Shape { shape: shape.clone(), dtype })?;
        if expected != data.len() {
            return Err(TensorError::Length { shape, dtype, expected, found: data.len() });
        }
        Ok(Tensor { dtype, shape, data })
    }

    /// An f32 tensor from values.
    ///
    /// # Panics
    /// When `values.len()` is not the element count of `shape`.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Self {
        assert_eq!(element_count(&shape), Some(values.len()), "values do not fill {shape:?}");
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { dtype: DType::F32, shape, data: data.into() }
    }

    /// An i32 tensor from values.
    ///
    /// # Panics
    /// When `values.len()` is not the element count of `shape`.
    pub fn from_i32(shape: Vec<usize>, values: &[i32]) -> Self {
        assert_eq!(element_count(&shape), Some(values.len()), "values do not fill {shape:?}");
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { dtype: DType::I32, shape, data: data.into() }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when some extent is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.data
    }

    /// All elements widened (or dequantised) to f32; integers are converted by value.
    pub fn to_f32(&self) -> Vec<f32> {
        let b: &[u8] = &self.data;
        match self.dtype {
            DType::F32 => pairs::<4>(b).map(f32::from_le_bytes).collect(),
            DType::F16 => pairs::<2>(b).map(|p| f16::from_le_bytes(p).to_f32()).collect(),
            DType::BF16 => pairs::<2>(b).map(|p| bf16::from_le_bytes(p).to_f32()).collect(),
            DType::I32 => pairs::<4>(b).map(|p| i32::from_le_bytes(p) as f32).collect(),
            DType::U8 => b.iter().map(|&v| f32::from(v)).collect(),
            DType::Q8 | DType::Q4 | DType::Q4M => quant::dequantize(self.dtype, b),
        }
    }

    /// All elements of an i32 tensor, or `None` for another dtype.
    pub fn to_i32(&self) -> Option<Vec<i32>> {
        (self.dtype == DType::I32).then(|| pairs::<4>(&self.data).map(i32::from_le_bytes).collect())
    }

    /// This tensor stored in another dtype: floats round to nearest even, `Q8`/`Q4` quantise.
    ///
    /// # Errors
    /// When the last axis is not a whole number of groups of a quantised dtype.
    pub fn cast(&self, dtype: DType) -> Result<Self, TensorError> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let values = self.to_f32();
        let error = || TensorError::Shape { shape: self.shape.clone(), dtype };
        let data: Vec<u8> = match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            DType::I32 => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
            DType::U8 => values.iter().map(|&v| v as u8).collect(),
            DType::Q8 | DType::Q4 | DType::Q4M => {
                byte_count(dtype, &self.shape).ok_or_else(error)?;
                quant::quantize(dtype, &values)
            }
        };
        Tensor::new(dtype, self.shape.clone(), data.into())
    }

    /// The same bytes under another shape.
    ///
    /// # Errors
    /// When the element counts differ.
    pub fn reshape(&self, shape: Vec<usize>) -> Result<Self, TensorError> {
        Tensor::new(self.dtype, shape, self.data.clone())
    }
}

/// Bytes of a row-major tensor; blocks run along the last axis.
fn byte_count(dtype: DType, shape: &[usize]) -> Option<usize> {
    let (&last, outer) = match shape.split_last() {
        Some(split) => split,
        None => return dtype.bytes_for(1),
    };
    dtype.bytes_for(last)?.checked_mul(element_count(outer)?)
}

fn pairs<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}
