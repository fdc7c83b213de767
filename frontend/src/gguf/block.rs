//! The block encodings of GGUF: sizes, and how a block becomes numbers.
//!
//! Layouts and arithmetic are those of GGML's `ggml-common.h` and `dequantize_row_*` in
//! `ggml-quants.c`: blocks of 32 elements with an f16 scale (and minimum), and "K" blocks of 256 with
//! small integer scales of their own. Conversion never rounds: a kind whose values another dtype of
//! sparkc holds exactly becomes that (`Q5_0` and `IQ4_NL` are 8-bit codes with an f16 scale), the
//! rest becomes f32. Kinds with the same bytes as a dtype of sparkc are not touched.

use half::f16;
use tensor::{Bytes, DType};

/// How the elements of a tensor are stored in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
}

/// Elements of a K block.
const K: usize = 256;

/// Id in the file, kind, spelling, elements and bytes of a block.
const TABLE: [(u32, BlockType, &str, usize, usize); 14] = [
    (0, BlockType::F32, "F32", 1, 4),
    (1, BlockType::F16, "F16", 1, 2),
    (30, BlockType::Bf16, "BF16", 1, 2),
    (2, BlockType::Q4_0, "Q4_0", 32, 18),
    (3, BlockType::Q4_1, "Q4_1", 32, 20),
    (6, BlockType::Q5_0, "Q5_0", 32, 22),
    (7, BlockType::Q5_1, "Q5_1", 32, 24),
    (8, BlockType::Q8_0, "Q8_0", 32, 34),
    (10, BlockType::Q2K, "Q2_K", K, 84),
    (11, BlockType::Q3K, "Q3_K", K, 110),
    (12, BlockType::Q4K, "Q4_K", K, 144),
    (13, BlockType::Q5K, "Q5_K", K, 176),
    (14, BlockType::Q6K, "Q6_K", K, 210),
    (20, BlockType::Iq4Nl, "IQ4_NL", 32, 18),
];

/// The values of the 16 codes of `IQ4_NL`.
const IQ4_NL: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl BlockType {
    /// The kind with this id, if it is read.
    pub(crate) fn by_id(id: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.0 == id).map(|row| row.1)
    }

    fn row(self) -> &'static (u32, BlockType, &'static str, usize, usize) {
        // Every kind has a row; a test walks them.
        TABLE.iter().find(|row| row.1 == self).unwrap_or(&TABLE[0])
    }

    /// The spelling in GGML.
    pub(crate) fn name(self) -> &'static str {
        self.row().2
    }

    /// Elements of a block.
    pub(crate) fn elements(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    pub(crate) fn bytes(self) -> usize {
        self.row().4
    }

    /// The dtype that it is loaded in.
    pub(crate) fn dtype(self) -> DType {
        match self {
            BlockType::F16 => DType::F16,
            BlockType::Bf16 => DType::BF16,
            BlockType::Q4_0 => DType::Q4,
            BlockType::Q4_1 => DType::Q4M,
            BlockType::Q8_0 | BlockType::Q5_0 | BlockType::Iq4Nl => DType::Q8,
            _ => DType::F32,
        }
    }

    /// Whether loading stores a weight in more bits than the file does.
    pub(crate) fn widens(self) -> bool {
        let stored = self.bytes() as f64 / self.elements() as f64;
        let dtype = self.dtype();
        stored < dtype.block_bytes() as f64 / dtype.block_len() as f64
    }

    /// Blocks as the bytes of [`BlockType::dtype`]. Whole blocks are the caller's promise; the rest
    /// of a ragged count is left out.
    pub(crate) fn convert(self, data: Bytes) -> Bytes {
        let values = match self {
            BlockType::F32
            | BlockType::F16
            | BlockType::Bf16
            | BlockType::Q4_0
            | BlockType::Q4_1
            | BlockType::Q8_0 => return data,
            BlockType::Q5_0 => return each(&data, |b: &[u8; 22], out| q5_0(b, out)).into(),
            BlockType::Iq4Nl => return each(&data, |b: &[u8; 18], out| iq4_nl(b, out)).into(),
            BlockType::Q5_1 => each(&data, |b: &[u8; 24], out| q5_1(b, out)),
            BlockType::Q2K => each(&data, |b: &[u8; 84], out| q2_k(b, out)),
            BlockType::Q3K => each(&data, |b: &[u8; 110], out| q3_k(b, out)),
            BlockType::Q4K => each(&data, |b: &[u8; 144], out| q4_k(b, out)),
            BlockType::Q5K => each(&data, |b: &[u8; 176], out| q5_k(b, out)),
            BlockType::Q6K => each(&data, |b: &[u8; 210], out| q6_k(b, out)),
        };
        values.iter().flat_map(|v: &f32| v.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}

/// `convert` of every block of `N` bytes.
fn each<const N: usize, T>(data: &[u8], convert: impl Fn(&[u8; N], &mut Vec<T>)) -> Vec<T> {
    let blocks = data.as_chunks::<N>().0;
    let mut out = Vec::with_capacity(blocks.len() * if N < 32 { 34 } else { K });
    blocks.iter().for_each(|block| convert(block, &mut out));
    out
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Low nibbles, then high nibbles: the order of elements in blocks of 32.
fn nibbles(codes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    codes.iter().map(|b| b & 15).chain(codes.iter().map(|b| b >> 4))
}

/// The 32 codes of 5 bits: nibbles, and a word with the fifth bits.
fn five_bits(word: &[u8], codes: &[u8]) -> impl Iterator<Item = u8> {
    let high = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
    nibbles(codes).enumerate().map(move |(i, q)| q | ((high >> i & 1) << 4) as u8)
}

fn q5_0(block: &[u8; 22], out: &mut Vec<u8>) {
    out.extend(&block[..2]);
    out.extend(five_bits(&block[2..6], &block[6..]).map(|q| q.wrapping_sub(16)));
}

fn q5_1(block: &[u8; 24], out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let codes = five_bits(&block[4..8], &block[8..]);
    out.extend(codes.map(|q| f32::from(q) * scale + minimum));
}

fn iq4_nl(block: &[u8; 18], out: &mut Vec<u8>) {
    out.extend(&block[..2]);
    out.extend(nibbles(&block[2..]).map(|q| IQ4_NL[usize::from(q)] as u8));
}

fn q2_k(block: &[u8; 84], out: &mut Vec<f32>) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, minimum) = (half_at(block, 80), half_at(block, 82));
    for (group, &scale) in scales.iter().enumerate() {
        let (low, high) = (d * f32::from(scale & 15), minimum * f32::from(scale >> 4));
        // A half of the block has 32 bytes; each pair of groups takes the next two bits of them.
        let (half, within) = (group / 8, group % 8);
        let bytes = &codes[half * 32 + within % 2 * 16..][..16];
        out.extend(bytes.iter().map(|b| low * f32::from(b >> (within / 2 * 2) & 3) - high));
    }
}

fn q3_k(block: &[u8; 110], out: &mut Vec<f32>) {
    let (high_bits, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for group in 0..16 {
        // Sixteen scales of 6 bits: four low bits in eight bytes, two high bits in four.
        let low = packed[group % 8] >> (group / 8 * 4) & 15;
        let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let (half, within) = (group / 8, group % 8);
        let bytes = &codes[half * 32 + within % 2 * 16..][..16];
        let tops = &high_bits[within % 2 * 16..][..16];
        let top_bit = half * 4 + within / 2;
        out.extend(bytes.iter().zip(tops).map(|(b, top)| {
            let code = f32::from(b >> (within / 2 * 2) & 3);
            scale * (code - if top >> top_bit & 1 == 1 { 0.0 } else { 4.0 })
        }));
    }
}

/// Scale and minimum `group` of the eight in the twelve bytes of `Q4_K` and `Q5_K`, 6 bits each.
fn scale_and_minimum(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        )
    };
    (f32::from(scale), f32::from(minimum))
}

