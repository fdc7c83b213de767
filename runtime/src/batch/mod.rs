//! Several sequences at once: whoever waits begins as soon as one ends (continuous batching).
//!
//! A step takes the next token of every sequence that writes, and with what is left of its rows the
//! prompts of those that begin, in order; so a long prompt delays others by a step's time, not its
//! own (Yu et al., "Orca", OSDI 2022; Agrawal et al., arXiv 2403.02310). KV caches are cut into pages
//! that sequences with a common beginning share (Kwon et al., "PagedAttention", SOSP 2023).
//!
//! Invariant: the text of a request does not depend on what runs beside it, only on the model and the
//! request; and the order of everything follows from the order of the requests. What a sequence can
//! need of memory is set aside before it begins. A step of sequences that write allocates nothing.

mod pages;
mod schedule;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::exec::{CHUNK, Engine, Session, SessionError, SessionOptions};
use crate::generate::StopReason;
use crate::kernels::kv::PAGE;
use crate::kernels::rows::Span;
use crate::payload::Payload;
use crate::program::Program;
use crate::sample::{NoDistribution, Sampler, Sampling};
use pages::Pages;

/// How many, and in how much memory.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions {
    /// Threads, instruction set, most rows of prompts in a step.
    pub session: SessionOptions,
    /// Most sequences at once.
    pub parallel: usize,
    /// Most bytes of KV caches; 0 for as many as `parallel` whole contexts take.
    pub kv_bytes: u64,
}

/// A text to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// The caller's number for it.
    pub id: u64,
    /// What to continue.
    pub prompt: Vec<u32>,
    /// Most tokens.
    pub limit: usize,
    /// How to choose them.
    pub sampling: Sampling,
    /// Tokens that end the text.
    pub stop_tokens: Vec<u32>,
}

/// A token that was chosen.
#[derive(Clone, Copy, Debug)]
pub struct NewToken<'a> {
    /// Number of the request.
    pub id: u64,
    /// The token.
    pub token: u32,
    /// What it was chosen from: `f32[vocab]`.
    pub logits: &'a [f32],
}

/// Takes tokens as they are chosen; may end their text.
pub type TokenSink<'a> = dyn FnMut(NewToken<'_>) -> ControlFlow<()> + 'a;

/// A text that ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The caller's number for it.
    pub id: u64,
    /// Prompt and text, a stop token included.
    pub tokens: Vec<u32>,
    /// Of these, tokens of the prompt.
    pub prompt: usize,
    /// Of these, tokens that were found in pages of other sequences.
    pub shared: usize,
    /// Why it ended.
    pub stop: StopReason,
    /// From the request to its first row.
    pub waited: Duration,
    /// From there to the first token.
    pub first_token: Duration,
    /// From there to the end.
    pub rest: Duration,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// As a session would refuse it, or fail at it.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// It would never get the memory it may need.
    #[error(
        "{tokens} tokens of prompt and text need {wanted} bytes of KV cache, but the budget is {budget}"
    )]
    KvBudget {
        /// Tokens of prompt and text.
        tokens: usize,
        /// Bytes they take.
        wanted: u64,
        /// Bytes there are.
        budget: u64,
    },
}

/// A sequence that has its place.
#[derive(Debug)]
struct Running {
    id: u64,
    /// Its page table.
    slot: usize,
    /// Prompt and text.
    tokens: Vec<u32>,
    prompt: usize,
    /// Tokens whose keys and values are there.
    cached: usize,
    shared: usize,
    /// Pages promised and not taken.
    promised: usize,
    /// Whether its pages may be shared.
    shares: bool,
    limit: usize,
    stop_tokens: Vec<u32>,
    sampler: Sampler,
    /// Its row of this step's logits.
    row: Option<usize>,
    chosen: Result<u32, NoDistribution>,
    asked: Instant,
    begun: Option<Instant>,
    first: Option<Instant>,
}

/// Pages that the options allow.
fn pages_of(payload: &Payload, options: &BatchOptions) -> usize {
    let program = payload.program();
    let most = options.parallel.max(1) * Engine::pages_of(program.context as usize);
    match options.kv_bytes {
        0 => most,
        bytes => usize::try_from(bytes / page_bytes(program)).unwrap_or(most).min(most),
    }
}

