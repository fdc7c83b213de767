//! Byte-pair encoding of one word: the pair of the lowest rank is merged until no pair merges.
//!
//! Pairs wait in a heap by rank, then by place; a pair whose symbols have changed since is skipped.
//! O(n log n) for a word of n symbols, because SentencePiece texts are one word. Does not know where
//! merges come from.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What two tokens become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// Lower ranks go first.
    pub(super) rank: u32,
    /// The result.
    pub(super) token: u32,
}

const NONE: usize = usize::MAX;

#[derive(Clone, Copy)]
struct Symbol {
    token: u32,
    /// Neighbours that are left; `NONE` at the ends.
    before: usize,
    after: usize,
    gone: bool,
}

/// Appends the tokens of a word to `out`.
pub(super) fn merge(word: &[u32], find: impl Fn(u32, u32) -> Option<Merge>, out: &mut Vec<u32>) {
    let last = word.len().saturating_sub(1);
    let mut symbols: Vec<Symbol> = word
        .iter()
        .enumerate()
        .map(|(i, &token)| Symbol {
            token,
            before: if i == 0 { NONE } else { i - 1 },
            after: if i == last { NONE } else { i + 1 },
            gone: false,
        })
        .collect();
    let mut queue = BinaryHeap::with_capacity(word.len());
    for (i, pair) in word.windows(2).enumerate() {
        queue.extend(find(pair[0], pair[1]).map(|m| Reverse((m.rank, i, m.token))));
    }
    while let Some(Reverse((_, at, token))) = queue.pop() {
        let left = symbols[at];
        if left.gone || left.after == NONE {
            continue;
        }
        let right = symbols[left.after];
        if find(left.token, right.token).is_none_or(|m| m.token != token) {
            continue;
        }
        symbols[left.after].gone = true;
        symbols[at] = Symbol { token, after: right.after, ..left };
        if let Some(next) = symbols.get_mut(right.after) {
            next.before = at;
        }
        if let Some(previous) = symbols.get(left.before) {
            let found = find(previous.token, token);
            queue.extend(found.map(|m| Reverse((m.rank, left.before, m.token))));
        }
        if let Some(next) = symbols.get(right.after) {
            queue.extend(find(token, next.token).map(|m| Reverse((m.rank, at, m.token))));
        }
    }
    out.extend(symbols.iter().filter(|s| !s.gone).map(|s| s.token));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_rank_goes_first_and_stale_pairs_do_not_merge() {
        // 1+2 -> 12 (rank 1), 2+3 -> 23 (rank 0), 12+3 -> 123 (rank 2).
        let find = |a, b| match (a, b) {
            (1, 2) => Some(Merge { rank: 1, token: 12 }),
            (2, 3) => Some(Merge { rank: 0, token: 23 }),
            (12, 3) => Some(Merge { rank: 2, token: 123 }),
            _ => None,
        };
        let run = |word: &[u32]| {
            let mut out = Vec::new();
            merge(word, find, &mut out);
            out
        };
        assert_eq!(run(&[1, 2, 3]), [1, 23]);
        assert_eq!(run(&[1, 2, 1, 2, 3, 2]), [12, 1, 23, 2]);
        assert_eq!(run(&[1, 2]), [12]);
        assert_eq!(run(&[]), Vec::<u32>::new());
    }
}
