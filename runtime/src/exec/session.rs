//! A session: one sequence of tokens, its KV caches, and the memory to continue it.

use std::sync::Arc;

use super::engine::{CHUNK, Engine, SessionError, SessionOptions, Wanted};
use crate::kernels::Isa;
use crate::kernels::rows::Span;
use crate::payload::Payload;
use crate::pool::Pool;

/// A running sequence.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    /// All pages, in order: those of the one sequence.
    tables: [Vec<u32>; 1],
    chunk: usize,
    past: usize,
}

impl Session {
    /// A session without tokens.
    ///
    /// # Errors
    /// When the instruction set is not there, or memory or threads are refused.
    pub fn new(payload: Arc<Payload>, options: SessionOptions) -> Result<Self, SessionError> {
        let pages = Engine::pages_of(payload.program().context as usize);
        let mut engine = Engine::new(payload, &options, pages)?;
        let chunk = if options.chunk == 0 { CHUNK } else { options.chunk };
        engine.reserve(chunk, 1)?;
        engine.reserve_scratch(1);
        Ok(Session { engine, tables: [(0..pages as u32).collect()], chunk, past: 0 })
    }

    /// The model.
    pub fn payload(&self) -> &Arc<Payload> {
        self.engine.payload()
    }

    /// Instruction set in use.
    pub fn isa(&self) -> Isa {
        self.engine.isa()
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.pool().threads()
    }

    /// The threads, for measurements.
    pub(crate) fn pool(&self) -> &Pool {
        self.engine.pool()
    }

    /// What computes its steps.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
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
        self.engine.context()
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
        self.engine.check_tokens(tokens)?;
        let (total, context) = (self.past + tokens.len(), self.context());
        if total > context {
            return Err(SessionError::ContextFull { wanted: total, context });
        }
        let whole = self.payload().program().needs_whole_prompt(total);
        let chunk = if whole { tokens.len() } else { self.chunk.min(tokens.len()) };
        self.engine.reserve(chunk, if wanted == Wanted::All { chunk } else { 1 })?;
        let mut left = tokens;
        while !left.is_empty() {
            let (now, rest) = left.split_at(chunk.min(left.len()));
            let rows = match wanted {
                Wanted::All => now.len(),
                Wanted::Last => usize::from(rest.is_empty()),
            };
            let span = Span { sequence: 0, first: self.past, rows: now.len() };
            self.engine.step(now, &[span], &self.tables, rows)?;
            self.past += now.len();
            if wanted == Wanted::All || rest.is_empty() {
                sink(self.engine.logits());
            }
            left = rest;
        }
        Ok(())
    }
}
