//! Expressions over a PE's position inside its region: predicates, affine indices and spans.
//!
//! Everything that varies from PE to PE in a plan is one of these three, so a template with 27,000
//! PEs is a page of text. The position (x, y) is the template's own: before mirroring.
//!
//! A template has a *cell* size (cw, ch): the notation x/cw, x%cw, y/ch, y%ch below refers to it.
//! For example with one attention head group per `cw` columns, x/cw is the head group and x%cw the
//! position inside it. `cw = ch = 1` makes x/cw = x and x%cw = 0.

use serde::{Deserialize, Serialize};

/// What a [`Clause`] tests, computed from one coordinate p.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Term {
    /// p.
    Pos,
    /// p % m.
    Rem(u32),
    /// p / m.
    Quot(u32),
    /// (p % m) % n: for example the parity inside a group.
    RemRem(u32, u32),
    /// (p / m) % n: for example the parity of a group.
    QuotRem(u32, u32),
}

impl Term {
    /// The value at coordinate `p`; `None` when a divisor is zero.
    #[inline]
    pub fn at(self, p: u32) -> Option<u32> {
        match self {
            Term::Pos => Some(p),
            Term::Rem(m) => p.checked_rem(m),
            Term::Quot(m) => p.checked_div(m),
            Term::RemRem(m, n) => p.checked_rem(m)?.checked_rem(n),
            Term::QuotRem(m, n) => p.checked_div(m)?.checked_rem(n),
        }
    }
}

/// `from <= term < to`; with `to < from` outside of `to..from`: `term < to` or `from <= term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Clause {
    /// What is tested.
    pub term: Term,
    /// Least value that passes.
    pub from: u32,
    /// First value past those that pass.
    pub to: u32,
}

impl Clause {
    /// Whether coordinate `p` passes; false when the term has a zero divisor.
    #[inline]
    pub fn holds(&self, p: u32) -> bool {
        let passes = |v: u32| match self.from <= self.to {
            true => self.from <= v && v < self.to,
            false => self.from <= v || v < self.to,
        };
        self.term.at(p).is_some_and(passes)
    }

    /// `from <= p < to`.
    pub fn range(from: u32, to: u32) -> Self {
        Clause { term: Term::Pos, from, to }
    }

    /// Not `from <= p < to`, where `from < to`.
    pub fn outside(from: u32, to: u32) -> Self {
        Clause { term: Term::Pos, from: to, to: from }
    }

    /// `term == value`.
    pub fn eq(term: Term, value: u32) -> Self {
        Clause { term, from: value, to: value.saturating_add(1) }
    }
}

/// A set of positions: the conjunction of all clauses on x, all clauses on y, and optional
/// ranges of x - y and x + y. Without any of them it holds everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Predicate {
    /// Conjunction over x.
    pub x: Vec<Clause>,
    /// Conjunction over y.
    pub y: Vec<Clause>,
    /// When present: `x as i64 - y as i64` is in `from..to`. For turning rows into columns.
    #[serde(default)]
    pub diagonal: Option<(i64, i64)>,
    /// When present: `x as i64 + y as i64` is in `from..to`. The same in a mirrored region.
    #[serde(default)]
    pub antidiagonal: Option<(i64, i64)>,
}

impl Predicate {
    /// Holds at every position.
    pub fn everywhere() -> Self {
        Predicate::default()
    }

    /// Whether it holds at (x, y).
    pub fn holds(&self, x: u32, y: u32) -> bool {
        self.holds_x(x) && self.holds_y(y) && self.holds_diagonals(x, y)
    }

    /// Whether the diagonal and the anti-diagonal range pass.
    pub fn holds_diagonals(&self, x: u32, y: u32) -> bool {
        let within = |range: Option<(i64, i64)>, v: i64| range.is_none_or(|(a, b)| a <= v && v < b);
        let (x, y) = (i64::from(x), i64::from(y));
        within(self.diagonal, x - y) && within(self.antidiagonal, x + y)
    }

    /// Whether x and y can be tested separately: no diagonal range.
    pub fn is_separable(&self) -> bool {
        self.diagonal.is_none() && self.antidiagonal.is_none()
    }

    /// Whether every clause on x passes.
    pub fn holds_x(&self, x: u32) -> bool {
        self.x.iter().all(|c| c.holds(x))
    }

    /// Whether every clause on y passes.
    pub fn holds_y(&self, y: u32) -> bool {
        self.y.iter().all(|c| c.holds(y))
    }

    /// This predicate and one more clause on x.
    #[must_use]
    pub fn and_x(mut self, clause: Clause) -> Self {
        self.x.push(clause);
        self
    }

