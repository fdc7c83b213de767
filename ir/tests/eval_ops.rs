//! The meaning of every op against numbers worked out by hand or by an independent formula.
//!
//! The last test checks that no op of the table was forgotten.

use sparkc_ir::eval::{Accumulate, EvalOptions, Session, eval_graph};
use sparkc_ir::{
    Activation, BinaryOp, Bindings, BlockId, Builder, CacheType, Dim, InferError, Module, Op,
    ParamKind, Real, ReduceOp, RopeScaling, RopeSpec, Symbol, TensorType, UnaryOp, ValueId,
    WeightMap, op_table,
};
use tensor::{DType, Rng, Tensor};

/// Three new tokens after two.
const STEP: Bindings = Bindings { t: 3, c: 2, r: 1 };

fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(shape.to_vec(), values)
}

/// Values that are all different and exact in every float dtype.
fn ramp(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| i as f32 * 0.5 - 3.0).collect();
    f32s(shape, &values)
}

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = Rng::new(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
    f32s(shape, &values)
}

/// Evaluates what `build` makes of parameters of the inputs' types.
fn eval_with(
    accumulate: Accumulate,
    inputs: &[Tensor],
    build: impl FnOnce(&mut Builder, &[ValueId]) -> Result<ValueId, InferError>,
) -> Tensor {
    let mut b = Builder::new("g");
    let params: Vec<ValueId> = inputs
        .iter()
        .enumerate()
        .map(|(i, t)| {
            let ty = TensorType::new(t.dtype(), t.shape().iter().copied());
            b.param(ParamKind::Input, ty, &format!("x{i}"))
        })
        .collect();
    let result = build(&mut b, &params).expect("well typed");
    let graph = b.finish(vec![result]);
    let options = EvalOptions { accumulate, ..EvalOptions::default() };
    let none = WeightMap::default();
    let out = eval_graph(&graph, inputs, STEP, None, &none, options).expect("evaluates");
    out.into_iter().next().expect("one result")
}

fn eval(
    inputs: &[Tensor],
    build: impl FnOnce(&mut Builder, &[ValueId]) -> Result<ValueId, InferError>,
) -> Tensor {
    eval_with(Accumulate::F64, inputs, build)
}

fn op(op: Op, inputs: &[Tensor]) -> Tensor {
    eval(inputs, |b, x| b.apply(op, x))
}

fn close(found: &Tensor, expected: &[f64]) {
    let found = found.to_f32();
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let bound = 1e-6 * (1.0 + b.abs());
        assert!((f64::from(*a) - b).abs() <= bound, "element {i} is {a}, expected {b}");
    }
}

fn wide(t: &Tensor) -> Vec<f64> {
    t.to_f32().into_iter().map(f64::from).collect()
}

#[test]
fn leaves_make_constants_positions_and_masks() {
    let c = op(Op::Const(Real::new(0.1)), &[]);
    assert_eq!((c.shape(), c.to_f32()), (&[][..], vec![0.1]));
    let p = op(Op::Positions, &[]);
    assert_eq!(p.to_i32(), Some(vec![2, 3, 4]));
    let inf = f32::NEG_INFINITY;
    let mask = op(Op::CausalMask { window: None }, &[]);
    assert_eq!(mask.shape(), [3, 5]);
    let rows = [0., 0., 0., inf, inf, 0., 0., 0., 0., inf, 0., 0., 0., 0., 0.];
    assert_eq!(mask.to_f32(), rows);
    let mask = op(Op::CausalMask { window: Some(2) }, &[]);
    let rows = [inf, 0., 0., inf, inf, inf, inf, 0., 0., inf, inf, inf, inf, 0., 0.];
    assert_eq!(mask.to_f32(), rows);
}

