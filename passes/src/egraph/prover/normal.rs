//! One element of a tensor as a sum of products: the normal form in which theorems are compared.
//!
//! A product has index variables it is summed over and factors: elements of given tensors, functions that
//! nothing is known of, reductions. Multiplication distributes, sums merge and fall apart where they go over
//! parts, so equal elements of the algebra
//! of sums and products have equal normal forms, up to the names of the variables summed over; those are
//! chosen so that the form is least. Functions are equal when their arguments are.

use super::poly::{Poly, Symbol};

/// Products and how often each occurs, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Normal {
    terms: Vec<(Product, i64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Product {
    /// Variables summed over, with their extents.
    over: Vec<(u32, Poly)>,
    factors: Vec<Factor>,
}

/// A factor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Factor {
    /// An element of a given tensor, or a constant without indices.
    Element(String, Vec<Poly>),
    /// A function that nothing is known of.
    Function(String, Vec<Normal>),
    /// A reduction that is no sum: its variable, extent and body.
    Reduction(String, u32, Poly, Box<Normal>),
    /// One of several, by where an index lies: starts and bodies.
    Choice(Poly, Vec<(Poly, Normal)>),
}

/// Variables summed over are numbered from here; those of the element itself are below.
const BOUND: u32 = 1 << 16;
/// Most variables in one product that are permuted: 6! orders.
const PERMUTED: usize = 6;

impl Normal {
    pub(super) fn number(n: i64) -> Normal {
        let terms = if n == 0 { Vec::new() } else { vec![(Product::default(), n)] };
        Normal { terms }
    }

    pub(super) fn factor(factor: Factor) -> Normal {
        Normal { terms: vec![(Product { over: Vec::new(), factors: vec![factor] }, 1)] }
    }

    /// A function of arguments.
    pub(super) fn function(name: &str, arguments: Vec<Normal>) -> Normal {
        Normal::factor(Factor::Function(name.to_string(), arguments))
    }

    pub(super) fn plus(mut self, other: Normal) -> Normal {
        self.terms.extend(other.terms);
        self
    }

    /// The product; the variables summed over in both must be different ones.
    pub(super) fn times(&self, other: &Normal) -> Normal {
        let pair = |(a, x): &(Product, i64), (b, y): &(Product, i64)| {
            let over = a.over.iter().chain(&b.over).cloned().collect();
            let factors = a.factors.iter().chain(&b.factors).cloned().collect();
            (Product { over, factors }, x * y)
        };
        let pairs = self.terms.iter().flat_map(|a| other.terms.iter().map(move |b| pair(a, b)));
        Normal { terms: pairs.collect() }
    }

    /// Summed over a variable; where that chooses between parts, part by part.
    pub(super) fn summed(self, variable: u32, extent: &Poly) -> Normal {
        let mut sum = Normal::default();
        for (product, n) in self.terms {
            match product.starts(variable) {
                Some(starts) => {
                    let ends = starts.iter().skip(1).chain([extent]);
                    for (part, (start, end)) in starts.iter().zip(ends).enumerate() {
                        let own = product.part(n, variable, part).shifted(variable, start);
                        sum = sum.plus(own.over(variable, &end.minus(start)));
                    }
                }
                None => sum.terms.push((product.over(variable, extent), n)),
            }
        }
        sum
    }

    fn over(self, variable: u32, extent: &Poly) -> Normal {
        let terms = self.terms.into_iter().map(|(p, n)| (p.over(variable, extent), n));
        Normal { terms: terms.collect() }
    }

    /// A variable counted from `start` on.
    fn shifted(&self, variable: u32, start: &Poly) -> Normal {
        self.with(&|v| {
            let index = Poly::symbol(Symbol::Index(v));
            if v == variable { index.plus(start) } else { index }
        })
    }

    /// The least form, with variables summed over numbered from `depth`.
    pub(super) fn canonical(&self, depth: u32) -> Normal {
        let mut terms: Vec<(Product, i64)> =
            self.terms.iter().map(|(p, n)| (p.canonical(depth), *n)).collect();
        terms.sort();
        let mut merged: Vec<(Product, i64)> = Vec::with_capacity(terms.len());
        for (product, n) in terms {
            match merged.last_mut().filter(|last| last.0 == product) {
                Some(last) => last.1 += n,
                None => merged.push((product, n)),
            }
        }
        merged.retain(|t| t.1 != 0);
        Normal { terms: merged }
    }

    fn with(&self, index: &dyn Fn(u32) -> Poly) -> Normal {
        let product = |p: &Product| Product {
            over: p.over.iter().map(|(v, extent)| (*v, extent.with(index))).collect(),
            factors: p.factors.iter().map(|f| f.with(index)).collect(),
        };
        Normal { terms: self.terms.iter().map(|(p, n)| (product(p), *n)).collect() }
    }
}