    /// This predicate and one more clause on y.
    #[must_use]
    pub fn and_y(mut self, clause: Clause) -> Self {
        self.y.push(clause);
        self
    }
}

/// `base + xq*(x/cw) + xr*(x%cw) + yq*(y/ch) + yr*(y%ch)` with the template's cell (cw, ch).
///
/// Plain x is `xq: cw, xr: 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Affine {
    /// Constant part.
    pub base: i64,
    /// Coefficient of x/cw.
    pub xq: i64,
    /// Coefficient of x%cw.
    pub xr: i64,
    /// Coefficient of y/ch.
    pub yq: i64,
    /// Coefficient of y%ch.
    pub yr: i64,
}

impl Affine {
    /// The same value everywhere.
    pub fn constant(base: i64) -> Self {
        Affine { base, ..Affine::default() }
    }

    /// `base + step * x` whatever the cell.
    pub fn of_x(base: i64, step: i64, cell: (u32, u32)) -> Self {
        Affine { base, xq: step * i64::from(cell.0), xr: step, ..Affine::default() }
    }

    /// `base + step * y` whatever the cell.
    pub fn of_y(base: i64, step: i64, cell: (u32, u32)) -> Self {
        Affine { base, yq: step * i64::from(cell.1), yr: step, ..Affine::default() }
    }

    /// The value at (x, y); `None` on overflow or a zero cell.
    pub fn at(&self, (x, y): (u32, u32), cell: (u32, u32)) -> Option<i64> {
        let part = |coefficient: i64, v: Option<u32>| coefficient.checked_mul(i64::from(v?));
        self.base
            .checked_add(part(self.xq, x.checked_div(cell.0))?)?
            .checked_add(part(self.xr, x.checked_rem(cell.0))?)?
            .checked_add(part(self.yq, y.checked_div(cell.1))?)?
            .checked_add(part(self.yr, y.checked_rem(cell.1))?)
    }

    /// Whether the value can change with x.
    pub fn uses_x(&self) -> bool {
        self.xq != 0 || self.xr != 0
    }

    /// Whether the value can change with y.
    pub fn uses_y(&self) -> bool {
        self.yq != 0 || self.yr != 0
    }
}

/// A half-open index range that varies with position: `start .. min(start + len, limit)`, empty
/// when `start >= limit`.
///
/// `len` is what SRAM is reserved for on every PE; indices cut off by `limit` are zero padding.
/// Tile i of an axis of K elements cut into tiles of K_t is `start = K_t*i`, `len = K_t`, `limit = K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// First index; never negative in a legal plan.
    pub start: Affine,
    /// Indices reserved, the same on every PE.
    pub len: u32,
    /// First index that is not taken; itself affine, so that a span can end at its head.
    pub limit: Affine,
}

impl Span {
    /// `0..len` everywhere.
    pub fn whole(len: u32) -> Self {
        Span { start: Affine::default(), len, limit: Affine::constant(i64::from(len)) }
    }

    /// The range at (x, y): (first, one past last), first == last when empty. `None` when the
    /// start is negative or an expression overflows.
    pub fn at(&self, position: (u32, u32), cell: (u32, u32)) -> Option<(u64, u64)> {
        let start = u64::try_from(self.start.at(position, cell)?).ok()?;
        let limit = self.limit.at(position, cell)?.max(0).unsigned_abs();
        let end = start.checked_add(u64::from(self.len))?.min(limit).max(start);
        Some((start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_stop_at_their_limit() {
        let span = Span { start: Affine::of_x(0, 3, (4, 1)), len: 3, limit: Affine::constant(10) };
        let at = |x| span.at((x, 7), (4, 1));
        assert_eq!(at(0), Some((0, 3)));
        assert_eq!(at(3), Some((9, 10)));
        assert_eq!(at(4), Some((12, 12)));
        let negative = Span { start: Affine::constant(-1), ..span };
        assert_eq!(negative.at((0, 0), (4, 1)), None);
    }

    #[test]
    fn clauses_see_parity_inside_groups() {
        let odd_in_group = Clause::eq(Term::RemRem(5, 2), 1);
        let hits: Vec<u32> = (0..12).filter(|&p| odd_in_group.holds(p)).collect();
        assert_eq!(hits, [1, 3, 6, 8, 11]);
        assert!(!Clause::eq(Term::Rem(0), 0).holds(3));
        let around = Clause { term: Term::Rem(5), from: 4, to: 1 };
        let hits: Vec<u32> = (0..12).filter(|&p| around.holds(p)).collect();
        assert_eq!(hits, [0, 4, 5, 9, 10]);
        let hits: Vec<u32> = (0..6).filter(|&p| Clause::outside(2, 5).holds(p)).collect();
        assert_eq!(hits, [0, 1, 5]);
    }
}