#[test]
fn unary_functions_are_their_formulas() {
    let x = f32s(&[5], &[-2.0, -0.5, 0.25, 1.0, 4.0]);
    let positive = f32s(&[3], &[0.25, 1.0, 9.0]);
    let check = |f: UnaryOp, x: &Tensor, formula: &dyn Fn(f64) -> f64| {
        let expected: Vec<f64> = wide(x).into_iter().map(formula).collect();
        close(&op(Op::Unary(f), std::slice::from_ref(x)), &expected);
    };
    check(UnaryOp::Neg, &x, &|v| -v);
    check(UnaryOp::Exp, &x, &f64::exp);
    check(UnaryOp::Sqrt, &positive, &f64::sqrt);
    check(UnaryOp::Rsqrt, &positive, &|v| v.powf(-0.5));
    check(UnaryOp::Recip, &x, &f64::recip);
    check(UnaryOp::Square, &x, &|v| v * v);
    check(UnaryOp::Tanh, &x, &|v| (v.exp() - (-v).exp()) / (v.exp() + (-v).exp()));
    check(UnaryOp::Sigmoid, &x, &|v| v.exp() / (v.exp() + 1.0));
    check(UnaryOp::Act(Activation::Silu), &x, &|v| v / (1.0 + (-v).exp()));
    check(UnaryOp::Act(Activation::Relu), &x, &|v| v.max(0.0));
    // gelu and its approximation, computed with Python's math.erf and math.tanh.
    let expected =
        [-0.045500263896, -0.154268769363, 0.149676581421, 0.841344746069, 3.999873315033];
    close(&op(Op::Unary(UnaryOp::Act(Activation::Gelu)), std::slice::from_ref(&x)), &expected);
    let expected =
        [-0.045402305912, -0.154285990175, 0.149675350702, 0.841191990608, 3.999929754052];
    close(&op(Op::Unary(UnaryOp::Act(Activation::GeluTanh)), &[x]), &expected);
}

#[test]
fn binary_functions_broadcast_from_the_last_axis() {
    let a = f32s(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
    let row = f32s(&[3], &[2., 4., 8.]);
    let column = f32s(&[2, 1], &[2., 4.]);
    let scalar = f32s(&[], &[2.]);
    let apply = |f, a: &Tensor, b: &Tensor| op(Op::Binary(f), &[a.clone(), b.clone()]);
    assert_eq!(apply(BinaryOp::Add, &a, &row).to_f32(), [3., 6., 11., 6., 9., 14.]);
    assert_eq!(apply(BinaryOp::Sub, &a, &column).to_f32(), [-1., 0., 1., 0., 1., 2.]);
    assert_eq!(apply(BinaryOp::Mul, &scalar, &a).to_f32(), [2., 4., 6., 8., 10., 12.]);
    assert_eq!(apply(BinaryOp::Div, &row, &column).to_f32(), [1., 2., 4., 0.5, 1., 2.]);
    assert_eq!(apply(BinaryOp::Max, &a, &row).to_f32(), [2., 4., 8., 4., 5., 8.]);
    assert_eq!(apply(BinaryOp::Min, &a, &row).to_f32(), [1., 2., 3., 2., 4., 6.]);
    assert_eq!(apply(BinaryOp::Sub, &row, &row).shape(), [3]);
}

#[test]
fn casts_round_to_nearest_even() {
    // bf16 keeps 8 significant bits: 257 lies between 256 and 258, 259 between 258 and 260.
    let x = f32s(&[4], &[257.0, 259.0, 1.0, -3.25]);
    let cast = op(Op::Cast(DType::BF16), &[x]);
    assert_eq!(cast.dtype(), DType::BF16);
    assert_eq!(cast.to_f32(), [256.0, 260.0, 1.0, -3.25]);
    assert_eq!(op(Op::Cast(DType::F32), &[cast]).dtype(), DType::F32);
    let half = op(Op::Cast(DType::F16), &[f32s(&[2], &[2049.0, 1e6])]);
    assert_eq!(half.to_f32(), [2048.0, f32::INFINITY]);
}

#[test]
fn quantised_weights_are_scale_times_code() {
    let values: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) * 0.1).collect();
    let weights: WeightMap = [("w".to_string(), f32s(&[2, 32], &values))].into_iter().collect();
    for dtype in [DType::Q8, DType::Q4] {
        let mut b = Builder::new("g");
        let w = b.weight("w", DType::F32, &[2, 32]).unwrap();
        let q = b.apply(Op::Quantize(dtype), &[w]).unwrap();
        let zero = b.constant(0.0).unwrap();
        let read = b.binary(BinaryOp::Add, q, zero).unwrap();
        let graph = b.finish(vec![q, read]);
        let out = eval_graph(&graph, &[], STEP, None, &weights, EvalOptions::default()).unwrap();
        assert_eq!(out[0].dtype(), dtype);
        let read = out[1].to_f32();
        let blocks = out[0].bytes().chunks(dtype.block_bytes());
        for ((row, found), block) in values.chunks(32).zip(read.chunks(32)).zip(blocks) {
            let extreme = row.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
            let (plain, codes) = match dtype {
                DType::Q8 => (extreme.abs() / 127.0, -127.0..=127.0),
                _ => (extreme / -8.0, -8.0..=7.0),
            };
            // The scale is stored as f16.
            let plain = f32s(&[1], &[plain]).cast(DType::F16).unwrap().to_f32()[0];
            let stored = Tensor::new(DType::F16, vec![1], block[..2].to_vec().into()).unwrap();
            let scale = stored.to_f32()[0];
            let value = |v: f32, scale: f32| {
                (v / scale).round().clamp(*codes.start(), *codes.end()) * scale
            };
            for (&v, &f) in row.iter().zip(found) {
                assert_eq!(value(v, scale), f, "{v}");
            }
            // Four bits search for the scale: by squared errors no worse than the plain one.
            let error = |scale| row.iter().map(|&v| (value(v, scale) - v).powi(2)).sum::<f32>();
            match dtype {
                DType::Q8 => assert_eq!(scale, plain),
                _ => assert!(error(scale) <= error(plain), "{scale} is worse than {plain}"),
            }
        }
    }
}

