//! Sizes and indices of a theorem: polynomials over letters, which stand for any size, and index variables.
//!
//! Invariant: no zero coefficient. Letters and variables are not negative; a variable is below its extent.
//! `floor` stands for a quotient that cannot be simplified, so that index arithmetic never loses anything.

use std::collections::BTreeMap;

/// What a polynomial is over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Symbol {
    /// A size: any number of at least 0.
    Size(char),
    /// An index.
    Index(u32),
    /// `floor(p / q)`.
    Floor(Box<(Poly, Poly)>),
}

/// A polynomial: monomials, sorted symbols each, with their coefficients.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Poly {
    terms: BTreeMap<Vec<Symbol>, i64>,
}

impl Poly {
    pub(super) fn constant(n: i64) -> Poly {
        Poly::term(Vec::new(), n)
    }

    fn term(symbols: Vec<Symbol>, coefficient: i64) -> Poly {
        let terms = [(symbols, coefficient)].into_iter().filter(|t| t.1 != 0).collect();
        Poly { terms }
    }

    pub(super) fn symbol(symbol: Symbol) -> Poly {
        Poly::term(vec![symbol], 1)
    }

    /// `a*b+2`, `T-R`. C + T is the letter `S`: no theorem needs to know that it is a sum.
    pub(super) fn parse(text: &str) -> Option<Poly> {
        let mut sum = Poly::default();
        let spaced = text.replace('-', "+-");
        for part in spaced.split('+').filter(|p| !p.is_empty()) {
            let (sign, part) = part.strip_prefix('-').map_or((1, part), |rest| (-1, rest));
            let mut product = Poly::constant(sign);
            for factor in part.split('*') {
                let factor = match factor.parse() {
                    Ok(number) => Poly::constant(number),
                    Err(_) => Poly::symbol(Symbol::Size(single(factor)?)),
                };
                product = product.times(&factor);
            }
            sum = sum.plus(&product);
        }
        Some(sum)
    }

    pub(super) fn plus(&self, other: &Poly) -> Poly {
        let mut terms = self.terms.clone();
        for (symbols, n) in &other.terms {
            *terms.entry(symbols.clone()).or_insert(0) += n;
        }
        terms.retain(|_, n| *n != 0);
        Poly { terms }
    }

    pub(super) fn minus(&self, other: &Poly) -> Poly {
        self.plus(&other.times(&Poly::constant(-1)))
    }

    pub(super) fn times(&self, other: &Poly) -> Poly {
        let mut product = Poly::default();
        for (a, x) in &self.terms {
            for (b, y) in &other.terms {
                let mut symbols: Vec<Symbol> = a.iter().chain(b).cloned().collect();
                symbols.sort();
                product = product.plus(&Poly::term(symbols, x * y));
            }
        }
        product
    }

    pub(super) fn is(&self, n: i64) -> bool {
        *self == Poly::constant(n)
    }

    /// Whether no sizes make it negative: no coefficient is.
    pub(super) fn is_nonnegative(&self) -> bool {
        self.terms.values().all(|&n| n >= 0)
    }

    /// The sizes that multiply to it, when it is a product of sizes.
    pub(super) fn factors(&self) -> Option<Vec<Poly>> {
        let mut terms = self.terms.iter();
        let (symbols, n) = terms.next()?;
        let plain = terms.next().is_none() && *n == 1;
        plain.then(|| symbols.iter().cloned().map(Poly::symbol).collect())
    }

    /// The value under an assignment of sizes; `None` when something else occurs.
    pub(super) fn value(&self, size: &dyn Fn(char) -> Option<i64>) -> Option<i64> {
        let mut sum = 0;
        for (symbols, n) in &self.terms {
            let mut product = *n;
            for symbol in symbols {
                let Symbol::Size(name) = symbol else { return None };
                product *= size(*name)?;
            }
            sum += product;
        }
        Some(sum)
    }

    /// Every index variable replaced.
    pub(super) fn with(&self, index: &dyn Fn(u32) -> Poly) -> Poly {
        let mut sum = Poly::default();
        for (symbols, n) in &self.terms {
            let mut product = Poly::constant(*n);
            for symbol in symbols {
                let factor = match symbol {
                    Symbol::Size(_) => Poly::symbol(symbol.clone()),
                    Symbol::Index(i) => index(*i),
                    Symbol::Floor(of) => {
                        let of = (of.0.with(index), of.1.with(index));
                        Poly::symbol(Symbol::Floor(Box::new(of)))
                    }
                };
                product = product.times(&factor);
            }
            sum = sum.plus(&product);
        }
        sum
    }

    /// Whether it lies in `0..limit`, given the extents of the variables.
    pub(super) fn is_below(&self, limit: &Poly, extent: &dyn Fn(u32) -> Poly) -> bool {
        let floors = self.terms.keys().flatten().any(|s| matches!(s, Symbol::Floor(_)));
        if floors {
            // p - q floor(p / q) is the remainder of a division by q.
            return self.terms.keys().flatten().any(|s| match s {
                Symbol::Floor(of) => {
                    of.1 == *limit && *self == of.0.minus(&of.1.times(&Poly::symbol(s.clone())))
                }
                _ => false,
            });
        }
        let most = self.with(&|i| extent(i).minus(&Poly::constant(1)));
        // Negative coefficients of variables would make the least value another one.
        self.is_nonnegative() && limit.minus(&most).minus(&Poly::constant(1)).is_nonnegative()
    }

    /// Quotient and remainder, simplified where the extents allow.
    pub(super) fn divided(&self, by: &Poly, extent: &dyn Fn(u32) -> Poly) -> (Poly, Poly) {
        if by.is(1) {
            return (self.clone(), Poly::default());
        }
        let mut quotient = Poly::default();
        let mut rest = Poly::default();
        for (symbols, n) in &self.terms {
            match divide_term(symbols, by) {
                Some(left) => quotient = quotient.plus(&Poly::term(left, *n)),
                None => rest = rest.plus(&Poly::term(symbols.clone(), *n)),
            }
        }
        if rest.is_below(by, extent) {
            return (quotient, rest);
        }
        let floor = Poly::symbol(Symbol::Floor(Box::new((self.clone(), by.clone()))));
        let rest = self.minus(&by.times(&floor));
        (floor, rest)
    }
}

fn single(text: &str) -> Option<char> {
    let mut chars = text.chars();
    let first = chars.next().filter(|c| c.is_ascii_alphabetic())?;
    chars.next().is_none().then_some(first)
}

/// The symbols left of a monomial divided by a product of sizes.
fn divide_term(symbols: &[Symbol], by: &Poly) -> Option<Vec<Symbol>> {
    let mut left = symbols.to_vec();
    for factor in by.factors()? {
        let (symbol, _) = factor.terms.first_key_value()?;
        let at = left.iter().position(|s| [s] == symbol.iter().collect::<Vec<_>>()[..])?;
        left.remove(at);
    }
    Some(left)
}