fn q4_k(block: &[u8; 144], out: &mut Vec<f32>) {
    let (d, d_minimum) = (half_at(block, 0), half_at(block, 2));
    for group in 0..8 {
        let (scale, minimum) = scale_and_minimum(&block[4..16], group);
        let (scale, minimum) = (d * scale, d_minimum * minimum);
        let bytes = &block[16 + group / 2 * 32..][..32];
        out.extend(bytes.iter().map(|b| scale * f32::from(b >> (group % 2 * 4) & 15) - minimum));
    }
}

fn q5_k(block: &[u8; 176], out: &mut Vec<f32>) {
    let (d, d_minimum) = (half_at(block, 0), half_at(block, 2));
    let tops = &block[16..48];
    for group in 0..8 {
        let (scale, minimum) = scale_and_minimum(&block[4..16], group);
        let (scale, minimum) = (d * scale, d_minimum * minimum);
        let bytes = &block[48 + group / 2 * 32..][..32];
        out.extend(bytes.iter().zip(tops).map(|(b, top)| {
            let code = b >> (group % 2 * 4) & 15 | (top >> group & 1) << 4;
            scale * f32::from(code) - minimum
        }));
    }
}

fn q6_k(block: &[u8; 210], out: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (group, &scale) in scales.iter().enumerate() {
        let scale = d * f32::from(scale as i8);
        // A half of the block is four runs of 32: two nibbles of 64 bytes, two bits each of 32.
        let (half, run, side) = (group / 8, group % 8 / 2, group % 2 * 16);
        let nibbles = &low[half * 64 + run % 2 * 32 + side..][..16];
        let tops = &high[half * 32 + side..][..16];
        out.extend(nibbles.iter().zip(tops).map(|(b, top)| {
            let code = b >> (run / 2 * 4) & 15 | (top >> (run * 2) & 3) << 4;
            scale * (f32::from(code) - 32.0)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_row_and_loads_whole_blocks() {
        for &(id, kind, name, elements, bytes) in &TABLE {
            assert_eq!(BlockType::by_id(id), Some(kind));
            assert_eq!((kind.name(), kind.elements(), kind.bytes()), (name, elements, bytes));
            let (blocks, dtype) = (3, kind.dtype());
            let loaded = kind.convert(vec![0x35; blocks * bytes].into());
            assert_eq!(Some(loaded.len()), dtype.bytes_for(blocks * elements), "{name}");
        }
        assert_eq!(BlockType::by_id(4), None);
    }

    /// Blocks and their values by the `gguf` package; `tests/gguf_blocks.py` made them.
    static REFERENCE: &[u8] = include_bytes!("../../tests/gguf_blocks.safetensors");

    #[test]
    fn values_are_those_of_the_gguf_package() {
        let reference = safetensors::SafeTensors::deserialize(REFERENCE).unwrap();
        let mut compared = 0;
        for &(_, kind, name, elements, bytes) in &TABLE {
            let Ok(stored) = reference.tensor(&format!("{name}.bytes")) else { continue };
            let blocks = stored.data().len() / bytes;
            let loaded = kind.convert(stored.data().to_vec().into());
            let found = tensor::Tensor::new(kind.dtype(), vec![blocks * elements], loaded).unwrap();
            let expected = reference.tensor(&format!("{name}.values")).unwrap();
            let expected =
                expected.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            let expected: Vec<f32> = expected.collect();
            assert_eq!(found.to_f32(), expected, "{name}");
            compared += 1;
        }
        assert_eq!(compared, 11);
    }
}
