//! Every rule: a module that keeps them all, and for each rule changes that break it.

use tensor::{DType, Rng};

use super::*;
use crate::eval::{EvalOptions, eval_module};
use crate::random::{self, RandomOptions};
use crate::testing::{Style, cache_type, decoder};
use crate::{
    BinaryOp, Builder, CacheType, Dim, NodeId, Op, ParamKind, Real, RopeScaling, RopeSpec, Symbol,
    TensorType, Type, ValueId, WeightMap,
};

/// The violations after `change`, as text.
fn after(change: impl FnOnce(&mut Module)) -> String {
    let mut module = decoder(Style::Fused);
    change(&mut module);
    verify(&module).map_or_else(|found| found.to_string(), |()| String::new())
}

/// The node that computes `op` in the block, and its only result.
fn find(graph: &Graph, matches: impl Fn(&Op) -> bool) -> (NodeId, ValueId) {
    let (id, node) = graph.nodes().find(|(_, n)| matches(&n.op)).expect("the decoder has it");
    (id, node.results[0])
}

fn codes(text: &str) -> Vec<&str> {
    let mut codes: Vec<&str> = text.lines().filter_map(|l| l.get(..7)).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[test]
fn well_formed_modules_have_no_violation() {
    for style in [Style::Primitive, Style::Fused] {
        assert_eq!(verify(&decoder(style)), Ok(()));
    }
}

#[test]
fn contexts_are_bounded() {
    assert_eq!(after(|m| m.context = 0), "SPK1101: context is 0");
    assert_eq!(after(|m| m.context = 1 << 31), "SPK1101: context is 2147483648");
    assert_eq!(after(|m| m.context = (1 << 31) - 1), "");
}

#[test]
fn types_are_the_inferred_ones() {
    let wrong: Type = TensorType::new(DType::F16, [Symbol::T.into(), Dim::from(8)]).into();
    let text = after(|m| {
        let (_, v) = find(&m.blocks[0], |op| matches!(op, Op::RmsNorm { .. }));
        m.blocks[0].value_mut(v).ty = wrong;
    });
    assert_eq!(text, "SPK1102 @layer %5: stated as f16[T, 8], inferred as f32[T, 8]");
    let text = after(|m| {
        let (id, _) = find(&m.blocks[0], |op| *op == Op::Matmul);
        m.blocks[0].node_mut(id).operands.pop();
    });
    assert!(
        text.contains("SPK1102") && text.contains("matmul takes 2 operands, found 1"),
        "{text}"
    );
}

#[test]
fn uses_follow_definitions() {
    let text = after(|m| {
        let mut order = m.blocks[0].order().to_vec();
        order.reverse();
        m.blocks[0].set_order(order);
    });
    assert!(text.contains("SPK1103 @layer %5: used by matmul before it is defined"), "{text}");
    let text = after(|m| {
        let mut order = m.blocks[0].order().to_vec();
        order.pop();
        m.blocks[0].set_order(order);
    });
    assert_eq!(text, "SPK1103 @layer %y: returned but never defined");
}

#[test]
fn parameters_have_an_order_and_only_states_are_caches() {
    let text = after(|m| {
        let ty = TensorType::new(DType::F32, [Symbol::T]);
        m.blocks[0].add_param(ParamKind::Carry, ty.into(), Some("late".into()));
    });
    assert!(
        text.contains("SPK1104 @layer %late: carries come first, then inputs, then states"),
        "{text}"
    );
    let text = after(|m| {
        m.blocks[0].add_param(ParamKind::State, TensorType::new(DType::F32, [1usize]).into(), None);
    });
    assert!(text.contains("SPK1104") && text.contains("state parameter of type f32[1]"), "{text}");
    let text = after(|m| {
        let state = m.blocks[0].params()[2].value;
        m.blocks[0].value_mut(state).ty = cache_type(Some(2));
    });
    assert!(text.contains("SPK1104 @layer %k: a block holds one layer's cache"), "{text}");
}

#[test]
fn blocks_return_carries_and_grown_states() {
    let text = after(|m| {
        m.blocks[0].results.pop();
    });
    assert!(text.contains("SPK1105 @layer: returns 2 values, 3 expected"), "{text}");
    let text = after(|m| {
        let (_, v) = find(&m.blocks[0], |op| matches!(op, Op::Glu(_)));
        m.blocks[0].results[0] = v;
    });
    assert!(text.contains("result 0 is f32[T, 12], expected f32[T, 8]"), "{text}");
    // A cache returned as it came does not hold the new tokens.
    let text = after(|m| {
        let (id, grown) = find(&m.blocks[0], |op| *op == Op::CacheAppend);
        let before = m.blocks[0].node(id).operands[0];
        m.blocks[0].replace_uses(grown, before);
        let order = m.blocks[0].order().iter().copied().filter(|&n| n != id).collect();
        m.blocks[0].set_order(order);
    });
    assert!(
        text.contains(
            "SPK1105 @layer %k: result 1 is cache f32[C, 2, 4], expected cache f32[C + T, 2, 4]"
        ),
        "{text}"
    );
}

#[test]
fn caches_are_consumed_once_and_read_while_alive() {
    // Both appends consume the same cache: one is consumed twice, the other never.
    let text = after(|m| {
        let (k, v) = (m.blocks[0].params()[2].value, m.blocks[0].params()[3].value);
        let appends = m.blocks[0].nodes().filter(|(_, n)| n.op == Op::CacheAppend);
        let second = appends.map(|(id, _)| id).nth(1).expect("two appends");
        assert_eq!(m.blocks[0].node(second).operands[0], v);
        m.blocks[0].node_mut(second).operands[0] = k;
    });
    assert!(text.contains("SPK1106 @layer %k: cache_append of a cache that is consumed"), "{text}");
    assert!(
        text.contains("SPK1106 @layer %v: a cache that is never consumed or returned"),
        "{text}"
    );
    // A read of the version before the append, after it.
    let text = after(|m| {
        let k = m.blocks[0].params()[2].value;
        let (id, _) = find(&m.blocks[0], |op| *op == Op::CacheRead);
        m.blocks[0].node_mut(id).operands[0] = k;
    });
    assert!(text.contains("SPK1106 @layer %k: cache_read of a cache that is consumed"), "{text}");
    // Returned in the other's place.
    let text = after(|m| m.blocks[0].results.swap(1, 2));
    assert!(text.contains("continues state 1, returned as state 0"), "{text}");
    assert_eq!(codes(&text), ["SPK1106"]);
}

#[test]
fn repeats_fit_their_block() {
    let change = |m: &mut Module, f: &dyn Fn(&mut u32, &mut u32)| {
        let (id, _) = find(&m.main, |op| matches!(op, Op::Repeat { .. }));
        if let Op::Repeat { first, count, .. } = &mut m.main.node_mut(id).op {
            f(first, count);
        }
    };
    assert_eq!(after(|m| change(m, &|first, _| *first = 5)), "");
    for f in [
        &(|_: &mut u32, count: &mut u32| *count = 0) as &dyn Fn(&mut u32, &mut u32),
        &|_, count| *count = 3,
        &|_, count| *count = u32::MAX,
        &|first, _| *first = u32::MAX,
    ] {
        assert!(after(|m| change(m, f)).contains("SPK1107 @main"));
    }
    let text = after(|m| {
        let (id, _) = find(&m.main, |op| matches!(op, Op::Repeat { .. }));
        m.main.node_mut(id).op = Op::Repeat { block: crate::BlockId::new(4), first: 0, count: 2 };
    });
    assert!(text.contains("SPK1107") && text.contains("no such block"), "{text}");
    assert!(text.contains("SPK1111 @layer: never repeated"), "{text}");
    let text = after(|m| {
        let repeat = Op::Repeat { block: crate::BlockId::new(0), first: 0, count: 1 };
        m.blocks[0].add_node(repeat, vec![], vec![]);
    });
    assert!(text.contains("SPK1107 @layer repeat: only main may repeat"), "{text}");
}

#[test]
fn lists_of_all_layers_stay_short() {
    let many = |m: &mut Module, count: u32| {
        let (id, _) = find(&m.main, |op| matches!(op, Op::Repeat { .. }));
        for i in 0..200 {
            let name = format!("{{layer}}.extra{i}");
            let op = Op::Weight { name, dtype: DType::F32, shape: vec![1] };
            let ty = TensorType::new(DType::F32, [1usize]).into();
            m.blocks[0].add_node(op, vec![], vec![ty]);
        }
        if let Op::Repeat { count: layers, .. } = &mut m.main.node_mut(id).op {
            *layers = count;
        }
        for i in 0..m.main.value_count() {
            if let Type::Cache(cache) = &mut m.main.value_mut(ValueId::new(i)).ty {
                cache.layers = Some(count);
            }
        }
    };
    assert_eq!(after(|m| many(m, 100)), "");
    let text = after(|m| many(m, 10_000));
    assert_eq!(text, "SPK1107 @main: 2080002 weights in all layers, at most 1048576 are allowed");
}

#[test]
fn weights_have_one_name_and_type() {
    let rename = |graph: &mut Graph, from: &str, to: &str| {
        let (id, _) = find(graph, |op| matches!(op, Op::Weight { name, .. } if name == from));
        if let Op::Weight { name, .. } = &mut graph.node_mut(id).op {
            *name = to.to_string();
        }
    };
    let text = after(|m| rename(&mut m.main, "norm", "{layer}.norm"));
    assert_eq!(text, "SPK1108 @main: \"{layer}.norm\" has no layer index here");
    let text = after(|m| rename(&mut m.main, "norm", ""));
    assert_eq!(text, "SPK1108 @main: a weight without a name");
    let text = after(|m| rename(&mut m.main, "norm", "1.up"));
    assert_eq!(text, "SPK1109 @layer: weight \"1.up\" is f32[12, 8] here and f32[8] elsewhere");
    assert_eq!(after(|m| rename(&mut m.blocks[0], "{layer}.gain", "norm")), "");
}

#[test]
fn main_maps_tokens_to_logits() {
    let text = after(|m| {
        let tokens = m.main.params()[0].value;
        m.main.value_mut(tokens).ty = TensorType::new(DType::I32, [Symbol::R]).into();
    });
    assert!(text.contains("SPK1110 @main %tokens: the input is i32[R], expected i32[T]"), "{text}");
    let text = after(|m| {
        m.main.results.remove(0);
    });
    assert!(text.contains("SPK1110 @main: returns cache x2 f32[C + T, 2, 4] first"), "{text}");
    let text = after(|m| {
        let (_, x) = find(&m.main, |op| *op == Op::Gather);
        m.main.results[0] = x;
    });
    assert!(text.contains("returns f32[T, 8] first, expected f32[R, vocab]"), "{text}");
    let text = after(|m| m.main = Graph::new("main"));
    assert!(text.contains("SPK1110 @main: no input of type i32[T]"), "{text}");
}

#[test]
fn graph_names_are_distinct_identifiers() {
    let text = after(|m| m.blocks[0].name = "main".into());
    assert!(text.contains("SPK1112 @main: two graphs have this name"), "{text}");
    let text = after(|m| m.main.name = "start".into());
    assert_eq!(text, "SPK1112 @start: the entry is called @main");
    let text = after(|m| m.blocks[0].name = "two words".into());
    assert_eq!(text, "SPK1112: \"two words\" is not an identifier");
}

#[test]
fn quantised_values_are_constants() {
    let mut b = Builder::new("g");
    let x = b.param(ParamKind::Input, TensorType::new(DType::F32, [32usize]), "x");
    let q = b.apply(Op::Quantize(DType::Q8), &[x]).unwrap();
    b.name(q, "q");
    let y = b.param(ParamKind::Input, TensorType::new(DType::Q4, [32usize]), "y");
    let text = verify_graph(&b.finish(vec![q, y])).unwrap_err().to_string();
    assert_eq!(
        text,
        "SPK1113 @g %y: a parameter of q4\nSPK1113 @g %q: q8[32] but not a compile-time constant"
    );
    let mut b = Builder::new("g");
    let cache =
        CacheType { layers: None, dtype: DType::I32, len: Symbol::C.into(), heads: 1, head_dim: 1 };
    let k = b.param(ParamKind::State, cache, "k");
    let text = verify_graph(&b.finish(vec![k])).unwrap_err().to_string();
    assert_eq!(text, "SPK1113 @g %k: a parameter of i32");
}

#[test]
fn extents_are_few_and_never_negative() {
    let mut b = Builder::new("g");
    let t = Dim::from(Symbol::T);
    let x = b.param(ParamKind::Input, TensorType::new(DType::F32, [&t - &Dim::from(2)]), "x");
    let y = b.param(ParamKind::Input, TensorType::new(DType::F32, [1usize; 9]), "y");
    let text = verify_graph(&b.finish(vec![x, y])).unwrap_err().to_string();
    assert_eq!(
        text,
        "SPK1114 @g %x: T - 2 may be negative\nSPK1114 @g %y: 9 axes, at most 8 are allowed"
    );
}

#[test]
fn attributes_are_in_range() {
    let nan_free = |v: f64| Real::new(v);
    let rope = |scaling| Op::Rope(Box::new(RopeSpec { dim: 4, theta: nan_free(1e4), scaling }));
    let one = nan_free(1.0);
    let llama3 = RopeScaling::Llama3 { factor: one, low: one, high: one, original: 8 };
    let yarn = RopeScaling::Yarn {
        factor: one,
        beta_fast: nan_free(32.0),
        beta_slow: nan_free(0.0),
        attention_factor: one,
        original: 8,
        truncate: true,
    };
    for (op, why) in [
        (Op::RmsNorm { eps: nan_free(0.0) }, "eps is 0.0, not positive"),
        (Op::CausalMask { window: Some(0) }, "window is 0"),
        (Op::Attention { scale: nan_free(f64::INFINITY), window: None }, "scale is inf"),
        (rope(RopeScaling::Linear { factor: nan_free(-1.0) }), "factor is -1.0, not positive"),
        (rope(RopeScaling::Dynamic { factor: one, original: 0 }), "original is 0"),
        (rope(llama3), "low is 1.0, not below high, 1.0"),
        (rope(yarn), "beta_slow is 0.0, not positive"),
    ] {
        assert_eq!(attributes::check(&op), Err(why.to_string()));
    }
    let text = after(|m| {
        let (id, _) = find(&m.main, |op| matches!(op, Op::RmsNorm { .. }));
        m.main.node_mut(id).op = Op::RmsNorm { eps: Real::new(-1.0) };
    });
    assert!(text.starts_with("SPK1115 @main %"), "{text}");
}

#[test]
fn broken_ids_are_reported_without_looking_further() {
    let text = after(|m| m.main.set_order(vec![NodeId::new(99)]));
    assert_eq!(codes(&text), ["SPK1116"]);
    let text = after(|m| {
        let twice = m.blocks[0].order()[0];
        m.blocks[0].set_order(vec![twice, twice]);
    });
    assert!(text.contains("SPK1116 @layer n0: runs twice"), "{text}");
    let text = after(|m| m.blocks[0].results[0] = ValueId::new(10_000));
    assert!(text.contains("SPK1116 @layer %10000: no such value, in the results"), "{text}");
    let text = after(|m| {
        let (id, _) = find(&m.main, |op| *op == Op::Matmul);
        m.main.node_mut(id).operands[0] = ValueId::new(10_000);
    });
    assert!(text.contains("SPK1116 @main %10000: no such value, in n"), "{text}");
    let text = after(|m| {
        let (id, _) = find(&m.main, |op| *op == Op::Matmul);
        m.main.node_mut(id).results[0] = ValueId::new(0);
    });
    assert!(text.contains("SPK1116 @main %0: not result 0 of n"), "{text}");
}

#[test]
fn all_violations_are_reported_together() {
    let text = after(|m| {
        m.context = 0;
        m.main.name = "start".into();
        m.blocks[0].results.swap(1, 2);
        let (_, v) = find(&m.main, |op| matches!(op, Op::RmsNorm { .. }));
        m.main.value_mut(v).ty = TensorType::new(DType::F32, [1usize]).into();
    });
    assert_eq!(codes(&text), ["SPK1101", "SPK1102", "SPK1106", "SPK1112"]);
}

#[test]
fn the_evaluator_survives_what_verify_refuses() {
    // A constant of a graph that nobody verified: an error, not a panic.
    let mut b = Builder::new("g");
    let a = b.constant(1.0).unwrap();
    let c = b.binary(BinaryOp::Add, a, a).unwrap();
    let mut graph = b.finish(vec![c]);
    let (id, _) = find(&graph, |op| matches!(op, Op::Binary(_)));
    graph.node_mut(id).op = Op::Matmul;
    let options = crate::eval::EvalOptions::default();
    let error = crate::eval::eval_constant(&graph, c, None, &WeightMap::default(), &options);
    assert_eq!(error.unwrap_err().code(), "SPK1211");
}

/// Changes `graph` in one place, mostly for the worse.
fn damage(rng: &mut Rng, graph: &mut Graph, donor: &[Op]) {
    let mut order = graph.order().to_vec();
    let at = rng.below(order.len());
    // Now and then an id that does not exist.
    let beyond = usize::from(rng.below(8) == 0);
    let value = ValueId::new(rng.below(graph.value_count() + beyond));
    let known = value.index() < graph.value_count();
    let node = graph.node_mut(order[at]);
    match rng.below(8) {
        0 | 1 => {
            let i = rng.below(node.operands.len() + 1);
            match node.operands.get_mut(i) {
                Some(operand) => *operand = value,
                None => node.operands.push(value),
            }
        }
        2 => node.op = donor[rng.below(donor.len())].clone(),
        3 => drop(node.operands.pop()),
        4 => {
            let other = rng.below(order.len());
            order.swap(at, other);
            graph.set_order(order);
        }
        5 => {
            order.remove(at);
            graph.set_order(order);
        }
        6 if known => {
            let other = ValueId::new(rng.below(graph.value_count()));
            graph.value_mut(value).ty = graph.ty(other).clone();
        }
        _ => {
            let i = rng.below(graph.results.len());
            graph.results[i] = value;
        }
    }
}

#[test]
fn whatever_is_done_to_a_module_verify_judges_and_what_it_accepts_runs() {
    let mut rng = Rng::new(11);
    let options = RandomOptions { steps: 4, ..RandomOptions::default() };
    let (mut refused, mut accepted) = (0, 0);
    for round in 0..3000 {
        let mut module = random::module(round % 100, &options);
        let graphs = || module.graphs().flat_map(|g| g.nodes());
        let donor: Vec<Op> = graphs().map(|(_, n)| n.op.clone()).collect();
        let damaged = rng.below(module.blocks.len() + 1);
        let graph = module.graphs_mut().nth(damaged).expect("blocks and main");
        damage(&mut rng, graph, &donor);
        if let Err(Violations(found)) = verify(&module) {
            assert!(!found.is_empty());
            refused += 1;
            continue;
        }
        accepted += 1;
        let text = crate::print(&module);
        assert_eq!(crate::parse(&text).as_ref(), Ok(&module.compact()), "round {round}\n{text}");
        let weights = random::weights(&module, 0);
        let eval = eval_module(&module, &weights, &[1, 2, 3], 2, EvalOptions::default());
        // Only ids can be out of place now: a gather from another table.
        if let Err(error) = eval {
            assert_eq!(error.code(), "SPK1204", "round {round}: {error}\n{text}");
        }
    }
    assert!(refused > 1500 && accepted > 100, "{refused} refused, {accepted} accepted");
}
