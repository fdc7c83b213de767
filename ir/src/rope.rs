//! Rotary position embedding: the frequencies and what each family does to them.
//!
//! Formulas follow `modeling_rope_utils.py` of Hugging Face transformers, the reference
//! implementation; each variant names its paper.

use crate::Real;

/// How `rope` rotates: pairs (i, i + dim/2) of the first `dim` elements of a head (the "half"
/// layout), by `position * inverse_frequency[i]`, with cos and sin multiplied by
/// [`RopeSpec::attention_factor`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RopeSpec {
    /// Rotated elements of a head; even; the rest passes through.
    pub dim: usize,
    /// Base of the geometric series of wavelengths.
    pub theta: Real,
    /// What is done to the frequencies for long contexts.
    pub scaling: RopeScaling,
}

/// Rules that stretch the frequencies beyond the trained context.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RopeScaling {
    /// None.
    None,
    /// Positions divided by `factor` (position interpolation, arXiv 2306.15595).
    Linear {
        /// Context stretch.
        factor: Real,
    },
    /// The base grows with the length of the sequence, C + T, once it exceeds `original`
    /// (dynamic NTK). So results depend on how many tokens the step has seen in all.
    Dynamic {
        /// Context stretch.
        factor: Real,
        /// Positions of the trained context.
        original: usize,
    },
    /// Wavelength-dependent interpolation of Llama 3.1.
    Llama3 {
        /// Context stretch.
        factor: Real,
        /// Wavelengths above `original / low` are stretched fully.
        low: Real,
        /// Wavelengths below `original / high` are kept.
        high: Real,
        /// Positions of the trained context.
        original: usize,
    },
    /// YaRN (arXiv 2309.00071): interpolation by wavelength and a temperature.
    Yarn {
        /// Context stretch.
        factor: Real,
        /// Rotations above which a frequency is kept.
        beta_fast: Real,
        /// Rotations below which a frequency is interpolated.
        beta_slow: Real,
        /// Multiplies cos and sin.
        attention_factor: Real,
        /// Positions of the trained context.
        original: usize,
        /// Whether the correction range is widened to whole dimensions.
        truncate: bool,
    },
}

impl RopeSpec {
    /// What cos and sin are multiplied by: 1 but for YaRN.
    pub fn attention_factor(&self) -> f32 {
        match &self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor.get() as f32,
            _ => 1.0,
        }
    }

    /// Whether the frequencies depend on the length of the sequence.
    pub fn is_dynamic(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. })
    }

    /// The `dim / 2` inverse frequencies for a sequence of `seq_len` = C + T tokens, computed in
    /// f64 and rounded once; only `Dynamic` looks at `seq_len`.
    pub fn inverse_frequencies(&self, seq_len: usize) -> Vec<f32> {
        let theta = self.theta.get();
        let dim = self.dim as f64;
        let base = match self.scaling {
            RopeScaling::Dynamic { factor, original } => {
                let (factor, original) = (factor.get(), original as f64);
                let stretch = factor * (seq_len as f64).max(original) / original - (factor - 1.0);
                theta * stretch.powf(dim / (dim - 2.0))
            }
            _ => theta,
        };
        let plain = (0..self.dim / 2).map(|i| base.powf(-2.0 * i as f64 / dim));
        plain.enumerate().map(|(i, f)| self.stretch(i, f) as f32).collect()
    }

    /// `(cos, sin)` of the angle `position * frequency`, times the attention factor. The angle is
    /// rounded to f32 as the reference does; cosine and sine are computed in f64 and rounded once.
    pub fn rotation(&self, position: i32, frequency: f32) -> (f32, f32) {
        let angle = f64::from(position as f32 * frequency);
        let factor = self.attention_factor();
        (angle.cos() as f32 * factor, angle.sin() as f32 * factor)
    }

    /// The frequency of pair `i` after scaling, from the unscaled one.
    fn stretch(&self, i: usize, frequency: f64) -> f64 {
        match self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => frequency,
            RopeScaling::Linear { factor } => frequency / factor.get(),
            RopeScaling::Llama3 { factor, low, high, original } => {
                let wavelength = std::f64::consts::TAU / frequency;
                let rotations = original as f64 / wavelength;
                if rotations > high.get() {
                    frequency
                } else if rotations < low.get() {
                    frequency / factor.get()
                } else {
                    let smooth = (rotations - low.get()) / (high.get() - low.get());
                    (1.0 - smooth) * frequency / factor.get() + smooth * frequency
                }
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original, truncate, .. } => {
                let (mut low, mut high) = (
                    self.correction_dim(beta_fast.get(), original),
                    self.correction_dim(beta_slow.get(), original),
                );
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let low = low.max(0.0);
                let high = high.min(self.dim as f64 - 1.0);
                // The reference widens an empty ramp by 0.001 so as not to divide by zero.
                let width = if low == high { 0.001 } else { high - low };
                let interpolate = ((i as f64 - low) / width).clamp(0.0, 1.0);
                frequency / factor.get() * interpolate + frequency * (1.0 - interpolate)
            }
        }
    }

    /// The (fractional) pair index whose wavelength makes `rotations` turns in `original` tokens.
    fn correction_dim(&self, rotations: f64, original: usize) -> f64 {
        let turns = original as f64 / (rotations * std::f64::consts::TAU);
        self.dim as f64 * turns.ln() / (2.0 * self.theta.get().ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_keeps_the_fast_and_stretches_the_slow() {
        let plain = RopeSpec { dim: 64, theta: Real::new(10000.0), scaling: RopeScaling::None };
        let llama3 = RopeSpec {
            scaling: RopeScaling::Llama3 {
                factor: Real::new(8.0),
                low: Real::new(1.0),
                high: Real::new(4.0),
                original: 8192,
            },
            ..plain.clone()
        };
        let (a, b) = (plain.inverse_frequencies(1), llama3.inverse_frequencies(1));
        assert_eq!(a[0], 1.0);
        assert_eq!(b[0], a[0]);
        assert!((b[31] * 8.0 / a[31] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn dynamic_is_plain_within_the_trained_context() {
        let plain = RopeSpec { dim: 8, theta: Real::new(10000.0), scaling: RopeScaling::None };
        let scaling = RopeScaling::Dynamic { factor: Real::new(2.0), original: 16 };
        let dynamic = RopeSpec { scaling, ..plain.clone() };
        assert_eq!(dynamic.inverse_frequencies(16), plain.inverse_frequencies(16));
        assert_ne!(dynamic.inverse_frequencies(17), plain.inverse_frequencies(17));
    }
}
