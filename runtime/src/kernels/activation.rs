//! Activations as integers, for products with quantised weights.
//!
//! Each group of 32 elements of a token becomes 16-bit codes with one f32 scale, largest magnitude /
//! 32767: the error is at most 1.6e-5 of the largest element of the group, so no outlier drowns its
//! neighbours and results stay within the bounds of f32 models. Products of codes are exact in 32
//! bits: every instruction set finds the same integers.
//!
//! Up to [`BLOCK`] tokens form a block, interleaved the way a kernel broadcasts them. A block of m
//! tokens and G groups is `G * 16 * m` words of codes, then per group m scales and m sums (scale
//! times the sum of the codes, for weights with a minimum) as bits of f32: [`TOKEN_WORDS`] words a
//! token and group. A word holds four columns of bytes, or two of 16 bits, as [`Order`] says.

use tensor::quant::GROUP;

use super::pack::QUAD;

/// Tokens of a block: 16 integer sums of a pair of tiles fit the registers of AVX-512 beside weights.
pub(crate) const BLOCK: usize = 8;
/// Words of the codes of one group of one token.
pub(crate) const CODE_WORDS: usize = GROUP / 2;
/// Words of one group of one token: codes, scale and sum.
pub(crate) const TOKEN_WORDS: usize = CODE_WORDS + 2;
/// Quads of a group.
pub(crate) const QUADS: usize = GROUP / QUAD;
/// The largest code.
const LARGEST: f32 = 32767.0;

/// How the codes of a group lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[2 planes][8 quads][m]` words: the high, then the low bytes of code + 32768.
    Planes,
    /// `[8 quads][m][2]` words: four signed 16-bit codes.
    Pairs,
}

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

    /// The codes, then the scales and sums.
    pub(crate) fn split(&self) -> (&'a [u32], &'a [u32]) {
        self.words.split_at(self.tokens * self.groups * CODE_WORDS)
    }
}

/// Quantises `x[m][cols]` (rows of whole groups) into a block.
#[inline(always)]
pub(crate) fn quantize(order: Order, m: usize, cols: usize, x: &[f32], words: &mut [u32]) {
    let groups = cols / GROUP;
    let (codes, parameters) = words.split_at_mut(m * groups * CODE_WORDS);
    for (token, x) in x.chunks_exact(cols).take(m).enumerate() {
        for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
            let codes = &mut codes[g * m * CODE_WORDS..][..m * CODE_WORDS];
            let (scale, sum) = quantize_group(order, m, token, x, codes);
            parameters[g * 2 * m + token] = scale.to_bits();
            parameters[g * 2 * m + m + token] = sum.to_bits();
        }
    }
}

/// One group of one token; returns its scale and its sum.
#[inline(always)]
fn quantize_group(
    order: Order,
    m: usize,
    token: usize,
    x: &[f32; GROUP],
    out: &mut [u32],
) -> (f32, f32) {
    // Bits without sign order like magnitudes, and put NaN on top: then the scale is NaN.
    let largest = x.iter().fold(0, |a, v| a.max(v.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let tiny = largest < 1e-30;
    let inverse = if tiny { 0.0 } else { LARGEST / largest };
    let scale = if tiny { 0.0 } else { largest / LARGEST };
    // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
    let mut codes = [0i32; GROUP];
    for (c, v) in codes.iter_mut().zip(x) {
        *c = ((v * inverse + 12_582_912.0).to_bits() as i32).wrapping_sub(0x4b40_0000);
    }
    let sum: i32 = codes.iter().fold(0i32, |a, &c| a.wrapping_add(c));
    match order {
        Order::Planes => {
            // Loops over bytes, which the compiler makes wide; then one word a quad.
            let (mut high, mut low) = ([0u8; GROUP], [0u8; GROUP]);
            for ((h, l), c) in high.iter_mut().zip(&mut low).zip(codes) {
                let c = c.wrapping_add(32768);
                (*h, *l) = ((c >> 8) as u8, c as u8);
            }
            let planes = [high, low];
            for (plane, bytes) in planes.iter().enumerate() {
                for (quad, four) in bytes.as_chunks::<QUAD>().0.iter().enumerate() {
                    out[(plane * QUADS + quad) * m + token] = u32::from_le_bytes(*four);
                }
            }
        }
        Order::Pairs => {
            for (quad, c) in codes.as_chunks::<QUAD>().0.iter().enumerate() {
                let pair = |a: i32, b: i32| (a as u32 & 0xffff) | (b as u32) << 16;
                out[2 * (quad * m + token)] = pair(c[0], c[1]);
                out[2 * (quad * m + token) + 1] = pair(c[2], c[3]);
            }
        }
    }
    (scale, scale * sum as f32)
}

/// The code of a column of a group, read back.
#[cfg(test)]
pub(crate) fn code(order: Order, block: &Block<'_>, token: usize, g: usize, j: usize) -> i32 {
    let m = block.tokens;
    let codes = &block.split().0[g * m * CODE_WORDS..];
    let (quad, i) = (j / QUAD, j % QUAD);
    match order {
        Order::Planes => {
            let byte = |word: u32| (word >> (8 * i) & 255) as i32;
            let high = byte(codes[quad * m + token]);
            high * 256 + byte(codes[(QUADS + quad) * m + token]) - 32768
        }
        Order::Pairs => {
            let word = codes[2 * (quad * m + token) + i / 2];
            i32::from((word >> (16 * (i % 2))) as u16 as i16)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::Rng;

    #[test]
    fn codes_are_the_nearest_in_every_order() {
        let mut rng = Rng::new(9);
        let (m, cols) = (5, 96);
        let mut x: Vec<f32> = (0..m * cols).map(|_| rng.normal()).collect();
        // A group with an outlier, one of zeros, one below the normal numbers.
        x[3] = 1000.0;
        x[32..64].fill(0.0);
        x[64..96].fill(1e-42);
        for order in [Order::Planes, Order::Pairs] {
            let mut words = vec![0; m * cols / GROUP * TOKEN_WORDS];
            quantize(order, m, cols, &x, &mut words);
            let block = Block::new(m, cols / GROUP, &words);
            for (i, &v) in x.iter().enumerate() {
                let (token, g, j) = (i / cols, i % cols / GROUP, i % GROUP);
                let group = &x[i / GROUP * GROUP..][..GROUP];
                let largest = group.iter().fold(0f32, |a, v| a.max(v.abs()));
                let scale = f32::from_bits(block.split().1[g * 2 * m + token]);
                let back = scale * code(order, &block, token, g, j) as f32;
                assert!(
                    (back - v).abs() <= largest * 1.6e-5 + 1e-30,
                    "{order:?}: {v} became {back}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_number_has_no_scale() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = [1.0; GROUP];
            x[7] = bad;
            let mut words = [0; TOKEN_WORDS];
            quantize(Order::Pairs, 1, GROUP, &x, &mut words);
            assert!(!f32::from_bits(words[CODE_WORDS]).is_finite());
        }
    }
}
