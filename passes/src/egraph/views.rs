//! Where the elements of a view come from: the algebra behind every rule on reshapes, transposes
//! and broadcasts.
//!
//! The index space of a view is cut into *digits*, each with an extent; a view axis is a row-major
//! sequence of digits. Walking from the view towards its base, a transpose permutes the sequences, a
//! reshape re-groups their concatenation (splitting digits where it must), a broadcast drops digits:
//! the base does not depend on them. Two chains of views mean the same when they lead to the same
//! base by the same digits, however they are spelled. Slices and concats are not looked through.

use egg::Id;
use ir::{Dim, TensorType};

use super::facts::{EGraph, Fact};
use super::language::{Attr, Term};
use super::rule::Tree;

/// The digits of a view and of the base it was traced to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    /// Extent of each digit.
    extents: Vec<Dim>,
    /// Digits of each axis of the view, outermost first. Extents of 1 have no digit.
    pub(crate) view: Vec<Vec<usize>>,
    /// Digits of each axis of the base.
    pub(crate) base: Vec<Vec<usize>>,
}

impl Trace {
    /// The trace of a tensor to itself.
    pub(crate) fn identity(ty: &TensorType) -> Trace {
        let mut extents = Vec::new();
        let axes: Vec<Vec<usize>> = ty.dims.iter().map(|dim| digit(&mut extents, dim)).collect();
        Trace { extents, view: axes.clone(), base: axes }
    }

    /// One step further from the view: the current base is `op` of a tensor with `dims`.
    fn step(mut self, attr: &Attr, spelling: &str, dims: &[Dim]) -> Option<Trace> {
        match (spelling, attr) {
            ("transpose", Attr::Perm(perm)) => {
                let mut base = vec![Vec::new(); perm.len()];
                for (axis, &from) in perm.iter().enumerate() {
                    base[from] = std::mem::take(&mut self.base[axis]);
                }
                self.base = base;
                Some(self)
            }
            ("broadcast", Attr::Dims(to)) => {
                for (axis, (from, to)) in dims.iter().zip(to).enumerate() {
                    if from != to {
                        self.base[axis].clear();
                    }
                }
                Some(self)
            }
            ("reshape", Attr::Dims(_)) => self.regroup(dims),
            _ => None,
        }
    }

    /// Re-groups all digits of the base, in order, into axes of the given extents.
    fn regroup(mut self, dims: &[Dim]) -> Option<Trace> {
        let mut rest: std::collections::VecDeque<usize> = self.base.concat().into();
        let mut axes: Vec<Vec<usize>> = Vec::with_capacity(dims.len());
        for dim in dims {
            let (mut axis, mut extent) = (Vec::new(), Dim::from(1));
            while extent != *dim {
                let digit = rest.pop_front()?;
                let next = &extent * &self.extents[digit];
                match (next.as_const(), dim.as_const(), extent.as_const()) {
                    (Some(next), Some(wanted), Some(extent)) if next > wanted => {
                        let outer = wanted.checked_div(extent).filter(|n| n * extent == wanted)?;
                        let inner = self.split(digit, outer)?;
                        rest.push_front(inner);
                    }
                    _ => {}
                }
                extent = &extent * &self.extents[digit];
                axis.push(digit);
            }
            axes.push(axis);
        }
        self.base = axes;
        rest.is_empty().then_some(self)
    }

    /// Splits a digit: it keeps its outer part of the given extent; the inner part is a new digit.
    fn split(&mut self, digit: usize, outer: usize) -> Option<usize> {
        let extent = self.extents[digit].as_const()?;
        let inner = extent.checked_div(outer).filter(|n| n * outer == extent)?;
        self.extents[digit] = outer.into();
        self.extents.push(inner.into());
        let new = self.extents.len() - 1;
        for axis in &mut self.view {
            if let Some(at) = axis.iter().position(|&d| d == digit) {
                axis.insert(at + 1, new);
            }
        }
        Some(new)
    }

    /// Whether view and base are element for element the same.
    pub(crate) fn is_identity(&self) -> bool {
        self.view == self.base
    }

    /// The permutation when the view is the base with its axes permuted: view axis i is base axis
    /// `perm[i]`.
    pub(crate) fn as_transpose(&self) -> Option<Vec<usize>> {
        let mut used = vec![false; self.base.len()];
        let find = |digits: &Vec<usize>| {
            let at = (0..self.base.len()).find(|&i| !used[i] && self.base[i] == *digits)?;
            used[at] = true;
            Some(at)
        };
        let perm: Option<Vec<usize>> = self.view.iter().map(find).collect();
        perm.filter(|p| p.len() == self.base.len())
    }

    /// Whether the view is the base under other dims: the same digits in the same order.
    pub(crate) fn is_reshape(&self) -> bool {
        self.view.concat() == self.base.concat()
    }
}

