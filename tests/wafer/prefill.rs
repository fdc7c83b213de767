//! The prefill layer is a legal plan that computes the layer it describes, in a time all levels agree on.

use std::collections::BTreeMap;

use backend_wafer::kernels::{Kernel, build};
use plan::{Instr, Plan, Storage, Target, WeightData, WireFormat};
use simulator::timing::{Level, time, time_unchecked};
use tensor::Tensor;

fn plan(grid: u32, (d, s, f): (u32, u32, u32), name: &str) -> Plan {
    let target = Target::preset(name).expect("preset");
    let plan = build(Kernel::PrefillLayer { grid, d, s, f }, &target).expect("fits");
    if let Err(found) = plan::verify::verify(&plan) {
        panic!("{grid} {d} {s} {f}: {} violations, first: {}", found.len(), found[0]);
    }
    plan
}

/// The same program in f32: what it computes without the roundings of halves, of which the 256th power of
/// 1 + x/256 makes tenths.
fn precise(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    let template = &mut plan.templates[0];
    template.buffers.iter_mut().for_each(|b| b.storage = Storage::F32);
    let roles = template.phases.iter_mut().flat_map(|p| &mut p.roles);
    for instr in roles.flat_map(|r| &mut r.program) {
        match instr {
            Instr::Send { wire, .. } | Instr::Recv { wire, .. } | Instr::Relay { wire, .. } => {
                *wire = WireFormat::F32;
            }
            _ => {}
        }
    }
    plan
}

/// A matrix by rows.
#[derive(Clone)]
struct Matrix {
    cols: usize,
    data: Vec<f64>,
}

impl Matrix {
    /// A table of the plan, as it is pinned: divided by 8.
    fn table(plan: &Plan, name: &str) -> Self {
        let decl = plan.weight(name).expect("declared").1;
        match &decl.data {
            WeightData::Inline(values) => Matrix {
                cols: decl.shape[1] as usize,
                data: values.iter().map(|&v| f64::from(v) / 8.0).collect(),
            },
            WeightData::Model => panic!("{name} comes from a model"),
        }
    }

    fn from(rows: usize, cols: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let data = (0..rows * cols).map(|i| value(i / cols, i % cols)).collect();
        Matrix { cols, data }
    }

    fn rows(&self) -> usize {
        self.data.len() / self.cols
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.data[i * self.cols + j]
    }

    fn transposed(&self) -> Self {
        Matrix::from(self.cols, self.rows(), |i, j| self.at(j, i))
    }

    fn times(&self, b: &Matrix) -> Self {
        let dot = |i, j| (0..self.cols).map(|l| self.at(i, l) * b.at(l, j)).sum();
        Matrix::from(self.rows(), b.cols, dot)
    }

    fn with(&self, b: &Matrix, op: impl Fn(f64, f64) -> f64) -> Self {
        Matrix::from(self.rows(), self.cols, |i, j| op(self.at(i, j), b.at(i, j)))
    }

    /// Every row changed as a whole.
    fn by_rows(&self, change: impl Fn(&[f64]) -> Vec<f64>) -> Self {
        Matrix { cols: self.cols, data: self.data.chunks(self.cols).flat_map(change).collect() }
    }
}

fn exp(x: f64) -> f64 {
    (1.0 + x / 256.0).powi(256)
}

fn norm(x: &Matrix) -> Matrix {
    x.by_rows(|row| {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        row.iter().map(|v| v / (mean + 1e-5).sqrt()).collect()
    })
}

