//! Plans over several wafers: the same results, legal, and every level of time sees the shared link.

use backend_wafer::{Options, Wafers, compile};
use simulator::timing::{Level, time};

use crate::decoder::{Decoder, check_with, grid, module};

fn deep() -> Decoder {
    Decoder { layers: 24, ..Decoder::default() }
}

/// A grid whose PEs have so little memory that one wafer does not hold `deep`.
fn small(width: u32, height: u32) -> plan::Target {
    let mut target = grid(width, height);
    target.sram.reserved_bytes = target.sram.bytes - 3072;
    target
}

fn wafers(wafers: Wafers) -> Options {
    Options { wafers, ..Options::default() }
}

/// Wafers that hold each region.
fn wafer_of(plan: &plan::Plan) -> Vec<u32> {
    plan.regions.iter().map(|r| r.rect.x / plan.target.width).collect()
}

#[test]
fn a_pipeline_over_several_wafers_computes_the_same() {
    // Strips of one wafer are too few for all layers; wires bridge what is free at its edge.
    for (width, height) in [(13, 12), (9, 24), (17, 12), (11, 36)] {
        let plan = check_with(&deep(), &small(width, height), 5, &wafers(Wafers::Fewest));
        let on = wafer_of(&plan);
        assert!(plan.target.wafers > 1, "{width} x {height}");
        assert!(on.windows(2).all(|w| w[1] == w[0] || w[1] == w[0] + 1), "contiguous: {on:?}");
        assert_eq!(on.last(), Some(&(plan.target.wafers - 1)));
    }
}

#[test]
fn levels_agree_on_the_link_between_wafers() {
    for (width, height) in [(13, 12), (9, 24)] {
        let target = small(width, height);
        let (plan, _) =
            compile(&module(&deep()), &target, &wafers(Wafers::Fewest), &|_| {}).expect("fits");
        assert!(plan.target.wafers > 1);
        let at = |level| time(&plan, level, 3).expect("times").token_cycles;
        let exact = at(Level::L3);
        assert_eq!(at(Level::L2), exact);
        let error = (at(Level::L1) as f64 / exact as f64 - 1.0).abs();
        assert!(error < 0.01, "L1 is off by {:.2} %", 100.0 * error);
        // A slower link shows.
        let mut slow = plan.clone();
        slow.target.fabric.wafer_hop_cycles += 1000;
        slow.target.fabric.wafer_link_wavelets = 1;
        let link = u64::from(plan.target.wafers - 1) * 1000;
        assert!(time(&slow, Level::L1, 3).expect("times").token_cycles > at(Level::L1) + link);
    }
}

#[test]
fn as_few_wafers_as_hold_the_model_and_no_more_than_asked_for() {
    let target = small(13, 12);
    let plan = |w| compile(&module(&deep()), &target, &wafers(w), &|_| {}).map(|(plan, _)| plan);
    let fewest = plan(Wafers::Fewest).expect("fits").target.wafers;
    assert!(plan(Wafers::UpTo(fewest - 1)).expect_err("too few").does_not_fit());
    let more = plan(Wafers::UpTo(fewest + 2)).expect("fits");
    assert!(more.target.wafers >= fewest && more.target.wafers <= fewest + 2);
    let tight = plan(Wafers::UpTo(fewest)).expect("fits").claims.token_cycles;
    assert!(more.claims.token_cycles <= tight + tight / 50, "more room costs no speed");
}
