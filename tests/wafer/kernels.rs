//! Bare kernels are legal plans that compute what they say.

use std::collections::BTreeMap;

use crate::decoder::grid;
use backend_wafer::kernels::{Algorithm, Kernel, KernelError, Op, build, setup_cycles};
use plan::WeightData;
use simulator::timing::{Level, time};
use tensor::Tensor;

const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Star, Algorithm::Chain, Algorithm::Tree, Algorithm::TwoPhase, Algorithm::KTree];

fn inline(plan: &plan::Plan, name: &str) -> Vec<f32> {
    let (_, decl) = plan.weight(name).expect("declared");
    match &decl.data {
        WeightData::Inline(values) => values.clone(),
        WeightData::Model => panic!("{name} comes from a model"),
    }
}

fn verified(kernel: Kernel, target: &plan::Target) -> plan::Plan {
    let plan = build(kernel, target).unwrap_or_else(|e| panic!("{kernel:?}: {e}"));
    if let Err(found) = plan::verify::verify(&plan) {
        panic!("{kernel:?}: {} violations, first: {}", found.len(), found[0]);
    }
    plan
}

fn run(kernel: Kernel) -> (plan::Plan, Vec<f32>) {
    let plan = verified(kernel, &grid(64, 64));
    let none: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut sim = simulator::Simulator::new(&plan, &none).expect("simulator");
    let logits = sim.step(0).unwrap_or_else(|e| panic!("{kernel:?}: {e}")).logits;
    (plan, logits)
}

#[test]
fn collectives_sum_and_copy_on_lines_of_any_length() {
    for (op, algorithm) in
        [Op::Broadcast, Op::Reduce, Op::Allreduce].iter().flat_map(|&o| ALGORITHMS.map(|a| (o, a)))
    {
        let star = algorithm == Algorithm::Star && op != Op::Broadcast;
        for pes in (1..=40).chain([53, 64]).filter(|&p| !star || p <= 17) {
            let length = 3;
            let kernel = Kernel::Collective { op, algorithm, pes, length };
            let (plan, found) = run(kernel);
            let source = inline(&plan, "source");
            let rows = source.chunks(length as usize);
            let expected: Vec<f32> = match op {
                Op::Broadcast => source[..length as usize].to_vec(),
                _ => rows.fold(vec![0.0; length as usize], |sum, row| {
                    sum.iter().zip(row).map(|(a, b)| a + b).collect()
                }),
            };
            assert_eq!(found, expected, "{kernel:?}");
        }
    }
}

/// The closed forms of Luczynski et al. (HPDC 2024) on a machine with h = 1, as printed; a star pays
/// one hop more than printed, because its first wavelet crosses a link too.
#[test]
fn collectives_take_the_cycles_of_their_closed_forms() {
    for name in ["wse2", "small"] {
        let target = plan::Target::preset(name).expect("preset");
        let ramp = u64::from(target.fabric.ramp_cycles);
        let cycles = |op, algorithm, pes, length| {
            let plan = verified(Kernel::Collective { op, algorithm, pes, length }, &target);
            time(&plan, Level::L0, 0).expect("times").token_cycles - setup_cycles(&plan)
        };
        for length in [1u32, 2, 7, 64, 256] {
            let b = u64::from(length);
            for pes in [2u32, 3, 7, 16, 33, 100] {
                let p = u64::from(pes);
                let at = |op, algorithm| cycles(op, algorithm, pes, length);
                assert_eq!(at(Op::Broadcast, Algorithm::Chain), b + p + 2 * ramp);
                let chain = b + (2 * ramp + 2) * (p - 1);
                assert_eq!(at(Op::Reduce, Algorithm::Chain), chain);
                assert_eq!(at(Op::Allreduce, Algorithm::Chain), chain + b + p + 2 * ramp);
                if pes <= 16 {
                    assert_eq!(at(Op::Reduce, Algorithm::Star), b * (p - 1) + 2 * ramp + 2);
                }
            }
            for rounds in [1u64, 2, 4, 6] {
                let form = b * rounds + (1 << rounds) - 1 + (2 * ramp + 1) * rounds;
                assert_eq!(cycles(Op::Reduce, Algorithm::Tree, 1 << rounds, length), form);
            }
            for root in [2u64, 3, 4, 8, 10] {
                let depth = 2 * root - 2;
                let form = 2 * b + root * root - 1 + (2 * ramp + 1) * depth;
                let pes = (root * root) as u32;
                assert_eq!(cycles(Op::Reduce, Algorithm::TwoPhase, pes, length), form);
            }
        }
    }
}

#[test]
fn mat_vecs_multiply() {
    let check = |kernel: Kernel| {
        let (plan, found) = run(kernel);
        let (x, w) = (inline(&plan, "x"), inline(&plan, "w"));
        let row = |r: &[f32]| r.iter().zip(&x).map(|(a, b)| a * b).sum::<f32>();
        let expected: Vec<f32> = w.chunks(x.len()).map(row).collect();
        assert_eq!(found, expected, "{kernel:?}");
    };
    for region in [(1, 1), (5, 7), (16, 16), (3, 40)] {
        check(Kernel::Gemv { region, k: 45, n: 31 });
    }
    for (grid, tile, group) in
        [(1, (3, 3), 1), (8, (4, 6), 3), (15, (2, 2), 5), (24, (3, 5), 15), (20, (1, 2), 16)]
    {
        check(Kernel::MeshGemv { grid, tile, group });
    }
    for (grid, tile) in [(1, 2), (2, 3), (9, 4)] {
        check(Kernel::ChainGemv { grid, tile });
    }
}

#[test]
fn decode_layers_are_legal_on_any_grid() {
    for (grid, d, s, f, groups) in
        [(1, 1, 1, 1, 1), (7, 3, 2, 5, 3), (24, 4, 3, 8, 5), (20, 2, 2, 2, 7)]
    {
        verified(Kernel::DecodeLayer { grid, d, s, f, groups }, &grid_of(grid));
    }
}

fn grid_of(side: u32) -> plan::Target {
    let mut target = plan::Target::preset("wse3").expect("preset");
    (target.width, target.height) = (side, side);
    target
}

#[test]
fn impossible_kernels_say_why() {
    let target = grid(8, 8);
    let gemv = |region, k, n| build(Kernel::Gemv { region, k, n }, &target);
    assert!(matches!(gemv((9, 8), 64, 64), Err(KernelError::Region { .. })));
    assert!(matches!(gemv((8, 8), 8000, 8000), Err(KernelError::Sram { .. })));
    assert!(matches!(gemv((8, 8), 0, 64), Err(KernelError::Empty { what: "k" })));
    let (op, algorithm) = (Op::Reduce, Algorithm::Star);
    let wide = plan::Target::preset("wse2").expect("preset");
    let star = Kernel::Collective { op, algorithm, pes: 99, length: 1 };
    assert!(matches!(build(star, &wide), Err(KernelError::Star { most: 20, .. })));
}
