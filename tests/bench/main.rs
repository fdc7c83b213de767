//! Every figure that the project promises, measured: `cargo xtask bench [NAME...] [--json FILE]`.
//!
//! A bench is a function that measures something a user can do and states its figures, each with the
//! reach it is held against; one file per subject, listed in `BENCHES`. A figure that misses its reach
//! is shown as missed; the exit code is 1 only when something could not be measured. `NAME` keeps
//! the benches whose names contain it. To add one: a function, and a row in `BENCHES`.
//!
//! Figures are those of the machine at hand: compare interleaved runs on one machine.

mod defects;
mod figures;
mod function;
mod map;
mod optimiser;
mod programs;
mod rules;
mod serving;
mod timing;
mod verify;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

pub(crate) use figures::Figures;

/// A named measurement.
struct Bench {
    name: &'static str,
    /// One line for people.
    what: &'static str,
    run: fn(&mut Figures) -> Result<()>,
}

/// All of them, in the order in which they run.
const BENCHES: &[Bench] = &[
    Bench {
        name: "verify",
        what: "a plan of 900,000 tiles is proven legal and expanded (8B on one wse3)",
        run: verify::llama_8b,
    },
    Bench {
        name: "level-3",
        what: "every wavelet of every tile of a MeshGEMV on 64x64 to 256x256",
        run: timing::level_3,
    },
    Bench {
        name: "level-2",
        what: "cycles of one decode token on a whole wafer (8B on one wse3)",
        run: timing::llama_8b,
    },
    Bench {
        name: "function",
        what: "one decode token of a 135M-parameter Llama in numbers on the whole wse3",
        run: function::llama_135m,
    },
    Bench {
        name: "serving",
        what: "requests in flight through the pipeline of regions (8B on one wse3)",
        run: serving::llama_8b,
    },
    Bench {
        name: "defects-sample",
        what: "five maps of dead PEs of each kind on wse3, planned around, proven and timed (8B)",
        run: defects::sample,
    },
    Bench {
        name: "defects-all-0.1-random",
        what: "a thousand such maps with 0.1 % dead one by one; takes some minutes",
        run: defects::thousand::<0>,
    },
    Bench {
        name: "defects-all-0.1-clustered",
        what: "a thousand such maps with 0.1 % dead in clusters; takes some minutes",
        run: defects::thousand::<1>,
    },
    Bench {
        name: "defects-all-1-random",
        what: "a thousand such maps with 1 % dead one by one; takes some minutes",
        run: defects::thousand::<2>,
    },
    Bench {
        name: "defects-all-1-clustered",
        what: "a thousand such maps with 1 % dead in clusters; takes some minutes",
        run: defects::thousand::<3>,
    },
    Bench {
        name: "map",
        what: "size of the page, first paint and frame times in headless Chromium (8B on one wse3)",
        run: map::llama_8b,
    },
    Bench {
        name: "depth",
        what: "from a configuration of 126 layers to optimised blocks, against 1 layer",
        run: optimiser::depth,
    },
    Bench {
        name: "roll",
        what: "80 layers that are written out become blocks",
        run: optimiser::roll,
    },
    Bench {
        name: "extraction",
        what: "every block of every model for both targets: optimal, and how long it takes",
        run: optimiser::blocks,
    },
    Bench {
        name: "rules-tinypy",
        what: "each family of rewrites on and off, default model",
        run: rules::tinypy,
    },
    Bench {
        name: "rules-llama-1b",
        what: "each family of rewrites on and off, shape of Llama-3.2-1B",
        run: rules::llama_1b,
    },
    Bench {
        name: "rules-llama-8b",
        what: "each family of rewrites on and off, shape of Llama-3.1-8B",
        run: rules::llama_8b,
    },
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// False when a bench could not be measured.
fn run() -> Result<bool> {
    let mut names = Vec::new();
    let mut json = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // Cargo says so to every bench.
            "--bench" => {}
            "--json" => json = Some(args.next().context("--json needs a file")?),
            _ => names.push(arg),
        }
    }
    let chosen = |b: &&Bench| names.is_empty() || names.iter().any(|n| b.name.contains(n.as_str()));
    let mut figures = Figures::default();
    let mut all = true;
    for bench in BENCHES.iter().filter(chosen) {
        let begin = Instant::now();
        figures.begin(bench.name);
        say(&format!("{}: {}", bench.name, bench.what));
        if let Err(error) = (bench.run)(&mut figures) {
            all = false;
            say(&format!("  not measured: {error:#}"));
        }
        figures.since_begin().for_each(|f| say(&format!("  {f}")));
        say(&format!("  ({:.1} s in all)", begin.elapsed().as_secs_f64()));
    }
    if let Some(file) = json {
        std::fs::write(&file, figures.json()).with_context(|| format!("cannot write `{file}`"))?;
    }
    Ok(all)
}

/// A line on standard output.
fn say(line: &str) {
    // Nobody reads when standard output is closed.
    let _ = writeln!(std::io::stdout(), "{line}");
}
