//! What computes steps: the model, threads, the arena, and the KV caches of all sequences.
//!
//! A step takes rows of one sequence or of several ([`Span`]). Only positions, caches and attention
//! know which: products see more rows, and the bits of a row do not depend on the others. A program
//! whose rows are not apart ([`Program::rows_are_apart`]) takes one sequence a step.
//! Does not know which pages are whose: callers bring the page tables.

use std::sync::Arc;

use super::bind::Bound;
use super::caches::Caches;
use super::call::Machine;
use crate::kernels::kv::PAGE;
use crate::kernels::rope::RopeTable;
use crate::kernels::rows::{self, Span};
use crate::kernels::{self, Isa, Kernels};
use crate::mmap::Zeroed;
use crate::payload::Payload;
use crate::pool::Pool;
use crate::program::{Bindings, Step};
use crate::sample::NoDistribution;

/// Tokens of one step of a long prompt: a multiple of what the matrix kernels take at once.
pub(crate) const CHUNK: usize = 96;

/// Query heads to a key/value head for which scratch is set aside at the start.
const QUERY_HEADS: usize = 32;

/// How a session runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionOptions {
    /// Threads; 0 takes one per core.
    pub threads: usize,
    /// Instruction set; `None` takes the best of this machine.
    pub isa: Option<Isa>,
    /// Most tokens of one step; 0 takes a good default. Never changes a result.
    pub chunk: usize,
    /// Binds each thread, the caller's too, to a core of its own where there are as many. For
    /// programs that do nothing else.
    pub pin: bool,
}

/// Whose logits to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Of the last token.
    Last,
    /// Of every token.
    All,
}

/// Why a session cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// More positions than the program was compiled for.
    #[error("{wanted} tokens do not fit the context of {context}")]
    ContextFull {
        /// Tokens asked for, those in the cache included.
        wanted: usize,
        /// Positions available.
        context: usize,
    },
    /// A token id that the model does not have.
    #[error("token {token} is not in the vocabulary of {vocab}")]
    Token {
        /// The id.
        token: u32,
        /// Ids are below this.
        vocab: u32,
    },
    /// A step without tokens.
    #[error("no tokens: a model needs at least one")]
    NoTokens,
    /// The machine lacks the instruction set asked for.
    #[error("this machine has no {0} instructions")]
    Isa(Isa),
    /// The system refuses memory or threads.
    #[error("cannot get {what}: {source}")]
    Resource {
        /// What was asked for.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The logits after a position say nothing: some value on the way overflowed.
    #[error("the logits after token {position} are no numbers: {found}")]
    Logits {
        /// Position of the token, from 0.
        position: usize,
        /// What they are.
        found: NoDistribution,
    },
    /// A size of the program overflows.
    #[error("the program's buffers overflow memory at {tokens} tokens a step")]
    TooLarge {
        /// Tokens of the step.
        tokens: usize,
    },
}

/// Computes steps.
#[derive(Debug)]
pub(crate) struct Engine {
    payload: Arc<Payload>,
    kernels: Kernels,
    pool: Arc<Pool>,
    bound: Bound,
    arena: Zeroed,
    caches: Caches,
    ropes: Vec<RopeTable>,
}

