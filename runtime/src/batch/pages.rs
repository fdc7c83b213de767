//! Which pages of the KV caches are whose, and what they hold.
//!
//! A page is in use by any number of sequences, or by none. One that is full never changes, so
//! sequences that begin alike have it in common; the last, which grows, belongs to one alone, and
//! another one starts from a copy. A page that nobody uses any more keeps what it holds until it is
//! needed: the one unused for longest goes first.
//!
//! Invariant: at least as many pages are unused as are promised to running sequences and not taken;
//! so a sequence that was admitted never lacks one. Does not touch the caches.

use crate::kernels::kv::PAGE;

/// Tokens that are worth copying a page for, or waiting a step, rather than computing them.
pub(super) const WORTH_SHARING: usize = 16;

/// What a page holds. Pages that follow each other form chains: with the tokens before it, a page
/// holds the keys and values of one beginning of a text.
#[derive(Clone, Debug, Default)]
struct Page {
    /// Which chain: a number given once. 0 while the page holds nothing.
    serial: u64,
    /// Serial of the page before it; 0 at the start of a text.
    before: u64,
    /// The tokens whose keys and values it has.
    tokens: Vec<u32>,
    /// Sequences that have it in their tables.
    users: usize,
    /// When it was last given up; what follows in a chain is given up earlier.
    unused_since: u64,
}

/// All pages.
#[derive(Debug)]
pub(super) struct Pages {
    pages: Vec<Page>,
    unused: usize,
    promised: usize,
    /// Serials given so far; also the clock.
    clock: u64,
}

impl Pages {
    /// `count` empty pages.
    pub(super) fn new(count: usize) -> Pages {
        let empty = Page { tokens: Vec::with_capacity(PAGE), ..Page::default() };
        let mut pages = vec![empty; count];
        // A clone has no more room than it needs.
        pages.iter_mut().for_each(|p| p.tokens.reserve_exact(PAGE));
        Pages { pages, unused: count, promised: 0, clock: 0 }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.pages.len()
    }

    /// Promises `count` pages to a sequence, if there will be as many.
    pub(super) fn promise(&mut self, count: usize) -> bool {
        let fits = count <= self.unused - self.promised;
        self.promised += if fits { count } else { 0 };
        fits
    }

    /// The sequence ends: `left` of the pages promised to it were never taken, and nobody but those
    /// who share them uses the pages of its table any more.
    pub(super) fn release(&mut self, table: &[u32], left: usize) {
        self.promised -= left;
        // The end of a chain is of no use without its beginning: it goes first.
        for &id in table.iter().rev() {
            self.clock += 1;
            let page = &mut self.pages[id as usize];
            page.users -= 1;
            page.unused_since = self.clock;
            self.unused += usize::from(page.users == 0);
        }
    }

    /// An empty page at the end of a table, of those promised.
    pub(super) fn take(&mut self, table: &mut Vec<u32>) {
        let unused = self.pages.iter().zip(0u32..).filter(|(page, _)| page.users == 0);
        let oldest = unused.min_by_key(|(page, id)| (page.unused_since, *id));
        let (_, id) = oldest.expect("a page was promised");
        self.clock += 1;
        let before = table.last().map_or(0, |&last| self.pages[last as usize].serial);
        let page = &mut self.pages[id as usize];
        page.tokens.clear();
        (page.serial, page.before, page.users) = (self.clock, before, 1);
        self.unused -= 1;
        self.promised -= 1;
        table.push(id);
    }

    /// Fills an empty table with pages that hold the beginning of `tokens`. Returns how many of them
    /// they hold, and the page that the last is to become a copy of, where it is not shared.
    pub(super) fn adopt(&mut self, tokens: &[u32], table: &mut Vec<u32>) -> (usize, Option<u32>) {
        let (mut held, mut before) = (0, 0);
        while let Some((id, same)) = self.find(before, &tokens[held..]) {
            if same < PAGE {
                return self.adopt_part(id, same, held, table);
            }
            let page = &mut self.pages[id as usize];
            self.unused -= usize::from(page.users == 0);
            page.users += 1;
            before = page.serial;
            self.promised -= 1;
            table.push(id);
            held += PAGE;
        }
        (held, None)
    }

    /// A page of the table's own in place of the first `same` tokens of page `id`.
    fn adopt_part(
        &mut self,
        id: u32,
        same: usize,
        held: usize,
        table: &mut Vec<u32>,
    ) -> (usize, Option<u32>) {
        // The page to copy must not be the one that is taken.
        let page = &mut self.pages[id as usize];
        let was_unused = usize::from(page.users == 0);
        if self.unused == was_unused {
            return (held, None);
        }
        page.users += 1;
        self.unused -= was_unused;
        self.take(table);
        self.pages[id as usize].users -= 1;
        self.unused += was_unused;
        let copy = *table.last().expect("just taken") as usize;
        let tokens = std::mem::take(&mut self.pages[id as usize].tokens);
        self.pages[copy].tokens.extend_from_slice(&tokens[..same]);
        self.pages[id as usize].tokens = tokens;
        (held + same, Some(id))
    }

    /// How many of `tokens`, the beginning of a text, pages hold.
    pub(super) fn held(&self, tokens: &[u32]) -> usize {
        let (mut held, mut before) = (0, 0);
        while let Some((id, same)) = self.find(before, &tokens[held..]) {
            held += same;
            if same < PAGE {
                break;
            }
            before = self.pages[id as usize].serial;
        }
        held
    }

