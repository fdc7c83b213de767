//! Finds NaN and infinities in stored elements, at the speed of the memory they lie in.
//!
//! Whoever reads weights anyway asks [`is_finite`] of each piece while it is in the cache; only when
//! one is not does somebody look where, with [`Tensor::non_finite`].
//! Does not look at results: a value that overflows while it is computed is its reader's to notice.

use std::fmt;

use crate::{DType, Tensor};

/// Elements of a tensor that are NaN or infinite.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFinite {
    /// Index of the first.
    pub first: Vec<usize>,
    /// What it is: NaN, inf or -inf.
    pub value: f32,
    /// How many there are.
    pub count: usize,
    /// Elements of the tensor.
    pub of: usize,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NonFinite { first, value, count, of } = self;
        let verb = if *count == 1 { "is" } else { "are" };
        write!(f, "{count} of {of} elements {verb} not finite, the first is {value} at {first:?}")
    }
}

/// Elements looked at before the next look at the answer.
const STRIDE: usize = 4096;

/// Whether all elements of some bytes (whole elements or groups) are numbers. A group is not when its
/// scale or its minimum is not.
pub fn is_finite(dtype: DType, bytes: &[u8]) -> bool {
    match dtype {
        DType::F32 => {
            let is_finite = |word: u32| word & 0x7f80_0000 != 0x7f80_0000;
            let mut words = bytes.as_chunks::<4>().0.chunks(STRIDE);
            // Every element of a stride, without a branch: so that the loop becomes wide.
            words.all(|some| {
                some.iter().fold(true, |all, w| all & is_finite(u32::from_le_bytes(*w)))
            })
        }
        DType::F16 => halves(bytes, F16_EXPONENT),
        DType::BF16 => halves(bytes, 0x7f80),
        DType::Q8 | DType::Q4 | DType::Q4M => {
            let head = if dtype == DType::Q4M { 4 } else { 2 };
            let mut groups = bytes.chunks_exact(dtype.block_bytes());
            groups.all(|group| halves(&group[..head], F16_EXPONENT))
        }
        DType::I32 | DType::U8 => true,
    }
}

/// The exponent of f16, all ones for what is no number.
const F16_EXPONENT: u16 = 0x7c00;

/// Whether 16-bit floats with these bits of exponent are numbers.
fn halves(bytes: &[u8], exponent: u16) -> bool {
    let is_finite = |half: u16| half & exponent != exponent;
    let mut halves = bytes.as_chunks::<2>().0.chunks(STRIDE);
    halves.all(|some| some.iter().fold(true, |all, h| all & is_finite(u16::from_le_bytes(*h))))
}

impl Tensor {
    /// The elements that are not finite; `None` when there are none.
    pub fn non_finite(&self) -> Option<NonFinite> {
        let (dtype, bytes) = (self.dtype(), self.bytes());
        if is_finite(dtype, bytes) {
            return None;
        }
        let per_block = self.len() / (bytes.len() / dtype.block_bytes()).max(1);
        let (mut first, mut count) = (None, 0);
        for (i, block) in bytes.chunks_exact(dtype.block_bytes()).enumerate() {
            if !is_finite(dtype, block) {
                first.get_or_insert(i);
                count += per_block;
            }
        }
        let block = first?;
        let mut at = block * per_block;
        let value = Tensor::new(dtype, vec![per_block], bytes.slice(block_range(dtype, block))?);
        let value = value.ok()?.to_f32().into_iter().find(|v| !v.is_finite());
        let mut index: Vec<usize> = self
            .shape()
            .iter()
            .rev()
            .map(|&extent| {
                let i = at % extent;
                at /= extent;
                i
            })
            .collect();
        index.reverse();
        Some(NonFinite { first: index, value: value.unwrap_or(f32::NAN), count, of: self.len() })
    }
}

fn block_range(dtype: DType, block: usize) -> std::ops::Range<usize> {
    block * dtype.block_bytes()..(block + 1) * dtype.block_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_found_wherever_it_stands() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 1, STRIDE - 1, STRIDE, 3 * STRIDE - 1] {
                    // The largest finite value and the smallest are numbers.
                    let mut values = vec![65504.0; 3 * STRIDE];
                    values[7] = -1e-30;
                    let whole = Tensor::from_f32(vec![3, STRIDE], &values).cast(dtype).unwrap();
                    assert_eq!(whole.non_finite(), None, "{dtype}");
                    values[at] = bad;
                    values[3 * STRIDE - 1] = bad;
                    let broken = Tensor::from_f32(vec![3, STRIDE], &values).cast(dtype).unwrap();
                    let found = broken.non_finite().unwrap();
                    assert_eq!(found.first, [at / STRIDE, at % STRIDE], "{dtype} {bad}");
                    assert_eq!(found.count, if at == 3 * STRIDE - 1 { 1 } else { 2 });
                    assert_eq!(found.value.to_bits() << 1, bad.to_bits() << 1);
                }
            }
        }
    }

    #[test]
    fn a_group_without_scale_or_minimum_is_no_number() {
        for (dtype, places) in
            [(DType::Q8, vec![0]), (DType::Q4, vec![0]), (DType::Q4M, vec![0, 2])]
        {
            let values: Vec<f32> = (0..192).map(|i| i as f32).collect();
            let whole = Tensor::from_f32(vec![2, 96], &values).cast(dtype).unwrap();
            assert_eq!(whole.non_finite(), None);
            for place in places {
                let mut bytes = whole.bytes().to_vec();
                let at = 4 * dtype.block_bytes() + place;
                bytes[at..at + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
                let broken = Tensor::new(dtype, vec![2, 96], bytes.into()).unwrap();
                let found = broken.non_finite().unwrap();
                assert_eq!((found.first, found.count, found.of), (vec![1, 32], 32, 192));
                assert!(!found.value.is_finite());
            }
        }
    }

    #[test]
    fn it_is_said_in_numbers() {
        let tensor = Tensor::from_f32(vec![2, 2], &[1.0, 2.0, f32::NEG_INFINITY, 3.0]);
        let found = tensor.non_finite().unwrap().to_string();
        assert_eq!(found, "1 of 4 elements is not finite, the first is -inf at [1, 0]");
        assert_eq!(Tensor::from_f32(vec![0, 2], &[]).non_finite(), None);
        assert_eq!(Tensor::from_i32(vec![1], &[-1]).non_finite(), None);
    }
}
