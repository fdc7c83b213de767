//! The whole pass on decoders: the shape that back ends rely on, the same logits, one search per
//! block however many layers there are.

use ir::eval::{EvalOptions, eval_module};
use ir::random::{self, RandomOptions};
use ir::{Graph, Module, Op, TensorType};
use tensor::DType;

use crate::testing::{Decoder, assert_close, assert_same_meaning, run_at, run_pipeline};
use crate::{Call, Cost, CostModel, NeutralCost, Options, Tier, optimize};

/// Spellings of the run-time ops of a graph, in order.
fn run_time_ops(graph: &Graph) -> Vec<&'static str> {
    let cc = graph.compile_time_constants();
    let nodes = graph.nodes().filter(|(_, n)| !cc[n.results[0].index()]);
    let name = |op: &Op| match op {
        Op::Unary(f) => f.name(),
        Op::Binary(f) => f.name(),
        Op::Reduce { op, .. } => op.name(),
        op => op.info().name,
    };
    nodes.map(|(_, n)| name(&n.op)).collect()
}

const ATTENTION: [&str; 10] = [
    "slice",
    "reshape",
    "rope",
    "cache_append",
    "slice",
    "reshape",
    "cache_append",
    "cache_read",
    "cache_read",
    "slice",
];

#[test]
fn a_block_gets_the_shape_that_back_ends_rely_on() {
    for tier in [Tier::Exact, Tier::Reassoc] {
        let mut module = Decoder { bias: true, ..Decoder::default() }.module();
        run_at("cse,egraph,dce", &mut module, tier);
        check_shape(&module);
    }
}

fn check_shape(module: &Module) {
    let mut expected = vec!["rms_norm", "matmul", "add"];
    expected.extend(ATTENTION);
    expected.extend(["reshape", "rope", "attention", "reshape", "matmul", "add", "rms_norm"]);
    expected.extend(["matmul", "slice", "slice", "glu", "matmul", "add"]);
    assert_eq!(run_time_ops(&module.blocks[0]), expected);
    let main = ["gather", "positions", "repeat", "slice", "rms_norm", "matmul"];
    assert_eq!(run_time_ops(&module.main), main);
    let merged = module.blocks[0].nodes().filter(|(_, n)| n.op == Op::Concat { axis: 0 });
    let merged: Vec<String> =
        merged.map(|(_, n)| module.blocks[0].ty(n.results[0]).to_string()).collect();
    assert_eq!(merged, ["bf16[128, 64]", "bf16[128]", "bf16[192, 64]"]);
}

#[test]
fn every_spelling_of_a_block_becomes_the_same_block() {
    use crate::testing::Spelling::{FrontEnd, Grouped, RepeatedBehind, ScaledQueries};
    let plain = Decoder { dtype: DType::F32, window: Some(4), ..Decoder::default() };
    let optimised = |decoder: Decoder| {
        let before = decoder.module();
        let (after, _) = optimize(before.clone(), &Options::default(), &NeutralCost).unwrap();
        assert_same_meaning(&before, &after, Tier::Reassoc);
        after
    };
    let reference = optimised(plain);
    for attention in [FrontEnd, ScaledQueries, RepeatedBehind, Grouped] {
        for primitive in [false, true] {
            let found = optimised(Decoder { attention, primitive, ..plain });
            let mut ops = run_time_ops(&found.blocks[0]);
            let mut expected = run_time_ops(&reference.blocks[0]);
            assert_eq!(ops, expected, "{attention:?}, primitive {primitive}");
            ops = run_time_ops(&found.main);
            expected = run_time_ops(&reference.main);
            assert_eq!(ops, expected, "main: {attention:?}, primitive {primitive}");
        }
    }
}

