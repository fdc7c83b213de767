//! The generation loop: prompt, then one token at a time until something ends it.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::exec::{Session, SessionError, Wanted};
use crate::sample::{Sampler, Sampling};

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
}

impl StopReason {
    /// The spelling in JSON.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::StopToken => "stop",
            StopReason::Length => "length",
            StopReason::ContextFull => "context",
            StopReason::Cancelled => "cancelled",
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

    /// Continues `prompt`. What the cache holds of its beginning is not computed again. Every token
    /// goes to `sink`, which may end the text; logits of all computed prompt positions go to
    /// `logits`, where one is given, and then the whole prompt is computed.
    ///
    /// # Errors
    /// When the prompt is empty, does not fit or holds unknown tokens.
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
        let limit = options.limit;
        let mut tokens = Vec::with_capacity(limit.min(self.session.context()));
        let stop = loop {
            if tokens.len() >= limit {
                break StopReason::Length;
            }
            let token = sampler.choose(&last);
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
            if self.session.len() == self.session.context() {
                break StopReason::ContextFull;
            }
            self.session.feed(&[token], Wanted::Last, &mut |row| last.copy_from_slice(row))?;
            self.cached.push(token);
            timings.decode_tokens += 1;
        };
        timings.decode = begin.elapsed();
        Ok(Generation { tokens, stop, timings })
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
