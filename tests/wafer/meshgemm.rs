//! MeshGEMM is a legal plan that multiplies; what breaks its loops and microthreads is refused.

use std::collections::BTreeMap;

use crate::products::{inline, legal};
use backend_wafer::kernels::Kernel;
use plan::{Instr, Plan};
use simulator::timing::{Level, time};
use tensor::Tensor;

fn plan(grid: u32, (m, k, n): (u32, u32, u32), name: &str) -> Plan {
    legal(Kernel::MeshGemm { grid, m, k, n }, name)
}

#[test]
fn meshgemm_multiplies_on_grids_of_any_parity_and_ragged_extents() {
    for (grid, (m, k, n)) in
        [(2, (4, 6, 5)), (3, (9, 6, 3)), (4, (7, 9, 10)), (5, (5, 10, 15)), (8, (30, 29, 17))]
    {
        let plan = plan(grid, (m, k, n), "wse3");
        let flat = plan::unroll(&plan);
        // Legal but for one thing: without microthreads, PEs that send before they receive wait for each other.
        let codes = plan::verify(&flat).map_err(|v| v.iter().map(|v| v.code()).collect::<Vec<_>>());
        assert_eq!(codes, Err(vec!["PLN1701".to_owned()]), "{grid}");
        let none: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut sim = simulator::Simulator::unchecked(&flat, &none).expect("simulator");
        let found = sim.step(0).expect("runs").logits;
        let (a, b) = (inline(&plan, "a"), inline(&plan, "b"));
        let (rows, columns) = (m.div_ceil(grid), n.div_ceil(grid));
        for (at, value) in found.into_iter().enumerate() {
            let (at, tile) = (at as u32 % (rows * columns), at as u32 / (rows * columns));
            // Blocks lie in ring order.
            let ring = |i: u32| if i.is_multiple_of(2) { i / 2 } else { grid - 1 - i / 2 };
            let i = ring(tile / grid) * rows + at % rows;
            let j = ring(tile % grid) * columns + at / rows;
            let product = |l: u32| a[(l * m + i) as usize] * b[(l * n + j) as usize];
            let inside = i < m && j < n;
            let expected: f32 = if inside { (0..k).map(product).sum() } else { 0.0 };
            assert_eq!(value, expected, "{grid}: ({i}, {j})");
        }
    }
}

#[test]
fn all_levels_give_one_number_of_cycles() {
    for (grid, name) in [(2, "wse3"), (7, "wse2"), (12, "wse3"), (9, "small")] {
        let plan = plan(grid, (3 * grid, 2 * grid, 4 * grid), name);
        let cycles = |level| time(&plan, level, 0).expect("times").token_cycles;
        let exact = cycles(Level::L3);
        for level in [Level::L0, Level::L1, Level::L2] {
            assert_eq!(cycles(level), exact, "{grid} {name} {level:?}");
        }
    }
}

#[test]
fn a_folded_grid_takes_what_all_tiles_take() {
    for (grid, (m, k, n)) in [(130, (260, 130, 260)), (97, (300, 97, 200))] {
        let plan = plan(grid, (m, k, n), "wse3");
        let at = |level| time(&plan, level, 0).expect("times");
        let (folded, exact) = (at(Level::L0), at(Level::L3));
        assert!(folded.notes.iter().any(|n| n.contains("phase by phase")), "{:?}", folded.notes);
        let (folded, exact) = (folded.token_cycles as f64, exact.token_cycles as f64);
        assert!((folded / exact - 1.0).abs() <= 0.01, "{grid}: {folded}, exactly {exact}");
    }
}

/// Changes every program of the phase called `phase`.
fn change(plan: &Plan, phase: &str, change: impl Fn(&mut Vec<Instr>)) -> Vec<String> {
    let mut broken = plan.clone();
    let phases = broken.templates[0].phases.iter_mut().filter(|p| p.name == phase);
    phases.flat_map(|p| &mut p.roles).for_each(|role| change(&mut role.program));
    let found = plan::verify::verify(&broken).expect_err("must be refused");
    found.iter().map(|v| v.to_string()).collect()
}

#[test]
fn broken_loops_and_microthreads_are_refused() {
    let plan = plan(6, (12, 12, 12), "wse3");
    let says = |found: Vec<String>, what: &str| {
        assert!(found.iter().any(|v| v.contains(what)), "no `{what}` in {found:?}");
    };
    let first = |p: &Vec<Instr>, f: fn(&Instr) -> bool| p.iter().position(f);
    let joins: fn(&Instr) -> bool = |i| matches!(i, Instr::Join { .. });
    let loops: fn(&Instr) -> bool = |i| matches!(i, Instr::Repeat { .. });
    // A microthread is left under way, joined twice, or out of range.
    let found = change(&plan, "steps", |p| {
        p.iter_mut().filter(|i| joins(i)).for_each(|i| *i = Instr::Join { threads: 0b111 });
    });
    says(found, "microthread 3");
    let found = change(&plan, "steps", |p| {
        p.iter_mut().filter(|i| joins(i)).for_each(|i| *i = Instr::Join { threads: 0b11111 });
    });
    says(found, "has not been started");
    // The product reads what is being received.
    let found = change(&plan, "steps", |p| {
        let arrives = p.iter().find_map(|i| match i {
            Instr::Recv { dst, .. } => Some(*dst),
            _ => None,
        });
        for i in p {
            if let (Instr::Gemm { a, .. }, Some(dst)) = (i, arrives) {
                a.buffer = dst.buffer;
            }
        }
    });
    says(found, "touches what microthread");
    // A loop longer than its program, in another, or with other turns than its neighbours'.
    let found = change(&plan, "steps", |p| {
        let at = first(p, loops).expect("a loop");
        if let Instr::Repeat { body, .. } = &mut p[at] {
            *body += 100;
        }
    });
    says(found, "a loop over");
    let mut broken = plan.clone();
    let steps = broken.templates[0].phases.iter_mut().find(|p| p.name == "steps");
    for i in &mut steps.expect("a phase").roles[0].program {
        if let Instr::Repeat { times, .. } = i {
            times.base += 1;
        }
    }
    let found = plan::verify::verify(&broken).expect_err("must be refused");
    says(found.iter().map(|v| v.to_string()).collect(), "sent,");
    // In the program itself instead of a microthread, every PE of the ring waits for the next.
    let found = change(&plan, "align", |p| {
        p.retain(|i| !matches!(i, Instr::Start { .. } | Instr::Join { .. }));
        let body = p.iter().filter(|i| i.communication().is_some()).count().min(4) as u32;
        if let Some(Instr::Repeat { body: b, .. }) = p.first_mut() {
            *b = body;
        }
    });
    says(found, "cyclic wait");
}