/// Bytes of a page of all caches.
fn page_bytes(program: &Program) -> u64 {
    let token_bytes: u64 = program.caches.iter().map(|c| c.bytes_per_token()).sum();
    (token_bytes * PAGE as u64).max(1)
}

impl Running {
    /// Tokens to compute before the next can be chosen.
    fn pending(&self) -> usize {
        self.tokens.len() - self.cached
    }
}

/// What one step computes.
#[derive(Debug, Default)]
struct Plan {
    tokens: Vec<u32>,
    spans: Vec<Span>,
    /// Rows at the end that get logits.
    logits: usize,
}

/// Runs requests.
#[derive(Debug)]
pub struct Batch {
    engine: Engine,
    pages: Pages,
    /// Page tables, by slot.
    tables: Vec<Vec<u32>>,
    /// In order of arrival.
    running: Vec<Running>,
    waiting: VecDeque<(Request, Instant)>,
    free_slots: Vec<usize>,
    plan: Plan,
    /// Whether sequences can share a step.
    mixes: bool,
    chunk: usize,
    parallel: usize,
    page_bytes: u64,
}

impl Batch {
    /// Nothing to do yet.
    ///
    /// # Errors
    /// When the instruction set is not there, or memory or threads are refused.
    pub fn new(payload: Arc<Payload>, options: BatchOptions) -> Result<Batch, SessionError> {
        let pages = pages_of(&payload, &options);
        let engine = Engine::new(payload, &options.session, pages)?;
        Batch::on(engine, pages, options)
    }

    /// A batch on the threads of a session, which must rest meanwhile; of the options for sessions
    /// only the rows of prompts count.
    ///
    /// # Errors
    /// When memory is refused.
    pub fn beside(session: &Session, options: BatchOptions) -> Result<Batch, SessionError> {
        let pages = pages_of(session.payload(), &options);
        Batch::on(session.engine().beside(pages)?, pages, options)
    }

    fn on(mut engine: Engine, pages: usize, options: BatchOptions) -> Result<Batch, SessionError> {
        let parallel = options.parallel.max(1);
        let chunk = if options.session.chunk == 0 { CHUNK } else { options.session.chunk };
        let rows = schedule::rows_max(chunk, parallel);
        engine.reserve(rows, parallel)?;
        engine.reserve_scratch(parallel);
        let plan = Plan {
            tokens: Vec::with_capacity(rows),
            spans: Vec::with_capacity(2 * parallel),
            logits: 0,
        };
        let program = engine.payload().program();
        let (mixes, page_bytes) = (program.rows_are_apart(), page_bytes(program));
        let table_len = Engine::pages_of(engine.context());
        Ok(Batch {
            engine,
            pages: Pages::new(pages),
            // A clone of a vector has no more room than it needs.
            tables: (0..parallel).map(|_| Vec::with_capacity(table_len)).collect(),
            running: Vec::with_capacity(parallel),
            waiting: VecDeque::new(),
            free_slots: (0..parallel).rev().collect(),
            plan,
            mixes,
            chunk,
            parallel,
            page_bytes,
        })
    }

    /// Bytes of KV cache that one whole context takes.
    pub fn kv_bytes_of(program: &Program) -> u64 {
        Engine::pages_of(program.context as usize) as u64 * page_bytes(program)
    }

    /// The model.
    pub fn payload(&self) -> &Arc<Payload> {
        self.engine.payload()
    }

