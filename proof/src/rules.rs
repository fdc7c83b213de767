//! The rules: what the checker holds to be true, each with its tier.
//!
//! A rule is two patterns and a condition, or, where operands are many or views chain, a structure that
//! both terms must have (`structure`). Names, tiers and patterns are those of the optimiser's table; a test
//! of the workspace compares them. Conditions and structures are written anew, so a slip in one of the two
//! is a refused certificate.

use std::fmt;

use crate::conditions::{self as when, Condition, Match};
use crate::pattern::{Bindings, Pattern};
use crate::structure;
use crate::term::Term;

/// What a rule may do to numbers, weakest promise last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// The same bits, given each op's order of accumulation.
    Exact,
    /// The same real value.
    Reassoc,
    /// A stored value is rounded differently.
    Reround,
    /// Information is dropped.
    Lossy,
}

impl Tier {
    pub(crate) fn parse(text: &str) -> Option<Tier> {
        let all = [Tier::Exact, Tier::Reassoc, Tier::Reround, Tier::Lossy];
        all.into_iter().find(|t| t.to_string() == text)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Exact => "exact",
            Tier::Reassoc => "reassoc",
            Tier::Reround => "reround",
            Tier::Lossy => "lossy",
        })
    }
}

/// A rule as the checker states it.
pub struct RuleStatement {
    /// Its name.
    pub name: &'static str,
    /// Its tier.
    pub tier: Tier,
    /// Both sides; `None` where a structure says what they are.
    pub sides: Option<(&'static str, &'static str)>,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    Condition(Condition),
    /// Terms, left, right.
    Structure(fn(&[Term], usize, usize) -> Option<()>),
}

/// Every rule.
pub fn rules() -> &'static [RuleStatement] {
    RULES
}

pub(crate) fn find(name: &str) -> Option<&'static RuleStatement> {
    RULES.iter().find(|r| r.name == name)
}

/// Whether two terms are what the rule says is equal.
pub(crate) fn holds(
    rule: &RuleStatement,
    terms: &[Term],
    left: usize,
    right: usize,
) -> Result<(), String> {
    if terms[left].ty != terms[right].ty {
        return Err(format!("t{left} and t{right} have different types"));
    }
    let (condition, (lhs, rhs)) = match (rule.how, rule.sides) {
        (How::Condition(condition), Some(sides)) => (condition, sides),
        (How::Structure(holds), _) => {
            let fails = || format!("t{left} and t{right} do not have its structure");
            return holds(terms, left, right).ok_or_else(fails);
        }
        (How::Condition(_), None) => return Err("the rule has no sides".to_string()),
    };
    let sides = Pattern::parse(lhs).zip(Pattern::parse(rhs));
    let (lhs, rhs) = sides.ok_or("the rule does not parse")?;
    let matches = lhs.matches(terms, left, Bindings::new());
    if matches.is_empty() {
        return Err(format!("t{left} is not its left side"));
    }
    let mut why = "its condition does not hold";
    for bindings in matches {
        let mut m = Match { terms, whole: left, bindings };
        if condition(&mut m).is_none() {
            continue;
        }
        // Every variable is bound by now, so the right side is determined.
        let bound = rhs.variables().iter().all(|v| m.bindings.contains_key(*v));
        if bound && !rhs.matches(terms, right, m.bindings).is_empty() {
            return Ok(());
        }
        why = "the other term is not its right side";
    }
    Err(why.to_string())
}

const fn rule(
    name: &'static str,
    tier: Tier,
    lhs: &'static str,
    when: Condition,
    rhs: &'static str,
) -> RuleStatement {
    RuleStatement { name, tier, sides: Some((lhs, rhs)), how: How::Condition(when) }
}

const fn structured(
    name: &'static str,
    tier: Tier,
    holds: fn(&[Term], usize, usize) -> Option<()>,
) -> RuleStatement {
    RuleStatement { name, tier, sides: None, how: How::Structure(holds) }
}

use Tier::{Exact, Reassoc, Reround};

const HEADS_FIRST: &str = "(transpose (attention (transpose ?q perm:1,0,2) (transpose ?k perm:2,0,1) \
                           (transpose ?v perm:1,0,2) ?scale ?w) perm:1,0,2)";

