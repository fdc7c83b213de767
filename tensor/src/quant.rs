//! Block-quantised layouts: the only place that knows the bits.
//!
//! Groups of 32 consecutive elements of the last axis share one f16 scale. Symmetric: a value is
//! `scale * q`, with q in -127..=127 (`q8`) or -8..=7 (`q4`). With a minimum (`q4m`): a value is
//! `scale * q + minimum`, with q in 0..=15. A group is stored as the scale, the f16 minimum if it has
//! one, then the codes; 4-bit kinds store code j in the low nibble and code j+16 in the high nibble
//! of byte j, `q4` offset by 8. They are the Q8_0, Q4_0 and Q4_1 layouts of GGML.
//!
//! `q8` and `q4m` span a group from end to end; the scale of `q4` is searched (`search`).

use half::f16;

use crate::DType;

mod search;

/// Elements that share one scale.
pub const GROUP: usize = 32;
/// Bytes of a `q8` group: scale and 32 codes.
pub const Q8_GROUP_BYTES: usize = 34;
/// Bytes of a `q4` group: scale and 16 bytes of two codes.
pub const Q4_GROUP_BYTES: usize = 18;
/// Bytes of a `q4m` group: scale, minimum and 16 bytes of two codes.
pub const Q4M_GROUP_BYTES: usize = 20;

/// Quantises values whose count is a multiple of [`GROUP`]; the tail of a ragged count is ignored,
/// and dtypes that are not quantised give nothing.
pub fn quantize(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() / GROUP * dtype.block_bytes());
    for group in values.as_chunks::<GROUP>().0 {
        match dtype {
            DType::Q8 => quantize_q8(group, &mut out),
            DType::Q4 => quantize_q4(group, &mut out),
            DType::Q4M => quantize_q4m(group, &mut out),
            _ => {}
        }
    }
    out
}

/// The values of quantised bytes; other dtypes give nothing.
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
                let code = |nibble: u8| scale * (i32::from(nibble) - 8) as f32;
                out.extend_from_slice(&values_of(&block[2..], code));
            }
        }
        DType::Q4M => {
            for block in bytes.as_chunks::<Q4M_GROUP_BYTES>().0 {
                let (scale, minimum) = (scale_of(block), scale_of(&block[2..]));
                let code = |nibble: u8| scale * f32::from(nibble) + minimum;
                out.extend_from_slice(&values_of(&block[4..], code));
            }
        }
        _ => {}
    }
    out
}

/// The values of 16 bytes of two codes.
#[inline(always)]
fn values_of(codes: &[u8], value: impl Fn(u8) -> f32) -> [f32; GROUP] {
    let mut values = [0.0; GROUP];
    let (low, high) = values.split_at_mut(GROUP / 2);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(codes) {
        (*low, *high) = (value(byte & 15), value(byte >> 4));
    }
    values
}

fn scale_of(block: &[u8]) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32()
}

