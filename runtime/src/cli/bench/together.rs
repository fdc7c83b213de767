//! How fast several texts are written at once, and how close that is to what the machine can do.
//!
//! A step reads the weights once for all of them, so what limits it moves from reading to arithmetic:
//! the limit is the slower of the two, both measured in the same run. KV caches are not counted; the
//! texts are short.

use std::ops::ControlFlow;
use std::time::Instant;

use super::{CliError, Work, filler};
use crate::batch::{Batch, BatchOptions, NewToken, Request};
use crate::exec::{Session, SessionOptions};
use crate::sample::Sampling;

/// How many texts at once.
const COUNTS: [usize; 5] = [1, 2, 4, 8, 16];
/// Steps that are measured, as far as the context allows.
const STEPS: usize = 32;
/// Tokens of each prompt.
const PROMPT: usize = 16;

/// What the machine can do, per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes read.
    pub(super) bytes: f64,
    /// Multiply-adds of the kind that prompts use.
    pub(super) products: f64,
}

/// Some texts at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Together {
    pub(super) sequences: usize,
    /// Tokens per second of all of them.
    pub(super) rate: f64,
    /// Of the limit.
    pub(super) share: f64,
    /// Whether reading is the limit, not arithmetic.
    pub(super) reads: bool,
}

/// Measures all counts with one batch.
pub(super) fn measure(
    session: &Session,
    work: &Work,
    limits: Limits,
) -> Result<Vec<Together>, CliError> {
    let most = COUNTS[COUNTS.len() - 1];
    let options = BatchOptions { session: SessionOptions::default(), parallel: most, kv_bytes: 0 };
    let mut batch = Batch::beside(session, options)?;
    let mut found = Vec::new();
    for sequences in COUNTS {
        let rate = rate(&mut batch, sequences)?;
        let step_reads = work.token_bytes as f64 / limits.bytes;
        let products = (work.layer_products + work.head_products) as f64 * sequences as f64;
        let step_products = products / limits.products;
        let limit = sequences as f64 / step_reads.max(step_products);
        found.push(Together {
            sequences,
            rate,
            share: rate / limit,
            reads: step_reads >= step_products,
        });
    }
    Ok(found)
}

/// Tokens per second while exactly `sequences` texts are written.
fn rate(batch: &mut Batch, sequences: usize) -> Result<f64, CliError> {
    let program = batch.payload().program();
    let (vocab, context) = (program.vocab, program.context as usize);
    let prompt = PROMPT.min(context.div_ceil(2));
    for i in 0..sequences {
        let request = Request {
            id: i as u64,
            prompt: filler(prompt, vocab, sequences + i),
            limit: usize::MAX,
            sampling: Sampling::GREEDY,
            stop_tokens: Vec::new(),
        };
        // Whatever is refused here, single texts would have met before.
        batch.push(request).map_err(|e| CliError::Batch(e.to_string()))?;
    }
    let mut begun = vec![false; sequences];
    let (mut begin, mut written, mut steps) = (None, 0, 0);
    let mut finished = Vec::new();
    while batch.pending() > 0 {
        let mut end = false;
        let sink = &mut |new: NewToken<'_>| {
            begun[new.id as usize] = true;
            written += 1;
            end |= steps == STEPS;
            if end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        batch.step(sink, &mut finished)?;
        if begin.is_some() {
            steps += 1;
        } else if begun.iter().all(|&b| b) {
            (begin, written) = (Some(Instant::now()), 0);
        }
        if !finished.is_empty() {
            break;
        }
    }
    let seconds = begin.map_or(f64::INFINITY, |begin| begin.elapsed().as_secs_f64());
    // Whoever is left ends with the next step.
    while batch.pending() > 0 {
        batch.step(&mut |_| ControlFlow::Break(()), &mut finished)?;
    }
    Ok(written as f64 / seconds)
}
