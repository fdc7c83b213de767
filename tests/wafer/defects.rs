//! Wafers with dead PEs: planned around them, proven, executed with the same results, a little slower;
//! and one more dead PE changes one row.

use backend_wafer::place::repair::{amend, around};
use backend_wafer::{Options, compile};
use harness::defects::{Spread, map};
use plan::samples::{Collective, line};
use plan::{Axis, Plan, Point, Repair, RepairMap, Target};
use simulator::timing::{Level, time};

use crate::decoder::{Decoder, check, grid as perfect, module};

/// Proves the repair of a whole wafer: a plan with one row of PEs, every link of the grid is checked.
fn prove(target: &Target) -> Result<Repair, String> {
    let around = around(target).map_err(|e| e.to_string())?;
    let repair = around.repair(1);
    let mut plan = line(Collective::Chain, Axis::X, 6, 4, around.grid);
    plan.repair = Some(repair.clone());
    plan::verify(&plan).map(|()| repair).map_err(|v| format!("{}: {}", v.len(), v[0]))
}

#[test]
fn seeded_maps_of_a_whole_wafer_are_repaired_and_proven() {
    let wse3 = Target::preset("wse3").expect("preset");
    let size = (wse3.built_width(), wse3.height);
    let pes = (size.0 * size.1) as usize;
    let both = [Spread::Random, Spread::Clustered];
    for (spread, share) in both.into_iter().flat_map(|s| [(s, 1000), (s, 100)]) {
        for seed in 0..4 {
            let dead = map(spread, size, pes / share, seed);
            let repair = prove(&Target { dead, ..wse3.clone() })
                .unwrap_or_else(|e| panic!("{spread:?}, one in {share}, seed {seed}: {e}"));
            // The wafer's own spares suffice: the plan is the one for a wafer without dead PEs.
            assert_eq!(repair.width, wse3.width + wse3.spare_columns);
            assert!(repair.wafers[0].first.len() <= wse3.spare_columns as usize);
        }
    }
}

/// Clusters of one PE in a hundred, on a wafer without spare columns: the grid gives up columns of its own.
#[test]
fn dense_clusters_are_repaired_and_proven_without_spare_columns() {
    let wse3 = Target { spare_columns: 0, ..Target::preset("wse3").expect("preset") };
    let pes = (wse3.width * wse3.height) as usize;
    for seed in 0..4 {
        let dead = map(Spread::Clustered, (wse3.width, wse3.height), pes / 100, seed);
        let repair = prove(&Target { dead, ..wse3.clone() })
            .unwrap_or_else(|e| panic!("clusters of one in a hundred, seed {seed}: {e}"));
        assert!(repair.wafers[0].first.len() <= 90);
    }
}

fn defective(spread: Spread, count: usize, seed: u64) -> Target {
    let target = perfect(40, 40);
    Target { dead: map(spread, (40, 40), count, seed), ..target }
}

#[test]
fn plans_around_dead_pes_compute_the_same() {
    for (spread, count) in [(Spread::Random, 2), (Spread::Random, 16), (Spread::Clustered, 16)] {
        let plan = check(&Decoder::default(), &defective(spread, count, 1), 4);
        assert_eq!(plan.repair.as_ref().map(|r| r.dead.len()), Some(count));
    }
}

#[test]
fn detours_cost_cycles_that_all_levels_agree_on() {
    let d = Decoder { layers: 3, ..Decoder::default() };
    let target = defective(Spread::Random, 16, 5);
    let (plan, _) = compile(&module(&d), &target, &Options::default(), &|_| {}).expect("fits");
    let at = |plan: &Plan, level| time(plan, level, 3).expect("times").token_cycles;
    let exact = at(&plan, Level::L3);
    for level in [Level::L0, Level::L1, Level::L2] {
        let error = (at(&plan, level) as f64 / exact as f64 - 1.0).abs();
        assert!(error < 0.01, "{level:?} is off by {:.2} %", 100.0 * error);
    }
    let without = Plan { repair: None, ..plan.clone() };
    assert!(at(&without, Level::L3) < exact, "detours take time");
}

#[test]
fn a_plan_that_ignores_a_dead_pe_is_refused() {
    let target = defective(Spread::Random, 16, 2);
    let (mut plan, _) =
        compile(&module(&Decoder::default()), &target, &Options::default(), &|_| {}).expect("fits");
    assert_eq!(plan::verify(&plan), Ok(()));
    let used = {
        let repair = plan.repair.as_ref().expect("repaired");
        RepairMap::new(repair, plan.target.width, plan.target.height).physical(Point { x: 5, y: 0 })
    };
    let repair = plan.repair.as_mut().expect("repaired");
    let at = repair.dead.partition_point(|&(x, y)| (y, x) < (used.y, used.x));
    repair.dead.insert(at, (used.x, used.y));
    let found = plan::verify(&plan).expect_err("a PE of the grid is dead");
    assert!(found.iter().any(|v| v.code() == "PLN1103"), "{found:?}");
}

#[test]
fn one_more_dead_pe_moves_a_part_of_one_row() {
    let target = defective(Spread::Random, 8, 3);
    let (plan, _) =
        compile(&module(&Decoder::default()), &target, &Options::default(), &|_| {}).expect("fits");
    for seed in 0..12 {
        let (x, y) = map(Spread::Random, (40, 40), 1, 100 + seed)[0];
        let mut amended = plan.clone();
        let done = match amend(&mut amended, Point { x, y }) {
            Ok(done) => done,
            Err(e) => panic!("({x}, {y}): {e}"),
        };
        assert_eq!(plan::verify(&amended), Ok(()), "({x}, {y})");
        assert_eq!(amended.regions, plan.regions, "no region moves");
        assert!(done.moved.iter().all(|p| p.y.abs_diff(y) <= 1), "{done:?}");
        let repair = amended.repair.as_ref().expect("repaired");
        let map = RepairMap::new(repair, amended.target.width, amended.target.height);
        assert!(map.skipped(0, y).contains(&x));
    }
}

#[test]
fn a_column_dead_from_end_to_end_leaves_the_wider_part() {
    let mut target = perfect(40, 40);
    target.dead = (0..40).map(|y| (9, y)).collect();
    let plan = check(&Decoder::default(), &target, 3);
    let repair = plan.repair.expect("repaired");
    assert!(plan.target.width <= 30 && repair.wafers[0].first.starts_with(&[0, 1, 2, 3]));
}
