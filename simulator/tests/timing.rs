//! Cycles equal the closed forms, and the four levels agree.

use plan::samples::{Collective, LanguageModel, language_model, line};
use plan::{Axis, Plan, Target};
use sparkc_simulator::timing::{Level, TimingReport, time, time_unchecked};

fn target(name: &str) -> Target {
    Target::preset(name).expect("preset")
}

fn cycles(plan: &Plan, level: Level) -> TimingReport {
    time(plan, level, 0).unwrap_or_else(|e| panic!("{level:?}: {e}"))
}

/// Cycles of the collective alone: the load phase is one copy on every PE.
fn collective_cycles(plan: &Plan, level: Level) -> u64 {
    let report = cycles(plan, level);
    let load = report.regions[0].phase_ends[0];
    report.regions[0].end - load
}

/// `C + h L + (2 T_R + 1) D` for the parameters of Luczynski et al.: broadcast `B + P + 2 T_R` and chain
/// `B + (2 T_R + 2)(P - 1)` as printed there. Their general form, `max(C, E/N + L) + (2 T_R + 1) D`,
/// overlaps contention and distance; where E/N = C (broadcast, chain) that is the sum. Trees and two-phase
/// reductions whose rounds follow one another pay both, so the sum is exact for them too.
fn form(t: &Target, c: u64, l: u64, d: u64) -> u64 {
    c + u64::from(t.fabric.hop_cycles) * l + (2 * u64::from(t.fabric.ramp_cycles) + 1) * d
}

#[test]
fn collectives_take_exactly_the_cycles_of_their_closed_forms() {
    let mut hops_and_ramps = Vec::new();
    for (h, ramp) in [(1, 2), (2, 5), (1, 7), (3, 1)] {
        let mut t = target("small");
        (t.fabric.hop_cycles, t.fabric.ramp_cycles) = (h, ramp);
        hops_and_ramps.push(t);
    }
    for t in hops_and_ramps {
        let tr = u64::from(t.fabric.ramp_cycles);
        for axis in [Axis::X, Axis::Y] {
            for b in [1u32, 2, 7, 64] {
                let at = |collective, p| {
                    let plan = line(collective, axis, p, b, t.clone());
                    let found = collective_cycles(&plan, Level::L3);
                    assert_eq!(collective_cycles(&plan, Level::L2), found, "{collective:?}");
                    found
                };
                let c = u64::from(b);
                for p in [2u32, 3, 16, 33, 100] {
                    let l = u64::from(p) - 1;
                    assert_eq!(at(Collective::Broadcast, p), form(&t, c, l, 1));
                    assert_eq!(at(Collective::Chain, p), form(&t, c, l, l));
                    if t.fabric.hop_cycles == 1 {
                        assert_eq!(at(Collective::Broadcast, p), c + u64::from(p) + 2 * tr);
                        assert_eq!(at(Collective::Chain, p), c + (2 * tr + 2) * l);
                    }
                }
                for log in [1u32, 2, 4, 6] {
                    let (p, rounds) = (1u32 << log, u64::from(log));
                    assert_eq!(
                        at(Collective::Tree, p),
                        form(&t, c * rounds, u64::from(p) - 1, rounds)
                    );
                }
                for s in [2u32, 3, 4, 8] {
                    let depth = 2 * u64::from(s) - 2;
                    let found = at(Collective::TwoPhase(s), s * s);
                    assert_eq!(found, form(&t, 2 * c, u64::from(s * s) - 1, depth));
                }
            }
        }
    }
}

#[test]
fn all_levels_agree_on_bare_collectives() {
    for name in ["small", "wse2", "wse3"] {
        for (collective, p) in [
            (Collective::Broadcast, 33),
            (Collective::Chain, 64),
            (Collective::TwoPhase(6), 36),
            (Collective::TwoPhase(8), 64),
        ] {
            for b in [1, 40] {
                let plan = line(collective, Axis::X, p, b, target(name));
                let exact = cycles(&plan, Level::L3).token_cycles;
                for level in [Level::L0, Level::L1, Level::L2] {
                    let found = cycles(&plan, level).token_cycles;
                    assert_eq!(found, exact, "{name} {level:?} {collective:?} {p} {b}");
                }
            }
        }
    }
}

#[test]
fn the_published_form_bounds_trees_and_two_phase_from_below() {
    let t = target("small");
    let depth_cycles = 2.0 * f64::from(t.fabric.ramp_cycles) + 1.0;
    let published =
        |c: f64, e: f64, p: f64, d: f64| c.max(e / (p - 1.0) + p - 1.0) + depth_cycles * d;
    for b in [1u32, 16, 256] {
        for log in [1u32, 2, 3, 5] {
            let (p, d) = (f64::from(1u32 << log), f64::from(log));
            let plan = line(Collective::Tree, Axis::X, 1 << log, b, t.clone());
            let found = collective_cycles(&plan, Level::L3) as f64;
            let bound = published(f64::from(b) * d, f64::from(b) * p / 2.0 * d, p, d);
            assert!(found >= bound && (log > 1 || found == bound), "tree {p} {b}: {found} {bound}");
        }
        for s in [2u32, 4, 8] {
            let (p, d) = (f64::from(s * s), f64::from(2 * s - 2));
            let plan = line(Collective::TwoPhase(s), Axis::X, s * s, b, t.clone());
            let found = collective_cycles(&plan, Level::L3) as f64;
            let energy = 2.0 * f64::from(b) * (p - f64::from(s));
            let bound = published(2.0 * f64::from(b), energy, p, d);
            let slack = 2.0 * f64::from(b) / f64::from(s + 1) + p - 1.0;
            assert!(found >= bound && found <= bound + slack, "two-phase {p} {b}: {found} {bound}");
        }
    }
}