/// 1/scale as stored, or 0 where the scale rounds to zero: then every code is zero.
fn inverse(scale: f16) -> f32 {
    let scale = scale.to_f32();
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// 1.5 * 2^23: adding it rounds to an integer, which then is in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `v.round()` of `|v| < 2^22`, halves away from zero, as an integer; 0 for NaN. No branch and no
/// conversion, so that loops become wide on every machine.
#[inline(always)]
fn nearest(v: f32) -> i32 {
    let v = if v.is_nan() { 0.0 } else { v };
    // One below a half: adding it takes halves away from zero, and no number across one.
    let moved = v + 0.499_999_97f32.copysign(v);
    // To the nearest even, then back where that went away from zero.
    let even = (moved + ROUND) - ROUND;
    let over = even.abs() > moved.abs();
    let whole = even - if over { 1f32.copysign(moved) } else { 0.0 };
    ((whole + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

/// The codes `nearest(values * inverse)` between two bounds.
#[inline(always)]
fn codes(values: &[f32; GROUP], by: f32, low: f32, high: f32) -> [i32; GROUP] {
    let mut codes = [0; GROUP];
    for (c, v) in codes.iter_mut().zip(values) {
        // Clamped first, to integers: the same, and what infinity leaves is in range.
        let scaled = v * by;
        let raised = if scaled < low { low } else { scaled };
        *c = nearest(if raised > high { high } else { raised });
    }
    codes
}

/// The largest of the elements, which NaN is not.
#[inline(always)]
fn largest(values: &[f32; GROUP], start: f32, of: impl Fn(f32) -> f32) -> f32 {
    const LANES: usize = 8;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [start; LANES];
    for block in values.as_chunks::<LANES>().0 {
        for (l, &v) in lanes.iter_mut().zip(block) {
            *l = larger(*l, of(v));
        }
    }
    lanes.into_iter().fold(start, larger)
}

fn quantize_q8(group: &[f32; GROUP], out: &mut Vec<u8>) {
    let scale = f16::from_f32(largest(group, 0.0, f32::abs) / 127.0);
    out.extend_from_slice(&scale.to_le_bytes());
    // The stored scale is rounded, so a code may leave the range by one: clamp.
    let codes = codes(group, inverse(scale), -127.0, 127.0).map(|c| c as u8);
    out.extend_from_slice(&codes);
}

fn quantize_q4(group: &[f32; GROUP], out: &mut Vec<u8>) {
    let (scale, codes) = search::best(group);
    out.extend_from_slice(&scale.to_le_bytes());
    out.extend_from_slice(&nibbles(&codes));
}

fn quantize_q4m(group: &[f32; GROUP], out: &mut Vec<u8>) {
    let low = -largest(group, f32::NEG_INFINITY, |v| -v);
    let high = largest(group, f32::NEG_INFINITY, |v| v);
    let (scale, minimum) = (f16::from_f32((high - low) / 15.0), f16::from_f32(low));
    let low = minimum.to_f32();
    out.extend_from_slice(&scale.to_le_bytes());
    out.extend_from_slice(&minimum.to_le_bytes());
    let codes = codes(&group.map(|v| v - low), inverse(scale), 0.0, 15.0).map(|c| c as u8);
    out.extend_from_slice(&nibbles(&codes));
}

/// Code j in the low nibble and code j + 16 in the high nibble of byte j.
#[inline(always)]
fn nibbles(codes: &[u8; GROUP]) -> [u8; GROUP / 2] {
    std::array::from_fn(|j| codes[j] | codes[j + GROUP / 2] << 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn error_is_at_most_half_a_step() {
        let mut rng = Rng::new(7);
        let values: Vec<f32> = (0..GROUP * 50).map(|_| rng.normal()).collect();
        let bytes = quantize(DType::Q8, &values);
        assert_eq!(bytes.len(), 50 * Q8_GROUP_BYTES);
        let back = dequantize(DType::Q8, &bytes);
        for (group, restored) in values.chunks(GROUP).zip(back.chunks(GROUP)) {
            let max = group.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (a, b) in group.iter().zip(restored) {
                assert!((a - b).abs() <= 0.51 * max / 127.0, "{a} became {b}, largest {max}");
            }
        }
    }

    #[test]
    fn squared_error_of_q4_is_at_most_that_of_half_steps() {
        let mut rng = Rng::new(7);
        let values: Vec<f32> = (0..GROUP * 5000).map(|_| rng.normal()).collect();
        let bytes = quantize(DType::Q4, &values);
        assert_eq!(bytes.len(), 5000 * Q4_GROUP_BYTES);
        let back = dequantize(DType::Q4, &bytes);
        for (group, restored) in values.chunks(GROUP).zip(back.chunks(GROUP)) {
            let extreme = group.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
            let step = extreme / -8.0;
            // With the extreme at code -8, half a step, but from 7.5 steps on what lies beyond 7; and
            // the search only lowers the sum.
            let bound = |v: &f32| (v / step - 7.0).max(0.505) * step;
            let bound: f32 = group.iter().map(|v| bound(v).powi(2)).sum();
            let found: f32 = group.iter().zip(restored).map(|(a, b)| (a - b).powi(2)).sum();
            assert!(found <= bound, "{found} {bound} {group:?}");
        }
    }

    #[test]
    fn nearest_is_round() {
        for i in -70_000..70_000 {
            let v = i as f32 / 500.0;
            for v in [v, v.next_up(), v.next_down()] {
                assert_eq!(nearest(v), v.round() as i32, "{v}");
            }
        }
    }

    #[test]
    fn codes_are_those_of_the_formula() {
        let mut rng = Rng::new(9);
        let mut values: Vec<f32> = (0..GROUP * 400).map(|_| rng.normal()).collect();
        for (i, v) in [f32::NAN, f32::INFINITY, 1e-30, -0.0, 6e4, -6e4].into_iter().enumerate() {
            values[i * GROUP * 3 + i] = v;
        }
        values[GROUP..2 * GROUP].fill(0.0);
        let code = |v: f32, inv: f32, low: f32, high: f32| (v * inv).round().clamp(low, high);
        for group in values.as_chunks::<GROUP>().0 {
            let bytes = quantize(DType::Q8, group);
            let inv = inverse(f16::from_le_bytes([bytes[0], bytes[1]]));
            let codes: Vec<u8> =
                group.iter().map(|&v| code(v, inv, -127.0, 127.0) as i8 as u8).collect();
            assert_eq!(bytes[2..], codes, "{group:?}");
            let bytes = quantize(DType::Q4, group);
            let inv = inverse(f16::from_le_bytes([bytes[0], bytes[1]]));
            let codes: Vec<u8> = (0..GROUP / 2)
                .map(|j| {
                    let [a, b] = [group[j], group[j + GROUP / 2]]
                        .map(|v| if (v * inv).is_nan() { 0.0 } else { code(v, inv, -8.0, 7.0) });
                    (a as i8 + 8) as u8 | ((b as i8 + 8) as u8) << 4
                })
                .collect();
            assert_eq!(bytes[2..], codes, "{group:?}");
        }
    }

    #[test]
    fn a_minimum_serves_groups_away_from_zero() {
        let mut rng = Rng::new(8);
        let values: Vec<f32> = (0..GROUP * 50).map(|_| 4.0 + rng.normal()).collect();
        let bytes = quantize(DType::Q4M, &values);
        assert_eq!(bytes.len(), 50 * Q4M_GROUP_BYTES);
        let back = dequantize(DType::Q4M, &bytes);
        for (group, restored) in values.chunks(GROUP).zip(back.chunks(GROUP)) {
            let high = group.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
            let low = group.iter().fold(f32::INFINITY, |m, &v| m.min(v));
            // Half a step, and the rounding of scale and minimum to f16 (11 bits).
            let bound = 0.5 * (high - low) / 15.0 + high.abs() / 1024.0;
            for (a, b) in group.iter().zip(restored) {
                assert!((a - b).abs() <= bound, "{a} became {b}, bound {bound}");
            }
        }
    }

    #[test]
    fn zero_and_tiny_groups_stay_finite() {
        for value in [0.0, 1e-9] {
            for dtype in [DType::Q8, DType::Q4, DType::Q4M] {
                let back = dequantize(dtype, &quantize(dtype, &[value; GROUP]));
                assert!(back.iter().all(|v| v.abs() <= 1e-8));
            }
        }
    }
}
