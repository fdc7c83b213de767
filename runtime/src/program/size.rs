//! Sizes known when a step runs: integer polynomials in T, C and R.

use serde::{Deserialize, Serialize};

/// The values of the symbols in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bindings {
    /// New tokens, at least 1.
    pub t: usize,
    /// Tokens already in the cache.
    pub c: usize,
    /// Trailing rows of logits, 1 to T.
    pub r: usize,
}

/// A polynomial: terms of (exponents of T, C and R; coefficient).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size(pub Vec<([u8; 3], i64)>);

impl Size {
    /// The size n.
    pub fn constant(n: usize) -> Self {
        if n == 0 { Size(Vec::new()) } else { Size(vec![([0; 3], n as i64)]) }
    }

    /// The size T.
    pub fn tokens() -> Self {
        Size(vec![([1, 0, 0], 1)])
    }

    /// The value, or `None` when it is negative or overflows.
    pub fn eval(&self, at: &Bindings) -> Option<usize> {
        self.sum(|_| at)
    }

    /// A value that no binding with 1 <= T <= max.t, 0 <= C <= max.c, 0 <= R <= max.r exceeds.
    pub fn upper_bound(&self, max: &Bindings) -> Option<usize> {
        let least = Bindings { t: 1, c: 0, r: 0 };
        self.sum(|coefficient| if coefficient < 0 { &least } else { max })
    }

    fn sum<'a>(&self, at: impl Fn(i64) -> &'a Bindings) -> Option<usize> {
        let mut sum = 0i64;
        for (exponents, coefficient) in &self.0 {
            let at = at(*coefficient);
            let mut term = *coefficient;
            for (value, exponent) in [at.t, at.c, at.r].into_iter().zip(exponents) {
                for _ in 0..*exponent {
                    term = term.checked_mul(i64::try_from(value).ok()?)?;
                }
            }
            sum = sum.checked_add(term)?;
        }
        usize::try_from(sum).ok()
    }
}

impl From<usize> for Size {
    fn from(n: usize) -> Self {
        Size::constant(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluates_and_bounds() {
        // 2 T C + 5 - R
        let size = Size(vec![([1, 1, 0], 2), ([0; 3], 5), ([0, 0, 1], -1)]);
        assert_eq!(size.eval(&Bindings { t: 3, c: 7, r: 2 }), Some(45));
        assert_eq!(size.eval(&Bindings { t: 1, c: 0, r: 9 }), None);
        assert_eq!(size.upper_bound(&Bindings { t: 3, c: 7, r: 3 }), Some(47));
        let huge = Size(vec![([255, 0, 0], i64::MAX)]);
        assert_eq!(huge.eval(&Bindings { t: 2, c: 0, r: 1 }), None);
    }
}