impl Product {
    fn over(mut self, variable: u32, extent: &Poly) -> Product {
        self.over.push((variable, extent.clone()));
        self
    }

    /// Where the parts begin, when the variable alone chooses and all choices have the same parts.
    fn starts(&self, variable: u32) -> Option<Vec<Poly>> {
        let index = Poly::symbol(Symbol::Index(variable));
        let mut choices = self.factors.iter().filter_map(|f| match f {
            Factor::Choice(at, parts) if *at == index => Some(parts),
            _ => None,
        });
        let begins = |parts: &[(Poly, Normal)]| -> Vec<Poly> {
            parts.iter().map(|(start, _)| start.clone()).collect()
        };
        let starts = begins(choices.next()?);
        choices.all(|parts| begins(parts) == starts).then_some(starts)
    }

    /// The product `n` times, in one part of its choices by a variable.
    fn part(&self, n: i64, variable: u32, part: usize) -> Normal {
        let index = Poly::symbol(Symbol::Index(variable));
        let over = Product { over: self.over.clone(), factors: Vec::new() };
        let start = Normal { terms: vec![(over, n)] };
        self.factors.iter().fold(start, |product, factor| match factor {
            Factor::Choice(at, parts) if *at == index => product.times(&parts[part].1),
            factor => product.times(&Normal::factor(factor.clone())),
        })
    }

    fn canonical(&self, depth: u32) -> Product {
        let n = self.over.len();
        let mut best: Option<Product> = None;
        for order in orders(n) {
            let number = |v: u32| {
                let at = order.iter().position(|&i| self.over[i].0 == v);
                let name = at.map_or(v, |at| BOUND + depth + at as u32);
                Poly::symbol(Symbol::Index(name))
            };
            let name = |at: usize| BOUND + depth + at as u32;
            let over = order.iter().enumerate().map(|(at, &i)| (name(at), self.over[i].1.clone()));
            let below = depth + n as u32;
            let factor = |f: &Factor| f.with(&number).canonical(below);
            let mut factors: Vec<Factor> = self.factors.iter().map(factor).collect();
            factors.sort();
            let found = Product { over: over.collect(), factors };
            if best.as_ref().is_none_or(|b| found < *b) {
                best = Some(found);
            }
        }
        best.unwrap_or_default()
    }
}

impl Factor {
    fn with(&self, index: &dyn Fn(u32) -> Poly) -> Factor {
        match self {
            Factor::Element(name, at) => {
                Factor::Element(name.clone(), at.iter().map(|p| p.with(index)).collect())
            }
            Factor::Function(name, of) => {
                Factor::Function(name.clone(), of.iter().map(|n| n.with(index)).collect())
            }
            Factor::Reduction(name, variable, extent, body) => {
                let body = Box::new(body.with(index));
                Factor::Reduction(name.clone(), *variable, extent.with(index), body)
            }
            Factor::Choice(at, parts) => {
                let parts = parts.iter().map(|(s, n)| (s.with(index), n.with(index)));
                Factor::Choice(at.with(index), parts.collect())
            }
        }
    }

    fn canonical(&self, depth: u32) -> Factor {
        match self {
            Factor::Element(..) => self.clone(),
            Factor::Function(name, of) => {
                let mut of: Vec<Normal> = of.iter().map(|n| n.canonical(depth)).collect();
                if ["max", "min"].contains(&&name[..]) {
                    of.sort();
                }
                Factor::Function(name.clone(), of)
            }
            Factor::Reduction(name, variable, extent, body) => {
                let bound = BOUND + depth;
                let number = |v: u32| {
                    let name = if v == *variable { bound } else { v };
                    Poly::symbol(Symbol::Index(name))
                };
                let body = Box::new(body.with(&number).canonical(depth + 1));
                Factor::Reduction(name.clone(), bound, extent.clone(), body)
            }
            Factor::Choice(at, parts) => {
                let parts = parts.iter().map(|(s, n)| (s.clone(), n.canonical(depth)));
                Factor::Choice(at.clone(), parts.collect())
            }
        }
    }
}

/// Every order of n things; only the given one where there are too many.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n > PERMUTED {
        return vec![(0..n).collect()];
    }
    let mut all = vec![Vec::new()];
    for _ in 0..n {
        let longer = |order: &Vec<usize>| -> Vec<Vec<usize>> {
            let next = (0..n).filter(|i| !order.contains(i));
            next.map(|i| [&order[..], &[i]].concat()).collect()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}
