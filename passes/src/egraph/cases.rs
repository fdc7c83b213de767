//! Examples of every rule: graphs in which it fires, and near misses in which it must not.
//!
//! Written as expressions in the spelling of patterns. Leaves: `x:T,8` is an f32 input, `W1:8,4` an f32
//! weight, `H1:8,4` a bf16 weight, `ids:T` i32, `s:` has no axes; `S` is C + T. Several expressions are several results.
//! Users see them in `sparkc explain`; the tests and `sparkc passes verify-rules` try them. A rule without a
//! row here fails the suite.

/// Examples of a rule.
pub(crate) struct Case {
    /// Name of the rule.
    pub(crate) rule: &'static str,
    /// It fires.
    pub(crate) fires: &'static [&'static str],
    /// It must not.
    pub(crate) misses: &'static [&'static str],
}

/// The examples of a rule; none when there is no row.
pub(crate) fn of(rule: &'static str) -> Case {
    let found = CASES.iter().find(|c| c.rule == rule);
    found.map_or(Case { rule, fires: &[], misses: &[] }, |c| Case { rule, ..*c })
}

/// Every row.
pub(crate) const CASES: &[Case] = &[
    Case {
        rule: "transpose-transpose",
        fires: &["(transpose (transpose x:2,3,4 perm:1,2,0) perm:2,1,0)"],
        misses: &["(transpose (exp x:2,3) perm:1,0)"],
    },
    Case {
        rule: "transpose-identity",
        fires: &["(exp (transpose x:2,3 perm:0,1))"],
        misses: &["(transpose x:3,3 perm:1,0)"],
    },
    Case {
        rule: "reshape-reshape",
        fires: &["(reshape (reshape x:4,6 dims:2,12) dims:3,8)"],
        misses: &["(reshape (transpose x:4,6 perm:1,0) dims:3,8)"],
    },
    Case {
        rule: "reshape-identity",
        fires: &["(exp (reshape x:4,6 dims:4,6))"],
        misses: &["(reshape x:4,6 dims:6,4)"],
    },
    Case {
        rule: "broadcast-identity",
        fires: &["(exp (broadcast x:4,6 dims:4,6))"],
        misses: &["(broadcast x:4,1 dims:4,6)"],
    },
    Case {
        rule: "reshape-chain",
        fires: &[
            "(reshape (transpose (reshape x:4,6 dims:4,2,3) perm:1,2,0) dims:6,4)",
            "(exp (reshape (transpose (reshape x:T,8 dims:T,1,8) perm:1,0,2) dims:T,8))",
        ],
        misses: &[
            "(reshape (transpose x:4,6 perm:1,0) dims:4,6)",
            "(reshape (transpose (reshape x:4,6 dims:4,2,3) perm:2,1,0) dims:6,4)",
        ],
    },
    Case {
        rule: "transpose-chain",
        fires: &["(transpose (reshape x:4,6 dims:1,4,6) perm:1,0,2)"],
        misses: &["(transpose (reshape x:4,6 dims:6,4) perm:1,0)"],
    },
    Case {
        rule: "slice-slice",
        fires: &["(slice (slice x:8,4 axis:0 dim:1 dim:7) axis:0 dim:2 dim:5)"],
        misses: &["(slice (slice x:8,4 axis:1 dim:1 dim:4) axis:0 dim:2 dim:5)"],
    },
    Case {
        rule: "slice-whole",
        fires: &["(exp (slice x:8,4 axis:0 dim:0 dim:8))"],
        misses: &["(exp (slice x:8,4 axis:0 dim:0 dim:7))"],
    },
    Case {
        rule: "slice-of-concat",
        fires: &[
            "(slice (concat x:3,4 y:5,4 axis:0) axis:0 dim:4 dim:6)",
            "(slice (concat x:3,4 y:5,4 z:2,4 axis:0) axis:0 dim:3 dim:10)",
        ],
        misses: &[
            "(slice (concat x:3,4 y:5,4 z:2,4 axis:0) axis:0 dim:2 dim:10)",
            "(slice (concat x:3,4 y:5,4 axis:0) axis:0 dim:2 dim:6)",
            "(slice (concat x:3,4 y:5,4 axis:0) axis:1 dim:0 dim:2)",
        ],
    },
    Case {
        rule: "concat-of-slices",
        fires: &[
            "(concat (slice x:8,4 axis:0 dim:1 dim:3) (slice x:8,4 axis:0 dim:3 dim:6) axis:0)",
        ],
        misses: &[
            "(concat (slice x:8,8 axis:0 dim:1 dim:3) (slice x:8,8 axis:0 dim:3 dim:5) axis:1)",
            "(concat (slice x:8,4 axis:0 dim:3 dim:6) (slice x:8,4 axis:0 dim:1 dim:3) axis:0)",
            "(concat (slice x:8,4 axis:0 dim:1 dim:3) (slice y:8,4 axis:0 dim:3 dim:6) axis:0)",
            "(concat (slice x:8,4 axis:0 dim:1 dim:3) (slice x:8,4 axis:0 dim:4 dim:6) axis:0)",
        ],
    },
    Case {
        rule: "slice-through-transpose",
        fires: &["(slice (transpose x:2,3,4 perm:1,2,0) axis:1 dim:1 dim:3)"],
        misses: &["(slice (reshape x:2,3,4 dims:3,4,2) axis:1 dim:1 dim:3)"],
    },
    Case {
        rule: "slice-through-reshape",
        fires: &["(slice (reshape x:T,8 dims:T,2,4) axis:0 dim:T-R dim:T)"],
        misses: &[
            "(slice (reshape x:4,8 dims:8,4) axis:0 dim:1 dim:3)",
            "(slice (reshape x:T,8 dims:T,2,4) axis:1 dim:0 dim:1)",
        ],
    },
    Case {
        rule: "concat-of-transposes",
        fires: &["(concat (transpose x:3,4 perm:1,0) (transpose y:5,4 perm:1,0) axis:1)"],
        misses: &[
            "(concat (transpose x:3,4 perm:1,0) (transpose y:3,4 perm:1,0) axis:0)",
            "(concat (transpose x:3,4 perm:1,0) (transpose y:3,5 perm:1,0) axis:0)",
            "(concat (transpose x:3,4 perm:1,0) y:4,5 axis:1)",
        ],
    },
    Case {
        rule: "add-broadcast",
        fires: &["(add (broadcast y:1,4 dims:3,4) x:3,4)"],
        misses: &["(add x:1,4 (broadcast y:1,4 dims:3,4))"],
    },
    Case {
        rule: "mul-broadcast",
        fires: &["(mul x:3,4 (broadcast y:3,1 dims:3,4))"],
        misses: &["(mul x:3,1 (broadcast y:1,4 dims:3,4))"],
    },
    Case {
        rule: "add-leading-ones",
        fires: &["(add x:2,3,4 (reshape y:3,4 dims:1,3,4))"],
        misses: &[
            "(add x:1,4,4 (reshape y:1,4 dims:1,4,1))",
            "(add x:3,4 (reshape y:3,4 dims:1,3,4))",
            "(add x:3,3,4 (reshape y:3,4 dims:3,1,4))",
        ],
    },
    Case {
        rule: "mul-leading-ones",
        fires: &["(mul x:2,3,4 (reshape y:4 dims:1,1,4))"],
        misses: &[
            "(mul x:1,4,4 (reshape y:1,4 dims:1,4,1))",
            "(mul x:3,4 (reshape y:3,4 dims:1,3,4))",
        ],
    },
    Case {
        rule: "slice-matmul-rows",
        fires: &["(slice (matmul x:T,8 W1:8,4) axis:0 dim:T-R dim:T)"],
        misses: &[
            "(slice (matmul x:3,4,8 W1:8,4) axis:0 dim:0 dim:2)",
            "(slice (matmul x:T,8 W1:8,4) axis:1 dim:0 dim:2)",
            "(slice (matmul x:3,T,8 y:3,8,4) axis:0 dim:0 dim:2)",
            "(slice (matmul x:4,8 y:3,8,4) axis:0 dim:0 dim:2)",
        ],
    },
    Case {
        rule: "slice-rms-norm",
        fires: &["(slice (rms_norm x:T,8 real:0.001) axis:0 dim:T-R dim:T)"],
        misses: &["(slice (rms_norm x:T,8 real:0.001) axis:1 dim:0 dim:4)"],
    },
    Case {
        rule: "slice-rms-norm-gain",
        fires: &["(slice (rms_norm x:T,8 W1:8 real:0.001) axis:0 dim:T-R dim:T)"],
        misses: &["(slice (rms_norm x:T,8 W1:8 real:0.001) axis:1 dim:0 dim:4)"],
    },
    Case {
        rule: "slice-softmax",
        fires: &["(slice (softmax x:T,8) axis:0 dim:T-R dim:T)"],
        misses: &["(slice (softmax x:T,8) axis:1 dim:0 dim:4)"],
    },
    Case {
        rule: "slice-reduce-sum",
        fires: &["(slice (reduce_sum x:T,8 axis:1) axis:0 dim:T-R dim:T)"],
        misses: &["(slice (reduce_sum x:8,8 axis:1) axis:1 dim:0 dim:1)"],
    },
    Case {
        rule: "slice-reduce-mean",
        fires: &["(slice (reduce_mean x:T,8 axis:1) axis:0 dim:T-R dim:T)"],
        misses: &["(slice (reduce_mean x:8,8 axis:1) axis:1 dim:0 dim:1)"],
    },
    Case {
        rule: "slice-reduce-max",
        fires: &["(slice (reduce_max x:T,8 axis:1) axis:0 dim:T-R dim:T)"],
        misses: &["(slice (reduce_max x:8,8 axis:1) axis:1 dim:0 dim:1)"],
    },
    Case {
        rule: "slice-gather",
        fires: &["(slice (gather W1:16,8 ids:T) axis:0 dim:T-R dim:T)"],
        misses: &["(slice (gather W1:16,8 ids:T) axis:1 dim:0 dim:4)"],
    },
    Case {
        rule: "slice-elementwise",
        fires: &[
            "(slice (add x:T,8 W1:8) axis:0 dim:T-R dim:T)",
            "(slice (glu x:T,8 y:T,8 act:silu) axis:1 dim:2 dim:5)",
            "(slice (mul x:T,8 y:T,1) axis:1 dim:2 dim:5)",
        ],
        misses: &["(slice (softmax x:T,8) axis:0 dim:T-R dim:T)"],
    },
    Case {
        rule: "matmul-fold-constants",
        fires: &["(matmul (matmul x:T,8 W1:8,4) W2:4,6)"],
        misses: &[
            "(matmul (matmul x:2,3,8 W1:2,8,4) W2:4,6)",
            "(matmul (matmul x:3,8 W1:8,4) W2:2,4,6)",
            "(matmul (matmul x:T,8 W1:8,4) y:4,6)",
            "(matmul (matmul x:T,8 y:8,4) W2:4,6)",
        ],
    },
    Case {
        rule: "matmul-split-low-rank",
        fires: &["(matmul x:T,8 (matmul W1:8,1 W2:1,8))"],
        misses: &[
            "(matmul x:T,8 (matmul W1:8,1 y:1,8))",
            "(matmul x:T,8 (matmul W1:8,4 W2:4,8))",
            "(matmul x:T,8 (matmul y:8,1 W2:1,8))",
        ],
    },
    Case {
        rule: "matmul-absorb-left",
        fires: &["(matmul x:T,8 (matmul W1:8,4 y:4,6))"],
        misses: &[
            "(matmul x:2,3,8 (matmul W1:8,4 y:4,6))",
            "(matmul x:3,8 (matmul W1:2,8,4 y:4,6))",
            "(matmul x:3,8 (matmul W1:8,4 y:2,4,6))",
            "(matmul x:T,8 (matmul y:8,4 z:4,6))",
            "(matmul x:T,8 (matmul W1:8,4 W2:4,6))",
            "(matmul W1:3,8 (matmul W2:8,4 y:4,6))",
        ],
    },
    Case {
        rule: "matmul-absorb-right",
        fires: &["(matmul x:T,8 (matmul y:8,4 W1:4,6))"],
        misses: &[
            "(matmul x:2,3,8 (matmul y:8,4 W1:4,6))",
            "(matmul x:3,8 (matmul y:2,8,4 W1:4,6))",
            "(matmul x:3,8 (matmul y:8,4 W1:2,4,6))",
            "(matmul W2:3,8 (matmul y:8,4 W1:4,6))",
            "(matmul x:T,8 (matmul y:8,4 z:4,6))",
            "(matmul x:T,8 (matmul W1:8,4 W2:4,6))",
            "(matmul x:T,8 (matmul W1:8,4 y:4,6))",
        ],
    },
    Case {
        rule: "shift-through-matmul",
        fires: &["(matmul (add x:T,8 W1:8) W2:8,4)"],
        misses: &[
            "(matmul (add x:2,3,8 W1:8) W2:8,4)",
            "(matmul (add x:8,8 W1:8,1) W2:8,4)",
            "(matmul (add x:3,8 W1:8) W2:2,8,4)",
            "(matmul (add W3:3,8 W1:8) W2:8,4)",
            "(matmul (add x:T,8 y:8) W2:8,4)",
            "(matmul (add x:T,8 W1:8) y:8,4)",
            "(matmul (mul x:T,8 W1:8) W2:8,4)",
            "(matmul (add x:T,8 y:T,8) W2:8,4)",
        ],
    },
    Case {
        rule: "scale-into-table",
        fires: &["(mul (gather W1:16,8 ids:T) (const real:0.3))"],
        misses: &[
            "(mul (gather H1:16,8 ids:T) (const real:0.3))",
            "(mul (gather y:16,8 ids:T) (const real:0.3))",
            "(add (gather W1:16,8 ids:T) (const real:0.3))",
        ],
    },
    Case {
        rule: "matmul-distribute-low-rank",
        fires: &["(matmul x:T,8 (add W1:8,8 (mul (matmul W2:8,1 W3:1,8) (const real:0.5))))"],
        misses: &[
            "(matmul x:T,8 (add y:8,8 (matmul W2:8,1 W3:1,8)))",
            "(matmul x:T,8 (add W1:8,8 (matmul y:8,1 W3:1,8)))",
            "(matmul x:T,8 (add W1:8,1 (matmul W2:8,1 W3:1,8)))",
            "(matmul x:T,8 (add W1:8,8 W2:8,8))",
            "(matmul x:T,8 (add W1:8,8 (matmul W2:8,6 W3:6,8)))",
            "(matmul x:T,8 (add W1:8,8 (exp (matmul W2:8,1 W3:1,8))))",
        ],
    },
    Case {
        rule: "transposed-distribute-low-rank",
        fires: &["(matmul x:T,8 (transpose (add W1:6,8 (matmul W2:6,1 W3:1,8)) perm:1,0))"],
        misses: &[
            "(matmul x:T,8 (transpose (add y:6,8 (matmul W2:6,1 W3:1,8)) perm:1,0))",
            "(matmul x:T,8 (transpose (add W1:6,8 (matmul y:6,1 W3:1,8)) perm:1,0))",
            "(matmul x:T,8 (transpose (add W1:1,8 (matmul W2:6,1 W3:1,8)) perm:1,0))",
            "(matmul x:T,8 (transpose (add W1:6,8 W2:6,8) perm:1,0))",
        ],
    },
    Case {
        rule: "matmul-factor",
        fires: &["(add (matmul x:T,8 W1:8,4) (matmul x:T,8 W2:8,4))"],
        misses: &[
            "(add (matmul x:3,8 W1:2,8,4) (matmul x:3,8 W2:8,4))",
            "(add (matmul x:3,8 W1:8,4) (matmul x:3,8 W2:2,8,4))",
            "(add (matmul x:T,8 W1:8,4) (matmul x:T,8 W1:8,4))",
            "(add (matmul x:T,8 W1:8,4) (matmul y:T,8 W2:8,4))",
            "(add (matmul x:T,8 W1:8,4) (matmul x:T,8 y:8,4))",
        ],
    },
    Case {
        rule: "scale-into-weight-exact",
        fires: &["(mul (matmul x:T,8 W1:8,4) (const real:0.25))"],
        misses: &[
            "(mul (matmul x:T,8 W1:8,4) (const real:9.5367431640625e-7))",
            "(mul (matmul x:T,8 W1:8,4) (const real:0.3))",
            "(mul (matmul x:T,8 y:8,4) (const real:0.25))",
        ],
    },
    Case {
        rule: "scale-into-weight",
        fires: &["(mul (matmul x:T,8 W1:8,4) (const real:0.3))"],
        misses: &[
            "(mul (matmul x:T,8 W1:8,4) s:)",
            "(mul (matmul x:T,8 y:8,4) (const real:0.3))",
            "(mul (matmul x:T,8 W1:8,4) W2:4)",
        ],
    },
    Case {
        rule: "scale-out-of-right",
        fires: &["(matmul x:T,8 (mul W1:8,4 (const real:0.3)))"],
        misses: &["(matmul x:T,8 (mul W1:8,4 s:))", "(matmul x:T,8 (mul W1:8,4 W2:4))"],
    },
    Case {
        rule: "scale-out-of-left",
        fires: &["(matmul (mul x:T,8 (const real:0.3)) W1:8,4)"],
        misses: &[
            "(matmul (mul x:T,8 s:) W1:8,4)",
            "(matmul (mul x:T,8 W2:8) W1:8,4)",
            "(matmul (mul x:T,8 W2:8) W1:8,8)",
        ],
    },
    Case {
        rule: "row-scale-out-of-left",
        fires: &["(matmul (mul x:T,8 y:T,1) W1:8,4)"],
        misses: &["(matmul (mul x:8,8 y:8,8) W1:8,8)", "(matmul (mul x:T,8 W2:8) W1:8,8)"],
    },
    Case {
        rule: "row-scale-into-left",
        fires: &[
            "(mul (matmul x:T,8 W1:8,4) y:T,1)",
            "(mul (matmul x:T,8 W1:8,4) (rsqrt (add (reduce_mean (square x:T,8) axis:1) (const real:0.001))))",
        ],
        misses: &["(mul (matmul x:8,8 W1:8,8) y:8,8)", "(mul (matmul x:T,8 W1:8,8) W2:8)"],
    },
    Case {
        rule: "column-scale-into-weight",
        fires: &["(mul (matmul x:T,8 (transpose W1:4,8 perm:1,0)) W2:4)"],
        misses: &[
            "(mul (matmul x:T,8 (transpose y:4,8 perm:1,0)) W2:4)",
            "(mul (matmul x:T,8 (transpose W1:4,8 perm:1,0)) y:4)",
            "(mul (matmul x:T,8 (transpose H1:4,8 perm:1,0)) W2:4)",
            "(mul (matmul x:4,8 (transpose W1:4,8 perm:1,0)) W2:4,1)",
        ],
    },
    Case {
        rule: "column-scale-of-left",
        fires: &["(matmul (mul x:T,8 W1:8) (transpose W2:4,8 perm:1,0))"],
        misses: &[
            "(matmul (mul x:T,8 W1:8) (transpose y:4,8 perm:1,0))",
            "(matmul (mul x:T,8 y:8) (transpose W2:4,8 perm:1,0))",
            "(matmul (mul x:T,8 W1:8) (transpose H2:4,8 perm:1,0))",
            "(matmul (mul x:4,8 W1:4,8) (transpose W2:4,8 perm:1,0))",
        ],
    },
    Case {
        rule: "scales-in-one",
        fires: &["(mul (mul x:T,8 (const real:0.3)) (const real:0.7))"],
        misses: &[
            "(mul (mul x:T,8 (const real:1e-30)) (const real:1e-30))",
            "(mul (mul x:T,8 W1:8) (const real:0.7))",
            "(mul (add x:T,8 (const real:0.3)) (const real:0.7))",
        ],
    },
    Case {
        rule: "division-by-constant",
        fires: &["(div x:T,8 (const real:30.0))"],
        misses: &[
            "(div x:T,8 (const real:1e-39))",
            "(div x:T,8 (const real:0.0))",
            "(div (const real:30.0) x:T,8)",
        ],
    },
    Case {
        rule: "scale-out-of-transpose",
        fires: &["(transpose (mul x:T,8 (const real:0.3)) perm:1,0)"],
        misses: &[
            "(transpose (mul H1:4,8 (const real:0.3)) perm:1,0)",
            "(transpose (mul x:T,8 W1:8) perm:1,0)",
            "(transpose (mul x:8,8 W1:8) perm:1,0)",
        ],
    },
    Case {
        rule: "scale-out-of-reshape",
        fires: &["(reshape (mul x:T,8 (const real:0.3)) dims:T,2,4)"],
        misses: &[
            "(reshape (mul x:8,8 W1:8) dims:1,8,8)",
            "(reshape (mul x:T,8 W1:8) dims:T,2,4)",
            "(reshape (mul H1:4,8 (const real:0.3)) dims:8,4)",
        ],
    },
    Case {
        rule: "transposed-product",
        fires: &["(transpose (matmul x:3,4 y:4,5) perm:1,0)"],
        misses: &["(transpose (matmul x:2,3,4 y:2,4,5) perm:1,0,2)"],
    },
    Case {
        rule: "merge-projections",
        fires: &[
            "(matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul x:T,8 (transpose W2:6,8 perm:1,0))",
            "(matmul x:T,8 W1:8,4) (matmul x:T,8 (transpose W2:6,8 perm:1,0)) (matmul x:T,8 W3:8,2)",
        ],
        misses: &[
            "(matmul W3:3,8 W1:8,4) (matmul W3:3,8 W2:8,2)",
            "(matmul x:2,3,8 W1:8,1) (matmul x:2,3,8 W2:8,1)",
            "(matmul x:T,8 (transpose (concat W1:4,8 W2:6,8 axis:0) perm:1,0)) (matmul x:T,8 (transpose W3:2,8 perm:1,0))",
            "(matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul y:T,8 (transpose W2:6,8 perm:1,0))",
            "(matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul x:T,8 (transpose H2:6,8 perm:1,0))",
            "(matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul x:T,8 y:8,4)",
        ],
    },
    Case {
        rule: "merge-summed-products",
        fires: &[
            "(add (matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul y:T,6 (transpose W2:4,6 perm:1,0)))",
        ],
        misses: &[
            "(add (matmul W3:3,8 (transpose W1:4,8 perm:1,0)) (matmul y:3,6 (transpose W2:4,6 perm:1,0)))",
            "(add (matmul x:3,8 (transpose W1:4,8 perm:1,0)) (matmul W3:3,6 (transpose W2:4,6 perm:1,0)))",
            "(add (matmul x:T,8 (transpose z:4,8 perm:1,0)) (matmul y:T,6 (transpose W2:4,6 perm:1,0)))",
            "(add (matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul y:T,6 (transpose z:4,6 perm:1,0)))",
            "(add (matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul x:T,8 (transpose W2:4,8 perm:1,0)))",
            "(sub (matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul y:T,6 (transpose W2:4,6 perm:1,0)))",
        ],
    },
    Case {
        rule: "merge-biases",
        fires: &[
            "(add (slice x:T,8 axis:1 dim:0 dim:3) W1:3) (add W2:5 (slice x:T,8 axis:1 dim:3 dim:8))",
        ],
        misses: &[
            "(add (slice x:T,8 axis:1 dim:0 dim:3) W1:3) (add (slice x:T,8 axis:1 dim:2 dim:5) W2:3) (add (slice x:T,8 axis:1 dim:6 dim:8) W3:2)",
            "(add (slice x:T,8 axis:1 dim:0 dim:3) W1:3) (add (slice x:T,8 axis:1 dim:3 dim:8) y:5)",
            "(add (slice x:2,2 axis:1 dim:0 dim:1) W1:1,1) (add (slice x:2,2 axis:1 dim:1 dim:2) W2:1,1)",
            "(add (slice x:T,8 axis:1 dim:0 dim:3) W1:3) (add (slice x:T,8 axis:1 dim:4 dim:8) W2:4)",
            "(add (slice x:T,8 axis:1 dim:0 dim:3) W1:3) (mul (slice x:T,8 axis:1 dim:3 dim:8) W2:5)",
            "(add (slice x:T,8 axis:1 dim:0 dim:3) W1:3) (slice x:T,8 axis:1 dim:3 dim:8)",
            "(add (slice x:T,8 axis:1 dim:0 dim:3) W1:3) (add (slice x:T,8 axis:1 dim:3 dim:8) y:T,5)",
        ],
    },
    Case {
        rule: "square-of-product",
        fires: &["(mul x:3,4 x:3,4)"],
        misses: &["(mul x:3,4 y:3,4)"],
    },
    Case {
        rule: "mean-of-sum",
        fires: &["(mul (reduce_sum x:3,4 axis:1) (const real:0.25))"],
        misses: &[
            "(mul (reduce_sum x:3,4 axis:1) (const real:0.2))",
            "(mul (reduce_max x:3,4 axis:1) (const real:0.25))",
        ],
    },
    Case {
        rule: "rms-norm",
        fires: &[
            "(mul x:T,8 (rsqrt (add (reduce_mean (square x:T,8) axis:1) (const real:0.001))))",
            "(mul (rsqrt (add (const real:0.001) (reduce_mean (square x:T,8) axis:1))) x:T,8)",
        ],
        misses: &[
            "(mul y:T,8 (rsqrt (add (reduce_mean (square x:T,8) axis:1) (const real:0.001))))",
            "(mul x:8,8 (rsqrt (add (reduce_mean (square x:8,8) axis:0) (const real:0.001))))",
            "(mul x:T,8 (rsqrt (add (reduce_sum (square x:T,8) axis:1) (const real:0.001))))",
            "(mul x:T,8 (rsqrt (add (reduce_mean x:T,8 axis:1) (const real:9.0))))",
        ],
    },
    Case {
        rule: "rms-norm-division",
        fires: &["(div x:T,8 (sqrt (add (reduce_mean (square x:T,8) axis:1) (const real:0.001))))"],
        misses: &[
            "(div y:T,8 (sqrt (add (reduce_mean (square x:T,8) axis:1) (const real:0.001))))",
            "(mul x:T,8 (sqrt (add (reduce_mean (square x:T,8) axis:1) (const real:0.001))))",
            "(div x:8,8 (sqrt (add (reduce_mean (square x:8,8) axis:0) (const real:0.001))))",
        ],
    },
    Case {
        rule: "rms-norm-gain",
        fires: &["(mul (rms_norm x:T,8 real:0.001) W1:8)"],
        misses: &[
            "(mul (rms_norm x:T,8 real:0.001) W1:1)",
            "(mul (rms_norm x:T,8 real:0.001) y:T,8)",
            "(add (rms_norm x:T,8 real:0.001) W1:8)",
        ],
    },
    Case {
        rule: "gain-into-weight",
        fires: &["(matmul (rms_norm x:T,8 H1:8 real:0.001) (transpose W2:4,8 perm:1,0))"],
        misses: &[
            "(matmul (rms_norm x:T,8 H1:8 real:0.001) (transpose y:4,8 perm:1,0))",
            "(matmul (rms_norm x:T,8 H1:8 real:0.001) (transpose H2:4,8 perm:1,0))",
            "(matmul (rms_norm x:T,8 y:8 real:0.001) (transpose W2:4,8 perm:1,0))",
        ],
    },
    Case {
        rule: "gain-into-narrow-weight",
        fires: &["(matmul (rms_norm x:T,8 H1:8 real:0.001) (transpose H2:4,8 perm:1,0))"],
        misses: &[
            "(matmul (rms_norm x:T,8 H1:8 real:0.001) (transpose (cast y:4,8 dtype:bf16) perm:1,0))",
            "(matmul (rms_norm x:T,8 y:8 real:0.001) (transpose H2:4,8 perm:1,0))",
            "(matmul (rms_norm x:T,8 H1:8 real:0.001) (transpose W2:4,8 perm:1,0))",
        ],
    },
    Case {
        rule: "silu",
        fires: &["(mul x:3,4 (sigmoid x:3,4))"],
        misses: &["(mul y:3,4 (sigmoid x:3,4))", "(mul x:3,4 (tanh x:3,4))"],
    },
    Case {
        rule: "relu",
        fires: &["(max x:3,4 (const real:0.0))"],
        misses: &["(max x:3,4 (const real:1.0))", "(min x:3,4 (const real:0.0))"],
    },
    Case {
        rule: "gelu-tanh",
        fires: &[
            "(mul (mul x:3,4 (const real:0.5)) (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:0.7978845608028654))) (const real:1.0)))",
            "(mul (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:0.7978845608028654))) (const real:1.0)) (mul (const real:0.5) x:3,4))",
        ],
        misses: &[
            "(mul (mul x:3,4 (const real:0.5)) (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.0447))) (const real:0.7978845608028654))) (const real:1.0)))",
            "(mul (mul x:3,4 (const real:0.5)) (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:0.797884))) (const real:1.0)))",
            "(mul (mul x:3,4 (const real:0.4)) (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:0.7978845608028654))) (const real:1.0)))",
            "(mul (mul y:3,4 (const real:0.5)) (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:0.7978845608028654))) (const real:1.0)))",
            "(mul (mul x:3,4 (const real:0.5)) (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:0.7978845608028654))) (const real:2.0)))",
        ],
    },
    Case {
        rule: "gelu-tanh-halved-last",
        fires: &[
            "(mul (mul x:3,4 (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:0.7978845608028654))) (const real:1.0))) (const real:0.5))",
        ],
        misses: &[
            "(mul (mul x:3,4 (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.0447))) (const real:0.7978845608028654))) (const real:1.0))) (const real:0.5))",
            "(mul (mul x:3,4 (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:0.7978845608028654))) (const real:2.0))) (const real:0.5))",
            "(mul (mul x:3,4 (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:0.7978845608028654))) (const real:1.0))) (const real:0.4))",
            "(mul (mul x:3,4 (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:1.0))) (const real:1.0))) (const real:0.5))",
            "(mul (mul y:3,4 (add (tanh (mul (add x:3,4 (mul (mul (square x:3,4) x:3,4) (const real:0.044715))) (const real:0.7978845608028654))) (const real:1.0))) (const real:0.5))",
        ],
    },
    Case {
        rule: "glu",
        fires: &[
            "(mul (act x:3,4 act:silu) y:3,4)",
            "(mul (act (slice x:T,8 axis:1 dim:0 dim:4) act:gelu_tanh) (slice x:T,8 axis:1 dim:4 dim:8))",
        ],
        misses: &[
            "(mul (act x:3,4 act:silu) W1:4)",
            "(mul (act x:3,4 act:gelu) x:3,4)",
            "(mul (tanh x:3,4) y:3,4)",
            "(add (act x:3,4 act:silu) y:3,4)",
        ],
    },
    Case {
        rule: "attention",
        fires: &[
            "(matmul (softmax (add (mul (matmul q:4,T,8 k:4,8,S) (const real:0.3)) (causal_mask window:none))) v:4,S,6)",
            "(matmul (softmax (add (causal_mask window:2) (mul (const real:0.3) (matmul q:4,T,8 k:4,8,S)))) v:4,S,8)",
        ],
        misses: &[
            // The scale after the softmax.
            "(matmul (mul (softmax (add (matmul q:4,T,8 k:4,8,S) (causal_mask window:none))) (const real:0.3)) v:4,S,8)",
            // A mask that is somebody's input.
            "(matmul (softmax (add (mul (matmul q:4,T,8 k:4,8,S) (const real:0.3)) m:T,S)) v:4,S,8)",
            // The mask's complement.
            "(matmul (softmax (add (mul (matmul q:4,T,8 k:4,8,S) (const real:0.3)) (neg (causal_mask window:none)))) v:4,S,8)",
            // The mask multiplied, and the mask after the softmax.
            "(matmul (softmax (mul (mul (matmul q:4,T,8 k:4,8,S) (const real:0.3)) (causal_mask window:none))) v:4,S,8)",
            "(matmul (add (softmax (mul (matmul q:4,T,8 k:4,8,S) (const real:0.3))) (causal_mask window:none)) v:4,S,8)",
            // No mask at all.
            "(matmul (softmax (mul (matmul q:4,T,8 k:4,8,S) (const real:0.3))) v:4,S,8)",
            // A scale per head.
            "(matmul (softmax (add (mul (matmul q:4,T,8 k:4,8,S) W1:4,1,1) (causal_mask window:none))) v:4,S,8)",
        ],
    },
    Case {
        rule: "attention-divided",
        fires: &[
            "(matmul (softmax (add (div (matmul q:4,T,8 k:4,8,S) (const real:3.0)) (causal_mask window:none))) v:4,S,8)",
        ],
        misses: &[
            "(matmul (softmax (add (div (const real:3.0) (matmul q:4,T,8 k:4,8,S)) (causal_mask window:none))) v:4,S,8)",
            "(matmul (softmax (div (add (matmul q:4,T,8 k:4,8,S) (causal_mask window:none)) (const real:3.0))) v:4,S,8)",
        ],
    },
    Case {
        rule: "attention-unscaled",
        fires: &[
            "(matmul (softmax (add (matmul q:4,T,8 k:4,8,S) (causal_mask window:3))) v:4,S,8)",
        ],
        misses: &[
            "(matmul (softmax (sub (matmul q:4,T,8 k:4,8,S) (causal_mask window:3))) v:4,S,8)",
            "(matmul (exp (add (matmul q:4,T,8 k:4,8,S) (causal_mask window:3))) v:4,S,8)",
        ],
    },
    Case {
        rule: "attention-scale-of-query",
        fires: &["(attention (mul q:T,4,8 (const real:0.3)) k:S,2,8 v:S,2,8 real:0.5 window:none)"],
        misses: &["(attention (mul q:T,4,8 W1:8) k:S,2,8 v:S,2,8 real:0.5 window:none)"],
    },
    Case {
        rule: "attention-scale-of-key",
        fires: &["(attention q:T,4,8 (mul k:S,2,8 (const real:0.3)) v:S,2,8 real:0.5 window:none)"],
        misses: &[
            "(attention q:T,4,8 k:S,2,8 (mul v:S,2,8 (const real:0.3)) real:0.5 window:none)",
        ],
    },
    Case {
        rule: "attention-key-shift",
        fires: &["(attention q:T,4,8 (add k:S,2,8 W1:2,8) v:S,2,8 real:0.5 window:none)"],
        misses: &[
            "(attention q:T,4,8 (add k:S,2,8 W1:2,1) v:S,2,8 real:0.5 window:none)",
            "(attention q:T,4,8 (add k:S,2,8 y:S,2,8) v:S,2,8 real:0.5 window:none)",
            "(attention q:T,4,8 (mul k:S,2,8 W1:2,8) v:S,2,8 real:0.5 window:none)",
            "(attention (add q:T,4,8 W1:4,8) k:S,2,8 v:S,2,8 real:0.5 window:none)",
        ],
    },
    Case {
        rule: "attention-value-shift",
        fires: &["(attention q:T,4,8 k:S,4,8 (add v:S,4,8 W1:4,8) real:0.5 window:2)"],
        misses: &[
            "(attention q:T,4,8 k:S,2,8 (add v:S,2,8 W1:2,8) real:0.5 window:none)",
            "(attention q:T,4,8 k:S,4,8 (add v:S,4,8 y:S,4,8) real:0.5 window:none)",
        ],
    },
    Case {
        rule: "scale-out-of-rope",
        fires: &["(rope (mul x:T,2,8 (const real:0.3)) ids:T rope:8)"],
        misses: &["(rope (mul x:T,2,8 s:) ids:T rope:8)", "(rope (mul x:T,2,8 W1:8) ids:T rope:8)"],
    },
    Case {
        rule: "attention-shared-heads",
        fires: &[
            "(attention q:T,4,8 (reshape (broadcast (reshape k:S,2,8 dims:S,2,1,8) dims:S,2,2,8) dims:S,4,8) (reshape (broadcast (reshape v:S,2,8 dims:S,2,1,8) dims:S,2,2,8) dims:S,4,8) real:0.3 window:none)",
            "(attention q:T,4,8 (broadcast k:S,1,8 dims:S,4,8) (broadcast v:S,1,8 dims:S,4,8) real:0.3 window:2)",
            "(attention q:T,4,8 (transpose (reshape (broadcast (reshape (transpose k:S,2,8 perm:1,0,2) dims:2,1,S,8) dims:2,2,S,8) dims:4,S,8) perm:1,0,2) (reshape (broadcast (reshape v:S,2,8 dims:S,2,1,8) dims:S,2,2,8) dims:S,4,8) real:0.3 window:none)",
        ],
        misses: &[
            // Heads tiled instead of repeated: query head h would read head h mod G.
            "(attention q:T,4,8 (reshape (broadcast (reshape k:S,2,8 dims:S,1,2,8) dims:S,2,2,8) dims:S,4,8) (reshape (broadcast (reshape v:S,2,8 dims:S,1,2,8) dims:S,2,2,8) dims:S,4,8) real:0.3 window:none)",
            // Keys repeated, values not.
            "(attention q:T,4,8 (reshape (broadcast (reshape k:S,2,8 dims:S,2,1,8) dims:S,2,2,8) dims:S,4,8) v:S,4,8 real:0.3 window:none)",
        ],
    },
    Case {
        rule: "attention-grouped",
        fires: &[
            "(matmul (softmax (add (mul (matmul q:2,3,T,8 k:2,3,8,S) (const real:0.3)) (causal_mask window:none))) v:2,3,S,8)",
        ],
        misses: &[
            "(matmul (softmax (add (mul (matmul q:2,3,T,8 k:2,3,8,S) (const real:0.3)) m:T,S)) v:2,3,S,8)",
            "(matmul (softmax (add (mul (matmul q:4,T,8 k:4,8,S) (const real:0.3)) (causal_mask window:none))) v:4,S,8)",
        ],
    },
];