#[test]
fn every_kind_of_decoder_keeps_its_logits_at_every_tier() {
    let plain = Decoder::default();
    let kinds = [
        plain,
        Decoder { bias: true, tied: false, ..plain },
        Decoder { head_norm: true, dtype: DType::F32, ..plain },
        Decoder { window: Some(3), groups: 1, ..plain },
        Decoder { groups: 4, dtype: DType::F16, ..plain },
        Decoder { head_dim: 10, heads: 6, groups: 3, ..plain },
    ];
    for kind in kinds {
        for tier in [Tier::Exact, Tier::Reassoc, Tier::Reround] {
            let before = kind.module();
            let mut after = before.clone();
            let report = run_at("cse,egraph,dce", &mut after, tier);
            assert!(report.rewrites.iter().all(|r| r.tier <= tier), "{kind:?}");
            assert!(report.cost.1 < report.cost.0, "{kind:?}");
            assert_same_meaning(&before, &after, tier);
        }
    }
}

#[test]
fn norm_gains_move_into_f32_weights_only() {
    let gains = |dtype: DType, tier: Tier| {
        let mut module = Decoder { dtype, tied: false, ..Decoder::default() }.module();
        run_at("cse,egraph,dce", &mut module, tier);
        let norms = module.blocks[0].nodes().filter(|(_, n)| matches!(n.op, Op::RmsNorm { .. }));
        norms.filter(|(_, n)| n.operands.len() == 2).count()
    };
    assert_eq!(gains(DType::F32, Tier::Reassoc), 0);
    assert_eq!(gains(DType::F32, Tier::Exact), 2);
    assert_eq!(gains(DType::BF16, Tier::Reassoc), 2, "f32 copies of bf16 weights cost more");
    assert_eq!(gains(DType::BF16, Tier::Reround), 0);
}

#[test]
fn work_does_not_grow_with_layers() {
    let optimised = |layers: u32| {
        let module = Decoder { layers, ..Decoder::default() }.module();
        let (module, report) = optimize(module, &Options::default(), &NeutralCost).unwrap();
        (module.blocks, report.searches)
    };
    assert_eq!(optimised(1), optimised(126));
}

#[test]
fn the_same_input_gives_the_same_graph() {
    let run = || optimize(Decoder::default().module(), &Options::default(), &NeutralCost).unwrap();
    let ((a, report_a), (b, report_b)) = (run(), run());
    assert_eq!(a, b);
    assert_eq!(report_a.rewrites, report_b.rewrites);
}

#[test]
fn attribution_says_what_each_rewrite_saves() {
    let options = Options { attribute: true, ..Options::default() };
    let (_, report) = optimize(Decoder::default().module(), &options, &NeutralCost).unwrap();
    let saved = |rule: &str| {
        let found = report.rewrites.iter().find(|r| r.rule == rule && r.graph == "layer");
        found.and_then(|r| r.saved).unwrap_or(0)
    };
    assert!(saved("attention") > saved("attention-shared-heads"));
    assert!(saved("attention-shared-heads") > 0);
    assert!(saved("merge-projections") > 0);
    assert!(saved("glu") > 0);
    assert_eq!(saved("silu"), 0);
}

#[test]
fn a_node_limit_stops_the_search_and_is_reported() {
    let mut module = Decoder::default().module();
    let before = module.clone();
    let report = run_pipeline("egraph{nodes=40,iterations=2}", &mut module);
    assert!(report.passes[0].warnings.iter().any(|w| w.code == "SPK3101"));
    assert_same_meaning(&before, &module, Tier::Reassoc);
}

#[test]
fn random_modules_keep_their_logits() {
    let options = RandomOptions { half_activations: false, ..RandomOptions::default() };
    let (mut rewritten, mut ran) = (0, 0);
    for seed in 0..120 {
        let module = random::module(seed, &options);
        let weights = random::weights(&module, seed);
        let logits = |m: &Module| {
            let found = eval_module(m, &weights, &[1, 5, 2, 10, 3], 4, EvalOptions::default());
            found.map(|t| t.to_f32())
        };
        let Ok(expected) = logits(&module) else { continue };
        for tier in [Tier::Exact, Tier::Reassoc] {
            let options = Options { tier, ..Options::default() };
            let (after, report) = optimize(module.clone(), &options, &NeutralCost)
                .unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", ir::print(&module)));
            rewritten += report.rewrites.len();
            // Random norms of small rows lose digits that a decoder keeps.
            let slack = if tier == Tier::Exact { tier } else { Tier::Reround };
            assert_close(&logits(&after).expect("as before"), &expected, slack);
        }
        ran += 1;
    }
    assert!(ran > 100 && rewritten > 100, "{ran} modules, {rewritten} rewrites");
}

