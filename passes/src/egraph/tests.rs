//! The whole pass on decoders: the shape that back ends rely on, the same logits, one search per
//! block however many layers there are.

use ir::{Graph, Op};
use tensor::DType;

use crate::testing::{Decoder, assert_same_meaning, run_at, run_pipeline};
use crate::{NeutralCost, Options, Tier, optimize};

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
    let mut module = Decoder { bias: true, ..Decoder::default() }.module();
    run_pipeline("cse,egraph,dce", &mut module);
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
