//! What each rule says, for all sizes: both sides as expressions over letters.
//!
//! Lower-case letters are sizes (u and v real constants); T, R and S = C + T as in `cases`. Rules for any
//! number of operands have a theorem for two or three, views one per way in which they are used. A theorem
//! is proven from the meaning of ops alone (`meaning`), and the rule must write exactly its right side when
//! the letters are numbers (`agrees`), so that it is about the rule and not about this table. Two
//! rules need exp(a + b) = exp(a) exp(b) and a cancelling sum (the shifts of attention): what they say is in `FIELDS`.

/// A theorem of a rule.
pub(super) struct Schema {
    pub(super) rule: &'static str,
    pub(super) left: &'static str,
    pub(super) right: &'static str,
}

const fn says(rule: &'static str, left: &'static str, right: &'static str) -> Schema {
    Schema { rule, left, right }
}

/// What is tried over finite fields.
#[rustfmt::skip]
pub(super) const FIELDS: &[Schema] = &[
    says("attention-key-shift", "(attention q:T,g*r,d (add k:S,g,d W1:g,d) v:S,g,e real:u window:none)", "(attention q:T,g*r,d k:S,g,d v:S,g,e real:u window:none)"),
    says("attention-value-shift", "(attention q:T,h,d k:S,h,d (add v:S,h,e W1:h,e) real:u window:none)", "(add (attention q:T,h,d k:S,h,d v:S,h,e real:u window:none) W1:h,e)"),
];

