//! Sessions, graphs and constants; the meaning of single ops is tested in `ir/tests/eval_ops.rs`.

use tensor::{DType, Tensor};

use super::*;
use crate::testing::{CONTEXT, Style, VOCAB, decoder, weights};
use crate::{Bindings, Builder, Dim, Op, ParamKind, Symbol, TensorType, WeightMap};

const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

fn both() -> [EvalOptions; 2] {
    [Accumulate::F32, Accumulate::F64]
        .map(|accumulate| EvalOptions { accumulate, ..EvalOptions::default() })
}

#[test]
fn a_prompt_gives_the_same_bits_whole_and_token_by_token() {
    for style in [Style::Primitive, Style::Fused] {
        let module = decoder(style);
        let weights = weights(&module, 1);
        for options in both() {
            let whole = eval_module(&module, &weights, &TOKENS, TOKENS.len(), options).unwrap();
            assert_eq!(whole.shape(), [TOKENS.len(), VOCAB]);
            let whole = whole.to_f32();
            let mut session = Session::new(&module, &weights, options).unwrap();
            let mut single = Vec::new();
            for (i, token) in TOKENS.iter().enumerate() {
                assert_eq!(session.position(), i);
                single.extend(session.step(&[*token], 1).unwrap().to_f32());
            }
            assert_eq!(whole, single);
            session.reset();
            let head = session.step(&TOKENS[..4], 4).unwrap().to_f32();
            let tail = session.step(&TOKENS[4..], 2).unwrap().to_f32();
            assert_eq!(head, whole[..4 * VOCAB]);
            assert_eq!(tail, whole[(TOKENS.len() - 2) * VOCAB..]);
            assert!(whole.iter().all(|v| v.is_finite() && *v != 0.0));
        }
    }
}

#[test]
fn fused_ops_mean_their_compositions_bit_for_bit() {
    let (primitive, fused) = (decoder(Style::Primitive), decoder(Style::Fused));
    let weights = weights(&primitive, 2);
    for options in both() {
        let a = eval_module(&primitive, &weights, &TOKENS, 9, options).unwrap().to_f32();
        let b = eval_module(&fused, &weights, &TOKENS, 9, options).unwrap().to_f32();
        assert_eq!(a, b);
    }
}

#[test]
fn accumulation_in_f32_differs_from_f64_only_by_rounding() {
    let module = decoder(Style::Primitive);
    let weights = weights(&module, 3);
    let [a, b] = both().map(|o| eval_module(&module, &weights, &TOKENS, 9, o).unwrap().to_f32());
    assert_ne!(a, b);
    tensor::compare::check(&a, &b, tensor::Tolerance::F32).unwrap();
}

#[test]
fn greedy_feeds_back_the_likeliest_token_until_a_stop_or_the_context() {
    let module = decoder(Style::Fused);
    let weights = weights(&module, 4);
    let options = EvalOptions::default();
    let mut session = Session::new(&module, &weights, options).unwrap();
    let tokens = session.greedy(&TOKENS, 4, &[]).unwrap();
    let mut all = TOKENS.to_vec();
    for &token in &tokens {
        let logits = eval_module(&module, &weights, &all, 1, options).unwrap();
        assert_eq!(token, argmax(&logits.to_f32()));
        all.push(token);
    }
    session.reset();
    assert_eq!(session.greedy(&TOKENS, 4, &tokens[..1]).unwrap(), tokens[..1]);
    session.reset();
    let most = session.greedy(&TOKENS, 1000, &[]).unwrap();
    assert_eq!(most.len(), CONTEXT - TOKENS.len() + 1);
}

#[test]
fn errors_name_numbers_and_reset_the_session() {
    let module = decoder(Style::Fused);
    let mut weights = weights(&module, 5);
    let mut session = Session::new(&module, &weights, EvalOptions::default()).unwrap();
    session.step(&TOKENS, 1).unwrap();
    let full = EvalError::Context { new: 24, cached: 9, context: CONTEXT };
    assert_eq!(session.step(&[0; 24], 1).unwrap_err(), full);
    assert_eq!(session.position(), 9);
    assert_eq!(session.step(&[1], 2).unwrap_err(), EvalError::Rows { rows: 2, tokens: 1 });
    assert_eq!(session.step(&[], 0).unwrap_err(), EvalError::Rows { rows: 0, tokens: 0 });
    let unknown = EvalError::Id { id: VOCAB as i64, rows: VOCAB };
    assert_eq!(session.step(&[VOCAB as u32], 1).unwrap_err(), unknown);
    assert_eq!(session.position(), 0);
    assert!(session.step(&TOKENS, 1).is_ok());

    let narrow = Tensor::from_f32(vec![3], &[1.0; 3]);
    weights.0.insert("norm".to_string(), narrow);
    let error = eval_module(&module, &weights, &TOKENS, 1, EvalOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "weight \"norm\" is f32[3], the module says f32[8]");
    weights.0.remove("1.up");
    weights.0.insert("norm".to_string(), Tensor::from_f32(vec![8], &[1.0; 8]));
    let error = eval_module(&module, &weights, &TOKENS, 1, EvalOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "weight \"1.up\": there is no such tensor");
}

