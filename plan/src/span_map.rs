//! Affine indices and spans evaluated over a whole template: one addition per position.
//!
//! An [`Affine`] is a constant, a part that depends on x and a part that depends on y; both parts are
//! tables here. Gives what [`Span::at`] gives, or refuses numbers so large that a sum could overflow.

use crate::index::{Affine, Span};

/// No part of an affine may be larger, so that sums of a few cannot overflow.
const PART_MAX: i64 = i64::MAX / 8;

/// An affine index over the positions of a template.
#[derive(Clone, Debug)]
pub struct AffineMap {
    /// Per column, the constant included.
    x: Vec<i64>,
    /// Per row.
    y: Vec<i64>,
}

impl AffineMap {
    /// Tables for `w` x `h` positions; `None` on overflow or a zero cell.
    pub fn new(a: &Affine, w: u32, h: u32, cell: (u32, u32)) -> Option<Self> {
        let part = |base: i64, (q, r): (i64, i64), p: u32, c: u32| {
            let quotient = q.checked_mul(i64::from(p.checked_div(c)?))?;
            let rest = r.checked_mul(i64::from(p.checked_rem(c)?))?;
            let sum = base.checked_add(quotient)?.checked_add(rest)?;
            (sum.checked_abs()? <= PART_MAX).then_some(sum)
        };
        Some(AffineMap {
            x: (0..w).map(|x| part(a.base, (a.xq, a.xr), x, cell.0)).collect::<Option<_>>()?,
            y: (0..h).map(|y| part(0, (a.yq, a.yr), y, cell.1)).collect::<Option<_>>()?,
        })
    }

    /// The value at a position; `None` outside of the template.
    pub fn at(&self, x: u32, y: u32) -> Option<i64> {
        Some(self.x.get(x as usize)? + self.y.get(y as usize)?)
    }
}

/// A span over the positions of a template.
#[derive(Clone, Debug)]
pub struct SpanMap {
    start: AffineMap,
    limit: AffineMap,
    len: i64,
}

impl SpanMap {
    /// Tables for `w` x `h` positions; `None` on overflow or a zero cell.
    pub fn new(span: &Span, w: u32, h: u32, cell: (u32, u32)) -> Option<Self> {
        Some(SpanMap {
            start: AffineMap::new(&span.start, w, h, cell)?,
            limit: AffineMap::new(&span.limit, w, h, cell)?,
            len: span.len.into(),
        })
    }

    /// As [`Span::at`]: (first, one past last), `None` when the start is negative.
    pub fn at(&self, x: u32, y: u32) -> Option<(u64, u64)> {
        let start = self.start.at(x, y)?;
        let end = (start + self.len).min(self.limit.at(x, y)?.max(0)).max(start);
        Some((u64::try_from(start).ok()?, end as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_give_what_the_expressions_give() {
        let start = Affine { base: 3, xq: 10, xr: 2, yq: -7, yr: 1 };
        let limit = Affine { base: 40, xq: 0, xr: 1, yq: 2, yr: 0 };
        let span = Span { start, len: 6, limit };
        let map = SpanMap::new(&span, 13, 9, (4, 3)).expect("small numbers");
        for y in 0..9 {
            for x in 0..13 {
                assert_eq!(map.at(x, y), span.at((x, y), (4, 3)), "({x}, {y})");
            }
        }
        assert_eq!(map.at(13, 0), None);
        assert!(SpanMap::new(&span, 3, 3, (0, 1)).is_none());
        let huge = Span { start: Affine::of_x(0, i64::MAX / 2, (1, 1)), ..span };
        assert!(SpanMap::new(&huge, 4, 4, (1, 1)).is_none());
    }
}
