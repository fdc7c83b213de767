//! Templates: what one distinct block does on a rectangle of PEs, for any number of regions.
//!
//! Invariant of a legal plan: in each phase every position is covered by exactly one role.

use serde::{Deserialize, Serialize};

use crate::buffer::Buffer;
use crate::index::Predicate;
use crate::pin::{Pin, WeightUse};
use crate::program::{Instr, Len};
use crate::route::Route;

/// The program, memory map, weights and routes of one distinct block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// Unique name, e.g. `layer`, `embedding`.
    pub name: String,
    /// Columns of every region of this template.
    pub width: u32,
    /// Rows of every region of this template.
    pub height: u32,
    /// (cw, ch): see [`crate::index`]. Both at least 1.
    pub cell: (u32, u32),
    /// Weights that pins refer to by index.
    pub weights: Vec<WeightUse>,
    /// SRAM map, the same on every PE.
    pub buffers: Vec<Buffer>,
    /// Which weight slices lie where.
    pub pins: Vec<Pin>,
    /// Static routes, valid in all phases.
    pub routes: Vec<Route>,
    /// The KV cache's distribution, when the block has one.
    pub kv: Option<KvLayout>,
    /// What is done for each token, in order. At least one.
    pub phases: Vec<Phase>,
}

/// How cached tokens are spread over the PEs of a region.
///
/// Lane n of `columns * rows` lanes is column `n / rows` of every cell (template column mod cw), or every
/// column when `columns` is 1, in row `first_row + n % rows`. Token t belongs to lane `t % lanes` and lies in
/// slot `(t / lanes) % slots` there. With one column a row's PEs share its tokens and each holds
/// some elements of a head; with several each PE has tokens of its own. The token at `pos` attends to tokens `pos+1-window ..= pos`
/// (all from 0 without a window). Without a window `lanes * slots >= context`; with one
/// `lanes * slots >= min(window, context)`: older tokens are overwritten.
///
/// A cache buffer has `slots * requests` rows, a pool: a control register of the PEs, like the position,
/// gives the first row of the request that a token belongs to, so that tokens of different requests
/// follow each other through the pipeline of regions. The host deals the pool out: a request that
/// will hold n tokens takes [`KvLayout::slots_for`] of them, `slots` at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KvLayout {
    /// First row of the region that caches tokens.
    pub first_row: u32,
    /// Rows that cache tokens.
    pub rows: u32,
    /// Columns of a cell that cache different tokens; 1 when all columns cache those of their row.
    pub columns: u32,
    /// Tokens each lane can hold.
    pub slots: u32,
    /// Sliding window: how many tokens, the current one included, are attended.
    pub window: Option<u32>,
    /// Sequences of the whole context whose caches are resident, at least 1.
    pub requests: u32,
}

impl KvLayout {
    /// Lanes that tokens are dealt to.
    pub fn lanes(&self) -> u32 {
        self.rows * self.columns
    }

    /// The lane at `at`: column of the cell (template column mod cw) and row of the region.
    fn lane(&self, (column, row): (u32, u32)) -> Option<u32> {
        let row = row.checked_sub(self.first_row).filter(|&r| r < self.rows)?;
        match self.columns {
            1 => Some(row),
            n if column < n => Some(column * self.rows + row),
            _ => None,
        }
    }

    /// The attended tokens of the PE at `at` (column of the cell, row of the region) at position `pos`:
    /// (first token, count T); the i-th is `first + i * lanes`. (0, 0) on PEs without a cache.
    pub fn tokens(&self, at: (u32, u32), pos: u32) -> (u32, u32) {
        let Some(lane) = self.lane(at) else { return (0, 0) };
        let lanes = self.lanes();
        let oldest = self.window.map_or(0, |w| (pos + 1).saturating_sub(w));
        // Smallest t >= oldest with t % lanes == lane.
        let first = oldest + (lane + lanes - oldest % lanes) % lanes;
        if first > pos { (0, 0) } else { (first, (pos - first) / lanes + 1) }
    }

    /// Whether the PE at `at` (as for [`KvLayout::tokens`]) owns token `pos`.
    pub fn owns(&self, at: (u32, u32), pos: u32) -> bool {
        self.lane(at).is_some_and(|lane| pos % self.lanes() == lane)
    }

    /// The slot of token `t` in its lane.
    pub fn slot(&self, t: u32) -> u32 {
        t / self.lanes() % self.slots
    }

    /// The slots that a request of `tokens` tokens takes.
    pub fn slots_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.lanes().max(1)).clamp(1, self.slots.max(1))
    }

    /// How many requests of `tokens` tokens are resident at once.
    pub fn resident(&self, tokens: u32) -> u64 {
        u64::from(self.slots) * u64::from(self.requests) / u64::from(self.slots_for(tokens))
    }

    /// Tokens that the caches hold, all requests together.
    pub fn capacity(&self) -> u64 {
        u64::from(self.lanes()) * u64::from(self.slots) * u64::from(self.requests)
    }

    /// The largest T any PE can see at position `pos`.
    pub fn max_tokens(&self, pos: u32) -> u32 {
        let attended = self.window.map_or(pos + 1, |w| w.min(pos + 1));
        attended.div_ceil(self.lanes().max(1))
    }
}