#[test]
fn a_module_that_does_not_verify_is_refused() {
    let mut module = decoder(Style::Fused);
    module.context = 0;
    let error = Session::new(&module, &WeightMap::default(), EvalOptions::default()).err();
    assert_eq!(error.map(|e| e.code()), Some("SPK1201"));
}

#[test]
fn enormous_values_are_refused_before_they_are_allocated() {
    let mut b = Builder::new("main");
    let x = b.param(ParamKind::Input, TensorType::new(DType::F32, [1usize, 1]), "x");
    let side = 1usize << 40;
    let huge = b.apply(Op::Broadcast(vec![side.into(), side.into()]), &[x]).unwrap();
    let graph = b.finish(vec![huge]);
    let input = Tensor::from_f32(vec![1, 1], &[1.0]);
    let step = Bindings { t: 1, c: 0, r: 1 };
    let none = WeightMap::default();
    let error = eval_graph(&graph, &[input], step, None, &none, EvalOptions::default());
    assert_eq!(error.unwrap_err().code(), "SPK1206");
}

#[test]
fn the_limit_counts_what_is_alive_not_what_was() {
    let mut b = Builder::new("main");
    let ty = TensorType::new(DType::I32, [Symbol::T]);
    let tokens = b.param(ParamKind::Input, ty, "tokens");
    let table = b.weight("table", DType::F32, &[13, 13]).unwrap();
    let x = b.apply(Op::Gather, &[table, tokens]).unwrap();
    let end = Dim::from(Symbol::T);
    let start = &end - &Dim::from(Symbol::R);
    let logits = b.apply(Op::Slice { axis: 0, start, end }, &[x]).unwrap();
    let module = crate::Module::new("m", 100, b.finish(vec![logits]));
    let weights = weights(&module, 9);
    // A step of one token holds a token, a row and the logits.
    let options = EvalOptions { max_elements: 27, ..EvalOptions::default() };
    let mut session = Session::new(&module, &weights, options).unwrap();
    for token in 0..100 {
        session.step(&[token % 13], 1).unwrap();
    }
    session.reset();
    assert_eq!(session.step(&[1, 2], 1).unwrap_err().code(), "SPK1206");
}

#[test]
fn empty_tensors_of_enormous_extents_cost_nothing() {
    let mut b = Builder::new("main");
    let side = 1usize << 40;
    let dims = [Dim::from(side), Symbol::C.into(), Symbol::C.into()];
    let x = b.param(ParamKind::Input, TensorType::new(DType::F32, dims), "x");
    let sum = Op::Reduce { op: crate::ReduceOp::Sum, axis: 1 };
    let y = b.apply(sum, &[x]).unwrap();
    let z = b.apply(Op::Concat { axis: 1 }, &[y, y]).unwrap();
    let graph = b.finish(vec![z]);
    let input = Tensor::from_f32(vec![side, 0, 0], &[]);
    let step = Bindings { t: 1, c: 0, r: 1 };
    let none = WeightMap::default();
    let out = eval_graph(&graph, &[input], step, None, &none, EvalOptions::default()).unwrap();
    assert_eq!(out[0].shape(), [side, 2, 0]);
}

#[test]
fn a_block_runs_alone_with_its_cache_given_and_returned() {
    let module = decoder(Style::Fused);
    let weights = weights(&module, 6);
    let step = Bindings { t: 2, c: 3, r: 1 };
    let x = Tensor::from_f32(vec![2, 8], &[0.5; 16]);
    let positions = Tensor::from_i32(vec![2], &[3, 4]);
    let cache = Tensor::from_f32(vec![3, 2, 4], &[0.25; 24]);
    let inputs = [x.clone(), positions, cache.clone(), cache];
    let options = EvalOptions::default();
    let block = &module.blocks[0];
    let out = eval_graph(block, &inputs, step, Some(1), &weights, options).unwrap();
    assert_eq!(out[0].shape(), [2, 8]);
    assert_eq!(out[1].shape(), [5, 2, 4]);
    assert_eq!(out[1].to_f32()[..24], [0.25; 24]);
    let error = eval_graph(block, &[x], step, Some(1), &weights, options).unwrap_err();
    assert_eq!(error.to_string(), "inputs of @layer: 1 given, 4 needed");
}

