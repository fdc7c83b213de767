//! Pins: which slice of which weight lies in which buffer of which PE.
//!
//! A pin copies a rectangle of one weight tensor into a rectangle of one buffer, before the first
//! token, on every PE where its predicate holds. Several pins may assemble one buffer (q, k and v
//! columns of one matrix); parts of a weight buffer that no pin fills are zero.
//!
//! The value that lands in SRAM is `round_storage(weight[i, j] * gain[j] * scale)`: f32 arithmetic
//! in this order, one rounding each, then rounding to the buffer's storage. Quantised storage takes the
//! codes of the *whole* tensor quantised in groups of 32 along its last axis (after gain and
//! scale), so the value does not depend on how the tensor is cut.

use serde::{Deserialize, Serialize};

use crate::buffer::{BufferId, Storage};
use crate::index::{Predicate, Span};

/// A weight of the model as a template names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightUse {
    /// Name with `{layer}` where the region's layer index goes, e.g.
    /// `model.layers.{layer}.self_attn.q_proj.weight`, and `{layer+1}` for the next layer of a region
    /// that holds several. Resolves to one [`crate::WeightDecl`].
    pub name: String,
}

/// A vector that scales a pinned weight along the weight's last axis: the folded gain of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gain {
    /// Index into [`crate::Template::weights`]: a vector as long as the weight's last axis. Being
    /// read as a gain counts as a use of that weight, not as a pinned copy of it.
    pub weight: u32,
}

/// One rectangle of one weight in one buffer.
///
/// Tensor axes: a weight of rank 2 is `[axis0, axis1]`; a weight of rank 1 is `[1, axis1]`.
/// Hugging Face stores linear weights `[N (out), K (in)]`; `Gemv` wants buffers `[K, N]`: such pins
/// have `transposed = true`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pin {
    /// Index into [`crate::Template::weights`].
    pub weight: u32,
    /// Where in the region.
    pub predicate: Predicate,
    /// Slice of tensor axis 0 (`Span::whole(1)` for rank 1).
    pub axis0: Span,
    /// Slice of tensor axis 1.
    pub axis1: Span,
    /// The buffer filled; its role is `Weights`.
    pub buffer: BufferId,
    /// Buffer row and column of the slice's first element.
    pub at: (u32, u32),
    /// False: buffer\[at.0 + i\]\[at.1 + j\] = weight\[axis0 i\]\[axis1 j\].
    /// True: buffer\[at.0 + j\]\[at.1 + i\] = weight\[axis0 i\]\[axis1 j\].
    pub transposed: bool,
    /// Gain along axis 1, multiplied in.
    pub gain: Option<Gain>,
    /// Constant factor (an attention scale, say), multiplied in; 1.0 for none.
    pub scale: f32,
}

impl Pin {
    /// Buffer rows and columns that this pin reserves.
    pub fn extent(&self) -> (u32, u32) {
        if self.transposed {
            (self.axis1.len, self.axis0.len)
        } else {
            (self.axis0.len, self.axis1.len)
        }
    }

    /// Bytes of f16 scales this pin needs in quantised storage, 0 in float storage. A slice of
    /// `len` along axis 1 touches `ceil(len/32)` groups when all its starts are multiples of 32,
    /// else up to `floor((len + 30)/32) + 1`.
    pub fn scale_bytes(&self, storage: Storage) -> u64 {
        if !storage.is_quantized() {
            return 0;
        }
        let a = &self.axis1.start;
        let aligned = [a.base, a.xq, a.xr, a.yq, a.yr].iter().all(|v| v % 32 == 0);
        let len = u64::from(self.axis1.len);
        let groups = if aligned { len.div_ceil(32) } else { (len + 30) / 32 + 1 };
        2 * groups * u64::from(self.axis0.len)
    }
}
