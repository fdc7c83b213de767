//! Block-quantised layouts: the only place that knows the bits.
//!
//! Groups of 32 consecutive elements of the last axis share one f16 scale. Symmetric: a value is
//! `scale * q`, with q in -127..=127 (`q8`) or -8..=7 (`q4`). A group is stored as the scale, then
//! the codes; `q4` stores code j in the low nibble and code j+16 in the high nibble of byte j,
//! offset by 8. `q8` and `q4` are the Q8_0 and Q4_0 layouts of GGML.

use half::f16;

use crate::DType;

/// Elements that share one scale.
pub const GROUP: usize = 32;
/// Bytes of a `q8` group: scale and 32 codes.
pub const Q8_GROUP_BYTES: usize = 34;
/// Bytes of a `q4` group: scale and 16 bytes of two codes.
pub const Q4_GROUP_BYTES: usize = 18;

/// Quantises values whose count is a multiple of [`GROUP`]; other dtypes than `Q8` and `Q4`, and
/// the tail of a ragged count, are ignored.
pub fn quantize(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() / GROUP * dtype.block_bytes());
    for group in values.as_chunks::<GROUP>().0 {
        match dtype {
            DType::Q8 => quantize_q8(group, &mut out),
            DType::Q4 => quantize_q4(group, &mut out),
            _ => {}
        }
    }
    out
}

/// The values of `Q8` or `Q4` bytes; other dtypes give nothing.
pub fn dequantize(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = Vec::with_capacity(bytes.len() / dtype.block_bytes() * GROUP);
    match dtype {
        DType::Q8 => {
            for block in bytes.as_chunks::<Q8_GROUP_BYTES>().0 {
                let scale = scale_of(block);
                out.extend(block[2..].iter().map(|&q| scale * f32::from(q as i8)));
            }
        }
        DType::Q4 => {
            for block in bytes.as_chunks::<Q4_GROUP_BYTES>().0 {
                let scale = scale_of(block);
                let code = |nibble: u8| scale * (f32::from(nibble) - 8.0);
                out.extend(block[2..].iter().map(|&b| code(b & 15)));
                out.extend(block[2..].iter().map(|&b| code(b >> 4)));
            }
        }
        _ => {}
    }
    out
}

fn scale_of(block: &[u8]) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32()
}

/// 1/scale as stored, or 0 where the scale rounds to zero: then every code is zero.
fn inverse(scale: f16) -> f32 {
    let scale = scale.to_f32();
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn quantize_q8(group: &[f32; GROUP], out: &mut Vec<u8>) {
    let max = group.iter().fold(0f32, |m, v| m.max(v.abs()));
    let scale = f16::from_f32(max / 127.0);
    let inv = inverse(scale);
    out.extend(scale.to_le_bytes());
    // The stored scale is rounded, so a code may leave the range by one: clamp.
    out.extend(group.iter().map(|v| (v * inv).round().clamp(-127.0, 127.0) as i8 as u8));
}

fn quantize_q4(group: &[f32; GROUP], out: &mut Vec<u8>) {
    // The largest magnitude takes code -8, so all 16 codes are used (GGML's Q4_0 choice).
    let extreme = group.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let scale = f16::from_f32(extreme / -8.0);
    let inv = inverse(scale);
    let code = |v: f32| ((v * inv).round().clamp(-8.0, 7.0) + 8.0) as u8;
    out.extend(scale.to_le_bytes());
    out.extend((0..GROUP / 2).map(|j| code(group[j]) | code(group[j + GROUP / 2]) << 4));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn error_is_at_most_half_a_step() {
        let mut rng = Rng::new(7);
        let values: Vec<f32> = (0..GROUP * 50).map(|_| rng.normal()).collect();
        for (dtype, levels) in [(DType::Q8, 127.0), (DType::Q4, 8.0)] {
            let bytes = quantize(dtype, &values);
            assert_eq!(bytes.len(), 50 * dtype.block_bytes());
            let back = dequantize(dtype, &bytes);
            for (group, restored) in values.chunks(GROUP).zip(back.chunks(GROUP)) {
                let max = group.iter().fold(0f32, |m, v| m.max(v.abs()));
                // q4 clamps the side opposite to the extreme at code 7: one whole step there.
                let bound = max / levels * if dtype == DType::Q4 { 1.01 } else { 0.51 };
                for (a, b) in group.iter().zip(restored) {
                    assert!((a - b).abs() <= bound, "{a} became {b}, bound {bound}");
                }
            }
        }
    }

    #[test]
    fn zero_and_tiny_groups_stay_finite() {
        for value in [0.0, 1e-9] {
            for dtype in [DType::Q8, DType::Q4] {
                let back = dequantize(dtype, &quantize(dtype, &[value; GROUP]));
                assert!(back.iter().all(|v| v.abs() <= 1e-8));
            }
        }
    }
}