/// Tokens by hidden elements.
fn reference(plan: &Plan, d: usize) -> Matrix {
    let table = |name: &str| Matrix::table(plan, name);
    let x = table("x").transposed();
    let rope = table("rope").transposed();
    let rotate = |m: &Matrix| {
        let half = d / 2;
        Matrix::from(m.rows(), m.cols, |t, j| {
            let (tile, i) = (j / d * d, j % d);
            let (cos, sin) = (tile + i % half, tile + half + i % half);
            let (cos, sin) = (rope.at(t, cos), rope.at(t, sin));
            match i / half {
                0 => m.at(t, j) * cos - m.at(t, j + half) * sin,
                1 => m.at(t, j) * cos + m.at(t, j - half) * sin,
                _ => m.at(t, j),
            }
        })
    };
    let normed = norm(&x);
    let [q, k, v] = ["wq", "wk", "wv"].map(|name| normed.times(&table(name)));
    let scores = rotate(&q).times(&rotate(&k).transposed());
    let scores = scores.by_rows(|row| {
        let max = row.iter().fold(f64::MIN, |a, &b| a.max(b / 8.0));
        let e: Vec<f64> = row.iter().map(|v| exp(v / 8.0 - max)).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|v| v / sum).collect()
    });
    let x1 = x.with(&scores.times(&v).times(&table("wo")), |a, b| a + b);
    let normed = norm(&x1);
    let [gate, up] = ["wgate", "wup"].map(|name| normed.times(&table(name)));
    let e = gate.with(&up, |g, u| g / (1.0 + exp(-g)) * u);
    x1.with(&e.times(&table("wdown")), |a, b| a + b)
}

#[test]
fn the_layer_computes_what_it_describes() {
    for (grid, (d, s, f)) in
        [(2, (2, 1, 3)), (3, (3, 2, 4)), (4, (2, 3, 5)), (5, (4, 2, 2)), (8, (3, 3, 4))]
    {
        let plan = plan(grid, (d, s, f), "wse3");
        let precise = precise(&plan);
        let flat = plan::unroll(&precise);
        let none: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut sim = simulator::Simulator::unchecked(&flat, &none).expect("simulator");
        let found = sim.step(0).expect("runs").logits;
        let expected = reference(&plan, d as usize);
        let largest = expected.data.iter().fold(0.0f64, |a, v| a.max(v.abs()));
        let ring = |i: u32| if i.is_multiple_of(2) { i / 2 } else { grid - 1 - i / 2 };
        for (at, value) in found.into_iter().enumerate() {
            let (pe, at) = (at as u32 / (s * d), at as u32 % (s * d));
            let token = ring(pe / grid) * s + at % s;
            let hidden = ring(pe % grid) * d + at / s;
            let wanted = expected.at(token as usize, hidden as usize);
            let error = (f64::from(value) - wanted).abs();
            assert!(error <= 1e-4 * largest, "{grid}: ({token}, {hidden}) {value} {wanted}");
        }
    }
}

#[test]
fn all_levels_give_one_number_of_cycles() {
    for (grid, name) in [(2, "wse3"), (7, "wse3"), (12, "wse2"), (9, "small")] {
        let plan = plan(grid, (3, 2, 4), name);
        let cycles = |level| time(&plan, level, 0).expect("times").token_cycles;
        let exact = cycles(Level::L3);
        assert_eq!(cycles(Level::L2), exact, "{grid} {name}");
        for level in [Level::L0, Level::L1] {
            let error = cycles(level).abs_diff(exact) as f64 / exact as f64;
            assert!(error <= 0.01, "{grid} {name} {level:?} is off by {:.2} %", 100.0 * error);
        }
    }
}

#[test]
fn phases_one_by_one_take_what_the_layer_takes() {
    for (grid, sizes, name) in [(24, (3, 2, 4), "wse3"), (31, (2, 3, 2), "wse2")] {
        let plan = plan(grid, sizes, name);
        let at = |level| time_unchecked(&plan, level, 0).expect("times");
        let (phases, exact) = (at(Level::L0), at(Level::L3));
        assert!(phases.notes.iter().any(|n| n.contains("phase by phase")), "{:?}", phases.notes);
        let (phases, exact) = (phases.token_cycles, exact.token_cycles);
        // Entering a phase together never takes less.
        assert!(phases >= exact && phases - exact <= exact / 100, "{grid}: {phases}, {exact}");
    }
}
