//! Causal grouped-query attention over keys and values that lie in a cache or in a buffer.
//!
//! Each (token, head) is computed on its own: scores of the visible keys, softmax, weighted sum of
//! the values, keys in order. So neither the split of a prompt nor threads change a bit.

use super::{Kernels, norm};
use crate::pool::Pool;

/// Work (score multiplications) below which waking threads costs more than it saves.
const THREAD_WORK: usize = 1 << 14;

/// Keys or values `[S, heads, width]`, of any strides with adjacent elements.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Elements, from the first head of the first token.
    pub data: &'a [f32],
    /// Key/value heads.
    pub heads: usize,
    /// Elements from head to head.
    pub head_stride: usize,
    /// Elements from token to token.
    pub token_stride: usize,
}

/// Extents and attributes.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Tokens before this step.
    pub past: usize,
    /// Query heads.
    pub heads: usize,
    /// Elements of a query and a key.
    pub key_width: usize,
    /// Elements of a value.
    pub value_width: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// Keys seen, the query's own included.
    pub window: Option<usize>,
}

/// `q[T, heads, key_width]` -> `out[T, heads, value_width]`.
pub fn attention(
    kernels: &Kernels,
    pool: &Pool,
    shape: &AttentionShape,
    q: &[f32],
    keys: Rows<'_>,
    values: Rows<'_>,
    out: &mut [f32],
) {
    let AttentionShape { past, heads, key_width, value_width, scale, window } = *shape;
    let group = heads / keys.heads;
    let small = q.len() * (past + 1) < THREAD_WORK;
    // Threads take heads, not tokens: later tokens see more keys and cost more.
    pool.split_columns(out, heads * value_width, value_width, small, &|start, mut out, scratch| {
        for t in 0..out.rows() {
            let seen = past + t + 1;
            let first = window.map_or(0, |w| seen.saturating_sub(w));
            for (i, out) in out.row(t).chunks_exact_mut(value_width).enumerate() {
                let head = start / value_width + i;
                let kv = head / group;
                let at = |r: Rows<'_>| kv * r.head_stride + first * r.token_stride;
                let scores = scratch.get(seen - first);
                let q = &q[(t * heads + head) * key_width..][..key_width];
                let (k, v) = (&keys.data[at(keys)..], &values.data[at(values)..]);
                (kernels.scores)(q, k, keys.token_stride, scale, scores);
                norm::softmax(scores);
                (kernels.mix)(scores, v, values.token_stride, out);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use tensor::{Rng, compare};

    const KEYS: usize = 40;

    fn shape(past: usize, window: Option<usize>) -> AttentionShape {
        AttentionShape { past, heads: 6, key_width: 20, value_width: 36, scale: 0.3, window }
    }

    fn rows(data: &[f32], width: usize) -> Rows<'_> {
        Rows { data, heads: 2, head_stride: width, token_stride: 2 * width }
    }

    /// The formula, in f64.
    fn expected(s: &AttentionShape, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let tokens = q.len() / (s.heads * s.key_width);
        let mut out = Vec::new();
        for (t, head) in (0..tokens).flat_map(|t| (0..s.heads).map(move |h| (t, h))) {
            let last = s.past + t;
            let first = s.window.map_or(0, |w| (last + 1).saturating_sub(w));
            let kv = head / 3;
            let p: Vec<f64> = (first..=last)
                .map(|j| {
                    let dot: f64 = (0..s.key_width)
                        .map(|i| {
                            let q = q[(t * s.heads + head) * s.key_width + i];
                            f64::from(q) * f64::from(k[(j * 2 + kv) * s.key_width + i])
                        })
                        .sum();
                    (dot * f64::from(s.scale)).exp()
                })
                .collect();
            let total: f64 = p.iter().sum();
            for e in 0..s.value_width {
                let value = |j: usize| f64::from(v[((first + j) * 2 + kv) * s.value_width + e]);
                let sum: f64 = p.iter().enumerate().map(|(j, p)| p * value(j)).sum();
                out.push((sum / total) as f32);
            }
        }
        out
    }

    #[test]
    fn follows_the_formula_and_no_split_changes_a_bit() {
        let mut rng = Rng::new(2);
        let mut values = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f32>>();
        let (q, k, v) = (values(9 * 6 * 20), values(KEYS * 2 * 20), values(KEYS * 2 * 36));
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            for window in [None, Some(1), Some(7), Some(100)] {
                let run = |threads: usize, step: usize| {
                    let pool = Pool::new(threads).unwrap();
                    let mut out = vec![0.0; 9 * 6 * 36];
                    let parts = q.chunks(step * 120).zip(out.chunks_mut(step * 216));
                    for (i, (q, out)) in parts.enumerate() {
                        let s = shape(11 + i * step, window);
                        attention(&kernels, &pool, &s, q, rows(&k, 20), rows(&v, 36), out);
                    }
                    out
                };
                let whole = run(1, 9);
                let formula = expected(&shape(11, window), &q, &k, &v);
                let error = compare::relative_to_max(&whole, &formula);
                assert!(error < 1e-5, "{} window {window:?}: {error}", kernels.isa);
                for (threads, step) in [(1, 1), (2, 9), (3, 4), (4, 1)] {
                    assert_eq!(run(threads, step), whole, "{} {threads} {step}", kernels.isa);
                }
            }
        }
    }
}
