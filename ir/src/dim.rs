//! Symbolic dimensions: polynomials with integer coefficients in a normal form.
//!
//! Two dims are equal exactly when they are the same polynomial, so equality of shapes is
//! structural and needs no solver. Index arithmetic never enters the e-graph.

use std::fmt;
use std::ops::{Add, Mul, Sub};

/// A dimension known only when a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Symbol {
    /// Tokens new in this step (>= 1).
    T,
    /// Tokens already in the cache (>= 0).
    C,
    /// Trailing positions whose logits are wanted (1 <= R <= T).
    R,
}

impl Symbol {
    /// Every symbol, in the order of exponents of a monomial.
    pub const ALL: [Symbol; 3] = [Symbol::T, Symbol::C, Symbol::R];

    /// `T`, `C` or `R`.
    pub fn name(self) -> &'static str {
        match self {
            Symbol::T => "T",
            Symbol::C => "C",
            Symbol::R => "R",
        }
    }
}

/// The values of the symbols in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bindings {
    /// Tokens new in this step.
    pub t: usize,
    /// Tokens already in the cache.
    pub c: usize,
    /// Trailing positions whose logits are wanted.
    pub r: usize,
}

impl Bindings {
    fn get(self, symbol: Symbol) -> usize {
        match symbol {
            Symbol::T => self.t,
            Symbol::C => self.c,
            Symbol::R => self.r,
        }
    }
}

/// Exponents of T, C and R.
type Monomial = [u8; 3];

/// A polynomial over [`Symbol`]s: terms sorted by monomial, no zero coefficient.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    terms: Vec<(Monomial, i64)>,
}

