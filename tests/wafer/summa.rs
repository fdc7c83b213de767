//! SUMMA is a legal plan that multiplies; what its moving roots rely on is refused when it does not hold.

use std::collections::BTreeMap;

use crate::products::{inline, legal};
use backend_wafer::kernels::{Kernel, build};
use plan::{Instr, Plan, Target, Template};
use simulator::timing::{Level, time};
use tensor::Tensor;

fn plan(grid: u32, (m, k, n): (u32, u32, u32), name: &str) -> Plan {
    legal(Kernel::Summa { grid, m, k, n }, name)
}

#[test]
fn summa_multiplies_on_grids_of_any_parity_and_ragged_extents() {
    for (grid, (m, k, n)) in
        [(1, (3, 4, 2)), (2, (4, 6, 5)), (3, (9, 6, 3)), (4, (7, 9, 10)), (5, (5, 10, 15))]
    {
        let plan = plan(grid, (m, k, n), "wse3");
        let flat = plan::unroll(&plan);
        let none: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut sim = simulator::Simulator::unchecked(&flat, &none).expect("simulator");
        let found = sim.step(0).expect("runs").logits;
        let (a, b) = (inline(&plan, "a"), inline(&plan, "b"));
        let (rows, columns) = (m.div_ceil(grid), n.div_ceil(grid));
        assert_eq!(found.len() as u32, grid * grid * rows * columns);
        for (at, value) in found.into_iter().enumerate() {
            let (at, tile) = (at as u32 % (rows * columns), at as u32 / (rows * columns));
            let i = tile / grid * rows + at % rows;
            let j = tile % grid * columns + at / rows;
            let product = |l: u32| a[(l * m + i) as usize] * b[(l * n + j) as usize];
            let inside = i < m && j < n;
            let expected: f32 = if inside { (0..k).map(product).sum() } else { 0.0 };
            assert_eq!(value, expected, "{grid}: ({i}, {j})");
        }
    }
}

#[test]
fn all_levels_give_one_number_of_cycles() {
    for (grid, name) in [(1, "wse3"), (2, "wse3"), (7, "wse2"), (12, "wse3"), (25, "wse3")] {
        let plan = plan(grid, (3 * grid, 2 * grid, 4 * grid), name);
        let cycles = |level| time(&plan, level, 0).expect("times").token_cycles;
        let exact = cycles(Level::L3);
        for level in [Level::L0, Level::L1, Level::L2] {
            assert_eq!(cycles(level), exact, "{grid} {name} {level:?}");
        }
    }
}

#[test]
fn a_large_grid_in_step_takes_exactly_what_all_tiles_take() {
    for (grid, (m, k, n), name) in [
        (24, (24, 24, 24), "wse3"),
        (40, (120, 200, 80), "wse3"),
        (57, (228, 171, 57), "wse2"),
        (90, (90, 90, 90), "wse3"),
    ] {
        let plan = plan(grid, (m, k, n), name);
        let at = |level| time(&plan, level, 0).expect("times");
        let (in_step, exact) = (at(Level::L0), at(Level::L3));
        assert!(in_step.notes.iter().any(|n| n.contains("phase by phase")), "{:?}", in_step.notes);
        assert_eq!(in_step.token_cycles, exact.token_cycles, "{grid}");
    }
}

/// Cycles of a product of square tiles, at level 0.
fn cycles(kernel: Kernel) -> f64 {
    let target = Target::preset("wse3").expect("preset");
    let plan = build(kernel, &target).expect("fits");
    simulator::timing::time_unchecked(&plan, Level::L0, 0).expect("times").token_cycles as f64
}

#[test]
fn meshgemm_wins_with_small_tiles_and_summa_with_large_ones() {
    let grid = 96;
    let ratio = |tile: u32| {
        let n = grid * tile;
        let summa = cycles(Kernel::Summa { grid, m: n, k: n, n });
        summa / cycles(Kernel::MeshGemm { grid, m: n, k: n, n })
    };
    // Published: the two cross near tiles of 8 to 12, nothing nearer. What a root that moves costs whatever the tile is
    // then worth MeshGEMM's alignment and sends.
    let first = (3..=16).find(|&tile| ratio(tile) < 1.0);
    assert!(first.is_some_and(|tile| (8..=12).contains(&tile)), "{first:?}");
    assert!(ratio(3) > 1.05 && ratio(24) < 1.0, "{} {}", ratio(3), ratio(24));
}

