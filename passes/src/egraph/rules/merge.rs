//! Merging matmuls that read the same activations (QKV, gate and up, and their biases) or are added up.
//!
//! Multi-patterns would be quadratic and unexplainable; an applier on the shared operand gathers all
//! of them and writes one product with the canonical weight
//! `transpose(concat(axis 0, w_q, w_k, w_v))`, of which the parts are slices. Exact: under the kernel
//! contract an output column does not depend on which other columns are computed.

use std::collections::BTreeMap;

use egg::Id;
use ir::{Dim, Op};
use tensor::DType;

use crate::Tier;
use crate::egraph::language::Attr;
use crate::egraph::rule::{Match, Rhs, Rule, Tree, always};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "merge-projections",
        tier: Tier::Exact,
        why: "Columns of [w1 w2 ...] are computed independently, so products of the same x are slices of one.",
        lhs: "(matmul ?x ?w)",
        condition: "x is a run-time matrix multiplied by two or more constant matrices of one dtype, none of them merged already",
        when: |m| {
            m.run_time("?x")?;
            m.matrix("?x")
        },
        rhs: Rhs::Code(merge_projections),
    },
    Rule {
        name: "merge-biases",
        tier: Tier::Exact,
        why: "Adding a bias per slice is adding the joined biases, then slicing.",
        lhs: "(slice ?x ?a ?s ?e)",
        condition: "slices that cover the last axis of x without gap, each with a constant bias of one dtype added",
        when: always,
        rhs: Rhs::Code(merge_biases),
    },
    Rule {
        name: "merge-summed-products",
        tier: Tier::Reassoc,
        why: "x a^T + y b^T = [x y] [a b]^T: products that are added are one over both inner axes (parallel residuals, the tail of a low-rank update).",
        lhs: "(add (matmul ?x (transpose ?a perm:1,0)) (matmul ?y (transpose ?b perm:1,0)))",
        condition: "x and y are different run-time matrices, a and b constant",
        when: |m| {
            ["?x", "?y"].into_iter().try_for_each(|var| m.run_time(var))?;
            ["?a", "?b"].into_iter().try_for_each(|var| m.constant(var))?;
            m.different("?x", "?y")
        },
        rhs: Rhs::Pattern(
            "(matmul (concat ?x ?y axis:1) (transpose (concat ?a ?b axis:1) perm:1,0))",
        ),
    },
];

/// One product to merge: its class, its weight [N, K], N.
struct Part {
    class: Id,
    weight: Id,
    columns: usize,
}

fn merge_projections(m: &mut Match<'_>) -> Option<()> {
    let x = m.egraph.find(m.id("?x"));
    let swap = Attr::Perm(vec![1, 0]);
    let mut groups: BTreeMap<DType, Vec<Part>> = BTreeMap::new();
    for (class, product) in m.parents(x) {
        if !product.is("matmul") || product.children[0] != x {
            continue;
        }
        let right = product.children[1];
        if m.holds("weights are constant", m.is_cc(right)).is_none() {
            continue;
        }
        let as_stored = m.terms(right, "transpose");
        let as_stored = as_stored.iter().find(|t| m.attr_of(t.children[1]) == Some(swap.clone()));
        let weight = match as_stored {
            Some(term) => m.egraph.find(term.children[0]),
            // Transposed twice is as it was: that equation is part of what this rule says.
            None => {
                let swapped = |w: Tree| Tree::op(&Op::Transpose(vec![1, 0]), vec![w]);
                let once = swapped(Tree::Class(right));
                m.equal(Tree::Class(right), swapped(once.clone()))?;
                m.write(&once)?
            }
        };
        let merged = is_merged(m, weight) || is_merged(m, right);
        if m.holds("weights are not merged already", !merged).is_none() {
            continue;
        }
        let ty = m.type_of(weight)?;
        let (&[columns, _], dtype) = (ty.const_shape()?.as_slice(), ty.dtype) else { continue };
        let parts = groups.entry(dtype).or_default();
        // One way to compute a value is enough; the oldest is the one the model was written with.
        if !parts.iter().any(|p| p.class == class) {
            parts.push(Part { class, weight, columns });
        }
    }
    for parts in groups.into_values().filter(|p| p.len() > 1) {
        write_merged(m, x, &parts)?;
    }
    Some(())
}