#[test]
fn matmul_multiplies_and_shares_what_has_no_batch() {
    let a = f32s(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
    let b = f32s(&[3, 2], &[7., 8., 9., 10., 11., 12.]);
    assert_eq!(op(Op::Matmul, &[a, b]).to_f32(), [58., 64., 139., 154.]);
    for (left, right) in [(vec![4], vec![4]), (vec![], vec![4]), (vec![4], vec![])] {
        let (m, k, n) = (2, 5, 3);
        let shape = |outer: &[usize], rows, columns| [outer, &[rows, columns][..]].concat();
        let a = random(1, &shape(&left, m, k));
        let b = random(2, &shape(&right, k, n));
        let (x, y) = (wide(&a), wide(&b));
        let mut expected = Vec::new();
        for batch in 0..4 {
            for i in 0..m {
                for j in 0..n {
                    let x0 = if left.is_empty() { 0 } else { batch * m * k };
                    let y0 = if right.is_empty() { 0 } else { batch * k * n };
                    expected.push((0..k).map(|l| x[x0 + i * k + l] * y[y0 + l * n + j]).sum());
                }
            }
        }
        close(&op(Op::Matmul, &[a, b]), &expected);
    }
}

#[test]
fn the_precision_of_sums_is_the_one_asked_for() {
    // In f32 the ones are lost beside 2^24, one after the other; in f64 they count.
    let mut values = vec![16_777_216.0f32];
    values.extend([1.0; 8]);
    let sum = Op::Reduce { op: ReduceOp::Sum, axis: 0 };
    let x = f32s(&[9], &values);
    let f32_sum =
        eval_with(Accumulate::F32, std::slice::from_ref(&x), |b, x| b.apply(sum.clone(), x));
    assert_eq!(f32_sum.to_f32(), [16_777_216.0]);
    assert_eq!(op(sum, &[x]).to_f32(), [16_777_224.0]);
    let (a, b) = (f32s(&[1, 9], &values), f32s(&[9, 1], &[1.0; 9]));
    let f32_dot = eval_with(Accumulate::F32, &[a.clone(), b.clone()], |g, x| g.matmul(x[0], x[1]));
    assert_eq!(f32_dot.to_f32(), [16_777_216.0]);
    assert_eq!(op(Op::Matmul, &[a, b]).to_f32(), [16_777_224.0]);
}

#[test]
fn reductions_keep_their_axis() {
    let x = f32s(&[2, 3], &[1., 5., 3., -4., 2., 0.]);
    let reduce = |op_, axis| op(Op::Reduce { op: op_, axis }, std::slice::from_ref(&x));
    assert_eq!(reduce(ReduceOp::Sum, 1).to_f32(), [9., -2.]);
    assert_eq!(reduce(ReduceOp::Sum, 0).to_f32(), [-3., 7., 3.]);
    assert_eq!(reduce(ReduceOp::Max, 0).to_f32(), [1., 5., 3.]);
    assert_eq!(reduce(ReduceOp::Max, 1).shape(), [2, 1]);
    assert_eq!(reduce(ReduceOp::Mean, 1).to_f32(), [3., -2.0 / 3.0]);
    let nan = f32s(&[3], &[1.0, f32::NAN, 2.0]);
    let max = op(Op::Reduce { op: ReduceOp::Max, axis: 0 }, &[nan]);
    assert!(max.to_f32()[0].is_nan());
}

#[test]
fn softmax_sums_to_one_and_gives_nothing_where_nothing_is_seen() {
    let inf = f32::NEG_INFINITY;
    let x = f32s(&[4, 3], &[0., 0., 0., 1., 2., 3., inf, 1000., inf, inf, inf, inf]);
    let e = std::f64::consts::E;
    let total = e + e * e + e * e * e;
    let third = 1.0 / 3.0;
    let expected =
        [third, third, third, e / total, e * e / total, e * e * e / total, 0., 1., 0., 0., 0., 0.];
    close(&op(Op::Softmax, &[x]), &expected);
    let nan = op(Op::Softmax, &[f32s(&[2], &[f32::NAN, 1.0])]);
    assert!(nan.to_f32().iter().all(|v| v.is_nan()));
}

#[test]
fn rms_norm_divides_by_the_root_mean_square() {
    let (x, gain) = (random(3, &[2, 6]), random(4, &[6]));
    let eps = 0.01;
    let (v, g) = (wide(&x), wide(&gain));
    let mut expected = Vec::new();
    for row in v.chunks(6) {
        let mean: f64 = row.iter().map(|v| v * v).sum::<f64>() / 6.0;
        expected.extend(row.iter().map(|v| v / (mean + eps).sqrt()));
    }
    let norm = Op::RmsNorm { eps: Real::new(eps) };
    close(&op(norm.clone(), std::slice::from_ref(&x)), &expected);
    let gained: Vec<f64> = expected.iter().enumerate().map(|(i, v)| v * g[i % 6]).collect();
    close(&op(norm, &[x, gain]), &gained);
}

#[test]
fn movement_puts_every_element_where_its_index_says() {
    for dtype in [DType::F32, DType::BF16] {
        let x = ramp(&[2, 3, 4]).cast(dtype).unwrap();
        let at = |i: usize, j: usize, k: usize| (i * 12 + j * 4 + k) as f32 * 0.5 - 3.0;
        let one = std::slice::from_ref(&x);

        let y = op(Op::Transpose(vec![2, 0, 1]), one);
        assert_eq!((y.dtype(), y.shape()), (dtype, &[4, 2, 3][..]));
        let expected = (0..24).map(|n| at(n / 3 % 2, n % 3, n / 6));
        assert!(y.to_f32().into_iter().eq(expected));
        let y = op(Op::Transpose(vec![1, 0, 2]), one);
        assert!(y.to_f32().into_iter().eq((0..24).map(|n| at(n / 4 % 2, n / 8, n % 4))));

        let y = op(Op::Reshape(vec![6.into(), 4.into()]), one);
        assert_eq!((y.shape(), y.to_f32()), (&[6, 4][..], x.to_f32()));

        let y = op(Op::Slice { axis: 1, start: 1.into(), end: 3.into() }, one);
        assert_eq!(y.shape(), [2, 2, 4]);
        assert!(y.to_f32().into_iter().eq((0..16).map(|n| at(n / 8, 1 + n / 4 % 2, n % 4))));
        let y = op(Op::Slice { axis: 2, start: 2.into(), end: 2.into() }, one);
        assert_eq!((y.shape(), y.len()), (&[2, 3, 0][..], 0));

        let y = op(Op::Concat { axis: 1 }, &[x.clone(), y_of(&x)]);
        assert_eq!((y.dtype(), y.shape()), (dtype, &[2, 4, 4][..]));
        let expected = (0..32).map(|n| at(n / 16, n / 4 % 4 % 3, n % 4));
        assert!(y.to_f32().into_iter().eq(expected));

        let column = op(Op::Slice { axis: 1, start: 0.into(), end: 1.into() }, one);
        let dims = vec![2.into(), 5.into(), 4.into()];
        let y = op(Op::Broadcast(dims), &[column]);
        assert!(y.to_f32().into_iter().eq((0..40).map(|n| at(n / 20, 0, n % 4))));
    }
}

/// The first row of each matrix of `x`.
fn y_of(x: &Tensor) -> Tensor {
    op(Op::Slice { axis: 1, start: 0.into(), end: 1.into() }, std::slice::from_ref(x))
}

#[test]
fn symbolic_slices_take_the_last_rows() {
    let t = Dim::from(Symbol::T);
    let mut b = Builder::new("g");
    let ty = TensorType::new(DType::F32, [t.clone(), Dim::from(2)]);
    let x = b.param(ParamKind::Input, ty, "x");
    let start = &t - &Dim::from(Symbol::R);
    let y = b.apply(Op::Slice { axis: 0, start, end: t }, &[x]).unwrap();
    let graph = b.finish(vec![y]);
    let step = Bindings { r: 2, ..STEP };
    let none = WeightMap::default();
    let x = f32s(&[3, 2], &[1., 2., 3., 4., 5., 6.]);
    let out = eval_graph(&graph, &[x], step, None, &none, EvalOptions::default()).unwrap();
    assert_eq!(out[0].to_f32(), [3., 4., 5., 6.]);
}

#[test]
fn gather_takes_rows_by_id() {
    let table = ramp(&[4, 3]).cast(DType::F16).unwrap();
    let ids = Tensor::from_i32(vec![2, 2], &[3, 0, 1, 3]);
    let y = op(Op::Gather, &[table.clone(), ids]);
    assert_eq!((y.dtype(), y.shape()), (DType::F32, &[2, 2, 3][..]));
    let rows = table.to_f32();
    let expected = [&rows[9..], &rows[..3], &rows[3..6], &rows[9..]].concat();
    assert_eq!(y.to_f32(), expected);
}

#[test]
fn rope_turns_pairs_by_their_angles() {
    let spec = RopeSpec { dim: 4, theta: Real::new(100.0), scaling: RopeScaling::None };
    let x = random(5, &[2, 2, 6]);
    let positions = [7, 11];
    let p = Tensor::from_i32(vec![2], &positions);
    let v = wide(&x);
    let mut expected = v.clone();
    for (i, position) in positions.into_iter().enumerate() {
        for head in 0..2 {
            let at = (i * 2 + head) * 6;
            // 100^(-2i/4): 1 and 0.1. Elements 4 and 5 pass through.
            for (pair, frequency) in [(0, 1.0), (1, 0.1)] {
                let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                let (a, b) = (v[at + pair], v[at + pair + 2]);
                expected[at + pair] = a * cos - b * sin;
                expected[at + pair + 2] = b * cos + a * sin;
            }
        }
    }
    close(&op(Op::Rope(Box::new(spec.clone())), &[x.clone(), p.clone()]), &expected);

    // YaRN's attention factor scales the rotated elements only.
    let one = Real::new(1.0);
    let scaling = RopeScaling::Yarn {
        factor: one,
        beta_fast: Real::new(32.0),
        beta_slow: one,
        attention_factor: Real::new(2.0),
        original: 1024,
        truncate: true,
    };
    let doubled: Vec<f64> =
        expected.iter().enumerate().map(|(i, v)| if i % 6 < 4 { 2.0 * v } else { *v }).collect();
    close(&op(Op::Rope(Box::new(RopeSpec { scaling, ..spec })), &[x, p]), &doubled);
}

/// The formulas as the papers and `modeling_rope_utils.py` give them, written a second time. That the
/// models that use them agree with `transformers` is tested with the front end's fixtures.
#[test]
fn rope_frequencies_are_those_of_the_formulas() {
    let (dim, theta) = (16usize, 10_000.0f64);
    let real = Real::new;
    let plain = |i: usize| theta.powf(-2.0 * i as f64 / dim as f64);
    let check = |scaling: RopeScaling, seq_len: usize, formula: &dyn Fn(usize) -> f64| {
        let spec = RopeSpec { dim, theta: real(theta), scaling };
        for (i, f) in spec.inverse_frequencies(seq_len).into_iter().enumerate() {
            let expected = formula(i);
            assert!((f64::from(f) / expected - 1.0).abs() < 1e-6, "pair {i}: {f}, {expected}");
        }
    };
    check(RopeScaling::Linear { factor: real(4.0) }, 9, &|i| plain(i) / 4.0);
    // Dynamic NTK: base * (factor * len / original - (factor - 1))^(dim / (dim - 2)).
    let dynamic = RopeScaling::Dynamic { factor: real(2.0), original: 32 };
    let base = theta * (2.0 * 48.0 / 32.0 - 1.0f64).powf(16.0 / 14.0);
    check(dynamic, 48, &|i| base.powf(-2.0 * i as f64 / 16.0));
    // Llama 3: kept below wavelength 64/4, divided by 8 above 64, blended between.
    let scaling =
        RopeScaling::Llama3 { factor: real(8.0), low: real(1.0), high: real(4.0), original: 64 };
    check(scaling, 9, &|i| {
        let wavelength = 2.0 * std::f64::consts::PI / plain(i);
        let smooth = ((64.0 / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
        plain(i) * (smooth + (1.0 - smooth) / 8.0)
    });
}

#[test]
fn attention_is_a_causal_softmax_over_the_shared_heads() {
    let (h, g, d, e) = (4, 2, 3, 5);
    let (t, s) = (STEP.t, STEP.c + STEP.t);
    let mut b = Builder::new("g");
    let (td, sd) = (Dim::from(Symbol::T), &Dim::from(Symbol::C) + &Symbol::T.into());
    let mut param =
        |dims: [Dim; 3], name| b.param(ParamKind::Input, TensorType::new(DType::F32, dims), name);
    let q = param([td, h.into(), d.into()], "q");
    let k = param([sd.clone(), g.into(), d.into()], "k");
    let v = param([sd, g.into(), e.into()], "v");
    let (scale, window) = (0.7, 3);
    let attention = Op::Attention { scale: Real::new(scale), window: Some(window) };
    let out = b.apply(attention, &[q, k, v]).unwrap();
    let graph = b.finish(vec![out]);
    let (q, k, v) = (random(6, &[t, h, d]), random(7, &[s, g, d]), random(8, &[s, g, e]));
    let inputs = [q.clone(), k.clone(), v.clone()];
    let none = WeightMap::default();
    let out = eval_graph(&graph, &inputs, STEP, None, &none, EvalOptions::default()).unwrap();
    let (q, k, v) = (wide(&q), wide(&k), wide(&v));
    let mut expected = Vec::new();
    for i in 0..t {
        for head in 0..h {
            let group = head / (h / g);
            let seen = |j: &usize| *j <= STEP.c + i && STEP.c + i - j < window;
            let power = |j: usize| {
                let dot: f64 =
                    (0..d).map(|x| q[(i * h + head) * d + x] * k[(j * g + group) * d + x]).sum();
                (scale * dot).exp()
            };
            let total: f64 = (0..s).filter(seen).map(power).sum();
            for x in 0..e {
                let value = |j: usize| power(j) / total * v[(j * g + group) * e + x];
                expected.push((0..s).filter(seen).map(value).sum());
            }
        }
    }
    close(&out[0], &expected);
}

#[test]
fn glu_gates_the_second_operand() {
    let (gate, up) = (random(9, &[7]), random(10, &[7]));
    let expected: Vec<f64> =
        wide(&gate).into_iter().zip(wide(&up)).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
    close(&op(Op::Glu(Activation::Silu), &[gate, up]), &expected);
}

#[test]
fn caches_grow_by_the_rows_appended() {
    let cache = CacheType {
        layers: None,
        dtype: DType::BF16,
        len: Symbol::C.into(),
        heads: 1,
        head_dim: 2,
    };
    let mut b = Builder::new("g");
    let dims = [Dim::from(Symbol::T), 1.into(), 2.into()];
    let new = b.param(ParamKind::Input, TensorType::new(DType::F32, dims), "new");
    let k = b.param(ParamKind::State, cache, "k");
    let before = b.apply(Op::CacheRead, &[k]).unwrap();
    let grown = b.apply(Op::CacheAppend, &[k, new]).unwrap();
    let after = b.apply(Op::CacheRead, &[grown]).unwrap();
    let graph = b.finish(vec![before, after, grown]);
    let old = f32s(&[2, 1, 2], &[1., 2., 3., 4.]);
    let new = f32s(&[3, 1, 2], &[5., 6., 7., 8., 257., 259.]);
    let none = WeightMap::default();
    let out = eval_graph(&graph, &[new, old], STEP, None, &none, EvalOptions::default()).unwrap();
    assert_eq!(out[0].to_f32(), [1., 2., 3., 4.]);
    // Stored as bf16: what is appended is rounded.
    let all = [1., 2., 3., 4., 5., 6., 7., 8., 256., 260.];
    assert_eq!((out[1].dtype(), out[1].to_f32()), (DType::BF16, all.to_vec()));
    assert_eq!((out[2].shape(), out[2].to_f32()), (&[5, 1, 2][..], all.to_vec()));
}

#[test]
fn repeat_threads_the_carry_through_the_layers() {
    // y = x * w + b with the layer's own weights: ((x*2+1)*3+10), for layers 5 and 6.
    let mut b = Builder::new("layer");
    let x = b.param(
        ParamKind::Carry,
        TensorType::new(DType::F32, [Symbol::T.into(), Dim::from(1)]),
        "x",
    );
    let w = b.weight("w{layer}", DType::F32, &[1]).unwrap();
    let c = b.weight("b{layer}", DType::F32, &[1]).unwrap();
    let y = b.binary(BinaryOp::Mul, x, w).unwrap();
    let y = b.binary(BinaryOp::Add, y, c).unwrap();
    let block = b.finish(vec![y]);
    let mut b = Builder::new("main");
    let tokens = b.param(ParamKind::Input, TensorType::new(DType::I32, [Symbol::T]), "tokens");
    let table = b.weight("table", DType::F32, &[4, 1]).unwrap();
    let x = b.apply(Op::Gather, &[table, tokens]).unwrap();
    let out = b.repeat(BlockId::new(0), &block, 5..7, &[x]).unwrap();
    let start = &Dim::from(Symbol::T) - &Symbol::R.into();
    let y = b.apply(Op::Slice { axis: 0, start, end: Symbol::T.into() }, &[out[0]]).unwrap();
    let mut module = Module::new("m", 8, b.finish(vec![y]));
    module.blocks.push(block);
    let scalar = |name: &str, v: f32| (name.to_string(), f32s(&[1], &[v]));
    let mut weights: WeightMap =
        [scalar("w5", 2.), scalar("b5", 1.), scalar("w6", 3.), scalar("b6", 10.)]
            .into_iter()
            .collect();
    weights.0.insert("table".into(), f32s(&[4, 1], &[0., 1., 2., 3.]));
    let mut session = Session::new(&module, &weights, EvalOptions::default()).unwrap();
    assert_eq!(session.step(&[0, 1, 3], 3).unwrap().to_f32(), [13., 19., 31.]);
}

#[test]
fn every_op_of_the_table_is_evaluated_above() {
    let source = include_str!("eval_ops.rs");
    for row in op_table() {
        let variant = format!("Op::{:?}", row.kind);
        let built = match variant.as_str() {
            "Op::Weight" => "b.weight(",
            "Op::Repeat" => "b.repeat(",
            other => other,
        };
        assert!(source.contains(built), "no test applies {}", row.name);
    }
}
