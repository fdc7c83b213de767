//! Activations as integers, for products with quantised weights.
//!
//! Each group of 32 elements of a token becomes 16-bit codes with one f32 scale, largest magnitude /
//! 32639: the error is at most 1.6e-5 of the largest element of the group, so no outlier drowns its
//! neighbours and results stay within the bounds of f32 models. Products of codes are exact in 32
//! bits: every instruction set finds the same integers. 32639 is 127 * 256 + 127: such codes are two
//! signed bytes.
//!
//! [`Activations::Short`] takes codes of 8 bits, largest magnitude / 127, an error of 0.4 % of the
//! largest element, where no element is beyond [`CREST`] times the mean magnitude of its group; other
//! groups keep 16 bits. That is decided for each group of each token, so it does not depend on
//! batches. A short code is one whose first plane is zero: skipping that plane changes no bit.
//!
//! Up to [`BLOCK`] tokens form a block, interleaved the way a kernel broadcasts them. A block of m
//! tokens and G groups is `G * 16 * m` words of codes, then per group the [`PARAMETERS`]: m scales, m
//! sums (scale times the sum of the codes, for weights with a minimum) as bits of f32, m sums of
//! codes, negated (i32, for weights whose codes have an offset), and m words of which the first is 0
//! where all of the group's codes have 8 bits.
//!
//! Codes lie as `[8 quads][m][2]` words of two 16-bit codes each. For AVX-512 they lie as `[2 planes]
//! [8 quads][m]` words of four signed bytes: a code is 256 h + l, h in the first plane.

use tensor::quant::GROUP;

use super::pack::QUAD;
use crate::program::Activations;

/// Tokens of a block: 16 integer sums of a pair of tiles fit the registers of AVX-512 beside weights.
pub(crate) const BLOCK: usize = 8;
/// Words of the codes of one group of one token.
pub(crate) const CODE_WORDS: usize = GROUP / 2;
/// Words beside the codes of one group of one token: scale, scaled sum, negated sum of codes, and
/// whether the block needs both planes.
pub(crate) const PARAMETERS: usize = 4;
/// Words of one group of one token.
pub(crate) const TOKEN_WORDS: usize = CODE_WORDS + PARAMETERS;
/// Quads of a group.
pub(crate) const QUADS: usize = GROUP / QUAD;
/// The largest code of 16 bits.
const LARGEST: f32 = 32639.0;
/// The largest code of 8 bits.
const LARGEST_SHORT: i32 = 127;
/// Largest magnitude over mean magnitude up to which 8 bits are enough. Normal values reach 3,
/// products of two 6; one outlier among 32 reaches 32, four equal ones 8. At the bound the error is
/// 2 % of the mean magnitude.
const CREST: i32 = 8;

/// The activations of up to [`BLOCK`] tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    /// Tokens.
    pub(crate) tokens: usize,
    /// Groups of each token.
    pub(crate) groups: usize,
    /// `TOKEN_WORDS` for each group of each token.
    pub(crate) words: &'a [u32],
}

impl<'a> Block<'a> {
    /// The block of `tokens` tokens of `groups` groups in `words`.
    ///
    /// # Panics
    /// When the number of words is another.
    pub(crate) fn new(tokens: usize, groups: usize, words: &'a [u32]) -> Self {
        assert_eq!(words.len(), tokens * groups * TOKEN_WORDS);
        Block { tokens, groups, words }
    }

    /// The codes, then the parameters.
    pub(crate) fn split(&self) -> (&'a [u32], &'a [u32]) {
        self.words.split_at(self.tokens * self.groups * CODE_WORDS)
    }
}

/// One group of one token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// What a code stands for.
    pub(crate) scale: f32,
    /// Sum of the codes.
    pub(crate) sum: i32,
    /// Whether the codes have 16 bits.
    pub(crate) long: bool,
}

/// Quantises `x[m][cols]` (rows of whole groups) into a block of pairs.
#[inline(always)]
pub(crate) fn quantize(bits: Activations, m: usize, cols: usize, x: &[f32], words: &mut [u32]) {
    let groups = cols / GROUP;
    let (codes, parameters) = words.split_at_mut(m * groups * CODE_WORDS);
    for (token, x) in x.chunks_exact(cols).take(m).enumerate() {
        for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
            let codes = &mut codes[g * m * CODE_WORDS..][..m * CODE_WORDS];
            let group = quantize_group(bits, m, token, x, codes);
            put_parameters(m, token, group, &mut parameters[g * PARAMETERS * m..]);
        }
    }
}

/// Stores the parameters of a group of a token; tokens come in order.
#[inline(always)]
pub(crate) fn put_parameters(m: usize, token: usize, group: Group, to: &mut [u32]) {
    to[token] = group.scale.to_bits();
    to[m + token] = (group.scale * group.sum as f32).to_bits();
    to[2 * m + token] = group.sum.wrapping_neg() as u32;
    let before = if token == 0 { 0 } else { to[3 * m] };
    to[3 * m] = before | u32::from(group.long);
}

/// The scale of a group with this largest magnitude, and what its elements are multiplied by.
#[inline(always)]
pub(crate) fn scale(largest: f32) -> (f32, f32) {
    scale_to(LARGEST, largest)
}

/// As [`scale`], for codes of 8 bits.
#[inline(always)]
pub(crate) fn short_scale(largest: f32) -> (f32, f32) {
    scale_to(LARGEST_SHORT as f32, largest)
}

#[inline(always)]
fn scale_to(code: f32, largest: f32) -> (f32, f32) {
    let tiny = largest < 1e-30;
    if tiny { (0.0, 0.0) } else { (largest / code, code / largest) }
}

