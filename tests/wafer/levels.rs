//! The four levels of time agree on bare kernels of awkward sizes.
//!
//! Groups of unequal size make messages of an inner and an outer chain meet on a link, which is what a
//! level that does not follow every wavelet gets wrong first.

use backend_wafer::kernels::{Algorithm, Kernel, Op, build};
use simulator::timing::{Level, time};

#[test]
fn levels_agree_on_every_kernel_region_length_and_target() {
    let regions = [(2, 1), (3, 1), (3, 5), (16, 16), (17, 31), (33, 20), (64, 64)];
    let collectives = [
        (Op::Broadcast, Algorithm::Chain),
        (Op::Reduce, Algorithm::Chain),
        (Op::Reduce, Algorithm::Tree),
        (Op::Reduce, Algorithm::TwoPhase),
        (Op::Allreduce, Algorithm::TwoPhase),
        (Op::Reduce, Algorithm::KTree),
        (Op::Allreduce, Algorithm::KTree),
    ];
    let kernels = |region: (u32, u32), n: u32| {
        let (pes, length) = (region.0, n);
        let row = |(op, algorithm)| Kernel::Collective { op, algorithm, pes, length };
        let mut list: Vec<Kernel> = collectives.map(row).to_vec();
        list.push(Kernel::Gemv { region, k: 45, n });
        list
    };
    for name in ["wse3", "wse2", "small"] {
        let target = plan::Target::preset(name).expect("preset");
        for (region, n) in regions.iter().flat_map(|&r| [1, 7, 77, 256].map(|n| (r, n))) {
            for kernel in kernels(region, n) {
                let plan = build(kernel, &target).expect("fits");
                let at =
                    |level| time(&plan, level, 0).unwrap_or_else(|e| panic!("{e}")).token_cycles;
                let exact = at(Level::L3);
                let what = format!("{kernel:?} on {name}");
                assert_eq!(at(Level::L2), exact, "level 2 of {what}");
                for level in [Level::L0, Level::L1] {
                    let error = at(level).abs_diff(exact) as f64 / exact as f64;
                    assert!(error <= 0.01, "{level:?} of {what} is off by {:.2} %", 100.0 * error);
                }
            }
        }
    }
}