    /// Sequences that are not finished.
    pub fn pending(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    /// Most sequences at once.
    pub fn parallel(&self) -> usize {
        self.parallel
    }

    /// Bytes of KV caches in use, and of these, in use by several sequences.
    pub fn kv_bytes(&self) -> [u64; 2] {
        [self.pages.used(), self.pages.shared()].map(|pages| pages as u64 * self.page_bytes)
    }

    /// Takes a request on: it begins when there is room, in the order of the requests.
    ///
    /// # Errors
    /// When it can never run: no tokens, unknown ones, or more than context or budget allow.
    pub fn push(&mut self, request: Request) -> Result<(), BatchError> {
        self.engine.check_tokens(&request.prompt)?;
        let (wanted, context) = (request.prompt.len(), self.engine.context());
        if wanted > context {
            return Err(SessionError::ContextFull { wanted, context }.into());
        }
        let pages = self.pages_for(&request);
        if pages > self.pages.count() {
            return Err(BatchError::KvBudget {
                tokens: wanted.saturating_add(request.limit).min(context),
                wanted: pages as u64 * self.page_bytes,
                budget: self.pages.count() as u64 * self.page_bytes,
            });
        }
        self.waiting.push_back((request, Instant::now()));
        Ok(())
    }

    /// The pages that a request may need. The last token of a text needs no place.
    fn pages_for(&self, request: &Request) -> usize {
        let most = request.prompt.len().saturating_add(request.limit.saturating_sub(1));
        Engine::pages_of(most.min(self.engine.context()))
    }

    /// One step of all that run. Every new token but those that end a text goes to `sink`. What ended
    /// is added to `finished`.
    ///
    /// # Errors
    /// When memory is refused.
    pub fn step(
        &mut self,
        sink: &mut TokenSink<'_>,
        finished: &mut Vec<Finished>,
    ) -> Result<(), SessionError> {
        self.admit();
        if self.mixes {
            self.plan_step(0..self.running.len());
            return self.run_plan(sink, finished);
        }
        // Each alone. Who ends leaves the list.
        let (mut i, all) = (0, self.running.len());
        for _ in 0..all {
            let before = self.running.len();
            self.plan_step(i..i + 1);
            self.run_plan(sink, finished)?;
            i += usize::from(self.running.len() == before);
        }
        Ok(())
    }

    /// Computes the plan and lets the sequences that have logits choose.
    fn run_plan(
        &mut self,
        sink: &mut TokenSink<'_>,
        finished: &mut Vec<Finished>,
    ) -> Result<(), SessionError> {
        let Plan { tokens, spans, logits } = &self.plan;
        if tokens.is_empty() {
            return Ok(());
        }
        self.engine.reserve(tokens.len(), *logits)?;
        self.engine.step(tokens, spans, &self.tables, *logits)?;
        self.note_cached();
        let vocab = self.payload().program().vocab as usize;
        let logits = self.engine.logits();
        let work = vocab * self.plan.logits;
        self.engine.pool().split(&mut self.running, 1, work, &|_, running, _| {
            for sequence in running {
                if let Some(row) = sequence.row {
                    sequence.chosen = sequence.sampler.choose(&logits[row * vocab..][..vocab]);
                }
            }
        });
        let mut i = 0;
        while i < self.running.len() {
            let row = self.running[i].row.take();
            match row.and_then(|row| self.grow(i, row, sink)) {
                Some(stop) => finished.push(self.end(i, stop)),
                None => i += 1,
            }
        }
        Ok(())
    }

    /// Appends the token that was chosen; says whether the text ends, as `Generator::generate` does.
    fn grow(&mut self, i: usize, row: usize, sink: &mut TokenSink<'_>) -> Option<StopReason> {
        let context = self.engine.context();
        let sequence = &mut self.running[i];
        if sequence.limit == 0 {
            return Some(StopReason::Length);
        }
        let token = match sequence.chosen {
            Ok(token) => token,
            Err(found) => return Some(StopReason::NoDistribution(found)),
        };
        sequence.first.get_or_insert_with(Instant::now);
        sequence.tokens.push(token);
        if sequence.stop_tokens.contains(&token) {
            return Some(StopReason::StopToken);
        }
        let vocab = self.engine.payload().program().vocab as usize;
        let logits = &self.engine.logits()[row * vocab..][..vocab];
        if sink(NewToken { id: sequence.id, token, logits }).is_break() {
            return Some(StopReason::Cancelled);
        }
        if sequence.tokens.len() - sequence.prompt >= sequence.limit {
            return Some(StopReason::Length);
        }
        (sequence.cached == context).then_some(StopReason::ContextFull)
    }

    /// Gives up the place of a sequence.
    fn end(&mut self, i: usize, stop: StopReason) -> Finished {
        let sequence = self.running.remove(i);
        let table = &mut self.tables[sequence.slot];
        self.pages.release(table, sequence.promised);
        table.clear();
        self.free_slots.push(sequence.slot);
        let now = Instant::now();
        let begun = sequence.begun.unwrap_or(now);
        let first = sequence.first.unwrap_or(now);
        Finished {
            id: sequence.id,
            tokens: sequence.tokens,
            prompt: sequence.prompt,
            shared: sequence.shared,
            stop,
            waited: begun - sequence.asked,
            first_token: first - begun,
            rest: now - first,
        }
    }
}
