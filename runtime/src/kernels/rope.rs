//! Rotary position embedding in the "half" layout: pairs (i, i + d/2) of the first d elements.

use crate::program::Rope;

/// Cosines and sines of a step: `[T][pairs]` each.
#[derive(Clone, Debug, Default)]
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Works out the table for rows of (position, length of its sequence after the step). The angle
    /// is the f32 product of position and frequency, as in the reference implementation.
    pub fn fill(&mut self, rope: &Rope, rows: impl Iterator<Item = (f32, usize)>) {
        self.cos.clear();
        self.sin.clear();
        for (position, seq_len) in rows {
            for (pair, &frequency) in rope.inverse_frequencies.iter().enumerate() {
                let frequency = match rope.dynamic {
                    Some(_) => dynamic_frequency(rope, pair, seq_len),
                    None => frequency,
                };
                let angle = f64::from(position * frequency);
                self.cos.push(angle.cos() as f32 * rope.attention_factor);
                self.sin.push(angle.sin() as f32 * rope.attention_factor);
            }
        }
    }

    /// Makes room for steps of up to `tokens`, so that `fill` allocates nothing.
    pub fn reserve(&mut self, rope: &Rope, tokens: usize) {
        self.cos.reserve(tokens * rope.inverse_frequencies.len());
        self.sin.reserve(tokens * rope.inverse_frequencies.len());
    }

    /// Rotates `x[T, heads, width]` into `out`; row t belongs to position t of the table.
    pub fn rotate(&self, pairs: usize, x: &[f32], heads: usize, width: usize, out: &mut [f32]) {
        let rows = x.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for (row, (x, out)) in rows.enumerate() {
            let t = row / heads;
            let (cos, sin) = (&self.cos[t * pairs..][..pairs], &self.sin[t * pairs..][..pairs]);
            out.copy_from_slice(x);
            for i in 0..pairs {
                out[i] = x[i] * cos[i] - x[i + pairs] * sin[i];
                out[i + pairs] = x[i + pairs] * cos[i] + x[i] * sin[i];
            }
        }
    }
}

/// The frequency of a pair under dynamic NTK scaling: the base grows with the sequence.
fn dynamic_frequency(rope: &Rope, pair: usize, seq_len: usize) -> f32 {
    let Some(d) = rope.dynamic else { return rope.inverse_frequencies[pair] };
    let (dim, original) = (2.0 * rope.inverse_frequencies.len() as f64, f64::from(d.original));
    let stretch = d.factor * (seq_len as f64).max(original) / original - (d.factor - 1.0);
    let base = d.theta * stretch.powf(dim / (dim - 2.0));
    base.powf(-2.0 * pair as f64 / dim) as f32
}
