//! Views: reshape, transpose, broadcast, slice and concat cancel, merge and change places.
//!
//! All exact: only bits move.

use egg::Id;
use ir::{Dim, Op};

use crate::Tier;
use crate::egraph::language::Attr;
use crate::egraph::rule::{Match, Rhs, Rule, Tree, always};
use crate::egraph::views::bases;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "transpose-transpose",
        tier: Tier::Exact,
        why: "Two permutations after each other are one.",
        lhs: "(transpose (transpose ?x ?p) ?q)",
        condition: "",
        when: |m| {
            let (p, q) = (m.perm("?p")?, m.perm("?q")?);
            m.bind_attr("?r", Attr::Perm(q.iter().map(|&i| p[i]).collect()));
            Some(())
        },
        rhs: Rhs::Pattern("(transpose ?x ?r)"),
    },
    Rule {
        name: "transpose-identity",
        tier: Tier::Exact,
        why: "A permutation that moves nothing is no operation.",
        lhs: "(transpose ?x ?p)",
        condition: "p is the identity",
        when: |m| {
            let identity = m.perm("?p")?.into_iter().enumerate().all(|(i, p)| i == p);
            m.holds("p is the identity", identity)
        },
        rhs: Rhs::Pattern("?x"),
    },
    Rule {
        name: "reshape-reshape",
        tier: Tier::Exact,
        why: "Row-major order is the same before and after each reshape.",
        lhs: "(reshape (reshape ?x ?a) ?b)",
        condition: "",
        when: always,
        rhs: Rhs::Pattern("(reshape ?x ?b)"),
    },
    Rule {
        name: "reshape-identity",
        tier: Tier::Exact,
        why: "The same dims are the same tensor.",
        lhs: "(reshape ?x ?a)",
        condition: "the dims are those of x",
        when: same_type,
        rhs: Rhs::Pattern("?x"),
    },
    Rule {
        name: "broadcast-identity",
        tier: Tier::Exact,
        why: "Nothing is repeated.",
        lhs: "(broadcast ?x ?a)",
        condition: "the dims are those of x",
        when: same_type,
        rhs: Rhs::Pattern("?x"),
    },
    Rule {
        name: "reshape-chain",
        tier: Tier::Exact,
        why: "A chain of views that ends where it began, element for element, is no operation; one that permutes whole axes is one transpose.",
        lhs: "(reshape ?x ?a)",
        condition: "the digits of the index space are those of a base, in order or permuted by axis",
        when: always,
        rhs: Rhs::Code(shorten_chain),
    },
    Rule {
        name: "transpose-chain",
        tier: Tier::Exact,
        why: "As reshape-chain; a transpose that moves only extents of 1 is a reshape.",
        lhs: "(transpose ?x ?p)",
        condition: "as reshape-chain",
        when: always,
        rhs: Rhs::Code(shorten_chain),
    },
    Rule {
        name: "slice-slice",
        tier: Tier::Exact,
        why: "A range of a range is a range.",
        lhs: "(slice (slice ?x ?a ?s ?e) ?a ?t ?f)",
        condition: "",
        when: |m| {
            let (s, t, f) = (m.dim("?s")?, m.dim("?t")?, m.dim("?f")?);
            m.bind_attr("?start", Attr::Dim(&s + &t));
            m.bind_attr("?end", Attr::Dim(&s + &f));
            Some(())
        },
        rhs: Rhs::Pattern("(slice ?x ?a ?start ?end)"),
    },
    Rule {
        name: "slice-whole",
        tier: Tier::Exact,
        why: "The whole axis is the tensor.",
        lhs: "(slice ?x ?a ?s ?e)",
        condition: "the range is the whole axis",
        when: same_type,
        rhs: Rhs::Pattern("?x"),
    },
    Rule {
        name: "slice-of-concat",
        tier: Tier::Exact,
        why: "A range of joined parts is a range of the parts it touches.",
        lhs: "(slice ?x ?a ?s ?e)",
        condition: "x is a concat along the same axis, and the range lies in one part or covers whole parts",
        when: always,
        rhs: Rhs::Code(slice_of_concat),
    },
    Rule {
        name: "concat-of-slices",
        tier: Tier::Exact,
        why: "Adjacent ranges of one tensor, joined, are one range of it.",
        lhs: "(slice ?x ?a ?s ?e)",
        condition: "a concat of this and other slices of x along the same axis, each starting where the one before ends",
        when: always,
        rhs: Rhs::Code(concat_of_slices),
    },
    Rule {
        name: "slice-through-transpose",
        tier: Tier::Exact,
        why: "Taking a range of an axis does not care where the axis stands.",
        lhs: "(slice (transpose ?x ?p) ?a ?s ?e)",
        condition: "",
        when: |m| {
            let axis = *m.perm("?p")?.get(m.axis("?a")?)?;
            m.bind_attr("?b", Attr::Axis(axis));
            Some(())
        },
        rhs: Rhs::Pattern("(transpose (slice ?x ?b ?s ?e) ?p)"),
    },
    Rule {
        name: "slice-through-reshape",
        tier: Tier::Exact,
        why: "Rows stay rows when only the axes behind them are re-grouped.",
        lhs: "(slice (reshape ?x ?d) axis:0 ?s ?e)",
        condition: "the first extent is the same before and after the reshape, or the right side has no type",
        when: |m| {
            let Attr::Dims(mut dims) = m.attr("?d")? else { return None };
            let rows = dims.first_mut()?;
            *rows = &m.dim("?e")? - &m.dim("?s")?;
            m.bind_attr("?f", Attr::Dims(dims));
            Some(())
        },
        rhs: Rhs::Pattern("(reshape (slice ?x axis:0 ?s ?e) ?f)"),
    },
    Rule {
        name: "concat-of-transposes",
        tier: Tier::Exact,
        why: "Joining columns of transposed matrices is joining rows and transposing once.",
        lhs: "(transpose ?x perm:1,0)",
        condition: "a concat along axis 1 of nothing but transposed matrices",
        when: always,
        rhs: Rhs::Code(concat_of_transposes),
    },
    Rule {
        name: "add-broadcast",
        tier: Tier::Exact,
        why: "add repeats extents of 1 by itself.",
        lhs: "(add ?x (broadcast ?y ?d))",
        condition: "x has the dims of the sum",
        when: left_is_whole,
        rhs: Rhs::Pattern("(add ?x ?y)"),
    },
    Rule {
        name: "mul-broadcast",
        tier: Tier::Exact,
        why: "mul repeats extents of 1 by itself.",
        lhs: "(mul ?x (broadcast ?y ?d))",
        condition: "x has the dims of the product",
        when: left_is_whole,
        rhs: Rhs::Pattern("(mul ?x ?y)"),
    },
    Rule {
        name: "add-leading-ones",
        tier: Tier::Exact,
        why: "add supplies missing leading axes by itself.",
        lhs: "(add ?x (reshape ?y ?d))",
        condition: "x has the dims of the sum, and the reshape only puts extents of 1 in front",
        when: leading_ones,
        rhs: Rhs::Pattern("(add ?x ?y)"),
    },
    Rule {
        name: "mul-leading-ones",
        tier: Tier::Exact,
        why: "mul supplies missing leading axes by itself.",
        lhs: "(mul ?x (reshape ?y ?d))",
        condition: "x has the dims of the product, and the reshape only puts extents of 1 in front",
        when: leading_ones,
        rhs: Rhs::Pattern("(mul ?x ?y)"),
    },
];

