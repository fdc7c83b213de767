//! Guesses of the next tokens from the text so far, to be verified in one step (prompt lookup).
//!
//! A text often repeats what it contains: names, quotations, code. Where the last tokens occurred
//! before, what followed then is the guess (Saxena, "Prompt Lookup Decoding", 2023; Leviathan et al.,
//! arXiv 2211.17192, for why verifying is exact). A step over a token and its guesses yields the same
//! bits as steps one by one, so whoever verifies accepts a guess exactly when it would have chosen it:
//! guessing never changes a text, only how long it takes.
//! How far to guess follows from how often guesses held and what a wider step costs, both measured
//! as the text grows; where it does not pay, nothing is guessed. Does not run the model.

use std::collections::BTreeMap;
use std::time::Duration;

/// Most tokens guessed at once unless told otherwise: a step of eight.
pub const GUESSES_MAX: usize = 7;

/// Length of a match that is as good as any longer one.
const LONG: usize = 4;
/// How often a guess is expected to hold before there is experience, by length of the match.
const HITS_EXPECTED: [f64; LONG + 1] = [0.0, 0.0, 0.4, 0.6, 0.8];
/// What one more token adds to a step, as a share of a step of one, before there is experience.
const EXTRA_EXPECTED: f64 = 0.3;
/// Weight of a new observation.
const LEARN: f64 = 0.2;
/// How quickly experience is forgotten while nothing is guessed, per token; so that a bad start or a
/// disturbed measurement does not last.
const FORGET: f64 = 0.01;
/// Least expected gain that is worth a guess.
const GAIN_MIN: f64 = 1.03;

/// What came of guessing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speculation {
    /// Tokens guessed.
    pub guessed: usize,
    /// Of these, tokens that held.
    pub accepted: usize,
}

impl Speculation {
    /// Share of guesses that held; 0 without any.
    pub fn rate(&self) -> f64 {
        if self.guessed == 0 { 0.0 } else { self.accepted as f64 / self.guessed as f64 }
    }
}

/// Knows the text so far and what guessing was good for.
#[derive(Clone, Debug)]
pub(crate) struct Guesser {
    most: usize,
    text: Vec<u32>,
    /// Where the text went on after the last occurrence of two and of three tokens.
    pairs: BTreeMap<[u32; 2], usize>,
    triples: BTreeMap<[u32; 3], usize>,
    hits: [f64; LONG + 1],
    /// Seconds of a step of one token; 0 until one is known.
    single: f64,
    extra: f64,
    /// Length of the match behind the last guess.
    matched: usize,
    result: Speculation,
}

impl Guesser {
    /// A guesser for the text after `prompt`, of at most `most` tokens at once.
    pub(crate) fn new(prompt: &[u32], most: usize) -> Self {
        let mut guesser = Guesser {
            most,
            text: Vec::new(),
            pairs: BTreeMap::new(),
            triples: BTreeMap::new(),
            hits: HITS_EXPECTED,
            single: 0.0,
            extra: EXTRA_EXPECTED,
            matched: 0,
            result: Speculation::default(),
        };
        if most > 0 {
            prompt.iter().for_each(|&token| guesser.push(token));
        }
        guesser
    }

    /// The text goes on with `token`.
    pub(crate) fn push(&mut self, token: u32) {
        if self.most == 0 {
            return;
        }
        // Only what has a successor is remembered: the end of the text would match itself.
        let n = self.text.len();
        if let Some(&pair) = self.text.last_chunk::<2>() {
            self.pairs.insert(pair, n);
        }
        if let Some(&triple) = self.text.last_chunk::<3>() {
            self.triples.insert(triple, n);
        }
        self.text.push(token);
    }

    /// Guesses for what follows the text, at most `room`.
    pub(crate) fn guess(&mut self, room: usize) -> &[u32] {
        let most = self.most.min(room);
        let found = if most == 0 { None } else { self.find() };
        let Some((at, matched)) = found else {
            self.forget();
            return &[];
        };
        let count = self.worthwhile(self.hits[matched], most.min(self.text.len() - at));
        if count == 0 {
            self.forget();
        }
        self.matched = matched;
        &self.text[at..at + count]
    }

