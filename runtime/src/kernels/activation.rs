//! Activations as integers, for products with quantised weights.
//!
//! Each group of 32 elements of a token becomes 16-bit codes with one f32 scale, largest magnitude /
//! 32639: the error is at most 1.6e-5 of the largest element of the group, so no outlier drowns its
//! neighbours and results stay within the bounds of f32 models. Products of codes are exact in 32
//! bits: every instruction set finds the same integers. 32639 is 127 * 256 + 127: such codes are two
//! signed bytes.
//!
//! Up to [`BLOCK`] tokens form a block, interleaved the way a kernel broadcasts them. A block of m
//! tokens and G groups is `G * 16 * m` words of codes, then per group the [`PARAMETERS`]: m scales, m
//! sums (scale times the sum of the codes, for weights with a minimum) as bits of f32, and m sums of
//! codes (i32, for weights whose codes have an offset).
//!
//! Codes lie as `[8 quads][m][2]` words of two 16-bit codes each. For AVX-512 they lie as `[2 planes]
//! [8 quads][m]` words of four signed bytes: a code is 256 h + l, h in the first plane.

use tensor::quant::GROUP;

use super::pack::QUAD;

/// Tokens of a block: 16 integer sums of a pair of tiles fit the registers of AVX-512 beside weights.
pub(crate) const BLOCK: usize = 8;
/// Words of the codes of one group of one token.
pub(crate) const CODE_WORDS: usize = GROUP / 2;
/// Words beside the codes of one group of one token: scale, scaled sum, sum of codes.
pub(crate) const PARAMETERS: usize = 3;
/// Words of one group of one token.
pub(crate) const TOKEN_WORDS: usize = CODE_WORDS + PARAMETERS;
/// Quads of a group.
pub(crate) const QUADS: usize = GROUP / QUAD;
/// The largest code.
pub(crate) const LARGEST: f32 = 32639.0;

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

/// Quantises `x[m][cols]` (rows of whole groups) into a block of pairs.
#[inline(always)]
pub(crate) fn quantize(m: usize, cols: usize, x: &[f32], words: &mut [u32]) {
    let groups = cols / GROUP;
    let (codes, parameters) = words.split_at_mut(m * groups * CODE_WORDS);
    for (token, x) in x.chunks_exact(cols).take(m).enumerate() {
        for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
            let codes = &mut codes[g * m * CODE_WORDS..][..m * CODE_WORDS];
            let (scale, sum) = quantize_group(m, token, x, codes);
            put_parameters(m, token, scale, sum, &mut parameters[g * PARAMETERS * m..]);
        }
    }
}

/// Stores the parameters of a group of a token.
#[inline(always)]
pub(crate) fn put_parameters(m: usize, token: usize, scale: f32, sum: i32, group: &mut [u32]) {
    group[token] = scale.to_bits();
    group[m + token] = (scale * sum as f32).to_bits();
    group[2 * m + token] = sum as u32;
}

/// The scale of a group with this largest magnitude, and what its elements are multiplied by.
#[inline(always)]
pub(crate) fn scale(largest: f32) -> (f32, f32) {
    let tiny = largest < 1e-30;
    if tiny { (0.0, 0.0) } else { (largest / LARGEST, LARGEST / largest) }
}

/// One group of one token; returns its scale and the sum of its codes.
#[inline(always)]
fn quantize_group(m: usize, token: usize, x: &[f32; GROUP], out: &mut [u32]) -> (f32, i32) {
    // Bits without sign order like magnitudes, and put NaN on top: then the scale is NaN.
    let largest = x.iter().fold(0, |a, v| a.max(v.to_bits() & 0x7fff_ffff));
    let (scale, inverse) = scale(f32::from_bits(largest));
    // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
    let mut codes = [0i32; GROUP];
    for (c, v) in codes.iter_mut().zip(x) {
        *c = ((v * inverse + 12_582_912.0).to_bits() as i32).wrapping_sub(0x4b40_0000);
    }
    let sum: i32 = codes.iter().fold(0i32, |a, &c| a.wrapping_add(c));
    for (quad, c) in codes.as_chunks::<QUAD>().0.iter().enumerate() {
        let pair = |a: i32, b: i32| (a as u32 & 0xffff) | (b as u32) << 16;
        out[2 * (quad * m + token)] = pair(c[0], c[1]);
        out[2 * (quad * m + token) + 1] = pair(c[2], c[3]);
    }
    (scale, sum)
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
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            let isa = kernels.isa;
            let mut words = vec![0; m * cols / GROUP * TOKEN_WORDS];
            (kernels.quantize)(m, cols, &x, &mut words);
            let block = Block::new(m, cols / GROUP, &words);
            for (i, &v) in x.iter().enumerate() {
                let (token, g, j) = (i / cols, i % cols / GROUP, i % GROUP);
                let group = &x[i / GROUP * GROUP..][..GROUP];
                let largest = group.iter().fold(0f32, |a, v| a.max(v.abs()));
                let scale = f32::from_bits(block.split().1[g * PARAMETERS * m + token]);
                let back = scale * code(isa, &block, token, g, j) as f32;
                assert!((back - v).abs() <= largest * 1.6e-5 + 1e-30, "{isa}: {v} became {back}");
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
                (kernels.quantize)(1, GROUP, &x, &mut words);
                assert!(!f32::from_bits(words[CODE_WORDS]).is_finite());
            }
        }
    }
}
