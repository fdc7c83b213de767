//! Bare kernels are legal plans that compute what they say.

use std::collections::BTreeMap;

use crate::decoder::grid;
use backend_wafer::kernels::{Kernel, KernelError, Sizes, build};
use plan::WeightData;
use tensor::Tensor;

fn inline(plan: &plan::Plan, name: &str) -> Vec<f32> {
    let (_, decl) = plan.weight(name).expect("declared");
    match &decl.data {
        WeightData::Inline(values) => values.clone(),
        WeightData::Model => panic!("{name} comes from a model"),
    }
}

fn run(kernel: Kernel, sizes: Sizes) -> (plan::Plan, Vec<f32>) {
    let plan = build(kernel, sizes, &grid(64, 64)).expect("fits");
    if let Err(found) = plan::verify::verify(&plan) {
        panic!("{kernel:?} {sizes:?}: {} violations, first: {}", found.len(), found[0]);
    }
    let none: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut sim = simulator::Simulator::new(&plan, &none).expect("simulator");
    let logits = sim.step(0).unwrap_or_else(|e| panic!("{kernel:?} {sizes:?}: {e}")).logits;
    (plan, logits)
}

#[test]
fn collectives_sum_and_copy_on_lines_of_any_length() {
    for kernel in
        [Kernel::Broadcast, Kernel::Chain, Kernel::TwoPhase, Kernel::Reduce, Kernel::Allreduce]
    {
        for width in (1..=40).chain([53, 64]) {
            let (n, k) = (3, 1);
            let (plan, found) = run(kernel, Sizes { region: (width, 1), k, n });
            let source = inline(&plan, "source");
            let rows = source.chunks(n as usize);
            let expected: Vec<f32> = match kernel {
                Kernel::Broadcast => source[..n as usize].to_vec(),
                _ => rows.fold(vec![0.0; n as usize], |sum, row| {
                    sum.iter().zip(row).map(|(a, b)| a + b).collect()
                }),
            };
            assert_eq!(found, expected, "{kernel:?} over {width} PEs");
        }
    }
}

#[test]
fn gemv_multiplies() {
    for region in [(1, 1), (5, 7), (16, 16), (3, 40)] {
        let (plan, found) = run(Kernel::Gemv, Sizes { region, k: 45, n: 31 });
        let (x, w) = (inline(&plan, "x"), inline(&plan, "w"));
        let row = |r: &[f32]| r.iter().zip(&x).map(|(a, b)| a * b).sum::<f32>();
        let expected: Vec<f32> = w.chunks(45).map(row).collect();
        assert_eq!(found, expected, "{region:?}");
    }
}

#[test]
fn impossible_kernels_say_why() {
    let target = grid(8, 8);
    let sizes = Sizes { region: (8, 8), k: 64, n: 64 };
    assert!(matches!(Kernel::from_name("fft"), Err(KernelError::Unknown { .. })));
    let wide = Sizes { region: (9, 8), ..sizes };
    assert!(matches!(build(Kernel::Gemv, wide, &target), Err(KernelError::Region { .. })));
    let large = Sizes { k: 8000, n: 8000, ..sizes };
    assert!(matches!(build(Kernel::Gemv, large, &target), Err(KernelError::Sram { .. })));
    let empty = Sizes { k: 0, ..sizes };
    assert!(matches!(build(Kernel::Gemv, empty, &target), Err(KernelError::Empty { what: "k" })));
}
