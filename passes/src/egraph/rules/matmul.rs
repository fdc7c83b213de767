//! Matrix products: association with constant and low-rank members, scales, transposed products.
//!
//! Everything here may change the order of additions or where a factor is multiplied, so the tier is
//! reassoc unless the factor is a power of two. Constant factors are computed and stored in f32, so
//! no stored value loses precision. No blanket associativity: one side of each rule needs constants,
//! and splitting a constant needs it to have low rank.

use egg::Id;

use crate::Tier;
use crate::egraph::language::{Attr, Term};
use crate::egraph::rule::{Match, Rhs, Rule, always};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "matmul-fold-constants",
        tier: Tier::Reassoc,
        why: "(a b) c = a (b c), and b c is computed once, when packing.",
        lhs: "(matmul (matmul ?a ?b) ?c)",
        condition: "b and c are constant matrices",
        when: |m| {
            m.matrix("?b")?;
            m.matrix("?c")?;
            m.constant("?b")?;
            m.constant("?c")
        },
        rhs: Rhs::Pattern("(matmul ?a (matmul ?b ?c))"),
    },
    Rule {
        name: "matmul-split-low-rank",
        tier: Tier::Reassoc,
        why: "a (b c) = (a b) c, which is less work when b c has low rank.",
        lhs: "(matmul ?a (matmul ?b ?c))",
        condition: "b[K, r] and c[r, N] are constant matrices with r (K + N) < K N",
        when: |m| {
            m.constant("?b")?;
            m.constant("?c")?;
            m.holds("b c has low rank", low_rank(m, m.id("?b"), m.id("?c"))?)
        },
        rhs: Rhs::Pattern("(matmul (matmul ?a ?b) ?c)"),
    },
    Rule {
        name: "matmul-absorb-left",
        tier: Tier::Reassoc,
        why: "a (w c) = (a w) c: a constant between two activations goes to the smaller one (absorption of latent keys).",
        lhs: "(matmul ?a (matmul ?b ?c))",
        condition: "b is a constant matrix, a and c are run-time matrices",
        when: |m| {
            ["?a", "?b", "?c"].into_iter().try_for_each(|var| m.matrix(var))?;
            m.constant("?b")?;
            m.run_time("?a")?;
            m.run_time("?c")
        },
        rhs: Rhs::Pattern("(matmul (matmul ?a ?b) ?c)"),
    },
    Rule {
        name: "matmul-absorb-right",
        tier: Tier::Reassoc,
        why: "a (b w) = (a b) w: a constant behind two activations is applied to their product (absorption of latent values).",
        lhs: "(matmul ?a (matmul ?b ?c))",
        condition: "c is a constant matrix, a and b are run-time matrices",
        when: |m| {
            ["?a", "?b", "?c"].into_iter().try_for_each(|var| m.matrix(var))?;
            m.constant("?c")?;
            m.run_time("?a")?;
            m.run_time("?b")
        },
        rhs: Rhs::Pattern("(matmul (matmul ?a ?b) ?c)"),
    },
    Rule {
        name: "shift-through-matmul",
        tier: Tier::Reassoc,
        why: "(x + b) w = x w + b w, and b w is computed once, when packing (the shift of a layer norm becomes a bias).",
        lhs: "(matmul (add ?x ?b) ?w)",
        condition: "x is a run-time matrix, b a constant vector, w a constant matrix",
        when: |m| {
            m.matrix("?x")?;
            m.matrix("?w")?;
            m.holds("b is a vector", m.rank("?b")? == 1)?;
            m.run_time("?x")?;
            m.constant("?b")?;
            m.constant("?w")?;
            let width = m.ty("?b")?.dims.first()?.clone();
            m.bind_attr("?d", Attr::Dims(vec![1.into(), width]));
            Some(())
        },
        rhs: Rhs::Pattern("(add (matmul ?x ?w) (matmul (reshape ?b ?d) ?w))"),
    },
    Rule {
        name: "scale-into-table",
        tier: Tier::Exact,
        why: "A row of a scaled table is the scaled row, and the table is scaled once, when packing.",
        lhs: "(mul (gather ?t ?i) (const ?c))",
        condition: "t is a constant of f32: a narrower table would have to be widened to hold the products",
        when: |m| {
            m.holds("t is f32", m.ty("?t")?.dtype == tensor::DType::F32)?;
            m.constant("?t")
        },
        rhs: Rhs::Pattern("(gather (mul ?t (const ?c)) ?i)"),
    },
    Rule {
        name: "matmul-distribute-low-rank",
        tier: Tier::Reassoc,
        why: "x (w + d) = x w + x d; a low-rank update d (LoRA) is cheap to apply on its own.",
        lhs: "(matmul ?x (add ?w ?d))",
        condition: "w and d are constant matrices and d is a low-rank product, scaled or not",
        when: |m| splits(m, "?w", "?d"),
        rhs: Rhs::Pattern("(add (matmul ?x ?w) (matmul ?x ?d))"),
    },
    Rule {
        name: "transposed-distribute-low-rank",
        tier: Tier::Reassoc,
        why: "x (w + d)^T = x w^T + x d^T, as matmul-distribute-low-rank.",
        lhs: "(matmul ?x (transpose (add ?w ?d) perm:1,0))",
        condition: "as matmul-distribute-low-rank",
        when: |m| splits(m, "?w", "?d"),
        rhs: Rhs::Pattern(
            "(add (matmul ?x (transpose ?w perm:1,0)) (matmul ?x (transpose ?d perm:1,0)))",
        ),
    },
    Rule {
        name: "matmul-factor",
        tier: Tier::Reassoc,
        why: "x a + x b = x (a + b), and a + b is computed once, when packing.",
        lhs: "(add (matmul ?x ?a) (matmul ?x ?b))",
        condition: "a and b are different constant matrices",
        when: |m| {
            ["?a", "?b"].into_iter().try_for_each(|var| m.matrix(var))?;
            ["?a", "?b"].into_iter().try_for_each(|var| m.constant(var))?;
            m.different("?a", "?b")
        },
        rhs: Rhs::Pattern("(matmul ?x (add ?a ?b))"),
    },
    Rule {
        name: "scale-into-weight-exact",
        tier: Tier::Exact,
        why: "Multiplying by a power of two changes no digit of any product or sum.",
        lhs: "(mul (matmul ?x ?w) (const ?c))",
        condition: "w is constant and c is a power of two between 2^-16 and 2^16",
        when: |m| {
            let c = m.real("?c")?;
            m.holds("c is a power of two", c > 0.0 && c.log2().fract() == 0.0)?;
            m.holds("c is between 2^-16 and 2^16", c.log2().abs() <= 16.0)?;
            m.constant("?w")
        },
        rhs: Rhs::Pattern("(matmul ?x (mul ?w (const ?c)))"),
    },
    Rule {
        name: "scale-into-weight",
        tier: Tier::Reassoc,
        why: "s (x w) = x (s w), and s w is computed once, when packing.",
        lhs: "(mul (matmul ?x ?w) ?c)",
        condition: "w is constant and c is a constant scalar",
        when: |m| {
            m.constant("?w")?;
            m.constant_scalar("?c")
        },
        rhs: Rhs::Pattern("(matmul ?x (mul ?w ?c))"),
    },
    Rule {
        name: "scale-out-of-right",
        tier: Tier::Reassoc,
        why: "x (s w) = s (x w): keeps w as stored, and brings scales of scores together.",
        lhs: "(matmul ?x (mul ?w ?c))",
        condition: "c is a constant scalar",
        when: |m| m.constant_scalar("?c"),
        rhs: Rhs::Pattern("(mul (matmul ?x ?w) ?c)"),
    },
    Rule {
        name: "scale-out-of-left",
        tier: Tier::Reassoc,
        why: "(s x) w = s (x w): brings scales of scores together.",
        lhs: "(matmul (mul ?x ?c) ?w)",
        condition: "c is a constant scalar",
        when: |m| m.constant_scalar("?c"),
        rhs: Rhs::Pattern("(mul (matmul ?x ?w) ?c)"),
    },
    Rule {
        name: "scale-out-of-transpose",
        tier: Tier::Exact,
        why: "A scalar multiplies every element, wherever it stands.",
        lhs: "(transpose (mul ?x ?c) ?p)",
        condition: "c is a scalar and x is f32",
        when: scalar_of_f32,
        rhs: Rhs::Pattern("(mul (transpose ?x ?p) ?c)"),
    },
    Rule {
        name: "scale-out-of-reshape",
        tier: Tier::Exact,
        why: "A scalar multiplies every element, wherever it stands.",
        lhs: "(reshape (mul ?x ?c) ?d)",
        condition: "c is a scalar and x is f32",
        when: scalar_of_f32,
        rhs: Rhs::Pattern("(mul (reshape ?x ?d) ?c)"),
    },
    Rule {
        name: "transposed-product",
        tier: Tier::Exact,
        why: "(a b)^T = b^T a^T, with the same products summed in the same order.",
        lhs: "(transpose (matmul ?a ?b) perm:1,0)",
        condition: "",
        when: always,
        rhs: Rhs::Pattern("(matmul (transpose ?b perm:1,0) (transpose ?a perm:1,0))"),
    },
    Rule {
        name: "row-scale-out-of-left",
        tier: Tier::Reassoc,
        why: "A factor of a row of x is a factor of that row of x w: it goes where rows are narrower (deferred norm, weights of experts).",
        lhs: "(matmul (mul ?x ?r) ?w)",
        condition: "r has one column",
        when: one_column,
        rhs: Rhs::Pattern("(mul (matmul ?x ?w) ?r)"),
    },
    Rule {
        name: "row-scale-into-left",
        tier: Tier::Reassoc,
        why: "A factor of a row of x w is a factor of that row of x: a norm applied after a product is one before it.",
        lhs: "(mul (matmul ?x ?w) ?r)",
        condition: "r has one column",
        when: one_column,
        rhs: Rhs::Pattern("(matmul (mul ?x ?r) ?w)"),
    },
    Rule {
        name: "column-scale-into-weight",
        tier: Tier::Reassoc,
        why: "Factors of the columns of x w^T are factors of the rows of w, which are scaled once, when packing (layer scale).",
        lhs: "(mul (matmul ?x (transpose ?w perm:1,0)) ?c)",
        condition: "w is a constant of f32 (a narrower one would have to be widened to hold the products) and c a constant vector",
        when: |m| {
            wide_and_vector(m, "?c")?;
            let rows = m.ty("?c")?.dims.first()?.clone();
            m.bind_attr("?d", Attr::Dims(vec![rows, 1.into()]));
            Some(())
        },
        rhs: Rhs::Pattern("(matmul ?x (transpose (mul ?w (reshape ?c ?d)) perm:1,0))"),
    },
    Rule {
        name: "column-scale-of-left",
        tier: Tier::Reassoc,
        why: "(x g) w^T = x (w g)^T: a diagonal moves into the constant factor, whatever wrote it (the gain of a layer norm).",
        lhs: "(matmul (mul ?x ?g) (transpose ?w perm:1,0))",
        condition: "w is a constant of f32, as column-scale-into-weight, and g a constant vector",
        when: |m| wide_and_vector(m, "?g"),
        rhs: Rhs::Pattern("(matmul ?x (transpose (mul ?w ?g) perm:1,0))"),
    },
    Rule {
        name: "scales-in-one",
        tier: Tier::Reassoc,
        why: "(x a) b = x (a b): the scale of scores and the cap that follows it are one factor.",
        lhs: "(mul (mul ?x (const ?a)) (const ?b))",
        condition: "a b is a normal number of f32",
        when: |m| {
            let product = m.real("?a")? * m.real("?b")?;
            m.holds("a b is a normal number", (product as f32).is_normal())?;
            m.bind_real("?t", product)
        },
        rhs: Rhs::Pattern("(mul ?x (const ?t))"),
    },
    Rule {
        name: "division-by-constant",
        tier: Tier::Reassoc,
        why: "x / c = x (1/c), and 1/c is taken once, in f64.",
        lhs: "(div ?x (const ?c))",
        condition: "1/c is a normal number of f32",
        when: |m| {
            let inverse = 1.0 / m.real("?c")?;
            m.holds("1/c is a normal number", (inverse as f32).is_normal())?;
            m.bind_real("?t", inverse)
        },
        rhs: Rhs::Pattern("(mul ?x (const ?t))"),
    },
];