impl Template {
    /// The attended tokens of a position of this template at sequence position `pos`: (first token,
    /// count T), (0, 0) without a cache. See [`KvLayout::tokens`].
    pub fn kv_tokens(&self, (x, y): (u32, u32), pos: u32) -> (u32, u32) {
        self.kv.map_or((0, 0), |kv| kv.tokens((x % self.cell.0.max(1), y), pos))
    }
}

/// A named step of the program. Its flows are sent and received within it, except those that cross
/// the region's border.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Unique in the template: appears in reports, e.g. `qkv.reduce`.
    pub name: String,
    /// Closed form of its communication for timing level L0; `None` for a phase without any.
    pub comm: Option<CommShape>,
    /// Predicates partition the rectangle; a role with an empty program is idle.
    pub roles: Vec<Role>,
}

/// The parameters of `T = C + h*L + (2 T_R + 1) * D` for a phase (Luczynski et al., HPDC 2024, with
/// contention C, distance L and depth D added instead of overlapped: exact for chains, broadcasts, and
/// trees whose rounds follow one another).
///
/// Several messages one after another on the critical path add up in each parameter. The first
/// example of each row is P PEs in a line, B wavelets:
///
/// | collective | serial | hops | depth |
/// |---|---|---|---|
/// | multicast | B | P-1 | 1 |
/// | chain reduce | B | P-1 | P-1 |
/// | tree reduce | B log2 P | P-1 | log2 P |
/// | two-phase reduce, groups of S | 2B | P-1 | S-1 + P/S-1 |
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommShape {
    /// What it is, e.g. `reduce two-phase y`; appears in reports.
    pub kind: String,
    /// C: wavelets through the busiest core of the critical path (element count of f32 messages).
    pub serial: Len,
    /// L: hops along the critical path.
    pub hops: u32,
    /// D: dependent messages along the critical path.
    pub depth: u32,
    /// Messages that start one after another on the critical path: each costs its software start. A
    /// relay on the way has started before anything arrives.
    pub messages: u32,
}

/// What the PEs of one predicate execute in one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// For reports: `root`, `relay`, `leaf`, `idle`, ...
    pub name: String,
    /// Where.
    pub predicate: Predicate,
    /// What, in order.
    pub program: Vec<Instr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(first_row: u32, columns: u32, window: Option<u32>) -> KvLayout {
        KvLayout { first_row, rows: 4, columns, slots: 16, window, requests: 3 }
    }

    #[test]
    fn short_requests_take_fewer_slots() {
        let kv = KvLayout { slots: 8, ..layout(0, 1, None) };
        assert_eq!([1, 4, 5, 32, 99].map(|n| kv.slots_for(n)), [1, 1, 2, 8, 8]);
        assert_eq!([4, 8, 32].map(|n| kv.resident(n)), [24, 12, 3]);
        let kv = KvLayout { slots: 8, ..layout(0, 3, None) };
        assert_eq!([1, 12, 13, 96, 99].map(|n| kv.slots_for(n)), [1, 1, 2, 8, 8]);
        assert_eq!(kv.capacity(), 3 * 4 * 3 * 8);
    }

    #[test]
    fn lanes_partition_the_attended_tokens() {
        let windows = [None, Some(1), Some(5), Some(7), Some(40)];
        for (columns, window) in [1, 2, 3].into_iter().flat_map(|c| windows.map(|w| (c, w))) {
            let kv = layout(2, columns, window);
            for pos in 0..40 {
                let mut seen = Vec::new();
                let mut counts = Vec::new();
                for at in (0..8).flat_map(|y| (0..columns).map(move |x| (x, y))) {
                    let (first, n) = kv.tokens(at, pos);
                    assert!(n <= kv.max_tokens(pos));
                    seen.extend((0..n).map(|i| first + i * kv.lanes()));
                    assert!((0..n).all(|i| kv.owns(at, first + i * kv.lanes())));
                    counts.extend((2..6).contains(&at.1).then_some(n));
                }
                let spread = counts.iter().max().zip(counts.iter().min()).map(|(a, b)| a - b);
                assert!(spread <= Some(1), "balanced to one token");
                seen.sort_unstable();
                let oldest = window.map_or(0, |w| (pos + 1).saturating_sub(w));
                let all = (oldest..=pos).collect::<Vec<_>>();
                assert_eq!(seen, all, "pos {pos} window {window:?} columns {columns}");
            }
            // Columns beyond those that cache hold nothing, unless all hold what their row does.
            let holds = (2..6).any(|y| kv.tokens((3, y), 39).1 > 0);
            assert_eq!(holds, columns == 1);
        }
    }
}
