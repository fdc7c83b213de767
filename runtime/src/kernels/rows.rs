//! Whose rows a step has: a row is one token, and rows of several sequences may share a step.
//!
//! Kernels of rows alone (products, norms) do not look here. Rotary embeddings, caches and attention
//! do: they need a row's position, and its sequence's keys and values.

/// Consecutive positions of one sequence; one or more rows of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Whose page table.
    pub sequence: usize,
    /// Position of the first row.
    pub first: usize,
    /// Rows.
    pub rows: usize,
}

impl Span {
    /// The position behind the last row.
    pub fn end(&self) -> usize {
        self.first + self.rows
    }
}

/// The rows of a step, in order: the positions of each, and the length that its sequence has after
/// the step. A sequence may have several spans.
pub fn positions(spans: &[Span]) -> impl Iterator<Item = (usize, usize)> {
    spans.iter().flat_map(move |span| {
        let same = spans.iter().filter(|s| s.sequence == span.sequence);
        let end = same.map(Span::end).max().unwrap_or(0);
        (span.first..span.end()).map(move |position| (position, end))
    })
}
