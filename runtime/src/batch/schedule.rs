//! Who begins, and whose rows a step takes.

use std::ops::Range;
use std::time::Instant;

use super::pages::WORTH_SHARING;
use super::{Batch, Plan, Running};
use crate::kernels::kv::PAGE;
use crate::kernels::rows::Span;
use crate::sample::Sampler;

/// Rows of prompts that a step takes at least, however many sequences write.
const PROMPT_ROWS_MIN: usize = 24;

/// Most rows of a step, but for prompts that must be computed whole.
pub(super) fn rows_max(chunk: usize, parallel: usize) -> usize {
    chunk.max(parallel.saturating_add(PROMPT_ROWS_MIN))
}

/// How many tokens two texts begin with.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Plan {
    /// Appends rows; behind rows of the same sequence they make those longer.
    fn push(&mut self, sequence: usize, first: usize, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        match self.spans.last_mut() {
            Some(last) if last.sequence == sequence && last.end() == first => {
                last.rows += tokens.len();
            }
            _ => self.spans.push(Span { sequence, first, rows: tokens.len() }),
        }
    }
}

impl Batch {
    /// Gives those who wait a place while there is one. Nobody overtakes.
    pub(super) fn admit(&mut self) {
        while let (Some((request, _)), Some(&slot)) = (self.waiting.front(), self.free_slots.last())
        {
            let promised = self.pages_for(request);
            if !self.pages.promise(promised) {
                return;
            }
            self.free_slots.pop();
            let Some((request, asked)) = self.waiting.pop_front() else { return };
            let program = self.engine.payload().program();
            let mut tokens = request.prompt;
            let prompt = tokens.len();
            // Room for the whole text: no later push allocates.
            tokens.reserve_exact(request.limit.min(self.engine.context() + 1 - prompt));
            self.running.push(Running {
                id: request.id,
                slot,
                tokens,
                prompt,
                cached: 0,
                shared: 0,
                promised,
                shares: !program.needs_whole_prompt(prompt),
                limit: request.limit,
                stop_tokens: request.stop_tokens,
                sampler: Sampler::new(request.sampling, program.vocab as usize),
                row: None,
                chosen: Ok(0),
                asked,
                begun: None,
                first: None,
            });
        }
    }

    /// Plans a step of these running sequences: one token of each that writes, and prompts with the
    /// rows that are left. Rows with logits come last.
    pub(super) fn plan_step(&mut self, who: Range<usize>) {
        self.plan.tokens.clear();
        self.plan.spans.clear();
        self.plan.logits = 0;
        let writing = self.running[who.clone()].iter().filter(|s| s.pending() == 1).count();
        let least = PROMPT_ROWS_MIN.min(self.chunk);
        let mut left = self.chunk.saturating_sub(writing).max(least);
        for i in who.clone() {
            let take = self.take_of_prompt(i, left);
            left = left.saturating_sub(take);
            let sequence = &mut self.running[i];
            let (first, pending) = (sequence.cached, sequence.pending());
            sequence.row = (take > 0 && take == pending).then_some(0);
            let (slot, before) = (sequence.slot, take.min(pending - 1));
            self.make_room(i, first + take);
            if before > 0 {
                let tokens = &self.running[i].tokens[first..first + before];
                self.plan.push(slot, first, tokens);
            }
        }
        for sequence in &mut self.running[who] {
            if let Some(row) = &mut sequence.row {
                *row = self.plan.logits;
                self.plan.logits += 1;
                let first = sequence.tokens.len() - 1;
                self.plan.push(sequence.slot, first, &sequence.tokens[first..]);
            }
        }
    }

    /// How many rows sequence `i` takes, when prompts have `left`.
    fn take_of_prompt(&mut self, i: usize, left: usize) -> usize {
        if self.running[i].pending() == 1 && self.running[i].begun.is_some() {
            return 1;
        }
        let program = self.engine.payload().program();
        if program.needs_whole_prompt(self.running[i].tokens.len()) {
            // The step grows for it; one such prompt a step.
            self.running[i].begun.get_or_insert_with(Instant::now);
            return if left > 0 { self.running[i].pending() } else { 0 };
        }
        if left == 0 || self.running[i].begun.is_none() && !self.begin(i) {
            return 0;
        }
        self.running[i].pending().min(left)
    }

    /// Begins sequence `i` with what pages hold of its prompt; not while one before it computes
    /// what it could share.
    fn begin(&mut self, i: usize) -> bool {
        let (earlier, rest) = self.running.split_at_mut(i);
        let sequence = &mut rest[0];
        // At least one token must be computed for its logits.
        let prompt = &sequence.tokens[..sequence.prompt - 1];
        if sequence.shares {
            let held = self.pages.held(prompt);
            let worth = |other: &Running| {
                let computing = other.shares && other.cached < other.prompt;
                computing && common(&other.tokens, prompt) >= held + WORTH_SHARING
            };
            if earlier.iter().any(worth) {
                return false;
            }
            let table = &mut self.tables[sequence.slot];
            let (shared, copied) = self.pages.adopt(prompt, table);
            sequence.promised -= table.len();
            sequence.cached = shared;
            sequence.shared = shared;
            if let (Some(from), Some(&to)) = (copied, table.last()) {
                self.engine.copy_page(from, to);
            }
        }
        sequence.begun = Some(Instant::now());
        true
    }

    /// Pages for the first `len` tokens of sequence `i`.
    fn make_room(&mut self, i: usize, len: usize) {
        let sequence = &mut self.running[i];
        let table = &mut self.tables[sequence.slot];
        while table.len() * PAGE < len {
            self.pages.take(table);
            sequence.promised -= 1;
        }
    }

    /// After a step: sequences and pages have what it computed.
    pub(super) fn note_cached(&mut self) {
        for span in &self.plan.spans {
            let here = |s: &&mut Running| s.slot == span.sequence;
            let Some(sequence) = self.running.iter_mut().find(here) else { continue };
            sequence.cached = span.end();
            let table = &self.tables[span.sequence];
            let mut at = if sequence.shares { span.first } else { span.end() };
            while at < span.end() {
                let end = span.end().min((at / PAGE + 1) * PAGE);
                self.pages.note(table[at / PAGE], &sequence.tokens[at..end]);
                at = end;
            }
        }
    }
}
