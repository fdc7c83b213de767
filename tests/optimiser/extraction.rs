//! Every block of every model is extracted optimally, for both targets.

use backend_cpu::CpuCost;
use backend_wafer::WaferCost;
use passes::{CostModel, Options, Tier, optimize};
use plan::Target;

use crate::models;

#[test]
fn every_block_of_every_architecture_is_extracted_with_gap_0() {
    let target = Target::preset("wse3").unwrap();
    let wafer = WaferCost::new(&target);
    let targets: [&dyn CostModel; 2] = [&CpuCost, &wafer];
    let mut searched = 0;
    for path in models::paths() {
        let module = models::module(&path);
        for cost in targets {
            for tier in [Tier::Exact, Tier::Reassoc, Tier::Reround] {
                let options = Options { tier, ..Options::default() };
                let (_, report) = optimize(module.clone(), &options, cost).unwrap();
                for search in &report.searches {
                    let place = format!("{} @{} {tier}", path.display(), search.graph);
                    assert_eq!(search.bound, search.cost.1, "{place}: not proven optimal");
                    assert!(search.cost.1 <= search.cost.0, "{place}: dearer than before");
                    assert_eq!(search.stop, "saturated", "{place}");
                    searched += 1;
                }
            }
        }
    }
    assert!(searched > 100, "{searched}");
}