/// Violations of a plan whose template is changed.
fn broken(plan: &Plan, change: impl Fn(&mut Template)) -> Vec<String> {
    let mut broken = plan.clone();
    change(&mut broken.templates[0]);
    let found = plan::verify::verify(&broken).expect_err("must be refused");
    found.iter().map(|v| v.to_string()).collect()
}

/// Applies a change to the `i`-th broadcast.
fn cast(t: &mut Template, i: usize, change: impl Fn(&mut Instr)) {
    let instrs = t.phases.iter_mut().flat_map(|p| &mut p.roles).flat_map(|r| &mut r.program);
    let mut casts = instrs.filter(|i| i.broadcast().is_some());
    change(casts.nth(i).expect("a broadcast"));
}

#[test]
fn roots_out_of_turn_and_routers_that_do_not_merge_are_refused() {
    let plan = plan(6, (12, 12, 12), "wse3");
    let says = |found: Vec<String>, what: &str| {
        assert!(found.iter().any(|v| v.contains(what)), "no `{what}` in {found:?}");
    };
    let root = |t: &mut Template, i: usize, to: u32| {
        cast(t, i, |instr| {
            if let Instr::Broadcast { root, .. } = instr {
                *root = to;
            }
        });
    };
    // A root that does not follow the one before, and a sweep without its end.
    says(broken(&plan, |t| root(t, 0, 1)), "PLN1504: template `summa`: broadcast: a root at X = 1");
    says(broken(&plan, |t| root(t, 2, 3)), "a root at X = 3, the next is 1");
    let short = |t: &mut Template| {
        for i in t.phases.iter_mut().flat_map(|p| &mut p.roles).flat_map(|r| &mut r.program) {
            if let Instr::Repeat { times, .. } = i {
                times.base -= 1;
            }
        }
    };
    says(broken(&plan, short), "a root at X = 5, the next is 3");
    // A router that does not take what comes along the line, or its core's own; two rules for one input.
    says(broken(&plan, |t| drop(t.routes.remove(0))), "a broadcast needs");
    says(broken(&plan, |t| drop(t.routes.remove(2))), "a broadcast needs");
    says(broken(&plan, |t| t.routes.push(t.routes[0].clone())), "PLN1502");
    // Another message on its colors.
    let message = |t: &mut Template| {
        cast(t, 0, |instr| {
            if let Instr::Broadcast { up, src, wire, .. } = *instr {
                *instr = Instr::Send { color: up, src, wire };
            }
        });
    };
    says(broken(&plan, message), "is used by another message too");
    // Up and down on one color.
    let same = |t: &mut Template| {
        cast(t, 0, |instr| {
            if let Instr::Broadcast { up, down, .. } = instr {
                *down = *up;
            }
        });
    };
    says(broken(&plan, same), "is of two pairs");
    // Half of the grid does something else.
    let apart = |t: &mut Template| {
        let phase = t.phases.last_mut().expect("a phase");
        let mut other = phase.roles[0].clone();
        phase.roles[0].predicate.x.push(plan::Clause::range(0, 3));
        other.predicate.x.push(plan::Clause::range(3, 6));
        other.program.truncate(0);
        phase.roles.push(other);
    };
    says(broken(&plan, apart), "differ in broadcasts");
}

#[test]
fn rules_with_several_inputs_are_for_broadcasts_alone() {
    let target = Target::preset("wse3").expect("preset");
    let plan = build(Kernel::MeshGemm { grid: 6, m: 12, k: 12, n: 12 }, &target).expect("fits");
    let found = broken(&plan, |t| {
        let mut more = t.routes.clone();
        for r in &mut more {
            let free =
                plan::Port::ALL.into_iter().find(|p| *p != r.input && !r.outputs.contains(*p));
            r.input = free.expect("a port");
        }
        t.routes.extend(more);
    });
    assert!(found.iter().any(|v| v.contains("PLN1502")), "{found:?}");
}
