//! Computing fewer rows: a slice moves up through every op that treats rows separately.
//!
//! In `main` only the last R positions feed the head, so norm and head shrink from T rows to R. All
//! exact: under the kernel contract a row does not depend on which other rows are computed.

use egg::Id;
use ir::{Dim, Op};

use crate::Tier;
use crate::egraph::language::Term;
use crate::egraph::rule::{Match, Rhs, Rule, Tree, always};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "slice-matmul-rows",
        tier: Tier::Exact,
        why: "A row of a product needs that row of the left factor only.",
        lhs: "(slice (matmul ?a ?b) axis:0 ?s ?e)",
        condition: "a is a matrix and so is b",
        when: |m| {
            m.matrix("?a")?;
            m.matrix("?b")
        },
        rhs: Rhs::Pattern("(matmul (slice ?a axis:0 ?s ?e) ?b)"),
    },
    Rule {
        name: "slice-rms-norm",
        tier: Tier::Exact,
        why: "Each row is normalised on its own.",
        lhs: "(slice (rms_norm ?x ?eps) ?a ?s ?e)",
        condition: "the axis is not the last",
        when: not_last,
        rhs: Rhs::Pattern("(rms_norm (slice ?x ?a ?s ?e) ?eps)"),
    },
    Rule {
        name: "slice-rms-norm-gain",
        tier: Tier::Exact,
        why: "Each row is normalised on its own, by the same gain.",
        lhs: "(slice (rms_norm ?x ?g ?eps) ?a ?s ?e)",
        condition: "the gain fits, so the axis is not the last",
        when: always,
        rhs: Rhs::Pattern("(rms_norm (slice ?x ?a ?s ?e) ?g ?eps)"),
    },
    Rule {
        name: "slice-softmax",
        tier: Tier::Exact,
        why: "Each row has its own maximum and sum.",
        lhs: "(slice (softmax ?x) ?a ?s ?e)",
        condition: "the axis is not the last",
        when: not_last,
        rhs: Rhs::Pattern("(softmax (slice ?x ?a ?s ?e))"),
    },
    Rule {
        name: "slice-reduce-sum",
        tier: Tier::Exact,
        why: "Each row has its own sum.",
        lhs: "(slice (reduce_sum ?x ?b) ?a ?s ?e)",
        condition: "the axes are different ones",
        when: other_axis,
        rhs: Rhs::Pattern("(reduce_sum (slice ?x ?a ?s ?e) ?b)"),
    },
    Rule {
        name: "slice-reduce-mean",
        tier: Tier::Exact,
        why: "Each row has its own mean.",
        lhs: "(slice (reduce_mean ?x ?b) ?a ?s ?e)",
        condition: "the axes are different ones",
        when: other_axis,
        rhs: Rhs::Pattern("(reduce_mean (slice ?x ?a ?s ?e) ?b)"),
    },
    Rule {
        name: "slice-reduce-max",
        tier: Tier::Exact,
        why: "Each row has its own maximum.",
        lhs: "(slice (reduce_max ?x ?b) ?a ?s ?e)",
        condition: "the axes are different ones",
        when: other_axis,
        rhs: Rhs::Pattern("(reduce_max (slice ?x ?a ?s ?e) ?b)"),
    },
    Rule {
        name: "slice-gather",
        tier: Tier::Exact,
        why: "A row of a gather is one id looked up.",
        lhs: "(slice (gather ?t ?i) axis:0 ?s ?e)",
        condition: "the ids have an axis, or the right side has no type",
        when: always,
        rhs: Rhs::Pattern("(gather ?t (slice ?i axis:0 ?s ?e))"),
    },
    Rule {
        name: "slice-elementwise",
        tier: Tier::Exact,
        why: "An element depends on the elements at its place only.",
        lhs: "(slice ?y ?a ?s ?e)",
        condition: "y is an elementwise function; operands that are broadcast along the axis stay whole",
        when: always,
        rhs: Rhs::Code(slice_elementwise),
    },
];

fn not_last(m: &mut Match<'_>) -> Option<()> {
    m.holds("the axis is not the last", m.axis("?a")? + 1 < m.rank("?x")?)
}

fn other_axis(m: &mut Match<'_>) -> Option<()> {
    m.holds("the axes are different", m.axis("?a")? != m.axis("?b")?)
}

fn is_elementwise(term: &Term) -> bool {
    const HEADS: [&str; 17] = [
        "add", "sub", "mul", "div", "max", "min", "neg", "exp", "sqrt", "rsqrt", "recip", "square",
        "tanh", "sigmoid", "act", "cast", "glu",
    ];
    HEADS.iter().any(|h| term.is(h))
}

fn slice_elementwise(m: &mut Match<'_>) -> Option<()> {
    let (axis, start, end) = (m.axis("?a")?, m.dim("?s")?, m.dim("?e")?);
    let y = m.id("?y");
    let whole = m.type_of(y)?;
    let slice = |axis: usize, of: Tree| {
        Tree::op(&Op::Slice { axis, start: start.clone(), end: end.clone() }, vec![of])
    };
    let terms = m.egraph[y].nodes.clone();
    let elementwise = |t: &&Term| m.holds("y is elementwise", is_elementwise(t)).is_some();
    let terms: Vec<&Term> = terms.iter().filter(elementwise).collect();
    for term in terms {
        let slice_operand = |child: Id| -> Tree {
            let Some(ty) = m.type_of(child) else { return Tree::Class(child) };
            let Some(own) = (axis + ty.rank()).checked_sub(whole.rank()) else {
                return Tree::Class(child);
            };
            if ty.dims[own] == Dim::from(1) && whole.dims[axis] != Dim::from(1) {
                return Tree::Class(child);
            }
            slice(own, Tree::Class(child))
        };
        let operands = term.children.iter().map(|&c| slice_operand(c)).collect();
        let same = Tree::Term(term.head.clone(), operands);
        if m.write(&same).is_some_and(|s| m.type_of(s) == m.type_of(m.root)) {
            m.equal(slice(axis, Tree::term(term)), same)?;
        }
    }
    Some(())
}
