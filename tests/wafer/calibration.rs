//! The presets stay within a percent of the hardware measurements that calibrate them.
//!
//! The measurements are in `calibration.json`, which `scripts/calibrate.py` reads too; that script shows the
//! fit, `docs/machine-model.md` says how constants are found. This guards them: a change of the model must
//! not move them unnoticed.

use backend_wafer::kernels::{Kernel, build, setup_cycles};
use serde_json::Value;
use simulator::timing::{Level, TimingReport, time_unchecked};

/// The kernel of a measurement.
pub(crate) fn kernel(point: &Value) -> Kernel {
    let size = |name: &str| {
        let n = point[name].as_u64().unwrap_or_else(|| panic!("{point} has no {name}"));
        u32::try_from(n).expect("a size")
    };
    let grid = size("grid");
    match point["kernel"].as_str() {
        Some("meshgemv") => {
            Kernel::MeshGemv { grid, tile: (size("tile"), size("tile")), group: size("group-size") }
        }
        Some("chain-gemv") => Kernel::ChainGemv { grid, tile: size("tile") },
        Some("decode-layer") => {
            let [d, s, f, groups] = ["d", "s", "f", "groups"].map(size);
            Kernel::DecodeLayer { grid, d, s, f, groups }
        }
        Some("meshgemm") => {
            let [m, k, n] = ["m", "k", "n"].map(size);
            Kernel::MeshGemm { grid, m, k, n }
        }
        Some("summa") => {
            let [m, k, n] = ["m", "k", "n"].map(size);
            Kernel::Summa { grid, m, k, n }
        }
        Some("prefill-layer") => {
            let [d, s, f] = ["d", "s", "f"].map(size);
            Kernel::PrefillLayer { grid, d, s, f }
        }
        _ => panic!("{point} is of no known kernel"),
    }
}

/// A kernel on a preset, timed at level 0, without what loads its operands.
pub(crate) fn timed(target: &str, kernel: Kernel) -> TimingReport {
    let target = plan::Target::preset(target).expect("preset");
    let plan = build(kernel, &target).unwrap_or_else(|e| panic!("{kernel:?}: {e}"));
    // Legality of the same kernels is proven in `kernels`; it does not depend on the grid.
    let mut report = time_unchecked(&plan, Level::L0, 0).unwrap_or_else(|e| panic!("{e}"));
    let setup = setup_cycles(&plan);
    report.token_cycles -= setup;
    report.breakdown.compute -= setup;
    report
}

#[test]
fn simulated_cycles_are_within_a_percent_of_the_calibration_points() {
    let file: Value = serde_json::from_str(include_str!("calibration.json")).expect("JSON");
    let points = file["points"].as_array().expect("points");
    assert_eq!(points.len(), 15, "docs/machine-model.md lists fifteen");
    let mut sum = 0.0;
    for point in points {
        let kernel = kernel(point);
        let (target, measured) = (point["target"].as_str().expect("a target"), &point["cycles"]);
        let measured = measured.as_f64().expect("cycles");
        let error = (timed(target, kernel).token_cycles as f64 / measured - 1.0).abs();
        assert!(error < 0.01, "{kernel:?} on {target} is off by {:.2} %", 100.0 * error);
        sum += error;
    }
    assert!(sum / points.len() as f64 <= 0.004, "{:.4} on average", sum / points.len() as f64);
}
