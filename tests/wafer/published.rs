//! What is published about the hardware beside the calibration points, and how far the presets are from it.
//!
//! `published.json` lists the figures: fits over measurements that are not here, and ranges. Each says by how
//! much the simulated value lies outside; that may shrink, not grow, and stays below a tolerance. The figures are what
//! else than the fifteen points the presets can be held against: they say whether a mechanism has the right form,
//! not whether a cycle count is right to a percent. Closed forms of collectives are in `kernels`.

use serde_json::{Map, Value, json};

use crate::calibration::{kernel, timed};

const BOTH: [&str; 2] = ["wse2", "wse3"];

/// The figures of some kernels on some targets: a test for each few, so that they run side by side.
fn check(kernels: &[&str], targets: &[&str]) {
    let file: Value = serde_json::from_str(include_str!("published.json")).expect("JSON");
    let figures = file["figures"].as_array().expect("figures");
    let named = |f: &Value, field: &str, names: &[&str]| {
        names.contains(&f[field].as_str().unwrap_or("products"))
    };
    let of = |f: &&Value| named(f, "kernel", kernels) && named(f, "target", targets);
    let mut wrong = Vec::new();
    for figure in figures.iter().filter(of) {
        let (found, outside) = simulated(figure);
        let most = number(figure, "residual").min(number(figure, "tolerance"));
        if outside > most {
            wrong.push(format!("{found:.3}, {outside:.2} % outside where {most} was: {figure}"));
        }
    }
    assert!(figures.iter().any(|f| of(&f)), "no figure of {kernels:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn number(figure: &Value, name: &str) -> f64 {
    figure[name].as_f64().unwrap_or_else(|| panic!("{figure} has no {name}"))
}

/// The simulated value of a figure, and by how many percent it lies outside of the published range.
fn simulated(figure: &Value) -> (f64, f64) {
    let found = match figure["quantity"].as_str() {
        Some("step") => step(figure),
        Some("slope") => slope(figure),
        Some("rest") => rest(figure),
        Some("crossover") => crossover(figure),
        Some("optimum") => optimum(figure),
        _ => panic!("{figure} is of no known quantity"),
    };
    let [low, high] = [0, 1].map(|i| figure["published"][i].as_f64().expect("a number"));
    let outside = (low / found - 1.0).max(found / high - 1.0).max(0.0);
    // Below the range the difference is taken of the range, as above it.
    let outside = if found < low { 1.0 - found / low } else { outside };
    (found, 100.0 * outside)
}

/// Cycles of the kernel that a figure and some sizes name.
fn cycles(figure: &Value, sizes: &Value) -> f64 {
    report(figure, sizes).token_cycles as f64
}

fn report(figure: &Value, sizes: &Value) -> simulator::timing::TimingReport {
    let mut point = sizes.as_object().cloned().unwrap_or_else(Map::new);
    point.entry("kernel").or_insert_with(|| figure["kernel"].clone());
    timed(figure["target"].as_str().expect("a target"), kernel(&point.into()))
}

/// Cycles of a product of square tiles.
fn product(figure: &Value, name: &Value, tile: u64) -> f64 {
    let grid = figure["grid"].as_u64().expect("a grid");
    let n = grid * tile;
    cycles(figure, &json!({"kernel": name, "grid": grid, "m": n, "k": n, "n": n}))
}

fn step(figure: &Value) -> f64 {
    let target = plan::Target::preset(figure["target"].as_str().expect("a target"));
    let core = target.expect("preset").core;
    let tile = figure["tile"].as_u64().expect("a tile");
    let groups = tile.div_ceil(u64::from(core.mac_f16.lanes)) as f64;
    let call = core.gemm_floor.max(core.mac_f16.setup + core.mac_f16.per_group * groups);
    let per_step = product(figure, &figure["kernel"], tile) / number(figure, "grid");
    per_step - (tile * tile) as f64 * call
}

fn slope(figure: &Value) -> f64 {
    let [from, to] = ["from", "to"].map(|end| &figure[end]);
    let pes = number(to, "grid") - number(from, "grid");
    (cycles(figure, to) - cycles(figure, from)) / pes / number(figure, "per")
}

fn rest(figure: &Value) -> f64 {
    let sizes = &figure["from"];
    let report = report(figure, sizes);
    let others = (report.token_cycles - report.breakdown.compute) as f64;
    others / number(figure, "per") - number(figure, "slope") * number(sizes, "grid")
}

fn crossover(figure: &Value) -> f64 {
    let [summa, meshgemm] = ["summa", "meshgemm"].map(Value::from);
    let wins = |&t: &u64| product(figure, &summa, t) < product(figure, &meshgemm, t);
    (1..=24).find(wins).expect("summa wins with large tiles") as f64
}

fn optimum(figure: &Value) -> f64 {
    let size = |name: &str| figure[name].as_u64().expect("a size");
    let cost = |grid: &u64| {
        let [d, s, f] = ["hidden", "tokens", "ffn"].map(|name| size(name).div_ceil(*grid));
        let sizes = json!({"grid": grid, "d": d, "s": s, "f": f, "groups": figure["groups"]});
        cycles(figure, &sizes) as u64
    };
    let grids = figure["grids"].as_array().expect("grids").iter().filter_map(Value::as_u64);
    grids.min_by_key(cost).expect("grids") as f64
}

#[test]
fn steps_of_products_lie_as_near_to_published_fits_as_they_did() {
    check(&["meshgemm", "summa"], &BOTH);
}

#[test]
fn products_cross_at_a_published_tile() {
    check(&["products"], &BOTH);
}

#[test]
fn cycles_a_pe_and_a_collective_lie_as_near_to_published_fits_as_they_did() {
    check(&["chain-gemv", "meshgemv", "decode-layer"], &BOTH);
}

#[test]
fn the_best_grid_of_prefill_is_a_published_one_on_wse2() {
    check(&["prefill-layer"], &["wse2"]);
}

#[test]
fn the_best_grid_of_prefill_is_a_published_one_on_wse3() {
    check(&["prefill-layer"], &["wse3"]);
}

/// Published runs of decode use grids of 420, 540 and 660, and the optimum lies below 420: there each larger grid is slower.
#[test]
fn decode_layers_are_slower_on_each_larger_grid_beyond_the_optimum() {
    for target in ["wse2", "wse3"] {
        for (hidden, ffn) in [(4096u32, 14336u32), (5120, 13824), (8192, 22016), (8192, 29568)] {
            let of = |(grid, groups): (u32, u32)| {
                let [d, s, f] = [hidden, 4096, ffn].map(|n: u32| n.div_ceil(grid));
                let sizes = json!({"kernel": "decode-layer", "grid": grid, "d": d, "s": s, "f": f, "groups": groups});
                timed(target, kernel(&sizes)).token_cycles
            };
            let cycles = [(420, 20), (540, 20), (660, 22)].map(of);
            assert!(cycles.is_sorted(), "{target}, hidden {hidden}: {cycles:?}");
        }
    }
}
