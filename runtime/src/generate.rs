//! The generation loop: prompt, then tokens until something ends it.
//!
//! A step computes the chosen token and, where it pays, guesses of what follows (`speculate`); a guess
//! is used exactly when the sampler chooses it from the logits before it, so texts do not depend on
//! guessing.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::exec::{Session, SessionError, Wanted};
use crate::sample::{NoDistribution, Sampler, Sampling};
use crate::speculate::{Guesser, Speculation};

/// Takes rows of logits, `f32[rows, vocab]` row-major.
pub type LogitsSink<'a> = dyn FnMut(&[f32]) + 'a;

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model wrote a stop token.
    StopToken,
    /// As many tokens as asked for.
    Length,
    /// No position is left.
    ContextFull,
    /// The receiver wants no more.
    Cancelled,
    /// No token can be chosen: only texts of a batch end so, for a single one it is an error.
    NoDistribution(NoDistribution),
}

impl StopReason {
    /// The spelling in JSON.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::StopToken => "stop",
            StopReason::Length => "length",
            StopReason::ContextFull => "context",
            StopReason::Cancelled => "cancelled",
            StopReason::NoDistribution(_) => "no-distribution",
        }
    }
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Tokens of the prompt that were computed (not found in the cache).
    pub prompt_tokens: usize,
    /// From the start to the logits of the last prompt token.
    pub prompt: Duration,
    /// Tokens whose step was computed after the prompt.
    pub decode_tokens: usize,
    /// From there to the end.
    pub decode: Duration,
    /// What came of guessing.
    pub speculation: Speculation,
}

impl Timings {
    /// Prompt tokens per second.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt)
    }

    /// Decode steps per second.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_tokens, self.decode)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// A finished text.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The tokens after the prompt, a stop token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: StopReason,
    /// Where the time went.
    pub timings: Timings,
}

/// A session that makes text, and remembers what its cache holds.
#[derive(Debug)]
pub struct Generator {
    session: Session,
    /// The tokens in the cache.
    cached: Vec<u32>,
}

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct GenerationOptions<'a> {
    /// Most tokens.
    pub limit: usize,
    /// How to choose them.
    pub sampling: Sampling,
    /// Tokens that end the text.
    pub stop_tokens: &'a [u32],
    /// Most tokens guessed ahead; 0 for none. Never changes the text.
    pub guesses: usize,
}

/// Logits that a step gave beyond those of its first token.
#[derive(Debug, Default)]
struct Ahead {
    /// The guesses of the last step.
    guesses: Vec<u32>,
    /// Of these, how many were chosen.
    accepted: usize,
    /// `f32[guesses + 1, vocab]`: after the step's own token and after each guess.
    rows: Vec<f32>,
}

