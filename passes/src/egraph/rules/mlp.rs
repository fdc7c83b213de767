//! Gated MLPs: activations spelled out, and act(gate) * up.
//!
//! erf-gelu and tanh-gelu are different functions and never made equal.

use crate::Tier;
use crate::egraph::rule::{Rhs, Rule, always};

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
        tier: Tier::Exact,
        why: "The larger of x and 0 is relu(x).",
        lhs: "(max ?x (const real:0.0))",
        condition: "",
        when: always,
        rhs: Rhs::Pattern("(act ?x act:relu)"),
    },
    Rule {
        name: "glu",
        tier: Tier::Exact,
        why: "act(gate) up in one pass is what glu computes, act(gate) rounded to f32 as before.",
        lhs: "(mul (act ?g ?a) ?u)",
        condition: "gate and up have the same dims and are different values",
        when: |m| {
            let same = m.ty("?g")?.dims == m.ty("?u")?.dims;
            (same && m.egraph.find(m.id("?g")) != m.egraph.find(m.id("?u"))).then_some(())
        },
        rhs: Rhs::Pattern("(glu ?g ?u ?a)"),
    },
];