impl Engine {
    /// An engine whose caches have `pages`.
    ///
    /// # Errors
    /// When the instruction set is not there, or memory or threads are refused.
    pub(crate) fn new(
        payload: Arc<Payload>,
        options: &SessionOptions,
        pages: usize,
    ) -> Result<Self, SessionError> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        let kernels = Kernels::new(isa).ok_or(SessionError::Isa(isa))?;
        let kernels = kernels.with(payload.program().activations);
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let pool = if options.pin { Pool::pinned(threads) } else { Pool::new(threads) };
        let pool = pool.map_err(|source| SessionError::Resource {
            what: format!("{threads} threads"),
            source,
        })?;
        Engine::with(payload, kernels, Arc::new(pool), pages)
    }

    /// Another engine for the same model, on the same threads.
    ///
    /// # Errors
    /// When memory is refused.
    pub(crate) fn beside(&self, pages: usize) -> Result<Self, SessionError> {
        Engine::with(Arc::clone(&self.payload), self.kernels, Arc::clone(&self.pool), pages)
    }

    fn with(
        payload: Arc<Payload>,
        kernels: Kernels,
        pool: Arc<Pool>,
        pages: usize,
    ) -> Result<Self, SessionError> {
        let program = payload.program();
        let caches = Caches::new(program, pages).map_err(|(bytes, e)| refused_bytes(bytes, e))?;
        let ropes = vec![RopeTable::default(); program.ropes.len()];
        let arena = Zeroed::new(0).map_err(|e| refused(0, e))?;
        Ok(Engine { payload, kernels, pool, bound: Bound::default(), arena, caches, ropes })
    }

    /// The model.
    pub(crate) fn payload(&self) -> &Arc<Payload> {
        &self.payload
    }

    /// Instruction set in use.
    pub(crate) fn isa(&self) -> Isa {
        self.kernels.isa
    }

    /// The threads.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Positions a sequence may have.
    pub(crate) fn context(&self) -> usize {
        self.payload.program().context as usize
    }

    /// Whether a sequence can go on by these.
    ///
    /// # Errors
    /// When there are none, or the model does not have one.
    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> Result<(), SessionError> {
        let vocab = self.payload.program().vocab;
        match tokens.iter().find(|&&t| t >= vocab) {
            _ if tokens.is_empty() => Err(SessionError::NoTokens),
            Some(&token) => Err(SessionError::Token { token, vocab }),
            None => Ok(()),
        }
    }

    /// Pages that a sequence of `positions` takes.
    pub(crate) fn pages_of(positions: usize) -> usize {
        positions.div_ceil(PAGE)
    }

    /// Copies a page of every cache.
    pub(crate) fn copy_page(&mut self, from: u32, to: u32) {
        self.caches.copy_page(from as usize, to as usize);
    }

    /// Makes room for steps of one token of each of `sequences` on every thread, so that whichever
    /// computes what, none allocates.
    pub(crate) fn reserve_scratch(&self, sequences: usize) {
        let caches = &self.payload.program().caches;
        let width = caches.iter().map(|c| c.width as usize).max().unwrap_or(0);
        let (floats, bytes) = kernels::decode_scratch(sequences, QUERY_HEADS, width);
        self.pool.reserve_scratch(floats, bytes);
    }

    /// Lays the arena out for steps of `tokens` with logits of `rows`, if it is not.
    ///
    /// # Errors
    /// When memory is refused.
    pub(crate) fn reserve(&mut self, tokens: usize, rows: usize) -> Result<(), SessionError> {
        let wanted = Bindings { t: tokens, c: self.context(), r: rows };
        if self.bound.fits(&wanted) {
            return Ok(());
        }
        let had = self.bound.largest.unwrap_or(wanted);
        let largest = Bindings { t: had.t.max(tokens), r: had.r.max(rows), ..wanted };
        let program = self.payload.program();
        let bound =
            Bound::new(program, largest).ok_or(SessionError::TooLarge { tokens: largest.t })?;
        self.arena = Zeroed::new(bound.arena_len).map_err(|e| refused(bound.arena_len, e))?;
        self.bound = bound;
        for (table, rope) in self.ropes.iter_mut().zip(&program.ropes) {
            table.reserve(rope, largest.t);
        }
        Ok(())
    }

    /// The logits of the last step, `f32[logits, vocab]`.
    pub(crate) fn logits(&self) -> &[f32] {
        let buffer = self.payload.program().logits as usize;
        &self.arena.as_ref()[self.bound.ranges[buffer].clone()]
    }

    /// One step over `tokens`, within the context and the layout; then the last `logits` rows have
    /// [`Engine::logits`]. The tokens belong to `spans`, in order, whose sequences
    /// have their page tables in `tables`.
    ///
    /// # Errors
    /// When the step is larger than the layout.
    pub(crate) fn step(
        &mut self,
        tokens: &[u32],
        spans: &[Span],
        tables: &[Vec<u32>],
        logits: usize,
    ) -> Result<(), SessionError> {
        let c = if let [span] = spans { span.first } else { 0 };
        let step = Bindings { t: tokens.len(), c, r: logits };
        let payload = Arc::clone(&self.payload);
        let program = payload.program();
        debug_assert!(spans.len() == 1 || program.rows_are_apart());
        let bound = self.bound.bind(program, step);
        bound.ok_or(SessionError::TooLarge { tokens: tokens.len() })?;
        for (table, rope) in self.ropes.iter_mut().zip(&program.ropes) {
            table.fill(rope, rows::positions(spans).map(|(position, len)| (position as f32, len)));
        }
        let arena = self.arena.as_mut();
        let ids = &mut arena[self.bound.ranges[program.tokens as usize].clone()];
        for (slot, &token) in ids.iter_mut().zip(tokens) {
            *slot = token as f32;
        }
        let mut machine = Machine {
            payload: &payload,
            kernels: &self.kernels,
            pool: &self.pool,
            arena,
            caches: &mut self.caches,
            bound: &self.bound,
            ropes: &self.ropes,
            step,
            spans,
            tables,
        };
        for item in &program.steps {
            match item {
                Step::Call(call) => machine.call(call, None),
                Step::Repeat(repeat) => {
                    for layer in 0..repeat.count as usize {
                        machine.calls(&repeat.calls, Some((repeat, layer)));
                    }
                }
            }
        }
        Ok(())
    }
}

fn refused(elements: usize, source: std::io::Error) -> SessionError {
    refused_bytes(elements.saturating_mul(4), source)
}

fn refused_bytes(bytes: usize, source: std::io::Error) -> SessionError {
    SessionError::Resource { what: format!("{bytes} bytes of memory"), source }
}