fn same_type(m: &mut Match<'_>) -> Option<()> {
    m.holds("the type is that of x", m.ty("?x")? == m.type_of(m.root)?)
}

fn left_is_whole(m: &mut Match<'_>) -> Option<()> {
    m.holds("x has the dims of the whole", m.ty("?x")?.dims == m.type_of(m.root)?.dims)
}

fn leading_ones(m: &mut Match<'_>) -> Option<()> {
    let Attr::Dims(dims) = m.attr("?d")? else { return None };
    let inner = m.ty("?y")?.dims;
    let front = dims.len().checked_sub(inner.len())?;
    // As many elements as y has: what stands in front are ones.
    m.holds("the last dims are those of y", dims[front..] == inner[..])?;
    left_is_whole(m)
}

fn shorten_chain(m: &mut Match<'_>) -> Option<()> {
    let root = m.root;
    let ty = m.type_of(root)?;
    for base in bases(m.egraph, root) {
        if base.class == m.egraph.find(root) {
            continue;
        }
        let base_ty = m.type_of(base.class)?;
        let plain = Tree::Class(base.class);
        let same = if base.trace.is_identity() && base_ty == ty {
            plain
        } else if let Some(perm) = base.trace.as_transpose() {
            Tree::op(&Op::Transpose(perm), vec![plain])
        } else if base.trace.is_reshape() && base_ty.dtype == ty.dtype {
            Tree::op(&Op::Reshape(ty.dims.clone()), vec![plain])
        } else {
            continue;
        };
        // Extents of 1 have no digits: a permutation of digits may still give other dims.
        if m.write(&same).is_some_and(|id| m.type_of(id).as_ref() == Some(&ty)) {
            m.equal(base.written(), same)?;
        }
    }
    Some(())
}