/// Whether 8 bits are enough for a group whose codes of 8 bits have this sum of magnitudes.
#[inline(always)]
pub(crate) fn short_is_enough(magnitudes: i32) -> bool {
    magnitudes == 0 || magnitudes >= LARGEST_SHORT * GROUP as i32 / CREST
}

/// One group of one token.
#[inline(always)]
fn quantize_group(
    bits: Activations,
    m: usize,
    token: usize,
    x: &[f32; GROUP],
    out: &mut [u32],
) -> Group {
    // Bits without sign order like magnitudes, and put NaN on top: then the scale is NaN.
    let largest = x.iter().fold(0, |a, v| a.max(v.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let (mut scale, inverse) = short_scale(largest);
    let mut codes = round_all(x, inverse);
    let magnitudes = codes.iter().fold(0i32, |a, &c| a.wrapping_add(c.wrapping_abs()));
    let long = bits == Activations::Full || !short_is_enough(magnitudes);
    if long {
        let inverse;
        (scale, inverse) = self::scale(largest);
        codes = round_all(x, inverse);
    }
    let sum: i32 = codes.iter().fold(0i32, |a, &c| a.wrapping_add(c));
    for (quad, c) in codes.as_chunks::<QUAD>().0.iter().enumerate() {
        let pair = |a: i32, b: i32| (a as u32 & 0xffff) | (b as u32) << 16;
        out[2 * (quad * m + token)] = pair(c[0], c[1]);
        out[2 * (quad * m + token) + 1] = pair(c[2], c[3]);
    }
    Group { scale, sum, long }
}

/// Elements times `by`, to the nearest integers.
#[inline(always)]
fn round_all(x: &[f32; GROUP], by: f32) -> [i32; GROUP] {
    // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
    x.map(|v| ((v * by + 12_582_912.0).to_bits() as i32).wrapping_sub(0x4b40_0000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Isa, Kernels};
    use tensor::Rng;

    /// The code of a column of a group, read back.
    fn code(isa: Isa, block: &Block<'_>, token: usize, g: usize, j: usize) -> i32 {
        let m = block.tokens;
        let codes = &block.split().0[g * m * CODE_WORDS..];
        let (quad, i) = (j / QUAD, j % QUAD);
        if isa == Isa::Avx512 {
            let byte = |word: u32| i32::from((word >> (8 * i)) as i8);
            return 256 * byte(codes[quad * m + token]) + byte(codes[(QUADS + quad) * m + token]);
        }
        let word = codes[2 * (quad * m + token) + i / 2];
        i32::from((word >> (16 * (i % 2))) as u16 as i16)
    }

    #[test]
    fn codes_are_the_nearest_on_every_instruction_set() {
        let mut rng = Rng::new(9);
        let (m, cols) = (5, 96);
        let mut x: Vec<f32> = (0..m * cols).map(|_| rng.normal()).collect();
        // A group with an outlier, one of zeros, one below the normal numbers.
        x[3] = 1000.0;
        x[32..64].fill(0.0);
        x[64..96].fill(1e-42);
        let has_outlier = |i: usize| i < GROUP;
        for bits in [Activations::Full, Activations::Short] {
            for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
                let isa = kernels.isa;
                let mut words = vec![0; m * cols / GROUP * TOKEN_WORDS];
                (kernels.quantize)(bits, m, cols, &x, &mut words);
                let block = Block::new(m, cols / GROUP, &words);
                for (i, &v) in x.iter().enumerate() {
                    let (token, g, j) = (i / cols, i % cols / GROUP, i % GROUP);
                    let group = &x[i / GROUP * GROUP..][..GROUP];
                    let largest = group.iter().fold(0f32, |a, v| a.max(v.abs()));
                    let parameters = &block.split().1[g * PARAMETERS * m..];
                    let scale = f32::from_bits(parameters[token]);
                    let back = scale * code(isa, &block, token, g, j) as f32;
                    let long = bits == Activations::Full || has_outlier(i);
                    let bound = if long { 1.6e-5 } else { 0.5 / 127.0 + 1e-6 };
                    assert!(
                        (back - v).abs() <= largest * bound + 1e-30,
                        "{isa}: {v} became {back}"
                    );
                    // The outlier's group needs both planes in this block, the others of short none.
                    let planes = parameters[3 * m] != 0;
                    assert_eq!(planes, bits == Activations::Full || g == 0, "{isa} group {g}");
                }
            }
        }
    }

    #[test]
    fn outliers_keep_16_bits_up_to_four_in_a_group() {
        let mut rng = Rng::new(10);
        let normal: [f32; GROUP] = std::array::from_fn(|_| rng.normal());
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            let long = |x: &[f32; GROUP]| {
                let mut words = [0; TOKEN_WORDS];
                (kernels.quantize)(Activations::Short, 1, GROUP, x, &mut words);
                words[CODE_WORDS + 3] != 0
            };
            assert!(!long(&normal), "{}", kernels.isa);
            for outliers in 1..4 {
                let mut x = normal;
                x[5..5 + outliers].fill(-60.0);
                assert!(long(&x), "{} outliers on {}", outliers, kernels.isa);
            }
        }
    }

    #[test]
    fn what_is_no_number_has_no_scale() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = [1.0; GROUP];
            x[7] = bad;
            let mut words = [0; TOKEN_WORDS];
            for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
                for bits in [Activations::Full, Activations::Short] {
                    (kernels.quantize)(bits, 1, GROUP, &x, &mut words);
                    assert!(!f32::from_bits(words[CODE_WORDS]).is_finite());
                }
            }
        }
    }
}
