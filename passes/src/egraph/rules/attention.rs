//! Causal attention: recognised from primitives, its scale and its grouped heads absorbed.
//!
//! The mask must be the op `causal_mask`, which is causal by construction, and it must be added to
//! the scores after they are scaled and before the softmax; nothing that merely looks like a mask
//! fires. Recognition is exact: `ir::eval` defines attention as these primitives with their roundings,
//! and the order of accumulation is the kernel contract's. Which view spells "heads first" does not matter: transposes are put around the new op and
//! cancel against those that are there.

use egg::Id;
use ir::{Dim, Op, Real};

use crate::Tier;
use crate::egraph::language::Attr;
use crate::egraph::rule::{Match, Rhs, Rule, Tree, always};
use crate::egraph::views::{Base, bases};

const HEADS_FIRST: &str = "(transpose (attention (transpose ?q perm:1,0,2) (transpose ?k perm:2,0,1) \
                           (transpose ?v perm:1,0,2) ?scale ?w) perm:1,0,2)";

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "attention",
        tier: Tier::Exact,
        why: "softmax(s q k + causal mask) v, head by head, is what attention computes.",
        lhs: "(matmul (softmax (add (mul (matmul ?q ?k) (const ?scale)) (causal_mask ?w))) ?v)",
        condition: "q[H, T, D], k[H, D, C + T], v[H, C + T, E]",
        when: always,
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
            m.bind_real("?scale", 1.0 / c)
        },
        rhs: Rhs::Pattern(HEADS_FIRST),
    },
    Rule {
        name: "attention-unscaled",
        tier: Tier::Exact,
        why: "As attention, with a scale of 1.",
        lhs: "(matmul (softmax (add (matmul ?q ?k) (causal_mask ?w))) ?v)",
        condition: "as attention",
        when: |m| m.bind_real("?scale", 1.0),
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
        name: "attention-key-shift",
        tier: Tier::Reassoc,
        why: "q (k + b) = q k + q b, the same for every key, and softmax does not see what all scores share.",
        lhs: "(attention ?q (add ?k ?b) ?v ?s ?w)",
        condition: "b[G, D] is the same for every token",
        when: shared_by_tokens,
        rhs: Rhs::Pattern("(attention ?q ?k ?v ?s ?w)"),
    },
    Rule {
        name: "attention-value-shift",
        tier: Tier::Reassoc,
        why: "Weights of attention add up to 1, so what is added to every value is added to their mean.",
        lhs: "(attention ?q ?k (add ?v ?b) ?s ?w)",
        condition: "b is the same for every token and fits the heads of q, or the right side has no type",
        when: always,
        rhs: Rhs::Pattern("(add (attention ?q ?k ?v ?s ?w) ?b)"),
    },
    Rule {
        name: "scale-out-of-rope",
        tier: Tier::Reassoc,
        why: "A rotation is linear: scalars pass through.",
        lhs: "(rope (mul ?x ?c) ?p ?r)",
        condition: "c is a constant scalar",
        when: |m| m.constant_scalar("?c"),
        rhs: Rhs::Pattern("(mul (rope ?x ?p ?r) ?c)"),
    },
    Rule {
        name: "attention-shared-heads",
        tier: Tier::Exact,
        why: "attention reads key head h / (H/G) itself, so heads need not be repeated before it.",
        lhs: "(attention ?q ?k ?v ?s ?w)",
        condition: "k and v are views that repeat each of G heads H/G times in a row",
        when: always,
        rhs: Rhs::Code(unrepeat_heads),
    },
    Rule {
        name: "attention-grouped",
        tier: Tier::Exact,
        why: "As attention, with heads spelled as two axes, groups and heads of a group.",
        lhs: "(matmul (softmax (add (mul (matmul ?q ?k) (const ?scale)) (causal_mask ?w))) ?v)",
        condition: "q[G, H/G, T, D], k[G, H/G, D, C + T], v[G, H/G, C + T, E]",
        when: always,
        rhs: Rhs::Code(attention_grouped),
    },
];

/// Whether ?b has an element per head and column of the keys, and none per token.
fn shared_by_tokens(m: &mut Match<'_>) -> Option<()> {
    let (b, x) = (m.ty("?b")?.dims, m.ty("?k")?.dims);
    m.holds("b is what every token shares", x.len() == 3 && b[..] == x[1..])
}

/// Finds the tensor with fewer heads that `repeated` [S, H, D] is a view of.
fn fewer_heads(m: &Match<'_>, repeated: Id, groups: Option<&Dim>) -> Option<Base> {
    bases(m.egraph, repeated).into_iter().find(|base| {
        let Some(ty) = m.type_of(base.class).filter(|t| t.rank() == 3) else { return false };
        let trace = &base.trace;
        let [s, h, d] = trace.view.as_slice() else { return false };
        let fewer = trace.base[0] == *s && trace.base[2] == *d && trace.base[1].len() < h.len();
        let in_a_row = fewer && h.starts_with(&trace.base[1]);
        fewer
            && m.holds("heads are repeated in a row", in_a_row).is_some()
            && groups.is_none_or(|g| ty.dims[1] == *g)
    })
}

fn unrepeat_heads(m: &mut Match<'_>) -> Option<()> {
    let keys = fewer_heads(m, m.id("?k"), None)?;
    let groups = m.type_of(keys.class)?.dims[1].clone();
    let values = fewer_heads(m, m.id("?v"), Some(&groups))?;
    let (q, scale, window) = (m.id("?q"), m.real("?s")?, window(m)?);
    let op = Op::Attention { scale: Real::new(scale), window };
    let of = |k: Tree, v: Tree| Tree::op(&op, vec![Tree::Class(q), k, v]);
    let shared = of(Tree::Class(keys.class), Tree::Class(values.class));
    m.equal(of(keys.written(), values.written()), shared)
}

fn window(m: &Match<'_>) -> Option<Option<usize>> {
    if let Attr::Window(window) = m.attr("?w")? { Some(window) } else { None }
}

/// Flattens the two head axes, applies attention tokens first, and restores the axes.
fn attention_grouped(m: &mut Match<'_>) -> Option<()> {
    let out = m.type_of(m.root)?.dims;
    let flat = |var: &str, perm: [usize; 3]| -> Option<Tree> {
        let [groups, heads, rows, columns] = &m.ty(var)?.dims[..] else { return None };
        let dims = vec![groups * heads, rows.clone(), columns.clone()];
        let flat = Tree::op(&Op::Reshape(dims), vec![Tree::Class(m.id(var))]);
        Some(Tree::op(&Op::Transpose(perm.to_vec()), vec![flat]))
    };
    let operands = vec![flat("?q", [1, 0, 2])?, flat("?k", [2, 0, 1])?, flat("?v", [1, 0, 2])?];
    let (scale, window) = (Real::new(m.real("?scale")?), window(m)?);
    let mixed = Tree::op(&Op::Attention { scale, window }, operands);
    let first = Tree::op(&Op::Transpose(vec![1, 0, 2]), vec![mixed]);
    m.equal(m.left()?, Tree::op(&Op::Reshape(out), vec![first]))
}