/// Axis, start and end of a slice term, and what it is a slice of.
fn as_slice(m: &Match<'_>, term: &crate::egraph::language::Term) -> Option<(Id, usize, Dim, Dim)> {
    let (Attr::Axis(axis), Attr::Dim(start), Attr::Dim(end)) = (
        m.attr_of(*term.children.get(1)?)?,
        m.attr_of(*term.children.get(2)?)?,
        m.attr_of(*term.children.get(3)?)?,
    ) else {
        return None;
    };
    Some((m.egraph.find(term.children[0]), axis, start, end))
}

fn slice_of_concat(m: &mut Match<'_>) -> Option<()> {
    let (axis, start, end) = (m.axis("?a")?, m.dim("?s")?.as_const()?, m.dim("?e")?.as_const()?);
    let range = |start: usize, end: usize, of: Tree| {
        Tree::op(&Op::Slice { axis, start: start.into(), end: end.into() }, vec![of])
    };
    for concat in m.terms(m.id("?x"), "concat") {
        let (attr, parts) = concat.children.split_last()?;
        let along = m.attr_of(*attr)? == Attr::Axis(axis);
        if m.holds("the concat is along the axis", along).is_none() {
            continue;
        }
        let left = range(start, end, Tree::term(&concat));
        let (mut at, mut whole) = (0, Vec::new());
        for &part in parts {
            let len = m.type_of(part)?.dims[axis].as_const()?;
            if at <= start && end <= at + len {
                m.equal(left.clone(), range(start - at, end - at, Tree::Class(part)))?;
            }
            if start <= at && at + len <= end {
                whole.push((at, at + len, part));
            }
            at += len;
        }
        let (Some(first), Some(last)) = (whole.first(), whole.last()) else { continue };
        let covers = first.0 == start && last.1 == end;
        if whole.len() > 1 && m.holds("the range covers whole parts", covers).is_some() {
            let parts = whole.iter().map(|w| Tree::Class(w.2)).collect();
            m.equal(left, Tree::op(&Op::Concat { axis }, parts))?;
        }
    }
    Some(())
}

fn concat_of_slices(m: &mut Match<'_>) -> Option<()> {
    let (x, axis) = (m.egraph.find(m.id("?x")), m.axis("?a")?);
    for (_, concat) in m.parents(m.root) {
        let Some((attr, parts)) = concat.children.split_last() else { continue };
        let along = concat.is("concat") && m.attr_of(*attr)? == Attr::Axis(axis);
        if !concat.is("concat") || m.holds("the concat is along the axis", along).is_none() {
            continue;
        }
        let range_of = |part: &Id| {
            let slices = m.terms(*part, "slice");
            let mut slices = slices.iter().filter_map(|t| as_slice(m, t)).filter(|s| s.1 == axis);
            slices.find(|s| m.holds("all are slices of x", s.0 == x).is_some())
        };
        let Some(ranges) = parts.iter().map(range_of).collect::<Option<Vec<_>>>() else { continue };
        let adjacent = ranges.windows(2).all(|w| w[0].3 == w[1].2);
        if m.holds("each starts where the one before ends", adjacent).is_some() {
            let slice = |start: &Dim, end: &Dim| {
                let op = Op::Slice { axis, start: start.clone(), end: end.clone() };
                Tree::op(&op, vec![Tree::Class(x)])
            };
            let joined = ranges.iter().map(|r| slice(&r.2, &r.3)).collect();
            let whole = slice(&ranges.first()?.2, &ranges.last()?.3);
            m.equal(Tree::op(&Op::Concat { axis }, joined), whole);
        }
    }
    Some(())
}

fn concat_of_transposes(m: &mut Match<'_>) -> Option<()> {
    let swap = Attr::Perm(vec![1, 0]);
    for (_, concat) in m.parents(m.root) {
        let Some((attr, parts)) = concat.children.split_last() else { continue };
        let along = concat.is("concat") && m.attr_of(*attr)? == Attr::Axis(1);
        if !concat.is("concat") || m.holds("the concat is along axis 1", along).is_none() {
            continue;
        }
        let source = |part: &Id| {
            let terms = m.terms(*part, "transpose");
            terms
                .iter()
                .find(|t| m.attr_of(t.children[1]) == Some(swap.clone()))
                .map(|t| t.children[0])
        };
        let Some(sources) = parts.iter().map(source).collect::<Option<Vec<_>>>() else { continue };
        let transposed = |x: Tree| Tree::op(&Op::Transpose(vec![1, 0]), vec![x]);
        let parts = sources.iter().map(|&s| transposed(Tree::Class(s))).collect();
        let rows = sources.iter().map(|&s| Tree::Class(s)).collect();
        let joined = Tree::op(&Op::Concat { axis: 0 }, rows);
        m.equal(Tree::op(&Op::Concat { axis: 1 }, parts), transposed(joined))?;
    }
    Some(())
}
