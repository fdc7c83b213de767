//! RMS norm: recognising it in primitives, and folding its gain into the weight that follows.

use tensor::DType;

use crate::Tier;
use crate::egraph::rule::{Match, Rhs, Rule, always};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "square-of-product",
        tier: Tier::Exact,
        why: "x x is the square of x.",
        lhs: "(mul ?x ?x)",
        condition: "",
        when: always,
        rhs: Rhs::Pattern("(square ?x)"),
    },
    Rule {
        name: "mean-of-sum",
        tier: Tier::Reassoc,
        why: "A sum over n elements times 1/n is their mean.",
        lhs: "(mul (reduce_sum ?x ?a) (const ?c))",
        condition: "c is 1/n in f32, n the extent of the axis",
        when: |m| {
            let n = m.ty("?x")?.dims.get(m.axis("?a")?)?.as_const()?;
            let inverse = 1.0 / n as f32;
            m.holds("c is 1/n", n > 0 && m.real("?c")? as f32 == inverse)
        },
        rhs: Rhs::Pattern("(reduce_mean ?x ?a)"),
    },
    Rule {
        name: "rms-norm",
        tier: Tier::Reassoc,
        why: "x rsqrt(mean(x^2) + eps) is what rms_norm computes.",
        lhs: "(mul ?x (rsqrt (add (reduce_mean (square ?x) ?a) (const ?eps))))",
        condition: "the mean is along the last axis",
        when: last_axis,
        rhs: Rhs::Pattern("(rms_norm ?x ?eps)"),
    },
    Rule {
        name: "rms-norm-division",
        tier: Tier::Reassoc,
        why: "x / sqrt(mean(x^2) + eps) is what rms_norm computes.",
        lhs: "(div ?x (sqrt (add (reduce_mean (square ?x) ?a) (const ?eps))))",
        condition: "the mean is along the last axis",
        when: last_axis,
        rhs: Rhs::Pattern("(rms_norm ?x ?eps)"),
    },
    Rule {
        name: "rms-norm-gain",
        tier: Tier::Exact,
        why: "A vector multiplied onto the normalised rows is the gain of rms_norm.",
        lhs: "(mul (rms_norm ?x ?eps) ?g)",
        condition: "g is a vector as wide as x, or the right side has no type",
        when: always,
        rhs: Rhs::Pattern("(rms_norm ?x ?g ?eps)"),
    },
    Rule {
        name: "gain-into-weight",
        tier: Tier::Reassoc,
        why: "(n g) w^T = n (w g)^T: a diagonal moves into the constant factor, kept in f32.",
        lhs: "(matmul (rms_norm ?x ?g ?eps) (transpose ?w perm:1,0))",
        condition: "w and g are constant and w is f32: in a narrower dtype w g is rounded (gain-into-narrow-weight)",
        when: |m| {
            constant(m)?;
            m.holds("w is f32", m.ty("?w")?.dtype == DType::F32)
        },
        rhs: Rhs::Pattern("(matmul (rms_norm ?x ?eps) (transpose (mul ?w ?g) perm:1,0))"),
    },
    Rule {
        name: "gain-into-narrow-weight",
        tier: Tier::Reround,
        why: "As gain-into-weight, and the product is rounded to the dtype of w, so that it stays as small.",
        lhs: "(matmul (rms_norm ?x ?g ?eps) (transpose ?w perm:1,0))",
        condition: "w and g are constant and w is f16 or bf16",
        when: |m| {
            let dtype = m.ty("?w")?.dtype;
            constant(m)?;
            m.holds("w is f16 or bf16", matches!(dtype, DType::F16 | DType::BF16))?;
            m.bind_attr("?d", crate::egraph::language::Attr::DType(dtype));
            Some(())
        },
        rhs: Rhs::Pattern("(matmul (rms_norm ?x ?eps) (transpose (cast (mul ?w ?g) ?d) perm:1,0))"),
    },
];

fn last_axis(m: &mut Match<'_>) -> Option<()> {
    m.holds("the axis is the last", m.axis("?a")? + 1 == m.rank("?x")?)
}

fn constant(m: &Match<'_>) -> Option<()> {
    m.constant("?w")?;
    m.constant("?g")
}
