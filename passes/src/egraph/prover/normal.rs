//! One element of a tensor as a sum of products: the normal form in which theorems are compared.
//!
//! A product has index variables it is summed over and factors: elements of given tensors, functions that
//! nothing is known of, reductions. Multiplication distributes, sums merge, so equal elements of the algebra
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

    /// Summed over a variable.
    pub(super) fn summed(mut self, variable: u32, extent: &Poly) -> Normal {
        for (product, _) in &mut self.terms {
            product.over.push((variable, extent.clone()));
        }
        self
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