/// `x (W + 0.5 B A)^T`, W[64, 64] in the given dtype, of rank 2.
fn lora(dtype: &str) -> Module {
    let text = format!(
        r#"module "lora" context 64 {{
  graph @main(input %tokens: i32[T]) {{
    %e = weight "e" : bf16[64, 64]
    %x = gather %e, %tokens : f32[T, 64]
    %w = weight "w" : {dtype}[64, 64]
    %b = weight "b" : f32[64, 2]
    %a = weight "a" : f32[2, 64]
    %ba = matmul %b, %a : f32[64, 64]
    %s = const 0.5 : f32[]
    %d = mul %ba, %s : f32[64, 64]
    %sum = add %w, %d : f32[64, 64]
    %t = transpose %sum {{perm=[1, 0]}} : f32[64, 64]
    %all = matmul %x, %t : f32[T, 64]
    %logits = slice %all {{axis=0, start=T - R, end=T}} : f32[R, 64]
    return %logits
  }}
}}
"#
    );
    ir::parse(&text).expect("the test is well written")
}

fn run_time_matmuls(module: &Module) -> usize {
    run_time_ops(&module.main).iter().filter(|op| **op == "matmul").count()
}

/// Pays for resident bytes and little else, like a machine that is short of memory.
struct ShortOfMemory;

impl CostModel for ShortOfMemory {
    fn name(&self) -> &str {
        "short-of-memory"
    }

    fn op(&self, call: &Call<'_>) -> Cost {
        Cost::new(if call.cc { 1 } else { 100 })
    }

    fn resident(&self, ty: &TensorType) -> Cost {
        NeutralCost.resident(ty).times(256)
    }
}

#[test]
fn a_low_rank_update_is_applied_apart_or_merged_as_the_target_likes() {
    let optimised = |dtype, model: &dyn CostModel| {
        let (after, _) = optimize(lora(dtype), &Options::default(), model).unwrap();
        assert_same_meaning(&lora(dtype), &after, Tier::Reassoc);
        run_time_matmuls(&after)
    };
    assert_eq!(optimised("f32", &NeutralCost), 1, "merging an f32 weight costs nothing");
    assert_eq!(optimised("bf16", &ShortOfMemory), 3, "an f32 copy of a bf16 weight is dear");
}

/// A target without softmax: attention must be recognised, whatever it costs.
struct NoSoftmax;

impl CostModel for NoSoftmax {
    fn name(&self) -> &str {
        "no-softmax"
    }

    fn op(&self, call: &Call<'_>) -> Cost {
        match call.op {
            Op::Softmax | Op::CausalMask { .. } => Cost::INFINITE,
            Op::Positions => Cost::INFINITE,
            _ => NeutralCost.op(call),
        }
    }

    fn resident(&self, ty: &TensorType) -> Cost {
        NeutralCost.resident(ty)
    }
}

#[test]
fn what_a_target_cannot_do_is_avoided_and_the_rest_still_optimised() {
    let (after, report) =
        optimize(Decoder::default().module(), &Options::default(), &NoSoftmax).unwrap();
    assert!(!run_time_ops(&after.blocks[0]).contains(&"softmax"));
    assert_eq!(report.searches[0].cost.0, Cost::INFINITE);
    assert!(report.searches[0].cost.1 < Cost::INFINITE);
    // In main positions are dear whatever is done; the last rows are still taken first.
    let main = run_time_ops(&after.main);
    assert_eq!(main, ["gather", "positions", "repeat", "slice", "rms_norm", "matmul"]);
}