#[rustfmt::skip]
const RULES: &[RuleStatement] = &[
    rule("transpose-transpose", Exact, "(transpose (transpose ?x ?p) ?q)", when::composed, "(transpose ?x ?r)"),
    rule("transpose-identity", Exact, "(transpose ?x ?p)", when::identity, "?x"),
    rule("reshape-reshape", Exact, "(reshape (reshape ?x ?a) ?b)", when::always, "(reshape ?x ?b)"),
    rule("reshape-identity", Exact, "(reshape ?x ?a)", when::same_type, "?x"),
    rule("broadcast-identity", Exact, "(broadcast ?x ?a)", when::same_type, "?x"),
    structured("reshape-chain", Exact, structure::same_view),
    structured("transpose-chain", Exact, structure::same_view),
    rule("slice-slice", Exact, "(slice (slice ?x ?a ?s ?e) ?a ?t ?f)", when::shifted, "(slice ?x ?a ?start ?end)"),
    rule("slice-whole", Exact, "(slice ?x ?a ?s ?e)", when::whole_axis, "?x"),
    structured("slice-of-concat", Exact, structure::slice_of_concat),
    structured("concat-of-slices", Exact, structure::concat_of_slices),
    rule("slice-through-transpose", Exact, "(slice (transpose ?x ?p) ?a ?s ?e)", when::axis_of_operand, "(transpose (slice ?x ?b ?s ?e) ?p)"),
    rule("slice-through-reshape", Exact, "(slice (reshape ?x ?d) axis:0 ?s ?e)", when::rows_stay, "(reshape (slice ?x axis:0 ?s ?e) ?f)"),
    structured("concat-of-transposes", Exact, structure::concat_of_transposes),
    rule("add-broadcast", Exact, "(add ?x (broadcast ?y ?d))", when::left_is_whole, "(add ?x ?y)"),
    rule("mul-broadcast", Exact, "(mul ?x (broadcast ?y ?d))", when::left_is_whole, "(mul ?x ?y)"),
    rule("add-leading-ones", Exact, "(add ?x (reshape ?y ?d))", when::leading_ones, "(add ?x ?y)"),
    rule("mul-leading-ones", Exact, "(mul ?x (reshape ?y ?d))", when::leading_ones, "(mul ?x ?y)"),
    rule("slice-matmul-rows", Exact, "(slice (matmul ?a ?b) axis:0 ?s ?e)", when::two_matrices, "(matmul (slice ?a axis:0 ?s ?e) ?b)"),
    rule("slice-rms-norm", Exact, "(slice (rms_norm ?x ?eps) ?a ?s ?e)", when::not_last, "(rms_norm (slice ?x ?a ?s ?e) ?eps)"),
    rule("slice-rms-norm-gain", Exact, "(slice (rms_norm ?x ?g ?eps) ?a ?s ?e)", when::always, "(rms_norm (slice ?x ?a ?s ?e) ?g ?eps)"),
    rule("slice-softmax", Exact, "(slice (softmax ?x) ?a ?s ?e)", when::not_last, "(softmax (slice ?x ?a ?s ?e))"),
    rule("slice-reduce-sum", Exact, "(slice (reduce_sum ?x ?b) ?a ?s ?e)", when::other_axis, "(reduce_sum (slice ?x ?a ?s ?e) ?b)"),
    rule("slice-reduce-mean", Exact, "(slice (reduce_mean ?x ?b) ?a ?s ?e)", when::other_axis, "(reduce_mean (slice ?x ?a ?s ?e) ?b)"),
    rule("slice-reduce-max", Exact, "(slice (reduce_max ?x ?b) ?a ?s ?e)", when::other_axis, "(reduce_max (slice ?x ?a ?s ?e) ?b)"),
    rule("slice-gather", Exact, "(slice (gather ?t ?i) axis:0 ?s ?e)", when::always, "(gather ?t (slice ?i axis:0 ?s ?e))"),
    structured("slice-elementwise", Exact, structure::slice_elementwise),
    rule("matmul-fold-constants", Reassoc, "(matmul (matmul ?a ?b) ?c)", when::constant_factors, "(matmul ?a (matmul ?b ?c))"),
    rule("matmul-split-low-rank", Reassoc, "(matmul ?a (matmul ?b ?c))", when::constant_factors, "(matmul (matmul ?a ?b) ?c)"),
    rule("matmul-absorb-left", Reassoc, "(matmul ?a (matmul ?b ?c))", when::constant_first, "(matmul (matmul ?a ?b) ?c)"),
    rule("matmul-absorb-right", Reassoc, "(matmul ?a (matmul ?b ?c))", when::constant_last, "(matmul (matmul ?a ?b) ?c)"),
    rule("shift-through-matmul", Reassoc, "(matmul (add ?x ?b) ?w)", when::constant_shift, "(add (matmul ?x ?w) (matmul (reshape ?b ?d) ?w))"),
    rule("scale-into-table", Exact, "(mul (gather ?t ?i) (const ?c))", when::wide_table, "(gather (mul ?t (const ?c)) ?i)"),
    rule("matmul-distribute-low-rank", Reassoc, "(matmul ?x (add ?w ?d))", when::constant_summands, "(add (matmul ?x ?w) (matmul ?x ?d))"),
    rule("transposed-distribute-low-rank", Reassoc, "(matmul ?x (transpose (add ?w ?d) perm:1,0))", when::constant_summands, "(add (matmul ?x (transpose ?w perm:1,0)) (matmul ?x (transpose ?d perm:1,0)))"),
    rule("matmul-factor", Reassoc, "(add (matmul ?x ?a) (matmul ?x ?b))", when::constant_right_factors, "(matmul ?x (add ?a ?b))"),
    rule("scale-into-weight-exact", Exact, "(mul (matmul ?x ?w) (const ?c))", when::power_of_two, "(matmul ?x (mul ?w (const ?c)))"),
    rule("scale-into-weight", Reassoc, "(mul (matmul ?x ?w) ?c)", when::scalar_and_constant, "(matmul ?x (mul ?w ?c))"),
    rule("scale-out-of-right", Reassoc, "(matmul ?x (mul ?w ?c))", when::constant_scalar, "(mul (matmul ?x ?w) ?c)"),
    rule("scale-out-of-left", Reassoc, "(matmul (mul ?x ?c) ?w)", when::constant_scalar, "(mul (matmul ?x ?w) ?c)"),
    rule("scale-out-of-transpose", Exact, "(transpose (mul ?x ?c) ?p)", when::scalar_of_f32, "(mul (transpose ?x ?p) ?c)"),
    rule("scale-out-of-reshape", Exact, "(reshape (mul ?x ?c) ?d)", when::scalar_of_f32, "(mul (reshape ?x ?d) ?c)"),
    rule("row-scale-out-of-left", Reassoc, "(matmul (mul ?x ?r) ?w)", when::one_column, "(mul (matmul ?x ?w) ?r)"),
    rule("row-scale-into-left", Reassoc, "(mul (matmul ?x ?w) ?r)", when::one_column, "(matmul (mul ?x ?r) ?w)"),
    rule("column-scale-into-weight", Reassoc, "(mul (matmul ?x (transpose ?w perm:1,0)) ?c)", when::scaled_columns, "(matmul ?x (transpose (mul ?w (reshape ?c ?d)) perm:1,0))"),
    rule("column-scale-of-left", Reassoc, "(matmul (mul ?x ?g) (transpose ?w perm:1,0))", when::wide_weight_and_vector, "(matmul ?x (transpose (mul ?w ?g) perm:1,0))"),
    rule("scales-in-one", Reassoc, "(mul (mul ?x (const ?a)) (const ?b))", when::product_is_normal, "(mul ?x (const ?t))"),
    rule("division-by-constant", Reassoc, "(div ?x (const ?c))", when::inverse_is_normal, "(mul ?x (const ?t))"),
    rule("merge-summed-products", Reassoc, "(add (matmul ?x (transpose ?a perm:1,0)) (matmul ?y (transpose ?b perm:1,0)))", when::constant_weights, "(matmul (concat ?x ?y axis:1) (transpose (concat ?a ?b axis:1) perm:1,0))"),
    rule("transposed-product", Exact, "(transpose (matmul ?a ?b) perm:1,0)", when::always, "(matmul (transpose ?b perm:1,0) (transpose ?a perm:1,0))"),
    structured("merge-projections", Exact, structure::merge_projections),
    structured("merge-biases", Exact, structure::merge_biases),
    rule("square-of-product", Exact, "(mul ?x ?x)", when::always, "(square ?x)"),
    rule("mean-of-sum", Reassoc, "(mul (reduce_sum ?x ?a) (const ?c))", when::reciprocal_of_extent, "(reduce_mean ?x ?a)"),
    rule("rms-norm", Reassoc, "(mul ?x (rsqrt (add (reduce_mean (square ?x) ?a) (const ?eps))))", when::last_axis, "(rms_norm ?x ?eps)"),
    rule("rms-norm-division", Reassoc, "(div ?x (sqrt (add (reduce_mean (square ?x) ?a) (const ?eps))))", when::last_axis, "(rms_norm ?x ?eps)"),
    rule("rms-norm-gain", Exact, "(mul (rms_norm ?x ?eps) ?g)", when::vector_as_wide, "(rms_norm ?x ?g ?eps)"),
    rule("gain-into-weight", Reassoc, "(matmul (rms_norm ?x ?g ?eps) (transpose ?w perm:1,0))", when::wide_weight, "(matmul (rms_norm ?x ?eps) (transpose (mul ?w ?g) perm:1,0))"),
    rule("gain-into-narrow-weight", Reround, "(matmul (rms_norm ?x ?g ?eps) (transpose ?w perm:1,0))", when::narrow_weight, "(matmul (rms_norm ?x ?eps) (transpose (cast (mul ?w ?g) ?d) perm:1,0))"),
    rule("silu", Reassoc, "(mul ?x (sigmoid ?x))", when::always, "(act ?x act:silu)"),
    rule("relu", Reassoc, "(max ?x (const real:0.0))", when::always, "(act ?x act:relu)"),
    rule("gelu-tanh", Reassoc, "(mul (mul ?x (const ?h)) (add (tanh (mul (add ?x (mul (mul (square ?x) ?x) (const ?c))) (const ?k))) (const ?o)))", when::gelu_constants, "(act ?x act:gelu_tanh)"),
    rule("gelu-tanh-halved-last", Reassoc, "(mul (mul ?x (add (tanh (mul (add ?x (mul (mul (square ?x) ?x) (const ?c))) (const ?k))) (const ?o))) (const ?h))", when::gelu_constants, "(act ?x act:gelu_tanh)"),
    rule("glu", Exact, "(mul (act ?g ?a) ?u)", when::different_of_same_dims, "(glu ?g ?u ?a)"),
    rule("attention", Exact, "(matmul (softmax (add (mul (matmul ?q ?k) (const ?scale)) (causal_mask ?w))) ?v)", when::heads_first, HEADS_FIRST),
    rule("attention-divided", Reassoc, "(matmul (softmax (add (div (matmul ?q ?k) (const ?c)) (causal_mask ?w))) ?v)", when::heads_first_divided, HEADS_FIRST),
    rule("attention-unscaled", Exact, "(matmul (softmax (add (matmul ?q ?k) (causal_mask ?w))) ?v)", when::heads_first_unscaled, HEADS_FIRST),
    rule("attention-scale-of-query", Reassoc, "(attention (mul ?q (const ?c)) ?k ?v ?s ?w)", when::scales_multiply, "(attention ?q ?k ?v ?t ?w)"),
    rule("attention-scale-of-key", Reassoc, "(attention ?q (mul ?k (const ?c)) ?v ?s ?w)", when::scales_multiply, "(attention ?q ?k ?v ?t ?w)"),
    rule("attention-key-shift", Reassoc, "(attention ?q (add ?k ?b) ?v ?s ?w)", when::shared_by_keys, "(attention ?q ?k ?v ?s ?w)"),
    rule("attention-value-shift", Reassoc, "(attention ?q ?k (add ?v ?b) ?s ?w)", when::shared_by_values, "(add (attention ?q ?k ?v ?s ?w) ?b)"),
    rule("scale-out-of-rope", Reassoc, "(rope (mul ?x ?c) ?p ?r)", when::constant_scalar, "(mul (rope ?x ?p ?r) ?c)"),
    structured("attention-shared-heads", Exact, structure::shared_heads),
    rule("attention-grouped", Exact, "(matmul (softmax (add (mul (matmul ?q ?k) (const ?scale)) (causal_mask ?w))) ?v)", when::grouped,
        "(reshape (transpose (attention (transpose (reshape ?q ?dq) perm:1,0,2) (transpose (reshape ?k ?dk) perm:2,0,1) (transpose (reshape ?v ?dv) perm:1,0,2) ?scale ?w) perm:1,0,2) ?out)"),
];