/// A graph over weights only, and the value to evaluate.
fn constant(build: impl Fn(&mut Builder) -> crate::ValueId) -> (crate::Graph, crate::ValueId) {
    let mut b = Builder::new("layer");
    let value = build(&mut b);
    (b.finish(vec![value]), value)
}

fn evaluate(
    weights: &WeightMap,
    build: impl Fn(&mut Builder) -> crate::ValueId,
) -> Result<Tensor, EvalError> {
    let (graph, value) = constant(build);
    eval_constant(&graph, value, Some(7), weights, &EvalOptions::default())
}

#[test]
fn constants_keep_the_dtype_and_bytes_they_can() {
    let values: Vec<f32> = (0..128).map(|i| i as f32 / 8.0).collect();
    let w = Tensor::from_f32(vec![2, 64], &values).cast(DType::BF16).unwrap();
    let weights: WeightMap = [("w.7".to_string(), w.clone())].into_iter().collect();
    let weight = |b: &mut Builder| b.weight("w.{layer}", DType::BF16, &[2, 64]).unwrap();

    let bare = evaluate(&weights, weight).unwrap();
    assert_eq!((bare.dtype(), &bare.bytes()[..]), (DType::BF16, &w.bytes()[..]));

    let turned = |b: &mut Builder| {
        let w = weight(b);
        b.transpose(w, &[1, 0]).unwrap()
    };
    let turned = evaluate(&weights, turned).unwrap();
    assert_eq!((turned.dtype(), turned.shape()), (DType::BF16, &[64, 2][..]));
    assert_eq!(turned.to_f32()[..4], [0.0, 8.0, 0.125, 8.125]);

    let quantized = |b: &mut Builder| {
        let w = weight(b);
        b.apply(Op::Quantize(DType::Q8), &[w]).unwrap()
    };
    let packed = evaluate(&weights, quantized).unwrap();
    assert_eq!(packed.bytes()[..], w.cast(DType::Q8).unwrap().bytes()[..]);

    // Whole groups move as bytes: the second row's second group.
    let piece = evaluate(&weights, |b| {
        let q = quantized(b);
        let cut = |b: &mut Builder, x, axis, start: usize, end: usize| {
            b.apply(Op::Slice { axis, start: start.into(), end: end.into() }, &[x]).unwrap()
        };
        let row = cut(b, q, 0, 1, 2);
        let group = cut(b, row, 1, 32, 64);
        b.apply(Op::Concat { axis: 1 }, &[group, row]).unwrap()
    });
    let piece = piece.unwrap();
    assert_eq!((piece.dtype(), piece.shape()), (DType::Q8, &[1, 96][..]));
    assert_eq!(piece.bytes()[..34], packed.bytes()[3 * 34..]);
    assert_eq!(piece.bytes()[34..], packed.bytes()[2 * 34..]);

    // Groups along another axis than the last have no layout: dequantised.
    let turned = evaluate(&weights, |b| {
        let q = quantized(b);
        b.transpose(q, &[1, 0]).unwrap()
    });
    let turned = turned.unwrap();
    assert_eq!((turned.dtype(), turned.shape()), (DType::F32, &[64, 2][..]));
    assert_eq!(turned.to_f32()[3], packed.to_f32()[65]);
}

#[test]
fn only_constants_are_evaluated_as_constants() {
    let module = decoder(Style::Fused);
    let weights = weights(&module, 8);
    let block = &module.blocks[0];
    let y = block.results[0];
    let error = eval_constant(block, y, Some(0), &weights, &EvalOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "%y of @layer is not a compile-time constant");

    let huge = evaluate(&weights, |b| {
        let c = b.constant(1.0).unwrap();
        let c = b.reshape(c, vec![1.into()]).unwrap();
        b.apply(Op::Broadcast(vec![Dim::from(1usize << 40)]), &[c]).unwrap()
    });
    assert_eq!(huge.unwrap_err().code(), "SPK1206");
    assert_eq!(Dim::from(Symbol::T).as_const(), None);
}
