//! What the machine can do at most: loops of nothing but multiply-adds, and of nothing but loads.
//!
//! For `--bench`, which reports the speed of a model as a share of these. Sixteen independent sums
//! hide the latency of an instruction on every machine known (4 cycles, 2 per cycle).

use std::hint::black_box;

use super::super::Isa;

/// Independent sums.
const SUMS: usize = 16;

/// Runs `rounds` of f32 multiply-adds; returns how many those were.
pub(crate) fn float_products(isa: Isa, rounds: u64) -> u64 {
    match isa {
        // SAFETY: the feature was asked for.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if is_x86_feature_detected!("avx512f") => unsafe { x86::fma512(rounds) },
        // SAFETY: the features were asked for.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") => unsafe {
            x86::fma256(rounds)
        },
        _ => {
            let (a, b) = (black_box(0.999f32), black_box(1e-3f32));
            let mut sums = [[1.0f32; 4]; SUMS];
            for _ in 0..rounds {
                for lane in sums.as_flattened_mut() {
                    *lane = *lane * a + b;
                }
            }
            black_box(sums);
            rounds * SUMS as u64 * 4
        }
    }
}

/// Runs `rounds` of multiply-adds of bytes, where the instruction set has them; returns how many.
pub(crate) fn byte_products(isa: Isa, rounds: u64) -> Option<u64> {
    match isa {
        // SAFETY: the feature was asked for.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if is_x86_feature_detected!("avx512vnni") => {
            Some(unsafe { x86::dot512(rounds) })
        }
        // SAFETY: the feature was asked for.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if is_x86_feature_detected!("avx2") => Some(unsafe { x86::dot256(rounds) }),
        _ => {
            let _ = rounds;
            None
        }
    }
}

/// Reads all bytes (but for a last incomplete line), as fast as they come.
pub(crate) fn read(isa: Isa, bytes: &[u8]) {
    match isa {
        // SAFETY: the feature was asked for.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if is_x86_feature_detected!("avx512f") => unsafe { x86::read512(bytes) },
        // SAFETY: the feature was asked for.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if is_x86_feature_detected!("avx2") => unsafe { x86::read256(bytes) },
        _ => sum(bytes),
    }
}

/// The exclusive or of all lines.
#[inline(always)]
fn sum(bytes: &[u8]) {
    let mut total = [0u64; 8];
    for line in bytes.as_chunks::<64>().0 {
        // Like the kernels: what the hardware would not fetch in time.
        #[cfg(target_arch = "x86_64")]
        super::prefetch_line(line.as_ptr().wrapping_add(super::AHEAD));
        for (t, word) in total.iter_mut().zip(line.as_chunks::<8>().0) {
            *t ^= u64::from_le_bytes(*word);
        }
    }
    black_box(total);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{SUMS, sum};

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma512(rounds: u64) -> u64 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums.map(|s| _mm512_reduce_add_ps(s)));
        rounds * SUMS as u64 * 16
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma256(rounds: u64) -> u64 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
        // Sixteen registers hold twelve sums, the constants and what the compiler needs.
        const FEWER: usize = 12;
        let mut sums = [_mm256_set1_ps(1.0); FEWER];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums.map(|s| _mm256_cvtss_f32(s)));
        rounds * FEWER as u64 * 8
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn dot512(rounds: u64) -> u64 {
        let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-2)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums.map(|s| _mm512_reduce_add_epi32(s)));
        rounds * SUMS as u64 * 64
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn dot256(rounds: u64) -> u64 {
        let (b, ones) = (_mm256_set1_epi8(black_box(-2)), _mm256_set1_epi16(1));
        const FEWER: usize = 12;
        let mut sums = [_mm256_set1_epi32(black_box(1)); FEWER];
        for _ in 0..rounds {
            for sum in &mut sums {
                // The sum is an operand too, or the product would leave the loop.
                let pairs = _mm256_maddubs_epi16(*sum, b);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(sums.map(|s| _mm256_extract_epi32::<0>(s)));
        rounds * FEWER as u64 * 32
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn read512(bytes: &[u8]) {
        sum(bytes);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn read256(bytes: &[u8]) {
        sum(bytes);
    }
}
