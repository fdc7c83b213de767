//! Executables agree with `ir::eval` where numbers end: NaN, infinities, zeros of both signs, rows
//! with nothing to attend to, tensors without elements. Weights have to be numbers, so a module gets
//! its special values by dividing two of them.

use std::sync::Arc;

use ir::WeightMap;
use ir::eval::{EvalOptions, Session as Eval};
use runtime::kernels::Kernels;
use runtime::program::Activations;
use runtime::{Assets, Isa, Session, SessionOptions, Wanted};
use sparkc_backend_cpu::{CpuError, compile_in_memory};
use tensor::Tensor;

/// Columns of the table, and of the logits: more than a register of any instruction set.
const WIDTH: usize = 40;
const TOKENS: [u32; 3] = [0, 1, 2];

/// A row with every special value, one of only -inf, one of numbers with one -inf.
fn table() -> Tensor {
    let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, -90.0, 3e38];
    let number = |i: usize| i as f32 / 4.0 - 7.0;
    let mut rows: Vec<f32> = specials.into_iter().cycle().take(WIDTH).collect();
    rows.extend([f32::NEG_INFINITY; WIDTH]);
    rows.extend((0..WIDTH).map(|i| if i == 5 { f32::NEG_INFINITY } else { number(i) }));
    // A row for every token that the logits name.
    rows.resize(WIDTH * WIDTH, 0.0);
    Tensor::from_f32(vec![WIDTH, WIDTH], &rows)
}

/// The table as a quotient of numbers: what is no number is a number, or zero, over zero.
fn quotient() -> [Tensor; 2] {
    let above = |v: f32| if v.is_nan() { 0.0 } else { v.clamp(-3e38, 3e38) };
    let below = |v: f32| if v.is_finite() { 1.0 } else { 0.0 };
    let values = table().to_f32();
    let of = |f: &dyn Fn(f32) -> f32| values.iter().map(|&v| f(v)).collect::<Vec<f32>>();
    [of(&above), of(&below)].map(|values| Tensor::from_f32(vec![WIDTH, WIDTH], &values))
}

/// Logits of a module whose body makes `%y` of `%x: f32[T, 40]`: as the executable and as `eval` has them.
fn both(body: &str, isa: Isa) -> [Vec<f32>; 2] {
    let text = format!(
        "module \"special\" context 8 {{
  graph @main(input %tokens: i32[T]) {{
    %above = weight \"above\" : f32[{WIDTH}, {WIDTH}]
    %below = weight \"below\" : f32[{WIDTH}, {WIDTH}]
    %table = div %above, %below : f32[{WIDTH}, {WIDTH}]
    %x = gather %table, %tokens : f32[T, {WIDTH}]
    {body}
    %logits = slice %y {{axis=0, start=T - R, end=T}} : f32[R, {WIDTH}]
    return %logits
  }}
}}"
    );
    let module = ir::parse(&text).unwrap_or_else(|e| panic!("{body}: {e}"));
    let [above, below] = quotient();
    let weights: WeightMap =
        [("above".to_string(), above), ("below".to_string(), below)].into_iter().collect();
    let mut eval = Eval::new(&module, &weights, EvalOptions::default()).expect("verifies");
    let expected = eval.step(&TOKENS, TOKENS.len()).expect("evaluates").to_f32();
    let payload = compile_in_memory(&module, Activations::Full, &weights, Assets::default());
    let options = SessionOptions { threads: 1, isa: Some(isa), ..SessionOptions::default() };
    let mut session = Session::new(Arc::new(payload.expect("compiles")), options).expect("starts");
    let mut found = Vec::new();
    let mut sink = |rows: &[f32]| found.extend_from_slice(rows);
    session.feed(&TOKENS, Wanted::All, &mut sink).expect("runs");
    [found, expected]
}

fn agree(a: f32, b: f32) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 2e-6 * b.abs().max(1e-3)
}

fn compare(body: &str) {
    for isa in Isa::ALL.into_iter().filter(|&isa| Kernels::new(isa).is_some()) {
        let [found, expected] = both(body, isa);
        assert_eq!(found.len(), expected.len(), "{body}");
        for (i, (&a, &b)) in found.iter().zip(&expected).enumerate() {
            let x = table().to_f32()[i];
            assert!(agree(a, b), "{body} on {isa}: {a} of {x} at {i}, eval says {b}");
        }
    }
}