fn digit(extents: &mut Vec<Dim>, dim: &Dim) -> Vec<usize> {
    if *dim == Dim::from(1) {
        return Vec::new();
    }
    extents.push(dim.clone());
    vec![extents.len() - 1]
}

/// How many views a chain may have; longer ones are not followed.
const DEPTH: usize = 8;
/// How many bases are looked at; models have a handful.
const BASES: usize = 64;

/// A class that another is a view of.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) class: Id,
    pub(crate) trace: Trace,
    /// The views between, outermost first.
    chain: Vec<Term>,
}

impl Base {
    /// The views, written out on their base.
    pub(crate) fn written(&self) -> Tree {
        let views = self.chain.iter().rev();
        views.fold(Tree::Class(self.class), |below, view| Tree::on(view, below))
    }
}

/// Every class that `id` is a view of, itself included, with the trace; nearest first.
pub(crate) fn bases(egraph: &EGraph, id: Id) -> Vec<Base> {
    let Some(ty) = tensor_type(egraph, id) else { return Vec::new() };
    let (class, trace) = (egraph.find(id), Trace::identity(ty));
    let mut found = vec![Base { class, trace, chain: Vec::new() }];
    let mut from = 0;
    for _ in 0..DEPTH {
        let until = found.len();
        for i in from..until {
            let Base { class, trace, chain } = found[i].clone();
            for term in &egraph[class].nodes {
                let Some((child, next)) = through(egraph, term, &trace) else { continue };
                let known = found.iter().any(|b| b.class == child && b.trace == next);
                if !known && found.len() < BASES {
                    let chain = chain.iter().chain([term]).cloned().collect();
                    found.push(Base { class: child, trace: next, chain });
                }
            }
        }
        from = until;
    }
    found
}

/// The operand of a view term, and the trace prolonged to it.
fn through(egraph: &EGraph, term: &Term, trace: &Trace) -> Option<(Id, Trace)> {
    let spelling = ["reshape", "transpose", "broadcast"].into_iter().find(|s| term.is(s))?;
    let child = egraph.find(term.children[0]);
    let Fact::Attr(attr) = &egraph[term.children[1]].data else { return None };
    let dims = &tensor_type(egraph, child)?.dims;
    Some((child, trace.clone().step(attr, spelling, dims)?))
}

fn tensor_type(egraph: &EGraph, id: Id) -> Option<&TensorType> {
    match &egraph[id].data {
        Fact::Value { ty, .. } => ty.as_tensor(),
        Fact::Attr(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use ir::Symbol;
    use tensor::DType;

    use super::*;

    fn ty(dims: &[Dim]) -> TensorType {
        TensorType { dtype: DType::F32, dims: dims.to_vec() }
    }

    fn reshape(trace: Trace, dims: &[Dim]) -> Trace {
        trace.step(&Attr::Dims(Vec::new()), "reshape", dims).unwrap()
    }

    #[test]
    fn repeating_heads_reads_group_by_outer_digit() {
        // [S, 2, 16] -> [S, 2, 1, 16] -> [S, 2, 3, 16] -> [S, 6, 16], walked backwards.
        let s = Dim::from(Symbol::T);
        let trace = Trace::identity(&ty(&[s.clone(), 6.into(), 16.into()]));
        let grouped = [s.clone(), 2.into(), 3.into(), 16.into()];
        let trace = reshape(trace, &grouped);
        let one = [s.clone(), 2.into(), 1.into(), 16.into()];
        let trace = trace.step(&Attr::Dims(grouped.to_vec()), "broadcast", &one).unwrap();
        let trace = reshape(trace, &[s, 2.into(), 16.into()]);
        assert_eq!(trace.view, [vec![0], vec![1, 3], vec![2]]);
        assert_eq!(trace.base, [vec![0], vec![1], vec![2]]);
        assert!(!trace.is_identity());
    }

    #[test]
    fn splitting_and_merging_axes_is_the_identity() {
        let t = Dim::from(Symbol::T);
        let flat = [t.clone(), 64.into()];
        let trace = reshape(Trace::identity(&ty(&flat)), &[t, 4.into(), 16.into()]);
        assert!(trace.is_reshape() && !trace.is_identity());
        assert!(reshape(trace, &flat).is_identity());
    }

    #[test]
    fn a_transpose_between_reshapes_is_seen() {
        let trace = Trace::identity(&ty(&[6.into(), 4.into()]));
        let trace = trace.step(&Attr::Perm(vec![1, 0]), "transpose", &[]).unwrap();
        assert_eq!(trace.as_transpose(), Some(vec![1, 0]));
        let trace = reshape(trace, &[4.into(), 2.into(), 3.into()]);
        assert_eq!(trace.as_transpose(), None);
        assert!(
            reshape(trace, &[5.into(), 5.into()].map(|_: Dim| 24.into())[..1])
                .as_transpose()
                .is_none()
        );
    }
}
