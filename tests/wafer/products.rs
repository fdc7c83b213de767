//! What the tests of the two products of matrices on a bare region share: a legal plan, and what it multiplies.

use backend_wafer::kernels::{Kernel, build};
use plan::{Plan, Target, WeightData};

/// The plan of a kernel on a preset, proven legal.
pub(crate) fn legal(kernel: Kernel, target: &str) -> Plan {
    let target = Target::preset(target).expect("preset");
    let plan = build(kernel, &target).expect("fits");
    if let Err(found) = plan::verify::verify(&plan) {
        panic!("{kernel:?}: {} violations, first: {}", found.len(), found[0]);
    }
    plan
}

/// The values of a weight that the plan brings along.
pub(crate) fn inline(plan: &Plan, name: &str) -> Vec<f32> {
    match &plan.weight(name).expect("declared").1.data {
        WeightData::Inline(values) => values.clone(),
        WeightData::Model => panic!("{name} comes from a model"),
    }
}
