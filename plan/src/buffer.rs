//! Buffers: the SRAM memory map of a template, the same on each of its PEs.
//!
//! Invariant of a legal plan: at every phase the buffers live in it lie inside usable SRAM and do
//! not overlap; `verify` checks it by byte. A buffer does not know which weight fills it: see
//! [`crate::pin`].

use serde::{Deserialize, Serialize};

/// Index into [`crate::Template::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BufferId(pub u32);

/// How elements lie in SRAM. Values are widened to f32 when read and rounded to nearest even when
/// an instruction writes them; `Q8` and `Q4` can be pinned but not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// IEEE binary32, 4 bytes.
    F32,
    /// IEEE binary16, 2 bytes.
    F16,
    /// bfloat16, 2 bytes.
    BF16,
    /// 8-bit codes with one f16 scale per group of 32 along the weight's last axis.
    Q8,
    /// 4-bit codes with one f16 scale per group of 32 along the weight's last axis.
    Q4,
}

impl Storage {
    /// Every storage, in declaration order.
    pub const ALL: [Storage; 5] =
        [Storage::F32, Storage::F16, Storage::BF16, Storage::Q8, Storage::Q4];

    /// The tensor dtype of the same meaning.
    pub fn dtype(self) -> tensor::DType {
        match self {
            Storage::F32 => tensor::DType::F32,
            Storage::F16 => tensor::DType::F16,
            Storage::BF16 => tensor::DType::BF16,
            Storage::Q8 => tensor::DType::Q8,
            Storage::Q4 => tensor::DType::Q4,
        }
    }

    /// The storage of a tensor dtype; `None` for integers and bytes.
    pub fn from_dtype(dtype: tensor::DType) -> Option<Self> {
        Storage::ALL.into_iter().find(|s| s.dtype() == dtype)
    }

    /// `Q8` or `Q4`.
    pub fn is_quantized(self) -> bool {
        matches!(self, Storage::Q8 | Storage::Q4)
    }

    /// Bytes of `elements` elements, scales of quantised kinds not counted.
    pub fn element_bytes(self, elements: u64) -> u64 {
        match self {
            Storage::F32 => elements * 4,
            Storage::F16 | Storage::BF16 => elements * 2,
            Storage::Q8 => elements,
            Storage::Q4 => elements.div_ceil(2),
        }
    }
}

/// What a buffer is for; contributors in SRAM reports carry this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Filled by pins before the first token, never written.
    Weights,
    /// Written by `KvAppend`, kept from token to token.
    KvCache,
    /// Values of the token being computed.
    Activation,
    /// Where messages are received.
    Receive,
    /// Anything else of one phase.
    Scratch,
}

/// A named piece of SRAM: a row-major matrix of `rows` x `cols` elements (a vector has one row).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Unique in its template; appears in reports and errors.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Element storage. Activations, caches and messages are F32, F16 or BF16.
    pub storage: Storage,
    /// Rows. For a KV cache: slots (see [`crate::KvLayout::slots`]).
    pub rows: u32,
    /// Elements in a row. For a KV cache: elements per token.
    pub cols: u32,
    /// First byte, counted from the start of usable SRAM (after the reserved part); a multiple of 4.
    pub offset: u32,
    /// Bytes reserved: at least [`Buffer::min_bytes`].
    pub bytes: u32,
    /// First and last phase (inclusive) in which its content matters; buffers whose ranges do not
    /// meet may share bytes. Weights and KV caches are live in all phases: `(0, phases - 1)`.
    /// Outputs ([`crate::Outputs`]) must be live in the last phase.
    pub live: (u32, u32),
}

impl Buffer {
    /// `rows * cols`.
    pub fn elements(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.cols)
    }

    /// Bytes the elements need, excluding the scales of quantised storage: those are counted per
    /// pin by [`crate::Pin::scale_bytes`], because only the pin knows how groups are cut.
    pub fn min_bytes(&self) -> u64 {
        self.storage.element_bytes(self.elements())
    }
}
