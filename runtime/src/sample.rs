//! Choosing the next token: greedy, or by temperature, top-k and top-p with a seeded generator.
//!
//! As in `transformers`: temperature first, then top-k, then top-p on what is left. Equal logits are
//! ordered by token id, so a seed gives the same text on every run.
//!
//! Logits that are no distribution (NaN, +inf, nothing but -inf: a value overflowed) have no next
//! token: an error, never a guess.

use std::cmp::Ordering;

use tensor::Rng;

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Most likely tokens kept; 0 keeps all.
    pub top_k: usize,
    /// Probability mass kept, the most likely first; 1 keeps all.
    pub top_p: f32,
    /// Seed of the random choices.
    pub seed: u64,
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
}

/// A row of logits from which no token can be chosen. One that is -inf alone is a token that never
/// comes, and no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{nan} NaN and {infinite} infinite among {of} logits")]
pub struct NoDistribution {
    /// How many are NaN.
    pub nan: usize,
    /// How many are infinite, of either sign.
    pub infinite: usize,
    /// How many there are.
    pub of: usize,
}

/// Chooses tokens; owns the memory it needs.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: Rng,
    /// (logit, token), reused.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab` tokens; no later call allocates.
    pub fn new(sampling: Sampling, vocab: usize) -> Self {
        let room = if sampling.temperature > 0.0 { vocab } else { 0 };
        Sampler { sampling, rng: Rng::new(sampling.seed), candidates: Vec::with_capacity(room) }
    }

    /// The next token.
    ///
    /// # Errors
    /// When the logits are no distribution.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32, NoDistribution> {
        let largest = largest(logits)?;
        if self.sampling.temperature <= 0.0 {
            let first = logits.iter().position(|&l| l == largest).unwrap_or(0);
            return Ok(first as u32);
        }
        Ok(self.draw(logits))
    }

    /// A token of a distribution, by temperature, top-k and top-p.
    fn draw(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        self.candidates.clear();
        self.candidates.extend(logits.iter().zip(0..).map(|(&l, id)| (l, id)));
        let kept = &mut self.candidates;
        if top_k > 0 && top_k < kept.len() {
            kept.select_nth_unstable_by(top_k - 1, likelier);
            kept.truncate(top_k);
        }
        kept.sort_unstable_by(likelier);
        let Some(&(best, first)) = kept.first() else { return 0 };
        // From here the first component is the probability, up to one common factor. Differences first:
        // however small the temperature, nothing overflows.
        let mut total = 0.0;
        for c in kept.iter_mut() {
            c.0 = ((f64::from(c.0) - f64::from(best)) / f64::from(temperature)).exp() as f32;
            total += f64::from(c.0);
        }
        if top_p < 1.0 {
            let wanted = total * f64::from(top_p);
            let mut mass = 0.0;
            let mut within = |c: &(f32, u32)| {
                mass += f64::from(c.0);
                mass < wanted
            };
            let count = kept.iter().take_while(|c| within(c)).count() + 1;
            kept.truncate(count);
            total = kept.iter().map(|c| f64::from(c.0)).sum();
        }
        let mut left = f64::from(self.rng.uniform()) * total;
        for &(p, token) in kept.iter() {
            left -= f64::from(p);
            if left < 0.0 {
                return token;
            }
        }
        first
    }
}

/// Larger logits first, then smaller ids.
fn likelier(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The largest logit of a distribution. One pass without branches, as fast as memory.
fn largest(logits: &[f32]) -> Result<f32, NoDistribution> {
    const LANES: usize = 16;
    let (mut lanes, mut nan) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
    let (blocks, rest) = logits.as_chunks::<LANES>();
    for block in blocks {
        for ((lane, nan), &logit) in lanes.iter_mut().zip(&mut nan).zip(block) {
            *lane = if logit > *lane { logit } else { *lane };
            *nan |= logit.is_nan();
        }
    }
    let largest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    if largest.is_finite() && !nan.contains(&true) && !rest.iter().any(|l| l.is_nan()) {
        return Ok(largest);
    }
    let count = |is: fn(f32) -> bool| logits.iter().filter(|&&l| is(l)).count();
    let (nan, infinite) = (count(f32::is_nan), count(f32::is_infinite));
    Err(NoDistribution { nan, infinite, of: logits.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling, logits.len());
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.choose(logits).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn frequencies_are_the_probabilities() {
        // Probabilities 0.5, 0.3, 0.2 in another order.
        let logits = [0.3f32.ln(), 0.5f32.ln(), 0.2f32.ln()];
        let plain = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 4 };
        let close = |found: Vec<f64>, expected: [f64; 3]| {
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() < 0.015, "{found:?} against {expected:?}");
            }
        };
        close(frequencies(plain, &logits), [0.3, 0.5, 0.2]);
        close(frequencies(Sampling { top_k: 2, ..plain }, &logits), [0.375, 0.625, 0.0]);
        close(frequencies(Sampling { top_p: 0.7, ..plain }, &logits), [0.375, 0.625, 0.0]);
        close(frequencies(Sampling { top_p: 0.4, ..plain }, &logits), [0.0, 1.0, 0.0]);
        // At temperature 1/2 probabilities are squared.
        close(frequencies(Sampling { temperature: 0.5, ..plain }, &logits), [0.237, 0.658, 0.105]);
    }

    #[test]
    fn greedy_takes_the_first_maximum() {
        let mut greedy = Sampler::new(Sampling::GREEDY, 4);
        assert_eq!(greedy.choose(&[1.0, 3.0, 3.0, f32::NEG_INFINITY]), Ok(1));
        let mut many = vec![-7.0; 100];
        for at in [99, 50, 16, 15, 0] {
            many[at] = 5.0;
            assert_eq!(greedy.choose(&many), Ok(at as u32));
        }
        let mut random = Sampler::new(Sampling { temperature: 1.0, ..Sampling::GREEDY }, 2);
        assert_eq!(random.choose(&[f32::NEG_INFINITY, 0.0]), Ok(1));
        let cold = Sampling { temperature: 1e-40, ..Sampling::GREEDY };
        assert_eq!(Sampler::new(cold, 3).choose(&[-9.0, 4.0, 3.9]), Ok(1));
    }

    #[test]
    fn nothing_is_chosen_from_what_is_no_distribution() {
        for temperature in [0.0, 1.0] {
            let mut sampler = Sampler::new(Sampling { temperature, ..Sampling::GREEDY }, 40);
            for len in [1, 15, 16, 17, 40] {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                    for at in [0, len / 2, len - 1] {
                        let mut logits: Vec<f32> = (0..len).map(|i| i as f32 - 3.0).collect();
                        assert!(sampler.choose(&logits).is_ok());
                        logits[at] = bad;
                        let error = sampler.choose(&logits).unwrap_err();
                        assert_eq!(
                            (error.nan + error.infinite, error.of),
                            (1, len),
                            "{at} of {len}"
                        );
                    }
                }
                let none = vec![f32::NEG_INFINITY; len];
                let all = NoDistribution { nan: 0, infinite: len, of: len };
                assert_eq!(sampler.choose(&none), Err(all));
            }
        }
    }

    #[test]
    fn a_seed_is_a_text() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 / 3.0).collect();
        let run = |seed| {
            let sampling = Sampling { temperature: 0.8, top_k: 20, top_p: 0.9, seed };
            let mut sampler = Sampler::new(sampling, 50);
            (0..30).map(|_| sampler.choose(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