#[test]
fn functions_of_special_values_are_those_of_eval() {
    let plain = ir::UnaryOp::PLAIN.map(ir::UnaryOp::name);
    let activations = ir::Activation::ALL.map(ir::Activation::name);
    for name in plain.into_iter().chain(activations) {
        compare(&format!("%y = {name} %x : f32[T, {WIDTH}]"));
    }
    for name in ir::BinaryOp::ALL.map(ir::BinaryOp::name) {
        compare(&format!("%n = neg %x : f32[T, {WIDTH}]\n%y = {name} %x, %n : f32[T, {WIDTH}]"));
    }
}

#[test]
fn rows_of_special_values_are_those_of_eval() {
    compare(&format!("%y = softmax %x : f32[T, {WIDTH}]"));
    compare(&format!("%y = rms_norm %x {{eps=1e-5}} : f32[T, {WIDTH}]"));
    for name in ir::ReduceOp::ALL.map(ir::ReduceOp::name) {
        compare(&format!(
            "%r = {name} %x {{axis=1}} : f32[T, 1]\n%y = broadcast %r : f32[T, {WIDTH}]"
        ));
    }
}

#[test]
fn tensors_without_elements_are_computed() {
    let empty = "%e = slice %x {axis=1, start=0, end=0} : f32[T, 0]";
    for op in ["softmax %e", "relu %e", "rms_norm %e {eps=1e-5}"] {
        compare(&format!(
            "{empty}\n%f = {op} : f32[T, 0]\n%y = concat %f, %x {{axis=1}} : f32[T, {WIDTH}]"
        ));
    }
    compare(&format!(
        "{empty}
    %across = transpose %e {{perm=[1, 0]}} : f32[0, T]
    %zeros = matmul %e, %across : f32[T, T]
    %sums = reduce_sum %zeros {{axis=1}} : f32[T, 1]
    %y = add %x, %sums : f32[T, {WIDTH}]"
    ));
    compare(&format!(
        "{empty}
    %columns = transpose %x {{perm=[1, 0]}} : f32[{WIDTH}, T]
    %none = matmul %columns, %e : f32[{WIDTH}, 0]
    %still = matmul %x, %none : f32[T, 0]
    %y = concat %still, %x {{axis=1}} : f32[T, {WIDTH}]"
    ));
    // A constant matrix without columns: sums of nothing.
    compare(&format!(
        "{empty}
    %rows = slice %table {{axis=0, start=0, end=0}} : f32[0, {WIDTH}]
    %zeros = matmul %e, %rows : f32[T, {WIDTH}]
    %y = add %x, %zeros : f32[T, {WIDTH}]"
    ));
}

#[test]
fn tokens_without_a_row_are_refused_when_compiling() {
    let text = "module \"few-rows\" context 8 {
  graph @main(input %tokens: i32[T]) {
    %table = weight \"table\" : f32[4, 8]
    %x = gather %table, %tokens : f32[T, 8]
    %logits = slice %x {axis=0, start=T - R, end=T} : f32[R, 8]
    return %logits
  }
}";
    let module = ir::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let table = Tensor::from_f32(vec![4, 8], &[0.0; 32]);
    let weights: WeightMap = [("table".to_string(), table)].into_iter().collect();
    let compiled = compile_in_memory(&module, Activations::Full, &weights, Assets::default());
    let Err(CpuError::Entry { why }) = compiled else { panic!("{compiled:?}") };
    assert!(why.contains("4 rows") && why.contains("8 logits"), "{why}");
}

#[test]
fn the_table_has_every_special_value() {
    let [above, below] = quotient().map(|t| t.to_f32());
    for ((a, b), expected) in above.iter().zip(&below).zip(table().to_f32()) {
        let found = a / b;
        assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan());
        assert!(a.is_finite() && b.is_finite());
    }
}

#[test]
fn constants_that_share_parts_are_spelled_once() {
    // Each doubles the one before: written out in full, 2^100 weights.
    let mut body = "%c0 = add %table, %table : f32[40, 40]\n".to_string();
    for i in 1..100 {
        let before = i - 1;
        body += &format!("%c{i} = max %c{before}, %c{before} : f32[40, 40]\n");
    }
    body += "%p = matmul %x, %c99 : f32[T, 40]\n%z = const 0.0 : f32[]\n";
    body += "%y = min %p, %z : f32[T, 40]";
    compare(&body);
}