/// Whether a weight is a concat, or arithmetic on one: then its products are merged already.
fn is_merged(m: &Match<'_>, weight: Id) -> bool {
    m.egraph[weight].nodes.iter().any(|term| {
        term.is("concat")
            || (["mul", "transpose", "quantize"].iter().any(|s| term.is(s))
                && !m.terms(term.children[0], "concat").is_empty())
    })
}

fn write_merged(m: &mut Match<'_>, x: Id, parts: &[Part]) -> Option<()> {
    let swapped = |w: Tree| Tree::op(&Op::Transpose(vec![1, 0]), vec![w]);
    let product = |w: Tree| Tree::op(&Op::Matmul, vec![Tree::Class(x), swapped(w)]);
    let weights = parts.iter().map(|p| Tree::Class(p.weight)).collect();
    let merged = product(Tree::op(&Op::Concat { axis: 0 }, weights));
    let mut start = 0;
    for part in parts {
        let end = start + part.columns;
        let slice = Op::Slice { axis: 1, start: start.into(), end: end.into() };
        m.equal(product(Tree::Class(part.weight)), Tree::op(&slice, vec![merged.clone()]))?;
        start = end;
    }
    Some(())
}

/// A slice of the last axis with a bias added: range and bias.
struct Biased {
    start: usize,
    end: usize,
    bias: Id,
    /// Whether the bias is the first operand.
    bias_first: bool,
}

fn merge_biases(m: &mut Match<'_>) -> Option<()> {
    let x = m.egraph.find(m.id("?x"));
    let ty = m.type_of(x)?;
    let last = ty.rank().checked_sub(1)?;
    let mut found: Vec<Biased> = Vec::new();
    for (slice, term) in m.parents(x) {
        let is_slice = term.is("slice") && m.attr_of(term.children[1])? == Attr::Axis(last);
        if !is_slice || term.children[0] != x {
            continue;
        }
        let bound = |i: usize| match m.attr_of(term.children[i]) {
            Some(Attr::Dim(dim)) => dim.as_const(),
            _ => None,
        };
        let (Some(start), Some(end)) = (bound(2), bound(3)) else { continue };
        if let Some((bias, bias_first)) = bias_of(m, slice, end - start)
            && !found.iter().any(|b| b.start == start)
        {
            found.push(Biased { start, end, bias, bias_first });
        }
    }
    found.sort_by_key(|b| b.start);
    if found.len() < 2 {
        return None;
    }
    let gapless = found.windows(2).all(|w| w[0].end == w[1].start);
    m.holds("slices leave no gap", gapless)?;
    let biases = found.iter().map(|b| Tree::Class(b.bias)).collect();
    let joined = Tree::op(&Op::Concat { axis: 0 }, biases);
    let add = |a: Tree, b: Tree| Tree::op(&Op::Binary(ir::BinaryOp::Add), vec![a, b]);
    let sum = add(Tree::Class(x), joined);
    for part in found {
        let slice = Op::Slice { axis: last, start: part.start.into(), end: part.end.into() };
        let slice = |of: Tree| Tree::op(&slice, vec![of]);
        let (mut a, mut b) = (slice(Tree::Class(x)), Tree::Class(part.bias));
        if part.bias_first {
            std::mem::swap(&mut a, &mut b);
        }
        m.equal(add(a, b), slice(sum.clone()))?;
    }
    Some(())
}

/// The constant vector that is added to a slice, and whether it stands first.
fn bias_of(m: &Match<'_>, slice: Id, width: usize) -> Option<(Id, bool)> {
    m.parents(slice).into_iter().find_map(|(_, term)| {
        let at = term.children.iter().position(|&c| c == slice)?;
        let bias = *term.children.get(1 - at.min(1))?;
        term.is("add").then_some(())?;
        m.holds("biases are vectors", m.type_of(bias)?.dims == [Dim::from(width)])?;
        m.holds("biases are constant", m.is_cc(bias))?;
        Some((bias, at == 1))
    })
}