#[rustfmt::skip]
pub(super) const SCHEMAS: &[Schema] = &[
    says("transpose-transpose", "(transpose (transpose x:a,b,c perm:1,2,0) perm:2,1,0)", "(transpose x:a,b,c perm:0,2,1)"),
    says("transpose-transpose", "(transpose (transpose x:a,b perm:1,0) perm:1,0)", "(transpose x:a,b perm:0,1)"),
    says("transpose-identity", "(transpose x:a,b,c perm:0,1,2)", "x:a,b,c"),
    says("reshape-reshape", "(reshape (reshape x:a,b,c dims:a*b,c) dims:a,b*c)", "(reshape x:a,b,c dims:a,b*c)"),
    says("reshape-reshape", "(reshape (reshape x:a*b dims:b,a) dims:a,b)", "(reshape x:a*b dims:a,b)"),
    says("reshape-identity", "(reshape x:a,b dims:a,b)", "x:a,b"),
    says("broadcast-identity", "(broadcast x:a,b dims:a,b)", "x:a,b"),
    says("reshape-chain", "(reshape (transpose (reshape x:a,b*c dims:a,b,c) perm:1,2,0) dims:b*c,a)", "(transpose x:a,b*c perm:1,0)"),
    says("reshape-chain", "(reshape (transpose (reshape x:T,a dims:T,1,a) perm:1,0,2) dims:T,a)", "x:T,a"),
    says("transpose-chain", "(transpose (reshape x:a,b dims:1,a,b) perm:1,0,2)", "(reshape x:a,b dims:a,1,b)"),
    says("slice-slice", "(slice (slice x:a+b+c+d+e,f axis:0 dim:a dim:a+b+c+d) axis:0 dim:b dim:b+c)", "(slice x:a+b+c+d+e,f axis:0 dim:a+b dim:a+b+c)"),
    says("slice-whole", "(slice x:a,b axis:1 dim:0 dim:b)", "x:a,b"),
    says("slice-of-concat", "(slice (concat x:a,d y:b+c+e,d axis:0) axis:0 dim:a+b dim:a+b+c)", "(slice y:b+c+e,d axis:0 dim:b dim:b+c)"),
    says("slice-of-concat", "(slice (concat x:a,d y:b,d z:c,d axis:0) axis:0 dim:a dim:a+b+c)", "(concat y:b,d z:c,d axis:0)"),
    says("concat-of-slices", "(concat (slice x:a+b+c+d,e axis:0 dim:a dim:a+b) (slice x:a+b+c+d,e axis:0 dim:a+b dim:a+b+c) axis:0)", "(slice x:a+b+c+d,e axis:0 dim:a dim:a+b+c)"),
    says("slice-through-transpose", "(slice (transpose x:a,b+c+d,e perm:1,2,0) axis:0 dim:b dim:b+c)", "(transpose (slice x:a,b+c+d,e axis:1 dim:b dim:b+c) perm:1,2,0)"),
    says("slice-through-reshape", "(slice (reshape x:a+b+c,d*e dims:a+b+c,d,e) axis:0 dim:a dim:a+b)", "(reshape (slice x:a+b+c,d*e axis:0 dim:a dim:a+b) dims:b,d,e)"),
    says("concat-of-transposes", "(concat (transpose x:a,c perm:1,0) (transpose y:b,c perm:1,0) axis:1)", "(transpose (concat x:a,c y:b,c axis:0) perm:1,0)"),
    says("add-broadcast", "(add x:a,b (broadcast y:1,b dims:a,b))", "(add x:a,b y:1,b)"),
    says("mul-broadcast", "(mul x:a,b (broadcast y:a,1 dims:a,b))", "(mul x:a,b y:a,1)"),
    says("add-leading-ones", "(add x:a,b,c (reshape y:b,c dims:1,b,c))", "(add x:a,b,c y:b,c)"),
    says("mul-leading-ones", "(mul x:a,b,c (reshape y:c dims:1,1,c))", "(mul x:a,b,c y:c)"),
    says("slice-matmul-rows", "(slice (matmul x:a+b+c,d y:d,e) axis:0 dim:a dim:a+b)", "(matmul (slice x:a+b+c,d axis:0 dim:a dim:a+b) y:d,e)"),
    says("slice-rms-norm", "(slice (rms_norm x:a+b+c,d real:u) axis:0 dim:a dim:a+b)", "(rms_norm (slice x:a+b+c,d axis:0 dim:a dim:a+b) real:u)"),
    says("slice-rms-norm-gain", "(slice (rms_norm x:a+b+c,d g:d real:u) axis:0 dim:a dim:a+b)", "(rms_norm (slice x:a+b+c,d axis:0 dim:a dim:a+b) g:d real:u)"),
    says("slice-softmax", "(slice (softmax x:a+b+c,d) axis:0 dim:a dim:a+b)", "(softmax (slice x:a+b+c,d axis:0 dim:a dim:a+b))"),
    says("slice-reduce-sum", "(slice (reduce_sum x:a+b+c,d axis:1) axis:0 dim:a dim:a+b)", "(reduce_sum (slice x:a+b+c,d axis:0 dim:a dim:a+b) axis:1)"),
    says("slice-reduce-mean", "(slice (reduce_mean x:a+b+c,d axis:1) axis:0 dim:a dim:a+b)", "(reduce_mean (slice x:a+b+c,d axis:0 dim:a dim:a+b) axis:1)"),
    says("slice-reduce-max", "(slice (reduce_max x:a+b+c,d axis:1) axis:0 dim:a dim:a+b)", "(reduce_max (slice x:a+b+c,d axis:0 dim:a dim:a+b) axis:1)"),
    says("slice-gather", "(slice (gather W1:d,e ids:a+b+c) axis:0 dim:a dim:a+b)", "(gather W1:d,e (slice ids:a+b+c axis:0 dim:a dim:a+b))"),
    says("slice-elementwise", "(slice (mul x:a+b+c,d y:d) axis:0 dim:a dim:a+b)", "(mul (slice x:a+b+c,d axis:0 dim:a dim:a+b) y:d)"),
    says("slice-elementwise", "(slice (glu x:e,a+b+c y:e,a+b+c act:silu) axis:1 dim:a dim:a+b)", "(glu (slice x:e,a+b+c axis:1 dim:a dim:a+b) (slice y:e,a+b+c axis:1 dim:a dim:a+b) act:silu)"),
    says("slice-elementwise", "(slice (add x:e,a+b+c y:e,1) axis:1 dim:a dim:a+b)", "(add (slice x:e,a+b+c axis:1 dim:a dim:a+b) y:e,1)"),
    says("matmul-fold-constants", "(matmul (matmul x:a,b W1:b,c) W2:c,d)", "(matmul x:a,b (matmul W1:b,c W2:c,d))"),
    says("matmul-split-low-rank", "(matmul x:a,m (matmul W1:m,l W2:l,n))", "(matmul (matmul x:a,m W1:m,l) W2:l,n)"),
    says("matmul-distribute-low-rank", "(matmul x:a,m (add W1:m,n (mul (matmul W2:m,l W3:l,n) (const real:u))))", "(add (matmul x:a,m W1:m,n) (matmul x:a,m (mul (matmul W2:m,l W3:l,n) (const real:u))))"),
    says("transposed-distribute-low-rank", "(matmul x:a,m (transpose (add W1:n,m (matmul W2:n,l W3:l,m)) perm:1,0))", "(add (matmul x:a,m (transpose W1:n,m perm:1,0)) (matmul x:a,m (transpose (matmul W2:n,l W3:l,m) perm:1,0)))"),
    says("matmul-factor", "(add (matmul x:a,b W1:b,c) (matmul x:a,b W2:b,c))", "(matmul x:a,b (add W1:b,c W2:b,c))"),
    says("scale-into-weight-exact", "(mul (matmul x:a,b W1:b,c) (const real:u))", "(matmul x:a,b (mul W1:b,c (const real:u)))"),
    says("scale-into-weight", "(mul (matmul x:a,b W1:b,c) (const real:u))", "(matmul x:a,b (mul W1:b,c (const real:u)))"),
    says("scale-out-of-right", "(matmul x:a,b (mul y:b,c (const real:u)))", "(mul (matmul x:a,b y:b,c) (const real:u))"),
    says("scale-out-of-left", "(matmul (mul x:a,b (const real:u)) y:b,c)", "(mul (matmul x:a,b y:b,c) (const real:u))"),
    says("row-scale-out-of-left", "(matmul (mul x:a,b y:a,1) z:b,c)", "(mul (matmul x:a,b z:b,c) y:a,1)"),
    says("row-scale-into-left", "(mul (matmul x:a,b z:b,c) y:a,1)", "(matmul (mul x:a,b y:a,1) z:b,c)"),
    says("column-scale-into-weight", "(mul (matmul x:a,b (transpose W1:c,b perm:1,0)) W2:c)", "(matmul x:a,b (transpose (mul W1:c,b (reshape W2:c dims:c,1)) perm:1,0))"),
    says("column-scale-of-left", "(matmul (mul x:a,b W1:b) (transpose W2:c,b perm:1,0))", "(matmul x:a,b (transpose (mul W2:c,b W1:b) perm:1,0))"),
    says("scales-in-one", "(mul (mul x:a,b (const real:u)) (const real:v))", "(mul x:a,b (const real:u*v))"),
    says("division-by-constant", "(div x:a,b (const real:u))", "(mul x:a,b (const real:1/u))"),
    says("scale-out-of-transpose", "(transpose (mul x:a,b (const real:u)) perm:1,0)", "(mul (transpose x:a,b perm:1,0) (const real:u))"),
    says("scale-out-of-reshape", "(reshape (mul x:a,b*c (const real:u)) dims:a,b,c)", "(mul (reshape x:a,b*c dims:a,b,c) (const real:u))"),
    says("transposed-product", "(transpose (matmul x:a,b y:b,c) perm:1,0)", "(matmul (transpose y:b,c perm:1,0) (transpose x:a,b perm:1,0))"),
    says("square-of-product", "(mul x:a,b x:a,b)", "(square x:a,b)"),
    says("mean-of-sum", "(mul (reduce_sum x:a,b axis:1) (const real:1/b))", "(reduce_mean x:a,b axis:1)"),
    says("rms-norm", "(mul x:a,b (rsqrt (add (reduce_mean (square x:a,b) axis:1) (const real:u))))", "(rms_norm x:a,b real:u)"),
    says("rms-norm-division", "(div x:a,b (sqrt (add (reduce_mean (square x:a,b) axis:1) (const real:u))))", "(rms_norm x:a,b real:u)"),
    says("rms-norm-gain", "(mul (rms_norm x:a,b real:u) g:b)", "(rms_norm x:a,b g:b real:u)"),
    says("gain-into-weight", "(matmul (rms_norm x:a,b W1:b real:u) (transpose W2:c,b perm:1,0))", "(matmul (rms_norm x:a,b real:u) (transpose (mul W2:c,b W1:b) perm:1,0))"),
    says("gain-into-narrow-weight", "(matmul (rms_norm x:a,b H1:b real:u) (transpose H2:c,b perm:1,0))", "(matmul (rms_norm x:a,b real:u) (transpose (cast (mul H2:c,b H1:b) dtype:bf16) perm:1,0))"),
    says("silu", "(mul x:a,b (sigmoid x:a,b))", "(act x:a,b act:silu)"),
    says("relu", "(max x:a,b (const real:0.0))", "(act x:a,b act:relu)"),
    says("glu", "(mul (act x:a,b act:gelu) y:a,b)", "(glu x:a,b y:a,b act:gelu)"),
    says("gelu-tanh", "(mul (mul x:a,b (const real:0.5)) (add (tanh (mul (add x:a,b (mul (mul (square x:a,b) x:a,b) (const real:0.044715))) (const real:0.7978845608028654))) (const real:1.0)))", "(act x:a,b act:gelu_tanh)"),
    says("gelu-tanh-halved-last", "(mul (mul x:a,b (add (tanh (mul (add x:a,b (mul (mul (square x:a,b) x:a,b) (const real:0.044715))) (const real:0.7978845608028654))) (const real:1.0))) (const real:0.5))", "(act x:a,b act:gelu_tanh)"),
    says("merge-projections", "(matmul x:T,a (transpose W1:b,a perm:1,0)) (matmul x:T,a (transpose W2:c,a perm:1,0))", "(slice (matmul x:T,a (transpose (concat W1:b,a W2:c,a axis:0) perm:1,0)) axis:1 dim:0 dim:b)"),
    says("merge-summed-products", "(add (matmul x:T,a (transpose W1:c,a perm:1,0)) (matmul y:T,b (transpose W2:c,b perm:1,0)))", "(matmul (concat x:T,a y:T,b axis:1) (transpose (concat W1:c,a W2:c,b axis:1) perm:1,0))"),
    says("merge-biases", "(add (slice x:T,a+b axis:1 dim:0 dim:a) W1:a) (add (slice x:T,a+b axis:1 dim:a dim:a+b) W2:b)", "(slice (add x:T,a+b (concat W1:a W2:b axis:0)) axis:1 dim:0 dim:a)"),
    says("attention", "(matmul (softmax (add (mul (matmul q:a,T,d k:a,d,S) (const real:u)) (causal_mask window:none))) v:a,S,e)", "(transpose (attention (transpose q:a,T,d perm:1,0,2) (transpose k:a,d,S perm:2,0,1) (transpose v:a,S,e perm:1,0,2) real:u window:none) perm:1,0,2)"),
    says("attention-divided", "(matmul (softmax (add (div (matmul q:a,T,d k:a,d,S) (const real:u)) (causal_mask window:3))) v:a,S,e)", "(transpose (attention (transpose q:a,T,d perm:1,0,2) (transpose k:a,d,S perm:2,0,1) (transpose v:a,S,e perm:1,0,2) real:1/u window:3) perm:1,0,2)"),
    says("attention-unscaled", "(matmul (softmax (add (matmul q:a,T,d k:a,d,S) (causal_mask window:none))) v:a,S,e)", "(transpose (attention (transpose q:a,T,d perm:1,0,2) (transpose k:a,d,S perm:2,0,1) (transpose v:a,S,e perm:1,0,2) real:1.0 window:none) perm:1,0,2)"),
    says("attention-scale-of-query", "(attention (mul q:T,a,d (const real:v)) k:S,a,d v:S,a,e real:u window:none)", "(attention q:T,a,d k:S,a,d v:S,a,e real:u*v window:none)"),
    says("attention-scale-of-key", "(attention q:T,a,d (mul k:S,a,d (const real:v)) v:S,a,e real:u window:none)", "(attention q:T,a,d k:S,a,d v:S,a,e real:u*v window:none)"),
    says("scale-out-of-rope", "(rope (mul x:T,a,2 (const real:u)) ids:T rope:2)", "(mul (rope x:T,a,2 ids:T rope:2) (const real:u))"),
    says("attention-shared-heads", "(attention q:T,g*r,d (reshape (broadcast (reshape k:S,g,d dims:S,g,1,d) dims:S,g,r,d) dims:S,g*r,d) (reshape (broadcast (reshape v:S,g,e dims:S,g,1,e) dims:S,g,r,e) dims:S,g*r,e) real:u window:none)", "(attention q:T,g*r,d k:S,g,d v:S,g,e real:u window:none)"),
    says("attention-grouped", "(matmul (softmax (add (mul (matmul q:g,r,T,d k:g,r,d,S) (const real:u)) (causal_mask window:none))) v:g,r,S,e)", "(reshape (transpose (attention (transpose (reshape q:g,r,T,d dims:g*r,T,d) perm:1,0,2) (transpose (reshape k:g,r,d,S dims:g*r,d,S) perm:2,0,1) (transpose (reshape v:g,r,S,e dims:g*r,S,e) perm:1,0,2) real:u window:none) perm:1,0,2) dims:g,r,T,e)"),
    says("matmul-absorb-left", "(matmul x:a,b (matmul W1:b,c y:c,d))", "(matmul (matmul x:a,b W1:b,c) y:c,d)"),
    says("matmul-absorb-right", "(matmul x:a,b (matmul y:b,c W1:c,d))", "(matmul (matmul x:a,b y:b,c) W1:c,d)"),
    says("scale-into-table", "(mul (gather W1:a,b ids:c) (const real:u))", "(gather (mul W1:a,b (const real:u)) ids:c)"),
    says("shift-through-matmul", "(matmul (add x:a,b W1:b) W2:b,c)", "(add (matmul x:a,b W2:b,c) (matmul (reshape W1:b dims:1,b) W2:b,c))"),
];