fn models() -> Vec<(LanguageModel, u32)> {
    let base = LanguageModel::RAGGED;
    let wide = LanguageModel {
        width: 16,
        height: 16,
        hidden: 96,
        vocab: 400,
        head_dim: 8,
        context: 512,
        window: None,
        gap: 3,
        mirrored: false,
    };
    vec![
        (base, 0),
        (base, 20),
        (LanguageModel { mirrored: true, gap: 0, ..base }, 7),
        (LanguageModel { window: Some(5), ..base }, 17),
        (wide, 0),
        (wide, 501),
        (LanguageModel { width: 40, height: 64, hidden: 512, vocab: 1600, ..wide }, 300),
        (
            LanguageModel {
                width: 64,
                height: 64,
                hidden: 1024,
                vocab: 4096,
                head_dim: 16,
                ..wide
            },
            511,
        ),
        (
            LanguageModel { width: 64, height: 20, hidden: 333, vocab: 1000, head_dim: 5, ..wide },
            100,
        ),
    ]
}

#[test]
fn all_levels_agree_on_language_models() {
    for name in ["small", "wse2", "wse3"] {
        for (m, pos) in models() {
            let mut t = target(name);
            // Room for test sizes whatever SRAM says: timing does not depend on it.
            t.sram.bytes = 1 << 24;
            (t.width, t.height) = (t.width.max(160), t.height.max(64));
            let plan = language_model(m, t);
            let at = |level| time(&plan, level, pos).unwrap_or_else(|e| panic!("{level:?}: {e}"));
            let exact = at(Level::L3);
            for level in [Level::L0, Level::L1, Level::L2] {
                let found = at(level);
                assert_eq!(found.token_cycles, exact.token_cycles, "{name} {level:?} {m:?}");
                assert_eq!(found.regions, exact.regions, "{name} {level:?} {m:?}");
            }
        }
    }
}

#[test]
fn equal_lines_are_run_once() {
    let m =
        LanguageModel { width: 30, height: 30, hidden: 120, vocab: 300, ..LanguageModel::RAGGED };
    let report = time(&language_model(m, target("wse3")), Level::L2, 0).expect("legal");
    let head = report.notes.iter().find(|n| n.starts_with("head")).expect("a note per run");
    let run: usize = head.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a count");
    assert!(run < 30, "{head}");
}

#[test]
fn traces_have_a_slice_per_phase() {
    let plan = language_model(LanguageModel::RAGGED, target("wse3"));
    let report = time(&plan, Level::L2, 3).expect("legal");
    let names = |i: usize| {
        let t = plan.template_of(&plan.regions[i]).expect("template");
        t.phases.iter().map(|p| p.name.clone()).collect()
    };
    let trace = sparkc_simulator::timing::trace::chrome_trace(&report, &names);
    let events = trace["traceEvents"].as_array().expect("events");
    assert!(events.iter().any(|e| e["name"] == "values.reduce" && e["dur"].as_u64() > Some(0)));
    let sum: u64 = report.templates[1].phases.iter().map(|p| p.cycles).sum();
    assert_eq!(sum, report.templates[1].cycles);
}

#[test]
fn a_deadlock_names_tiles_phases_and_colors_at_every_level() {
    let mut plan = line(Collective::Chain, Axis::X, 5, 2, target("tiny"));
    let leaf = plan.templates[0].phases[1].roles.iter_mut().find(|r| r.name == "leaf");
    leaf.expect("a leaf").program.clear();
    for level in [Level::L0, Level::L1, Level::L2, Level::L3] {
        let error = time_unchecked(&plan, level, 0).expect_err("nobody sends first");
        let sparkc_simulator::SimError::Deadlock { waiting, tiles } = &error else {
            panic!("{error}");
        };
        assert_eq!(*waiting, 4, "{level:?}");
        let relay = tiles.iter().find(|t| t.at.x == 3).expect("the leaf's neighbour waits");
        assert_eq!((relay.color, relay.needed, relay.phase.as_str()), (1, 2, "chain"));
    }
}

#[test]
fn runs_repeat_exactly_and_grow_with_the_position() {
    let plan = language_model(LanguageModel::RAGGED, target("wse3"));
    let first = time(&plan, Level::L2, 4).expect("legal");
    assert_eq!(time(&plan, Level::L2, 4).expect("legal"), first);
    let b = first.breakdown;
    let parts = b.compute + b.payload + b.distance + b.relay + b.fixed + b.contention;
    assert_eq!(parts - b.overlap, first.token_cycles);
    assert!(time(&plan, Level::L2, 23).expect("legal").token_cycles > first.token_cycles);
}
