//! Dims: polynomials over T (new tokens), C (cached tokens) and R (rows wanted), 1 <= R <= T, 0 <= C.
//!
//! Written `2*C*T+-1`: coefficient first. Invariant: sorted monomials, no zero coefficient. Anything that
//! would overflow or grow beyond [`MAX_TERMS`] has no value: `None` refuses a certificate.

/// More monomials than any shape has.
const MAX_TERMS: usize = 64;
/// Highest exponent of a symbol.
const MAX_DEGREE: u8 = 8;

/// A polynomial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Poly {
    /// Exponents of T, C, R, and coefficient.
    terms: Vec<([u8; 3], i64)>,
}

impl Poly {
    pub(crate) fn constant(n: i64) -> Poly {
        Poly { terms: if n == 0 { Vec::new() } else { vec![([0; 3], n)] } }
    }

    /// T.
    pub(crate) fn tokens() -> Poly {
        Poly { terms: vec![([1, 0, 0], 1)] }
    }

    /// C.
    pub(crate) fn cached() -> Poly {
        Poly { terms: vec![([0, 1, 0], 1)] }
    }

    pub(crate) fn parse(text: &str) -> Option<Poly> {
        let mut sum = Poly::constant(0);
        for term in text.split('+') {
            let mut factors = term.split('*');
            let mut product = Poly::constant(factors.next()?.parse().ok()?);
            for symbol in factors {
                let at = ["T", "C", "R"].iter().position(|s| *s == symbol)?;
                let mut exponents = [0; 3];
                exponents[at] = 1;
                product = product.times(&Poly { terms: vec![(exponents, 1)] })?;
            }
            sum = sum.plus(&product)?;
        }
        Some(sum)
    }

    fn from_terms(mut terms: Vec<([u8; 3], i64)>) -> Option<Poly> {
        terms.sort_unstable_by_key(|t| t.0);
        let mut out: Vec<([u8; 3], i64)> = Vec::with_capacity(terms.len());
        for (exponents, coefficient) in terms {
            match out.last_mut().filter(|last| last.0 == exponents) {
                Some(last) => last.1 = last.1.checked_add(coefficient)?,
                None => out.push((exponents, coefficient)),
            }
        }
        out.retain(|t| t.1 != 0);
        let small =
            out.len() <= MAX_TERMS && out.iter().all(|t| t.0.iter().all(|&e| e <= MAX_DEGREE));
        small.then_some(Poly { terms: out })
    }

    pub(crate) fn plus(&self, other: &Poly) -> Option<Poly> {
        Poly::from_terms(self.terms.iter().chain(&other.terms).copied().collect())
    }

    pub(crate) fn minus(&self, other: &Poly) -> Option<Poly> {
        let negated = other.times(&Poly::constant(-1))?;
        self.plus(&negated)
    }

    pub(crate) fn times(&self, other: &Poly) -> Option<Poly> {
        let mut terms = Vec::with_capacity(self.terms.len() * other.terms.len());
        for (a, x) in &self.terms {
            for (b, y) in &other.terms {
                let exponent = |i: usize| a[i].checked_add(b[i]);
                terms.push(([exponent(0)?, exponent(1)?, exponent(2)?], x.checked_mul(*y)?));
            }
        }
        Poly::from_terms(terms)
    }

    /// The quotient when `other` is a monomial, or equal, and nothing is left over.
    pub(crate) fn divided_by(&self, other: &Poly) -> Option<Poly> {
        if self == other && !self.terms.is_empty() {
            return Some(Poly::constant(1));
        }
        let [(by, n)] = other.terms.as_slice() else { return None };
        let quotient = |(exponents, c): &([u8; 3], i64)| {
            let exponent = |i: usize| exponents[i].checked_sub(by[i]);
            let whole = c.checked_rem(*n)? == 0;
            whole.then_some(([exponent(0)?, exponent(1)?, exponent(2)?], c.checked_div(*n)?))
        };
        Poly::from_terms(self.terms.iter().map(quotient).collect::<Option<_>>()?)
    }

    /// The value when it is a constant that is not negative.
    pub(crate) fn value(&self) -> Option<usize> {
        match self.terms.as_slice() {
            [] => Some(0),
            [([0, 0, 0], n)] => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    pub(crate) fn is_one(&self) -> bool {
        self.value() == Some(1)
    }

    /// Whether no step makes it negative, shown with R = 1 + r and T = R + t: no coefficient is
    /// negative then.
    pub(crate) fn is_nonnegative(&self) -> bool {
        let rows = Poly { terms: vec![([0, 0, 0], 1), ([0, 0, 1], 1)] };
        let tokens = Poly { terms: vec![([0, 0, 0], 1), ([0, 0, 1], 1), ([1, 0, 0], 1)] };
        let shifted = |(exponents, coefficient): &([u8; 3], i64)| {
            let mut product = Poly::constant(*coefficient);
            for (symbol, &n) in [&tokens, &Poly::cached(), &rows].into_iter().zip(exponents) {
                for _ in 0..n {
                    product = product.times(symbol)?;
                }
            }
            Some(product)
        };
        let sum = self.terms.iter().try_fold(Poly::constant(0), |sum, t| sum.plus(&shifted(t)?));
        sum.is_some_and(|s| s.terms.iter().all(|t| t.1 >= 0))
    }
}
