//! Every rule, tested: a case where it fires, near misses where it must not, and what it writes
//! compared with `ir::eval` on random numbers at the rule's tier.
//!
//! Cases are s-expressions in the spelling of patterns. Leaves: `x:T,8` is an f32 input, `W1:8,4` an
//! f32 weight, `H1:8,4` a bf16 weight, `ids:T` i32; `S` is C + T. Several expressions are several
//! results. A rule without a row here fails the suite.

use ir::eval::{EvalOptions, eval_graph};
use ir::{
    Activation, Bindings, Builder, Dim, Graph, ParamKind, Real, RopeScaling, RopeSpec, Symbol,
    TensorType, ValueId, WeightMap,
};
use tensor::{DType, Rng, Tensor};

use super::extract::Problem;
use super::language::{Attr, Term, decode};
use super::rule::Rule;
use super::{Limits, convert, rules, saturate};
use crate::NeutralCost;
use crate::testing::{assert_close, random_tensor};

struct Case {
    rule: &'static str,
    fires: &'static [&'static str],
    misses: &'static [&'static str],
}

const CASES: &[Case] = &[
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
            "(add x:3,4 (reshape y:3,4 dims:1,3,4))",
            "(add x:3,3,4 (reshape y:3,4 dims:3,1,4))",
        ],
    },
    Case {
        rule: "mul-leading-ones",
        fires: &["(mul x:2,3,4 (reshape y:4 dims:1,1,4))"],
        misses: &["(mul x:3,4 (reshape y:3,4 dims:1,3,4))"],
    },
    Case {
        rule: "slice-matmul-rows",
        fires: &["(slice (matmul x:T,8 W1:8,4) axis:0 dim:T-R dim:T)"],
        misses: &[
            "(slice (matmul x:T,8 W1:8,4) axis:1 dim:0 dim:2)",
            "(slice (matmul x:3,T,8 y:3,8,4) axis:0 dim:0 dim:2)",
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
        misses: &["(matmul (matmul x:T,8 W1:8,4) y:4,6)", "(matmul (matmul x:T,8 y:8,4) W2:4,6)"],
    },
    Case {
        rule: "matmul-split-low-rank",
        fires: &["(matmul x:T,8 (matmul W1:8,1 W2:1,8))"],
        misses: &["(matmul x:T,8 (matmul W1:8,4 W2:4,8))", "(matmul x:T,8 (matmul y:8,1 W2:1,8))"],
    },
    Case {
        rule: "matmul-distribute-low-rank",
        fires: &["(matmul x:T,8 (add W1:8,8 (mul (matmul W2:8,1 W3:1,8) (const real:0.5))))"],
        misses: &[
            "(matmul x:T,8 (add W1:8,8 W2:8,8))",
            "(matmul x:T,8 (add W1:8,8 (matmul W2:8,6 W3:6,8)))",
            "(matmul x:T,8 (add W1:8,8 (exp (matmul W2:8,1 W3:1,8))))",
        ],
    },
    Case {
        rule: "transposed-distribute-low-rank",
        fires: &["(matmul x:T,8 (transpose (add W1:6,8 (matmul W2:6,1 W3:1,8)) perm:1,0))"],
        misses: &["(matmul x:T,8 (transpose (add W1:6,8 W2:6,8) perm:1,0))"],
    },
    Case {
        rule: "matmul-factor",
        fires: &["(add (matmul x:T,8 W1:8,4) (matmul x:T,8 W2:8,4))"],
        misses: &[
            "(add (matmul x:T,8 W1:8,4) (matmul y:T,8 W2:8,4))",
            "(add (matmul x:T,8 W1:8,4) (matmul x:T,8 y:8,4))",
        ],
    },
    Case {
        rule: "scale-into-weight-exact",
        fires: &["(mul (matmul x:T,8 W1:8,4) (const real:0.25))"],
        misses: &[
            "(mul (matmul x:T,8 W1:8,4) (const real:0.3))",
            "(mul (matmul x:T,8 y:8,4) (const real:0.25))",
        ],
    },
    Case {
        rule: "scale-into-weight",
        fires: &["(mul (matmul x:T,8 W1:8,4) (const real:0.3))"],
        misses: &[
            "(mul (matmul x:T,8 y:8,4) (const real:0.3))",
            "(mul (matmul x:T,8 W1:8,4) W2:4)",
        ],
    },
    Case {
        rule: "scale-out-of-right",
        fires: &["(matmul x:T,8 (mul W1:8,4 (const real:0.3)))"],
        misses: &["(matmul x:T,8 (mul W1:8,4 W2:4))"],
    },
    Case {
        rule: "scale-out-of-left",
        fires: &["(matmul (mul x:T,8 (const real:0.3)) W1:8,4)"],
        misses: &["(matmul (mul x:T,8 W2:8) W1:8,4)"],
    },
    Case {
        rule: "scale-out-of-transpose",
        fires: &["(transpose (mul x:T,8 (const real:0.3)) perm:1,0)"],
        misses: &["(transpose (mul x:T,8 W1:8) perm:1,0)"],
    },
    Case {
        rule: "scale-out-of-reshape",
        fires: &["(reshape (mul x:T,8 (const real:0.3)) dims:T,2,4)"],
        misses: &[
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
            "(matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul y:T,8 (transpose W2:6,8 perm:1,0))",
            "(matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul x:T,8 (transpose H2:6,8 perm:1,0))",
            "(matmul x:T,8 (transpose W1:4,8 perm:1,0)) (matmul x:T,8 y:8,4)",
        ],
    },
    Case {
        rule: "merge-biases",
        fires: &[
            "(add (slice x:T,8 axis:1 dim:0 dim:3) W1:3) (add W2:5 (slice x:T,8 axis:1 dim:3 dim:8))",
        ],
        misses: &[
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
            "(matmul (rms_norm x:T,8 H1:8 real:0.001) (transpose H2:4,8 perm:1,0))",
            "(matmul (rms_norm x:T,8 y:8 real:0.001) (transpose W2:4,8 perm:1,0))",
        ],
    },
    Case {
        rule: "gain-into-narrow-weight",
        fires: &["(matmul (rms_norm x:T,8 H1:8 real:0.001) (transpose H2:4,8 perm:1,0))"],
        misses: &["(matmul (rms_norm x:T,8 H1:8 real:0.001) (transpose W2:4,8 perm:1,0))"],
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
        rule: "scale-out-of-rope",
        fires: &["(rope (mul x:T,2,8 (const real:0.3)) ids:T rope:8)"],
        misses: &["(rope (mul x:T,2,8 W1:8) ids:T rope:8)"],
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

const BINDINGS: Bindings = Bindings { t: 4, c: 3, r: 2 };
const LIMITS: Limits = Limits { nodes: 5_000, iterations: 3, work: 1_000_000 };

/// Builds the graph of a case.
struct Reader<'a> {
    words: Vec<&'a str>,
    builder: Builder,
    leaves: Vec<(&'a str, ValueId)>,
}

impl<'a> Reader<'a> {
    fn graph(text: &'a str) -> Graph {
        let words = text.split_inclusive([' ', '(', ')']).flat_map(|piece| {
            let end = piece.len() - usize::from(piece.ends_with([' ', '(', ')']));
            [&piece[..end], piece[end..].trim()]
        });
        let words = words.filter(|w| !w.is_empty()).collect();
        let mut reader = Reader { words, builder: Builder::new("case"), leaves: Vec::new() };
        // Parameters stand first in a graph, leaves anywhere in a case.
        let inputs: Vec<&str> = reader.words.iter().copied().filter(|w| is_input(w)).collect();
        for word in inputs {
            if !reader.leaves.iter().any(|(w, _)| *w == word) {
                let (name, dims) = word.split_once(':').unwrap();
                let dtype = if name == "ids" { DType::I32 } else { DType::F32 };
                let ty = TensorType { dtype, dims: dims_of(dims) };
                let value = reader.builder.param(ParamKind::Input, ty, name);
                reader.leaves.push((word, value));
            }
        }
        reader.words.reverse();
        let mut results = Vec::new();
        while let Some(word) = reader.words.pop() {
            results.push(reader.value(word));
        }
        reader.builder.finish(results)
    }

    fn value(&mut self, word: &'a str) -> ValueId {
        if word != "(" {
            return self.leaf(word);
        }
        let head = self.words.pop().unwrap();
        let pattern: egg::Pattern<Term> = format!("({head} ?x)").parse().unwrap();
        let head = match pattern.ast.as_ref().last().unwrap() {
            egg::ENodeOrVar::ENode(term) => term.head.clone(),
            egg::ENodeOrVar::Var(_) => unreachable!("a head was parsed"),
        };
        let (mut operands, mut attrs) = (Vec::new(), Vec::new());
        loop {
            match self.words.pop().unwrap() {
                ")" => break,
                word => match attribute(word) {
                    Some(attr) => attrs.push(attr),
                    None => operands.push(self.value(word)),
                },
            }
        }
        let op = decode(&head, &attrs.iter().collect::<Vec<_>>())
            .unwrap_or_else(|| panic!("{head:?} {attrs:?}"));
        self.builder.apply(op, &operands).unwrap_or_else(|e| panic!("{e}"))
    }

    fn leaf(&mut self, word: &'a str) -> ValueId {
        if let Some((_, value)) = self.leaves.iter().find(|(w, _)| *w == word) {
            return *value;
        }
        let (name, dims) = word.split_once(':').unwrap();
        let shape: Vec<usize> = dims_of(dims).iter().map(|d| d.as_const().unwrap()).collect();
        let dtype = if name.starts_with('H') { DType::BF16 } else { DType::F32 };
        let value = self.builder.weight(name, dtype, &shape).unwrap();
        self.leaves.push((word, value));
        value
    }
}

fn is_input(word: &str) -> bool {
    let lower = word.starts_with(|c: char| c.is_ascii_lowercase());
    lower && word.contains(':') && attribute(word).is_none()
}

fn dims_of(text: &str) -> Vec<Dim> {
    text.split(',').map(dim_of).collect()
}

fn dim_of(text: &str) -> Dim {
    let symbol = |s: Symbol| Dim::from(s);
    match text {
        "T" => symbol(Symbol::T),
        "S" => &symbol(Symbol::C) + &symbol(Symbol::T),
        "T-R" => &symbol(Symbol::T) - &symbol(Symbol::R),
        n => Dim::from(n.parse::<usize>().unwrap()),
    }
}

fn attribute(word: &str) -> Option<Attr> {
    let (kind, value) = word.split_once(':')?;
    Some(match kind {
        "axis" => Attr::Axis(value.parse().unwrap()),
        "real" => Attr::Real(Real::new(value.parse().unwrap())),
        "dim" => Attr::Dim(dim_of(value)),
        "dims" => Attr::Dims(dims_of(value)),
        "perm" => Attr::Perm(value.split(',').map(|p| p.parse().unwrap()).collect()),
        "act" => Attr::Act(Activation::ALL.into_iter().find(|a| a.name() == value).unwrap()),
        "window" => Attr::Window(value.parse().ok()),
        "rope" => Attr::Rope(Box::new(RopeSpec {
            dim: value.parse().unwrap(),
            theta: Real::new(100.0),
            scaling: RopeScaling::None,
        })),
        _ => return None,
    })
}

fn rule(name: &str) -> &'static Rule {
    rules::all().find(|r| r.name == name).unwrap_or_else(|| panic!("no rule is called {name}"))
}

fn fires(rule: &'static Rule, text: &str) -> bool {
    let graph = Reader::graph(text);
    let mut loaded = convert::load(&graph).unwrap();
    saturate(&mut loaded, &[rule], LIMITS).fired.contains(rule.name)
}

fn inputs(graph: &Graph) -> Vec<Tensor> {
    let mut rng = Rng::new(11);
    let tensor = |p: &ir::Param| {
        let ty = graph.ty(p.value).as_tensor().unwrap();
        let shape: Vec<usize> = ty.dims.iter().map(|d| d.eval(&BINDINGS).unwrap()).collect();
        if ty.dtype == DType::I32 {
            let ids: Vec<i32> = (0..shape[0]).map(|i| i32::try_from(i * 3).unwrap()).collect();
            return Tensor::from_i32(shape, &ids);
        }
        random_tensor(&mut rng, ty.dtype, &shape)
    };
    graph.params().iter().map(tensor).collect()
}

fn evaluate(graph: &Graph, given: &[Tensor], weights: &WeightMap) -> Vec<Vec<f32>> {
    let options = EvalOptions::default();
    let results = eval_graph(graph, given, BINDINGS, None, weights, options);
    let results = results.unwrap_or_else(|e| panic!("{e}\n{}", ir::print_graph(graph)));
    results.iter().map(Tensor::to_f32).collect()
}

fn weights_of(graph: &Graph) -> WeightMap {
    let module = ir::Module::new("case", 64, graph.clone());
    crate::testing::random_weights(&module)
}

/// Everything that the rule made equal in the graph of `text` is equal, at the rule's tier.
fn check_numbers(rule: &'static Rule, text: &str) {
    let graph = Reader::graph(text);
    let (given, weights) = (inputs(&graph), weights_of(&graph));
    let expected = evaluate(&graph, &given, &weights);
    let mut loaded = convert::load(&graph).unwrap();
    saturate(&mut loaded, &[rule], LIMITS);
    let problem = Problem::new(&loaded.egraph, &loaded.roots, &NeutralCost);
    let mut different = 0;
    for choice in problem.alternatives() {
        let (other, _) = convert::rebuild(&graph, &loaded, &choice).unwrap();
        different += usize::from(other != graph.compact());
        for (found, expected) in evaluate(&other, &given, &weights).iter().zip(&expected) {
            assert_close(found, expected, rule.tier);
        }
    }
    assert!(different > 0, "{}: nothing but the graph itself can be extracted: {text}", rule.name);
}

#[test]
fn every_rule_has_its_cases() {
    for rule in rules::all() {
        let case = CASES.iter().filter(|c| c.rule == rule.name).collect::<Vec<_>>();
        assert_eq!(case.len(), 1, "{} needs exactly one row of cases", rule.name);
        assert!(!case[0].fires.is_empty() && !case[0].misses.is_empty(), "{}", rule.name);
        assert!(rule.why.ends_with('.'), "{}: the reason is a sentence", rule.name);
    }
    for case in CASES {
        assert_eq!(rule(case.rule).name, case.rule);
    }
}

#[test]
fn rules_fire_where_they_should_and_nowhere_else() {
    for case in CASES {
        for text in case.fires {
            assert!(fires(rule(case.rule), text), "{} does not fire: {text}", case.rule);
        }
        for text in case.misses {
            assert!(!fires(rule(case.rule), text), "{} fires: {text}", case.rule);
        }
    }
}

#[test]
fn rules_keep_the_numbers_at_their_tier() {
    for case in CASES {
        for text in case.fires {
            check_numbers(rule(case.rule), text);
        }
    }
}

/// With all rules loaded, near misses included, whatever can be extracted has the same meaning.
#[test]
fn all_rules_together_keep_the_numbers() {
    let every: Vec<&'static Rule> =
        rules::all().filter(|r| r.tier < crate::Tier::Reround).collect();
    for text in CASES.iter().flat_map(|c| c.fires.iter().chain(c.misses)) {
        let graph = Reader::graph(text);
        let (given, weights) = (inputs(&graph), weights_of(&graph));
        let expected = evaluate(&graph, &given, &weights);
        let mut loaded = convert::load(&graph).unwrap();
        saturate(&mut loaded, &every, LIMITS);
        let problem = Problem::new(&loaded.egraph, &loaded.roots, &NeutralCost);
        for choice in problem.alternatives() {
            let (other, _) = convert::rebuild(&graph, &loaded, &choice).unwrap();
            for (found, expected) in evaluate(&other, &given, &weights).iter().zip(&expected) {
                assert_close(found, expected, crate::Tier::Reassoc);
            }
        }
    }
}
