//! Element types, their sizes and their spelling.

use std::fmt;
use std::str::FromStr;

/// The element type of a tensor.
///
/// `Q8`, `Q4` and `Q4M` are block-quantised along the last axis in groups of 32 (see [`crate::quant`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: binary32 cut to 16 bits.
    BF16,
    /// Two's complement, 32 bits: token ids and positions.
    I32,
    /// One byte: raw data, masks.
    U8,
    /// Symmetric 8-bit groups of 32 with an f16 scale: 34 bytes a group, 8.5 bits a weight.
    Q8,
    /// Symmetric 4-bit groups of 32 with an f16 scale: 18 bytes a group, 4.5 bits a weight.
    Q4,
    /// 4-bit groups of 32 with an f16 scale and an f16 minimum: 20 bytes a group, 5 bits a weight.
    Q4M,
}

impl DType {
    /// Every dtype, in declaration order.
    pub const ALL: [DType; 8] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::U8,
        DType::Q8,
        DType::Q4,
        DType::Q4M,
    ];

    /// The spelling in text forms: `f32`, `f16`, `bf16`, `i32`, `u8`, `q8`, `q4`, `q4m`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::U8 => "u8",
            DType::Q8 => "q8",
            DType::Q4 => "q4",
            DType::Q4M => "q4m",
        }
    }

    /// Elements per indivisible block: 32 for the quantised kinds, else 1.
    pub fn block_len(self) -> usize {
        match self {
            DType::Q8 | DType::Q4 | DType::Q4M => crate::quant::GROUP,
            _ => 1,
        }
    }

    /// Bytes per indivisible block.
    pub fn block_bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::U8 => 1,
            DType::Q8 => crate::quant::Q8_GROUP_BYTES,
            DType::Q4 => crate::quant::Q4_GROUP_BYTES,
            DType::Q4M => crate::quant::Q4M_GROUP_BYTES,
        }
    }

    /// Bytes of `len` elements stored in one row, or `None` when `len` is not a whole number of
    /// blocks or the product overflows.
    pub fn bytes_for(self, len: usize) -> Option<usize> {
        if !len.is_multiple_of(self.block_len()) {
            return None;
        }
        (len / self.block_len()).checked_mul(self.block_bytes())
    }

    /// f32, f16 or bf16.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// `q8`, `q4` or `q4m`.
    pub fn is_quantized(self) -> bool {
        matches!(self, DType::Q8 | DType::Q4 | DType::Q4M)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        DType::ALL.into_iter().find(|d| d.name() == text).ok_or(())
    }
}