fn one_column(m: &mut Match<'_>) -> Option<()> {
    let columns = m.ty("?r")?.dims.last()?.as_const();
    m.holds("r has one column", columns == Some(1))
}

fn wide_and_vector(m: &mut Match<'_>, scale: &'static str) -> Option<()> {
    m.constant("?w")?;
    m.constant(scale)?;
    m.holds("w is f32", m.ty("?w")?.dtype == tensor::DType::F32)?;
    m.holds("the scale is a vector", m.rank(scale)? == 1)
}

fn scalar_of_f32(m: &mut Match<'_>) -> Option<()> {
    m.holds("c is a scalar", m.rank("?c")? == 0)?;
    m.holds("x is f32", m.ty("?x")?.dtype == tensor::DType::F32)
}

/// Whether b[K, r] c[r, N] is cheaper to apply factor by factor than as one matrix.
fn low_rank(m: &Match<'_>, b: Id, c: Id) -> Option<bool> {
    let (b, c) = (m.type_of(b)?.const_shape()?, m.type_of(c)?.const_shape()?);
    let (&[k, r], &[_, n]) = (b.as_slice(), c.as_slice()) else { return None };
    Some(r.saturating_mul(k + n) < k.saturating_mul(n))
}

fn splits(m: &mut Match<'_>, w: &'static str, d: &'static str) -> Option<()> {
    m.constant(w)?;
    m.constant(d)?;
    m.holds("w and d have the same dims", m.ty(w)?.dims == m.ty(d)?.dims)?;
    m.holds("d has low rank", is_low_rank(m, m.id(d), 3)?)
}

/// Whether some term of a class is a low-rank product, looking through scalars and transposes.
fn is_low_rank(m: &Match<'_>, id: Id, depth: usize) -> Option<bool> {
    let look = |term: &Term| -> Option<bool> {
        if term.is("matmul") {
            return low_rank(m, term.children[0], term.children[1]);
        }
        let through = if term.is("mul") {
            (0..2)
                .find(|&i| m.type_of(term.children[i]).is_some_and(|t| t.rank() == 0))
                .map(|i| 1 - i)
        } else if term.is("transpose")
            && m.attr_of(term.children[1]) == Some(Attr::Perm(vec![1, 0]))
        {
            Some(0)
        } else {
            None
        };
        is_low_rank(m, term.children[through?], depth.checked_sub(1)?)
    };
    Some(m.egraph[id].nodes.iter().any(|t| look(t) == Some(true)))
}
