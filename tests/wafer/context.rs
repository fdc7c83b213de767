//! Caches whose tokens lie over the columns of a head's cell too: what long contexts compile to.

use crate::decoder::{Decoder, check, check_with, grid, module};
use ir::RopeScaling;
use simulator::timing::{Level, time};
use tensor::DType;

/// A decoder whose context is long enough that scores of all tokens of a row would not travel.
fn long() -> Decoder {
    Decoder { context: 3000, layers: 1, ..Decoder::default() }
}

/// As [`check`], for plans whose tokens lie over columns: how many.
fn columns(d: &Decoder, (width, height): (u32, u32), tokens: usize) -> u32 {
    let plan = check(d, &grid(width, height), tokens);
    let kv = plan.templates.iter().find_map(|t| t.kv).expect("a cache");
    assert!(kv.columns > 1, "{d:?}: tokens lie over rows only");
    assert!(plan.templates.iter().all(|t| t.kv.is_none_or(|other| other == kv)));
    kv.columns
}

#[test]
fn tokens_over_columns_go_round_the_cell_more_than_once() {
    // Some PEs get several of sixty tokens.
    for size in [(8, 5), (9, 4), (14, 4), (24, 3)] {
        let lanes = columns(&long(), size, 60) * size.1;
        assert!(lanes < 60, "{lanes} lanes");
    }
    columns(&long(), (16, 16), 20);
}

#[test]
fn cells_that_do_not_divide_heads_and_columns_without_elements() {
    let d = Decoder { heads: 3, kv_heads: 1, head_dim: 10, ..long() };
    // Five pairs over three, four and more columns than pairs.
    for width in [6, 7, 9, 14] {
        columns(&d, (width, 5), 24);
    }
    columns(&Decoder { kv_heads: 4, ..long() }, (16, 6), 12);
}

#[test]
fn norms_biases_and_scalings_before_heads_are_put_together() {
    columns(&Decoder { bias: true, qk_norm: true, head_dim: 12, ..long() }, (12, 5), 16);
    let factor = ir::Real::new(4.0);
    let scaling = RopeScaling::Dynamic { factor, original: 8 };
    columns(&Decoder { scaling, folded: true, ..long() }, (10, 4), 20);
}

#[test]
fn windows_and_narrow_caches() {
    for window in [30, 37] {
        // Many heads on few rows: a window of this size already pays. It goes round its ring.
        let d = Decoder { heads: 8, kv_heads: 1, head_dim: 4, window: Some(window), ..long() };
        columns(&d, (14, 3), 100);
    }
    for cache in [DType::F16, DType::BF16] {
        columns(&Decoder { cache, dtype: DType::BF16, ..long() }, (12, 4), 16);
    }
}

#[test]
fn layers_that_share_a_region_have_caches_of_their_own() {
    let options = backend_wafer::Options { requests: Some(1), ..Default::default() };
    let d = Decoder { layers: 4, ..long() };
    let plan = check_with(&d, &grid(24, 8), 24, &options);
    let kv: Vec<u32> = plan.templates.iter().filter_map(|t| Some(t.kv?.columns)).collect();
    assert!(kv.iter().all(|&c| c > 1), "{kv:?} columns");
}

#[test]
fn claims_and_levels_agree_at_a_full_cache() {
    for (side, context) in [(20, 4_000), (40, 9_001), (64, 60_000)] {
        let mut target = plan::Target::preset("wse3").expect("preset");
        (target.width, target.height) = (side, side);
        let d = Decoder { context, cache: DType::F16, ..Decoder::medium() };
        let options = backend_wafer::Options::default();
        let (plan, _) = backend_wafer::compile(&module(&d), &target, &options, &|_| {})
            .unwrap_or_else(|e| panic!("{side}: {e}"));
        assert!(plan.templates.iter().any(|t| t.kv.is_some_and(|kv| kv.columns > 1)), "{side}");
        for pos in [0, plan.claims.at_pos / 2, plan.claims.at_pos] {
            let at = |level| time(&plan, level, pos).expect("times").token_cycles as f64;
            let exact = at(Level::L3);
            assert_eq!(at(Level::L2), exact, "{side} at {pos}");
            let mut all = vec![("L0", at(Level::L0), 0.01), ("L1", at(Level::L1), 0.01)];
            if pos == plan.claims.at_pos {
                all.push(("claim", plan.claims.token_cycles as f64, 0.05));
            }
            for (what, cycles, bound) in all {
                let error = (cycles / exact - 1.0).abs();
                assert!(error < bound, "{side} at {pos}: {what} off by {:.2} %", 100.0 * error);
            }
        }
    }
}
