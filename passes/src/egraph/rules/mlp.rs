//! Gated MLPs: activations spelled out, and act(gate) * up.
//!
//! erf-gelu and tanh-gelu are different functions and never made equal. The constants of tanh-gelu are
//! compared as f32, in which they act: 0.79788456 is sqrt(2/pi), and nothing near it is.

use crate::Tier;
use crate::egraph::rule::{Match, Rhs, Rule, always};

/// tanh(sqrt(2/pi) (x + 0.044715 x^3)) + 1, constants as variables.
macro_rules! tanh_gate {
    () => {
        "(add (tanh (mul (add ?x (mul (mul (square ?x) ?x) (const ?c))) (const ?k))) (const ?o))"
    };
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "silu",
        tier: Tier::Reassoc,
        why: "x sigmoid(x) is silu(x), without storing the sigmoid.",
        lhs: "(mul ?x (sigmoid ?x))",
        condition: "",
        when: always,
        rhs: Rhs::Pattern("(act ?x act:silu)"),
    },
    Rule {
        name: "relu",
        tier: Tier::Reassoc,
        why: "The larger of x and 0 is relu(x), but for the sign of a zero and for NaN.",
        lhs: "(max ?x (const real:0.0))",
        condition: "",
        when: always,
        rhs: Rhs::Pattern("(act ?x act:relu)"),
    },
    Rule {
        name: "gelu-tanh",
        tier: Tier::Reassoc,
        why: "(x/2) (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) is gelu_tanh(x), intermediates kept wide.",
        lhs: concat!("(mul (mul ?x (const ?h)) ", tanh_gate!(), ")"),
        condition: "h is 1/2, c 0.044715, k sqrt(2/pi), o 1, as f32",
        when: gelu_constants,
        rhs: Rhs::Pattern("(act ?x act:gelu_tanh)"),
    },
    Rule {
        name: "gelu-tanh-halved-last",
        tier: Tier::Reassoc,
        why: "As gelu-tanh, halved at the end.",
        lhs: concat!("(mul (mul ?x ", tanh_gate!(), ") (const ?h))"),
        condition: "as gelu-tanh",
        when: gelu_constants,
        rhs: Rhs::Pattern("(act ?x act:gelu_tanh)"),
    },
    Rule {
        name: "glu",
        tier: Tier::Exact,
        why: "act(gate) up in one pass is what glu computes, act(gate) rounded to f32 as before.",
        lhs: "(mul (act ?g ?a) ?u)",
        condition: "gate and up are different values of the same dims, or the right side has no type",
        when: |m| m.different("?g", "?u"),
        rhs: Rhs::Pattern("(glu ?g ?u ?a)"),
    },
];

fn gelu_constants(m: &mut Match<'_>) -> Option<()> {
    let is = |name: &str, value: f64| Some(m.real(name)? as f32 == value as f32);
    let root = (2.0 / std::f64::consts::PI).sqrt();
    m.holds("h is 1/2", is("?h", 0.5)?)?;
    m.holds("c is 0.044715", is("?c", 0.044_715)?)?;
    m.holds("k is sqrt(2/pi)", is("?k", root)?)?;
    m.holds("o is 1", is("?o", 1.0)?)
}
