//! The engine that moves runs gives what the engine that moves every wavelet gives, or says that it
//! cannot: then links are contended for.

use crate::decoder::{Decoder, module};
use backend_wafer::kernels::{Algorithm, Kernel, Op, build};
use backend_wafer::{Options, compile};
use plan::{Plan, Target};
use simulator::fabric::Fabric;

use simulator::timing::domain::Domain;
use simulator::timing::engine::{self, Job, Work};
use simulator::timing::wavelets;

/// Runs all tiles both ways; whether links were contended for.
fn same_both_ways(plan: &Plan, what: &str) -> bool {
    let fabric = Fabric::new(plan).expect("fabric");
    let domain = Domain::of_plan(&fabric, plan.claims.at_pos);
    let tiles: Vec<u32> = (0..domain.len() as u32).collect();
    let starts = vec![0; tiles.len()];
    let phases = 0..usize::MAX;
    let job = Job { domain: &domain, tiles: &tiles, phases, starts: &starts, entering: &[] };
    let mut every = wavelets::run(&job);
    assert!(every.waiting.is_empty(), "{what}: deadlock");
    let Some(runs) = engine::run_free(&job) else {
        assert!(engine::run(&job) == every, "{what}");
        return true;
    };
    assert!(every.work.contended && !runs.work.contended, "{what}");
    every.work = Work { contended: false, ..every.work };
    assert!(runs == every, "{what}");
    false
}

#[test]
fn kernels_take_the_same_cycles_run_by_run_and_wavelet_by_wavelet() {
    let mut contended = Vec::new();
    let row = |op, algorithm, pes| Kernel::Collective { op, algorithm, pes, length: 37 };
    for region in [(1, 1), (2, 3), (13, 8), (24, 24)] {
        for kernel in [
            row(Op::Broadcast, Algorithm::Chain, region.0),
            row(Op::Reduce, Algorithm::Chain, region.0),
            row(Op::Reduce, Algorithm::TwoPhase, region.0),
            row(Op::Reduce, Algorithm::KTree, region.0),
            row(Op::Allreduce, Algorithm::KTree, region.0),
            Kernel::Gemv { region, k: 64, n: 37 },
        ] {
            for name in ["wse2", "wse3", "small"] {
                let mut target = Target::preset(name).expect("preset");
                (target.width, target.height) = (64, 64);
                let plan = build(kernel, &target).expect("fits");
                if same_both_ways(&plan, &format!("{kernel:?} {name}")) {
                    contended.push(kernel);
                }
            }
        }
    }
    // Groups of unequal length get in each other's way; nothing else does.
    let uneven =
        |k: &Kernel| matches!(k, Kernel::Collective { algorithm: Algorithm::TwoPhase, .. });
    assert!(contended.iter().all(uneven), "{contended:?}");
    assert!(!contended.is_empty(), "no case is left that needs every wavelet");
}

#[test]
fn decoders_take_the_same_cycles_run_by_run_and_wavelet_by_wavelet() {
    let mut contended = Vec::new();
    for (side, name) in [(16, "wse3"), (40, "wse2"), (40, "small")] {
        let preset = Target::preset(name).expect("preset");
        // Links are free by the order of messages, not by a coincidence of one start's cycles.
        for message_cycles in [preset.core.message_cycles, 5, 11, 20] {
            let mut target = preset.clone();
            (target.width, target.height) = (side, side);
            target.core.message_cycles = message_cycles;
            let module = module(&Decoder::medium());
            let (plan, _) = compile(&module, &target, &Options::default(), &|_| {}).expect("fits");
            if same_both_ways(&plan, &format!("{name} {side} {message_cycles}")) {
                contended.push((name, message_cycles));
            }
        }
    }
    assert!(contended.is_empty(), "links are contended for on {contended:?}");
}
