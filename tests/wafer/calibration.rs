//! The presets stay within a percent of the hardware measurements that calibrate them.
//!
//! The same points as `scripts/calibrate.py`, which shows the fit; `docs/machine-model.md` says where they
//! come from. This guards the constants: a change of the model must not move them unnoticed.

use backend_wafer::kernels::{Kernel, build};
use simulator::timing::{Level, time_unchecked};

fn cycles(target: &str, kernel: Kernel) -> f64 {
    let target = plan::Target::preset(target).expect("preset");
    let plan = build(kernel, &target).unwrap_or_else(|e| panic!("{kernel:?}: {e}"));
    // Legality of the same kernels is proven in `kernels`; it does not depend on the grid.
    time_unchecked(&plan, Level::L0, 0).unwrap_or_else(|e| panic!("{e}")).token_cycles as f64
}

#[test]
fn simulated_cycles_are_within_a_percent_of_the_calibration_points() {
    let mesh = |grid, tile| Kernel::MeshGemv { grid, tile: (tile, tile), group: 15 };
    let chain = |grid| Kernel::ChainGemv { grid, tile: 6 };
    let decode = |grid, d, s, f, groups| Kernel::DecodeLayer { grid, d, s, f, groups };
    let points = [
        ("wse3", mesh(120, 36), 1026.0),
        ("wse3", mesh(120, 72), 2333.0),
        ("wse3", mesh(120, 120), 5305.0),
        ("wse3", mesh(360, 12), 1190.2),
        ("wse3", mesh(360, 24), 1356.7),
        ("wse3", mesh(600, 8), 1738.4),
        ("wse3", mesh(600, 24), 1951.9),
        ("wse3", chain(120), 3035.2),
        ("wse3", chain(360), 6594.5),
        ("wse3", decode(360, 12, 12, 40, 20), 15139.1),
        ("wse3", decode(660, 13, 7, 45, 22), 22621.1),
        ("wse2", decode(420, 10, 10, 35, 20), 12732.0),
    ];
    let mut sum = 0.0;
    for (target, kernel, measured) in points {
        let error = (cycles(target, kernel) / measured - 1.0).abs();
        assert!(error < 0.01, "{kernel:?} on {target} is off by {:.2} %", 100.0 * error);
        sum += error;
    }
    assert!(sum / points.len() as f64 <= 0.004, "{:.4} on average", sum / points.len() as f64);
}