    /// The page behind `before` that has the most of the first tokens, where they are worth it, and
    /// how many.
    fn find(&self, before: u64, tokens: &[u32]) -> Option<(u32, usize)> {
        let mut best = None;
        for (page, id) in self.pages.iter().zip(0..) {
            if page.serial == 0 || page.before != before {
                continue;
            }
            let same = page.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            if same > best.map_or(WORTH_SHARING - 1, |(_, most)| most) {
                best = Some((id, same));
            }
        }
        best
    }

    /// The page now holds these tokens too.
    pub(super) fn note(&mut self, id: u32, tokens: &[u32]) {
        self.pages[id as usize].tokens.extend_from_slice(tokens);
    }

    /// Pages in use by more than one sequence.
    pub(super) fn shared(&self) -> usize {
        self.pages.iter().filter(|page| page.users > 1).count()
    }

    /// Pages in use.
    pub(super) fn used(&self) -> usize {
        self.pages.len() - self.unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::Rng;

    fn text(n: usize, seed: usize) -> Vec<u32> {
        (0..n).map(|i| (i * 7 + seed) as u32).collect()
    }

    /// A sequence over `tokens`: its table, and how many tokens it found.
    fn begin(pages: &mut Pages, tokens: &[u32]) -> (Vec<u32>, usize) {
        assert!(pages.promise(tokens.len().div_ceil(PAGE)));
        let mut table = Vec::new();
        let (held, _) = pages.adopt(&tokens[..tokens.len() - 1], &mut table);
        let mut at = held;
        while at < tokens.len() {
            if at % PAGE == 0 {
                pages.take(&mut table);
            }
            let end = tokens.len().min((at / PAGE + 1) * PAGE);
            pages.note(table[at / PAGE], &tokens[at..end]);
            at = end;
        }
        (table, held)
    }

    #[test]
    fn full_pages_are_shared_and_the_last_is_copied() {
        let mut pages = Pages::new(10);
        let a = text(300, 0);
        let (first, held) = begin(&mut pages, &a);
        assert_eq!((first.len(), held), (3, 0));
        let mut b = a[..280].to_vec();
        b.extend(text(20, 900));
        let (second, held) = begin(&mut pages, &b);
        assert_eq!((&second[..2], held), (&first[..2], 280));
        assert_ne!(second[2], first[2]);
        assert_eq!((pages.used(), pages.shared()), (4, 2));
        // The very same text: one token is left to compute.
        let (third, held) = begin(&mut pages, &a);
        assert_eq!((&third[..2], held), (&first[..2], 299));
        for table in [&first, &second, &third] {
            pages.release(table, 0);
        }
        assert_eq!((pages.used(), pages.shared()), (0, 0));
        let (fourth, held) = begin(&mut pages, &a);
        assert_eq!((&fourth[..2], held), (&first[..2], 299), "pages outlive their users");
    }

    #[test]
    fn promises_are_kept_and_old_pages_go_first() {
        let mut pages = Pages::new(4);
        let (old, _) = begin(&mut pages, &text(256, 0));
        pages.release(&old, 0);
        let (young, _) = begin(&mut pages, &text(256, 5000));
        pages.release(&young, 0);
        assert!(!pages.promise(5));
        assert!(pages.promise(3));
        assert!(!pages.promise(2), "three of four are promised");
        let mut table = Vec::new();
        pages.take(&mut table);
        assert_eq!(table, [old[1]], "the end of the oldest text");
        assert_eq!(pages.held(&text(256, 0)), PAGE);
        pages.take(&mut table);
        assert_eq!(pages.held(&text(256, 0)), 0);
        assert_eq!(pages.held(&text(256, 5000)), 256);
        pages.release(&table, 1);
        assert!(pages.promise(4));
    }

    #[test]
    fn what_is_found_is_what_was_written() {
        // A model of the caches: the tokens that each page's positions were written for.
        let mut rng = Rng::new(5);
        let mut pages = Pages::new(12);
        let mut memory = vec![vec![(0u32, 0usize); PAGE]; 12];
        let mut running: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
        let mut found = 0;
        for _ in 0..3000 {
            if rng.below(2) == 0 && !running.is_empty() {
                let (table, tokens) = running.remove(rng.below(running.len()));
                for (i, &token) in tokens.iter().enumerate() {
                    let slot = memory[table[i / PAGE] as usize][i % PAGE];
                    assert_eq!(slot, (token, i), "somebody wrote there");
                }
                pages.release(&table, 0);
                continue;
            }
            let mut tokens = text(rng.below(3) * PAGE, rng.below(2));
            tokens.extend(text(1 + rng.below(200), 3000 + rng.below(3)));
            let count = tokens.len().div_ceil(PAGE);
            if !pages.promise(count) {
                continue;
            }
            let mut table = Vec::new();
            let (held, copied) = pages.adopt(&tokens[..tokens.len() - 1], &mut table);
            found += held;
            if let Some(from) = copied {
                memory[*table.last().unwrap() as usize] = memory[from as usize].clone();
            }
            for (i, &token) in tokens.iter().enumerate().skip(held) {
                if i / PAGE == table.len() {
                    pages.take(&mut table);
                }
                memory[table[i / PAGE] as usize][i % PAGE] = (token, i);
                pages.note(table[i / PAGE], &[token]);
            }
            running.push((table, tokens));
            let used: std::collections::BTreeSet<u32> =
                running.iter().flat_map(|(table, _)| table.iter().copied()).collect();
            assert_eq!(pages.used(), used.len());
        }
        assert!(found > 10_000, "{found}");
    }
}