impl Generator {
    /// A generator on a fresh session.
    pub fn new(session: Session) -> Self {
        Generator { session, cached: Vec::new() }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Forgets what the cache holds.
    pub fn forget(&mut self) {
        self.session.truncate(0);
        self.cached.clear();
    }

    /// Continues `prompt`. What the cache holds of its beginning is not computed again. Every token
    /// goes to `sink`, which may end the text; logits of all computed prompt positions go to
    /// `logits`, where one is given, and then the whole prompt is computed.
    ///
    /// # Errors
    /// When the prompt is empty, does not fit or holds unknown tokens; when logits are no numbers.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerationOptions<'_>,
        logits: Option<&mut LogitsSink<'_>>,
        sink: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generation, SessionError> {
        let begin = Instant::now();
        let vocab = self.session.payload().program().vocab as usize;
        let mut last = vec![0.0; vocab];
        let timings_prompt = self.feed_prompt(prompt, logits, &mut last)?;
        let mut timings = Timings {
            prompt_tokens: timings_prompt,
            prompt: begin.elapsed(),
            ..Timings::default()
        };
        let begin = Instant::now();
        let mut sampler = Sampler::new(options.sampling, vocab);
        let mut guesser = Guesser::new(prompt, options.guesses);
        let mut ahead = Ahead::default();
        let limit = options.limit;
        let mut tokens = Vec::with_capacity(limit.min(self.session.context()));
        let stop = loop {
            if tokens.len() >= limit {
                break StopReason::Length;
            }
            let position = self.cached.len() - 1;
            let choice = sampler.choose(&last);
            let token = choice.map_err(|found| SessionError::Logits { position, found })?;
            tokens.push(token);
            if options.stop_tokens.contains(&token) {
                break StopReason::StopToken;
            }
            if sink(token).is_break() {
                break StopReason::Cancelled;
            }
            if tokens.len() >= limit {
                break StopReason::Length;
            }
            if self.cached.len() == self.session.context() {
                break StopReason::ContextFull;
            }
            guesser.push(token);
            if ahead.guesses.get(ahead.accepted) == Some(&token) {
                ahead.accepted += 1;
                last.copy_from_slice(&ahead.rows[ahead.accepted * vocab..][..vocab]);
            } else {
                guesser.learn(ahead.guesses.len(), ahead.accepted);
                let room = limit - tokens.len() - 1;
                self.advance(token, room, &mut guesser, &mut ahead, &mut last)?;
            }
            self.cached.push(token);
            timings.decode_tokens += 1;
        };
        guesser.learn(ahead.guesses.len(), ahead.accepted);
        self.session.truncate(self.cached.len());
        timings.decode = begin.elapsed();
        timings.speculation = guesser.result();
        Ok(Generation { tokens, stop, timings })
    }

    /// A step over `token` and guesses of what follows, at most `room`. Logits after the token go to
    /// `last`, those after the guesses wait in `ahead`.
    fn advance(
        &mut self,
        token: u32,
        room: usize,
        guesser: &mut Guesser,
        ahead: &mut Ahead,
        last: &mut [f32],
    ) -> Result<(), SessionError> {
        let begin = Instant::now();
        // Guesses that did not hold are still in the cache.
        self.session.truncate(self.cached.len());
        let room = room.min(self.session.context() - self.session.len() - 1);
        // Some kinds of RoPE compute a long sequence otherwise than its tokens one by one.
        let whole = self.session.len() + 1 + room;
        let apart = self.session.payload().program().needs_whole_prompt(whole);
        *ahead = Ahead { rows: std::mem::take(&mut ahead.rows), ..Ahead::default() };
        ahead.guesses.extend(if apart { &[] } else { guesser.guess(room) });
        if ahead.guesses.is_empty() {
            self.session.feed(&[token], Wanted::Last, &mut |row| last.copy_from_slice(row))?;
        } else {
            let mut step = vec![token];
            step.extend(&ahead.guesses);
            ahead.rows.clear();
            let rows = &mut ahead.rows;
            self.session.feed(&step, Wanted::All, &mut |some| rows.extend_from_slice(some))?;
            last.copy_from_slice(&ahead.rows[..last.len()]);
        }
        guesser.timed(ahead.guesses.len(), begin.elapsed());
        Ok(())
    }

    /// Computes what the cache lacks of the prompt; returns how many tokens that were.
    fn feed_prompt(
        &mut self,
        prompt: &[u32],
        logits: Option<&mut LogitsSink<'_>>,
        last: &mut [f32],
    ) -> Result<usize, SessionError> {
        let same = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // At least one token must be computed for its logits.
        let kept = if logits.is_some() { 0 } else { same.min(prompt.len().saturating_sub(1)) };
        self.session.truncate(kept);
        self.cached.truncate(kept);
        let new = &prompt[kept..];
        let vocab = last.len();
        match logits {
            Some(logits) => self.session.feed(new, Wanted::All, &mut |rows| {
                logits(rows);
                last.copy_from_slice(&rows[rows.len() - vocab..]);
            })?,
            None => {
                self.session.feed(new, Wanted::Last, &mut |row| last.copy_from_slice(row))?;
            }
        }
        self.cached.extend_from_slice(new);
        Ok(new.len())
    }
}