    /// Where the text went on after its last tokens occurred before, and how many those were.
    fn find(&self) -> Option<(usize, usize)> {
        let triple = self.text.last_chunk::<3>().and_then(|t| self.triples.get(t));
        let pair = self.text.last_chunk::<2>().and_then(|p| self.pairs.get(p));
        let at = *triple.or(pair)?;
        let same = self.text[..at].iter().rev().zip(self.text.iter().rev());
        Some((at, same.take(LONG).take_while(|(a, b)| a == b).count()))
    }

    /// How many guesses give the most tokens per second, when each holds with probability `hit`.
    fn worthwhile(&self, hit: f64, most: usize) -> usize {
        let (mut best, mut gain_best) = (0, GAIN_MIN);
        let (mut tokens, mut held) = (1.0, 1.0);
        for count in 1..=most {
            held *= hit;
            tokens += held;
            let gain = tokens / (1.0 + self.extra * count as f64);
            if gain > gain_best {
                (best, gain_best) = (count, gain);
            }
        }
        best
    }

    /// Of `guessed` tokens the first `accepted` held.
    pub(crate) fn learn(&mut self, guessed: usize, accepted: usize) {
        self.result.guessed += guessed;
        self.result.accepted += accepted;
        if guessed > 0 {
            // Guesses behind the first wrong one were not tried.
            let tried = accepted + usize::from(accepted < guessed);
            let hit = &mut self.hits[self.matched];
            *hit += LEARN * (accepted as f64 / tried as f64 - *hit);
        }
    }

    /// A step over one token and `guessed` more took `time`.
    pub(crate) fn timed(&mut self, guessed: usize, time: Duration) {
        let seconds = time.as_secs_f64();
        if guessed == 0 {
            let known = self.single > 0.0;
            self.single =
                if known { self.single + LEARN * (seconds - self.single) } else { seconds };
        } else if self.single > 0.0 {
            let extra = ((seconds / self.single - 1.0) / guessed as f64).max(0.0);
            self.extra += LEARN * (extra - self.extra);
        }
    }

    fn forget(&mut self) {
        self.extra += FORGET * (EXTRA_EXPECTED - self.extra);
        for (hit, expected) in self.hits.iter_mut().zip(HITS_EXPECTED) {
            *hit += FORGET * (expected - *hit);
        }
    }

    /// What came of it.
    pub(crate) fn result(&self) -> Speculation {
        self.result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_the_guess() {
        let mut guesser = Guesser::new(&[1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3], 7);
        assert_eq!(guesser.guess(7), [4], "little experience, short guesses");
        (0..20).for_each(|_| guesser.learn(1, 1));
        assert_eq!(guesser.guess(7), [4, 5, 6, 7, 8, 1, 2]);
        assert_eq!(guesser.guess(2), [4, 5]);
        guesser.push(9);
        assert_eq!(guesser.guess(7), [0u32; 0], "3, 9 was never there");
        let mut off = Guesser::new(&[1, 2, 1, 2], 0);
        assert_eq!(off.guess(7), [0u32; 0]);
        // The latest occurrence, and never the end of the text itself.
        let mut latest = Guesser::new(&[1, 2, 3, 9, 1, 2, 4, 9, 1, 2], 7);
        assert_eq!(latest.guess(1), [4]);
    }

    #[test]
    fn guesses_that_fail_or_cost_too_much_end() {
        let text: Vec<u32> = (0..8).chain(0..3).collect();
        let mut guesser = Guesser::new(&text, 7);
        assert!(!guesser.guess(7).is_empty());
        for _ in 0..20 {
            let guessed = guesser.guess(7).len();
            guesser.learn(guessed, 0);
        }
        assert!(guesser.guess(7).is_empty());
        assert!(guesser.result().guessed > 0 && guesser.result().rate() == 0.0);
        // Experience fades: later it tries again.
        assert!((0..500).any(|_| !guesser.guess(7).is_empty()));

        let mut dear = Guesser::new(&text, 7);
        dear.timed(0, Duration::from_millis(1));
        (0..20).for_each(|_| dear.timed(7, Duration::from_millis(8)));
        assert!(dear.guess(7).is_empty());
        let mut cheap = Guesser::new(&text, 7);
        cheap.timed(0, Duration::from_millis(10));
        (0..20).for_each(|_| cheap.timed(7, Duration::from_millis(11)));
        assert!(cheap.guess(7).len() > 4, "wide steps cost nothing: guess far");
    }
}
