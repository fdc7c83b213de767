//! Causal attention: recognised from primitives, its scale and its grouped heads absorbed.
//!
//! The mask must be the op `causal_mask`, which is causal by construction, and it must be added to
//! the scores after they are scaled and before the softmax; nothing that merely looks like a mask
//! fires. Recognition is exact: `ir::eval` defines attention as these primitives with their roundings,
//! and the order of accumulation is the kernel contract's. Which view spells "heads first" does not matter: transposes are put around the new op and
//! cancel against those that are there.

use egg::Id;
use ir::{Dim, Op, Real, Symbol};

use crate::Tier;
use crate::egraph::language::Attr;
use crate::egraph::rule::{Match, Rhs, Rule};
use crate::egraph::views::bases;

const HEADS_FIRST: &str = "(transpose (attention (transpose ?q perm:1,0,2) (transpose ?k perm:2,0,1) \
                           (transpose ?v perm:1,0,2) ?scale ?w) perm:1,0,2)";

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "attention",
        tier: Tier::Exact,
        why: "softmax(s q k + causal mask) v, head by head, is what attention computes.",
        lhs: "(matmul (softmax (add (mul (matmul ?q ?k) (const ?scale)) (causal_mask ?w))) ?v)",
        condition: "q[H, T, D], k[H, D, C + T], v[H, C + T, E]",
        when: heads_first,
        rhs: Rhs::Pattern(HEADS_FIRST),
    },
    Rule {
        name: "attention-divided",
        tier: Tier::Reassoc,
        why: "As attention; dividing by c is scaling by 1/c, taken in f64.",
        lhs: "(matmul (softmax (add (div (matmul ?q ?k) (const ?c)) (causal_mask ?w))) ?v)",
        condition: "as attention",
        when: |m| {
            let c = m.real("?c")?;
            m.bind_real("?scale", 1.0 / c)?;
            heads_first(m)
        },
        rhs: Rhs::Pattern(HEADS_FIRST),
    },
    Rule {
        name: "attention-unscaled",
        tier: Tier::Exact,
        why: "As attention, with a scale of 1.",
        lhs: "(matmul (softmax (add (matmul ?q ?k) (causal_mask ?w))) ?v)",
        condition: "as attention",
        when: |m| {
            m.bind_real("?scale", 1.0)?;
            heads_first(m)
        },
        rhs: Rhs::Pattern(HEADS_FIRST),
    },
    Rule {
        name: "attention-scale-of-query",
        tier: Tier::Reassoc,
        why: "(s q) k = s (q k): a scalar on the queries joins the scale of the scores.",
        lhs: "(attention (mul ?q (const ?c)) ?k ?v ?s ?w)",
        condition: "",
        when: |m| m.bind_real("?t", m.real("?s")? * m.real("?c")?),
        rhs: Rhs::Pattern("(attention ?q ?k ?v ?t ?w)"),
    },
    Rule {
        name: "attention-scale-of-key",
        tier: Tier::Reassoc,
        why: "q (s k) = s (q k): a scalar on the keys joins the scale of the scores.",
        lhs: "(attention ?q (mul ?k (const ?c)) ?v ?s ?w)",
        condition: "",
        when: |m| m.bind_real("?t", m.real("?s")? * m.real("?c")?),
        rhs: Rhs::Pattern("(attention ?q ?k ?v ?t ?w)"),
    },
    Rule {
        name: "scale-out-of-rope",
        tier: Tier::Reassoc,
        why: "A rotation is linear: scalars pass through.",
        lhs: "(rope (mul ?x ?c) ?p ?r)",
        condition: "c is a constant scalar",
        when: |m| (m.cc("?c") && m.rank("?c")? == 0).then_some(()),
        rhs: Rhs::Pattern("(mul (rope ?x ?p ?r) ?c)"),
    },
    Rule {
        name: "attention-shared-heads",
        tier: Tier::Exact,
        why: "attention reads key head h / (H/G) itself, so heads need not be repeated before it.",
        lhs: "(attention ?q ?k ?v ?s ?w)",
        condition: "k and v are views that repeat each of G heads H/G times in a row",
        when: unrepeat_heads,
        rhs: Rhs::Pattern("(attention ?q ?kg ?vg ?s ?w)"),
    },
    Rule {
        name: "attention-grouped",
        tier: Tier::Exact,
        why: "As attention, with heads spelled as two axes, groups and heads of a group.",
        lhs: "(matmul (softmax (add (mul (matmul ?q ?k) (const ?scale)) (causal_mask ?w))) ?v)",
        condition: "q[G, H/G, T, D], k[G, H/G, D, C + T], v[G, H/G, C + T, E]",
        when: |m| (m.rank("?q")? == 4 && m.rank("?k")? == 4 && m.rank("?v")? == 4).then_some(()),
        rhs: Rhs::Code(attention_grouped),
    },
];

fn heads_first(m: &mut Match<'_>) -> Option<()> {
    (m.rank("?q")? == 3 && m.rank("?k")? == 3 && m.rank("?v")? == 3).then_some(())
}

/// Finds the tensor with fewer heads that `repeated` [S, H, D] is a view of.
fn fewer_heads(m: &Match<'_>, repeated: Id, groups: Option<&Dim>) -> Option<Id> {
    let found = bases(m.egraph, repeated).into_iter().find(|(base, trace)| {
        let Some(ty) = m.type_of(*base).filter(|t| t.rank() == 3) else { return false };
        let [s, h, d] = trace.view.as_slice() else { return false };
        let fewer = trace.base[0] == *s && trace.base[2] == *d && trace.base[1].len() < h.len();
        fewer && h.starts_with(&trace.base[1]) && groups.is_none_or(|g| ty.dims[1] == *g)
    });
    found.map(|f| f.0)
}

fn unrepeat_heads(m: &mut Match<'_>) -> Option<()> {
    let keys = fewer_heads(m, m.id("?k"), None)?;
    let groups = m.type_of(keys)?.dims[1].clone();
    let values = fewer_heads(m, m.id("?v"), Some(&groups))?;
    m.bind("?kg", keys);
    m.bind("?vg", values);
    Some(())
}

/// Flattens the two head axes, applies attention tokens first, and restores the axes.
fn attention_grouped(m: &mut Match<'_>) -> Option<()> {
    let out = m.type_of(m.root)?.dims;
    let flat = |m: &mut Match<'_>, var: &str, perm: [usize; 3]| {
        let dims = m.ty(var)?.dims;
        let dims = vec![&dims[0] * &dims[1], dims[2].clone(), dims[3].clone()];
        let flat = m.add(&Op::Reshape(dims), &[m.id(var)])?;
        m.add(&Op::Transpose(perm.to_vec()), &[flat])
    };
    let q = flat(m, "?q", [1, 0, 2])?;
    let k = flat(m, "?k", [2, 0, 1])?;
    let v = flat(m, "?v", [1, 0, 2])?;
    let Attr::Window(window) = m.attr("?w")? else { return None };
    let scale = Real::new(m.real("?scale")?);
    let mixed = m.add(&Op::Attention { scale, window }, &[q, k, v])?;
    let first = m.add(&Op::Transpose(vec![1, 0, 2]), &[mixed])?;
    debug_assert_eq!(out[2], Dim::from(Symbol::T), "attention checks its tokens");
    let same = m.add(&Op::Reshape(out), &[first])?;
    m.union(m.root, same);
    Some(())
}