impl Dim {
    fn from_terms(mut terms: Vec<(Monomial, i64)>) -> Self {
        terms.sort_unstable_by_key(|t| t.0);
        terms.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            same
        });
        terms.retain(|t| t.1 != 0);
        Dim { terms }
    }

    /// The dim that is this symbol.
    pub fn symbol(symbol: Symbol) -> Self {
        let mut monomial = [0; 3];
        monomial[symbol as usize] = 1;
        Dim { terms: vec![(monomial, 1)] }
    }

    /// The value when no symbol occurs in it and it is not negative.
    pub fn as_const(&self) -> Option<usize> {
        match self.terms.as_slice() {
            [] => Some(0),
            [([0, 0, 0], n)] => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    /// Whether `symbol` occurs.
    pub fn contains(&self, symbol: Symbol) -> bool {
        self.terms.iter().any(|(m, _)| m[symbol as usize] > 0)
    }

    /// The value under `bindings`, or `None` when it is negative or overflows.
    pub fn eval(&self, bindings: &Bindings) -> Option<usize> {
        let mut sum = 0i64;
        for (monomial, coefficient) in &self.terms {
            let mut term = *coefficient;
            for symbol in Symbol::ALL {
                for _ in 0..monomial[symbol as usize] {
                    term = term.checked_mul(i64::try_from(bindings.get(symbol)).ok()?)?;
                }
            }
            sum = sum.checked_add(term)?;
        }
        usize::try_from(sum).ok()
    }

    /// Whether no step makes it negative, as far as a simple argument shows: with R = 1 + r,
    /// T = R + t and r, t, C >= 0 no coefficient is negative. `T - R` and `C + T - 1` pass,
    /// `T - 2` does not; a degree above 8 never passes.
    pub fn is_nonnegative(&self) -> bool {
        let one = Dim::from(1);
        let r = &one + &Dim::symbol(Symbol::R);
        let t = &r + &Dim::symbol(Symbol::T);
        let mut sum = Dim::from(0);
        for (monomial, coefficient) in &self.terms {
            if monomial.iter().map(|&e| usize::from(e)).sum::<usize>() > 8 {
                return false;
            }
            let mut term = Dim::from_terms(vec![([0; 3], *coefficient)]);
            for (symbol, exponent) in Symbol::ALL.into_iter().zip(monomial) {
                let factor = match symbol {
                    Symbol::T => t.clone(),
                    Symbol::C => Dim::symbol(Symbol::C),
                    Symbol::R => r.clone(),
                };
                for _ in 0..*exponent {
                    term = &term * &factor;
                }
            }
            sum = &sum + &term;
        }
        sum.terms.iter().all(|t| t.1 >= 0)
    }

    /// The coefficients, each with the exponents of T, C and R; sorted.
    pub fn terms(&self) -> &[(Monomial, i64)] {
        &self.terms
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Dim::from_terms(vec![([0; 3], i64::try_from(n).unwrap_or(i64::MAX))])
    }
}

impl From<Symbol> for Dim {
    fn from(symbol: Symbol) -> Self {
        Dim::symbol(symbol)
    }
}

impl Add for &Dim {
    type Output = Dim;

    fn add(self, other: &Dim) -> Dim {
        Dim::from_terms(self.terms.iter().chain(&other.terms).copied().collect())
    }
}

impl Sub for &Dim {
    type Output = Dim;

    fn sub(self, other: &Dim) -> Dim {
        let negated = other.terms.iter().map(|(m, c)| (*m, c.saturating_neg()));
        Dim::from_terms(self.terms.iter().copied().chain(negated).collect())
    }
}

impl Mul for &Dim {
    type Output = Dim;

    fn mul(self, other: &Dim) -> Dim {
        let product = |(a, x): &(Monomial, i64), (b, y): &(Monomial, i64)| {
            ([0, 1, 2].map(|i| a[i].saturating_add(b[i])), x.saturating_mul(*y))
        };
        let pairs = self.terms.iter().flat_map(|x| other.terms.iter().map(move |y| product(x, y)));
        Dim::from_terms(pairs.collect())
    }
}

/// `C + T`, `T - R`, `2*T - 1`, `64`: what is added before what is taken away, symbols before the
/// constant.
impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        let mut terms: Vec<_> = self.terms.iter().collect();
        terms.sort_by_key(|(monomial, coefficient)| (*coefficient < 0, *monomial == [0; 3]));
        for (i, (monomial, coefficient)) in terms.into_iter().enumerate() {
            match (i, *coefficient < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            let mut factors = Vec::new();
            let magnitude = coefficient.unsigned_abs();
            if magnitude != 1 || *monomial == [0; 3] {
                factors.push(magnitude.to_string());
            }
            for symbol in Symbol::ALL {
                let power = usize::from(monomial[symbol as usize]);
                factors.extend(std::iter::repeat_n(symbol.name().to_string(), power));
            }
            f.write_str(&factors.join("*"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_polynomials_are_equal_dims() {
        let (t, c) = (Dim::from(Symbol::T), Dim::from(Symbol::C));
        assert_eq!(&t + &c, &c + &t);
        assert_eq!(&(&t + &c) - &c, t);
        assert_eq!(&t * &Dim::from(0), Dim::from(0));
        assert_eq!((&(&t + &c) * &Dim::from(4)).to_string(), "4*C + 4*T");
        assert_eq!((&(&t - &c) - &Dim::from(1)).to_string(), "T - C - 1");
        assert_eq!((&Dim::from(5) - &t).to_string(), "5 - T");
        assert_eq!((&Dim::from(0) - &(&t * &t)).to_string(), "-T*T");
        let step = Bindings { t: 3, c: 5, r: 1 };
        assert_eq!((&t + &c).eval(&step), Some(8));
        assert_eq!((&t - &c).eval(&step), None);
    }

    #[test]
    fn signs_are_proven_from_the_ranges_of_the_symbols() {
        let [t, c, r] = Symbol::ALL.map(Dim::from);
        let n = Dim::from;
        for dim in [&t - &r, &(&c + &t) - &n(1), &t * &(&t - &r), n(0), &(&t * &t) - &t] {
            assert!(dim.is_nonnegative(), "{dim}");
        }
        for dim in [&t - &n(2), &r - &t, &c - &n(1), &n(0) - &n(1), &t - &c] {
            assert!(!dim.is_nonnegative(), "{dim}");
        }
    }
}
