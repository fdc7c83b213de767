//! Congruence closure: terms are equal when a step says so, or when their heads are and their operands.
//!
//! Union-find with the table of signatures (Downey, Sethi and Tarjan, 1980). Sound by construction: a
//! merge happens for one of these two reasons only.

use std::collections::BTreeMap;

use crate::term::Term;

/// Classes of equal terms.
pub(crate) struct Closure {
    root: Vec<usize>,
    members: Vec<Vec<usize>>,
    /// Terms that read a class, by its root.
    readers: Vec<Vec<usize>>,
    heads: Vec<usize>,
    operands: Vec<Vec<usize>>,
    signatures: BTreeMap<(usize, Vec<usize>), usize>,
}

impl Closure {
    pub(crate) fn new(terms: &[Term]) -> Closure {
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut closure = Closure {
            root: (0..terms.len()).collect(),
            members: (0..terms.len()).map(|i| vec![i]).collect(),
            readers: vec![Vec::new(); terms.len()],
            heads: Vec::with_capacity(terms.len()),
            operands: terms.iter().map(|t| t.operands.clone()).collect(),
            signatures: BTreeMap::new(),
        };
        for (i, term) in terms.iter().enumerate() {
            let next = numbers.len();
            closure.heads.push(*numbers.entry(&term.text).or_insert(next));
            term.operands.iter().for_each(|&o| closure.readers[o].push(i));
        }
        for i in 0..terms.len() {
            let first = *closure.signatures.entry(closure.signature(i)).or_insert(i);
            // The same term written twice.
            closure.merge(first, i);
        }
        closure
    }

    pub(crate) fn same(&self, a: usize, b: usize) -> bool {
        self.root[a] == self.root[b]
    }

    fn signature(&self, term: usize) -> (usize, Vec<usize>) {
        (self.heads[term], self.operands[term].iter().map(|&o| self.root[o]).collect())
    }

    /// Makes two terms equal, and all that follows.
    pub(crate) fn merge(&mut self, a: usize, b: usize) {
        let mut pending = vec![(a, b)];
        while let Some((a, b)) = pending.pop() {
            let (mut small, mut large) = (self.root[a], self.root[b]);
            if small == large {
                continue;
            }
            if self.members[small].len() > self.members[large].len() {
                std::mem::swap(&mut small, &mut large);
            }
            let moved = std::mem::take(&mut self.members[small]);
            moved.iter().for_each(|&m| self.root[m] = large);
            self.members[large].extend(moved);
            let readers = std::mem::take(&mut self.readers[small]);
            for &reader in &readers {
                let other = *self.signatures.entry(self.signature(reader)).or_insert(reader);
                if !self.same(other, reader) {
                    pending.push((other, reader));
                }
            }
            self.readers[large].extend(readers);
        }
    }
}
