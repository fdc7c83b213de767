//! A mapped weight file of any format: where its tensors lie, and how their elements are encoded.
//!
//! Invariant: whoever makes a [`Container`] has checked every range against the file. Loading is a
//! view of the mapping wherever sparkc has a dtype of the same bytes; other blocks are decoded, which
//! never rounds. Does not know how headers look: `safetensors` and `crate::gguf` do.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use safetensors::tensor::Dtype;
use tensor::{Bytes, DType, Tensor};

use crate::gguf::BlockType;

/// A mapped file with a checked header.
#[derive(Debug)]
pub(crate) struct Container {
    /// The file.
    pub(crate) path: PathBuf,
    /// Its tensors by name.
    pub(crate) tensors: BTreeMap<String, Stored>,
    /// All of it.
    pub(crate) bytes: Bytes,
}

/// A tensor as the header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// How elements are stored.
    pub(crate) encoding: Encoding,
    /// Extents, outermost first.
    pub(crate) shape: Vec<usize>,
    /// Bytes of the file.
    pub(crate) range: Range<usize>,
    /// Heads whose rows are stored in pairs of the two halves that RoPE rotates together (row i of
    /// the first half, row i of the second), as llama.cpp does; `None` for rows in order.
    pub(crate) interleaved_heads: Option<usize>,
}

/// The element encoding of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Of a safetensors file.
    Safetensors(Dtype),
    /// Of a GGUF file.
    Gguf(BlockType),
}

/// As the format spells it.
impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Safetensors(dtype) => write!(f, "{dtype}"),
            Encoding::Gguf(block) => f.write_str(block.name()),
        }
    }
}

impl Stored {
    /// The dtype that the tensor is loaded in, if sparkc can.
    pub(crate) fn dtype(&self) -> Option<DType> {
        match self.encoding {
            Encoding::Safetensors(Dtype::F32) => Some(DType::F32),
            Encoding::Safetensors(Dtype::F16) => Some(DType::F16),
            Encoding::Safetensors(Dtype::BF16) => Some(DType::BF16),
            Encoding::Safetensors(Dtype::I32) => Some(DType::I32),
            Encoding::Safetensors(Dtype::U8) => Some(DType::U8),
            Encoding::Safetensors(_) => None,
            Encoding::Gguf(block) => Some(block.dtype()),
        }
    }
}

impl Container {
    /// The bytes of a tensor of this container: a view of the mapping.
    pub(crate) fn data(&self, stored: &Stored) -> Option<Bytes> {
        self.bytes.slice(stored.range.clone())
    }

    /// A tensor of this container.
    ///
    /// # Errors
    /// The end of a sentence that begins with the tensor's name.
    pub(crate) fn load(&self, stored: &Stored) -> Result<Tensor, String> {
        let dtype = stored
            .dtype()
            .ok_or_else(|| format!("has dtype {}, which is not supported", stored.encoding))?;
        let mut data =
            self.data(stored).ok_or_else(|| format!("lies outside {}", self.path.display()))?;
        if let Some(heads) = stored.interleaved_heads {
            data = halves_in_order(&data, stored.shape.first().copied().unwrap_or(0), heads)
                .ok_or_else(|| format!("{:?} does not divide into {heads} heads", stored.shape))?
                .into();
        }
        if let Encoding::Gguf(block) = stored.encoding {
            data = block.convert(data);
        }
        Tensor::new(dtype, stored.shape.clone(), data).map_err(|e| e.to_string())
    }
}

/// Rows of heads with the first half of each head before the second; `None` when they do not divide.
fn halves_in_order(data: &[u8], rows: usize, heads: usize) -> Option<Vec<u8>> {
    let row_bytes = data.len().checked_div(rows)?;
    let per_head = rows.checked_div(heads)?;
    if per_head * heads != rows || !per_head.is_multiple_of(2) || row_bytes * rows != data.len() {
        return None;
    }
    let mut out = Vec::with_capacity(data.len());
    for row in 0..rows {
        let (head, within) = (row / per_head, row % per_head);
        let (half, i) = (within / (per_head / 2), within % (per_head / 2));
        let from = (head * per_head + 2 * i + half) * row_bytes;
        out.extend_from_slice(data.get(from..from + row_bytes)?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_heads_come_apart() {
        // Two heads of four rows; a row is one byte that says where it belongs.
        let stored = [0, 2, 1, 3, 4, 6, 5, 7];
        assert_eq!(halves_in_order(&stored, 8, 2).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(halves_in_order(&stored, 8, 0), None);
        assert_eq!(halves_in_order(&stored, 8, 3), None);
        assert_eq!(halves_in_order(&[], 0, 1), None);
    }
}
