//! A session: one sequence of tokens, its KV caches, and the memory to continue it.

use std::sync::Arc;

use super::bind::Bound;
use super::caches::Caches;
use super::call::Machine;
use crate::kernels::rope::RopeTable;
use crate::kernels::{self, Isa, Kernels};
use crate::mmap::Zeroed;
use crate::payload::Payload;
use crate::pool::Pool;
use crate::program::{Bindings, Step};

/// Tokens of one step of a long prompt: a multiple of what the matrix kernels take at once.
const CHUNK: usize = 96;

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
    /// A size of the program overflows.
    #[error("the program's buffers overflow memory at {tokens} tokens a step")]
    TooLarge {
        /// Tokens of the step.
        tokens: usize,
    },
}

/// A running sequence.
#[derive(Debug)]
pub struct Session {
    payload: Arc<Payload>,
    kernels: Kernels,
    pool: Pool,
    bound: Bound,
    arena: Zeroed,
    caches: Caches,
    ropes: Vec<RopeTable>,
    chunk: usize,
    past: usize,
}

impl Session {
    /// A session without tokens.
    ///
    /// # Errors
    /// When the instruction set is not there, or memory or threads are refused.
    pub fn new(payload: Arc<Payload>, options: SessionOptions) -> Result<Self, SessionError> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        let kernels = Kernels::new(isa).ok_or(SessionError::Isa(isa))?;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let pool = if options.pin { Pool::pinned(threads) } else { Pool::new(threads) };
        let pool = pool.map_err(|source| SessionError::Resource {
            what: format!("{threads} threads"),
            source,
        })?;
        let program = payload.program();
        let width = program.caches.iter().map(|c| c.width as usize).max().unwrap_or(0);
        let (floats, bytes) = kernels::decode_scratch(QUERY_HEADS, width);
        pool.reserve_scratch(floats, bytes);
        let caches = Caches::new(program).map_err(|(bytes, e)| refused_bytes(bytes, e))?;
        let chunk = if options.chunk == 0 { CHUNK } else { options.chunk };
        let ropes = vec![RopeTable::default(); program.ropes.len()];
        let mut session = Session {
            payload,
            kernels,
            pool,
            bound: Bound::default(),
            arena: Zeroed::new(0).map_err(|e| refused(0, e))?,
            caches,
            ropes,
            chunk,
            past: 0,
        };
        session.reserve(session.chunk, 1)?;
        Ok(session)
    }

    /// The model.
    pub fn payload(&self) -> &Arc<Payload> {
        &self.payload
    }

    /// Instruction set in use.
    pub fn isa(&self) -> Isa {
        self.kernels.isa
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The threads, for measurements.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.past
    }

    /// Whether the cache holds no token.
    pub fn is_empty(&self) -> bool {
        self.past == 0
    }

    /// Positions the sequence may have.
    pub fn context(&self) -> usize {
        self.payload.program().context as usize
    }

    /// Forgets all tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.past = self.past.min(len);
    }

    /// Continues the sequence by `tokens`, in steps of at most the chunk size, and hands the wanted
    /// logits to `sink`, in order: `f32[rows, vocab]` row-major, one call per step that has any.
    ///
    /// # Errors
    /// Before anything is computed: no tokens, an unknown token, a full context, no memory.
    pub fn feed(
        &mut self,
        tokens: &[u32],
        wanted: Wanted,
        sink: &mut dyn FnMut(&[f32]),
    ) -> Result<(), SessionError> {
        let (vocab, context) = (self.payload.program().vocab, self.context());
        if tokens.is_empty() {
            return Err(SessionError::NoTokens);
        }
        if let Some(&token) = tokens.iter().find(|&&t| t >= vocab) {
            return Err(SessionError::Token { token, vocab });
        }
        let total = self.past + tokens.len();
        if total > context {
            return Err(SessionError::ContextFull { wanted: total, context });
        }
        let whole = self.payload.program().needs_whole_prompt(total);
        let chunk = if whole { tokens.len() } else { self.chunk.min(tokens.len()) };
        self.reserve(chunk, if wanted == Wanted::All { chunk } else { 1 })?;
        let mut left = tokens;
        while !left.is_empty() {
            let (now, rest) = left.split_at(chunk.min(left.len()));
            let rows = match wanted {
                Wanted::All => now.len(),
                Wanted::Last => usize::from(rest.is_empty()),
            };
            let logits = self.step(now, rows)?;
            if wanted == Wanted::All || rest.is_empty() {
                sink(logits);
            }
            left = rest;
        }
        Ok(())
    }

    /// Lays the arena out for steps of `tokens` with logits of `rows`, if it is not.
    fn reserve(&mut self, tokens: usize, rows: usize) -> Result<(), SessionError> {
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

    /// One step, within the context and the layout; returns the logits.
    fn step(&mut self, tokens: &[u32], rows: usize) -> Result<&[f32], SessionError> {
        let step = Bindings { t: tokens.len(), c: self.past, r: rows };
        let payload = Arc::clone(&self.payload);
        let program = payload.program();
        let bound = self.bound.bind(program, step);
        bound.ok_or(SessionError::TooLarge { tokens: tokens.len() })?;
        for (table, rope) in self.ropes.iter_mut().zip(&program.ropes) {
            let positions = (step.c..step.c + step.t).map(|p| p as f32);
            table.fill(rope, positions, step.c + step.t);
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
        self.past += tokens.len();
        Ok(&self.arena.as_ref()[self.bound.ranges[program.logits as usize].clone()])
    }
}

fn refused(elements: usize, source: std::io::Error) -> SessionError {
    refused_bytes(elements.saturating_mul(4), source)
}

fn refused_bytes(bytes: usize, source: std::io::Error) -> SessionError {
    SessionError::Resource { what: format!("{bytes} bytes of memory"), source }
}
