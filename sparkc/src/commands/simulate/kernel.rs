//! `sparkc simulate --kernel`: one kernel on a bare region, for calibration.
//!
//! Turns flags into a [`Kernel`]: each kernel names the sizes it needs, what is missing or does not
//! belong to it is refused.

use std::collections::BTreeMap;

use anyhow::Result;
use backend_wafer::kernels::{self, Algorithm, Kernel, KernelError, Op};
use plan::Target;
use serde_json::Value;
use simulator::timing::TimingReport;

use super::timing;
use crate::cli::{KernelArgs, ReduceAlgorithm, SimulateArgs};
use crate::exit::Fault;
use crate::{driver, output};

/// The names, for messages.
const NAMES: [&str; 10] = [
    "meshgemv",
    "chain-gemv",
    "meshgemm",
    "summa",
    "decode-layer",
    "prefill-layer",
    "gemv",
    "broadcast",
    "reduce",
    "allreduce",
];

/// Runs it.
///
/// # Errors
/// A kernel that there is not, sizes that are missing or do not fit.
pub(super) fn run(args: &SimulateArgs) -> Result<()> {
    let asked = &args.kernel;
    let name = asked
        .kernel
        .as_deref()
        .ok_or_else(|| Fault::usage("neither a plan nor a kernel was given"))?;
    let kernel = kernel(name, asked)?;
    let target = driver::target(&asked.target)?;
    let plan = kernels::build(kernel, &target)?;
    let mut report = timing::time_kernel(args, &plan)?;
    leave_out(&mut report, kernels::setup_cycles(&plan), &target);
    if args.json {
        let mut object = timing::as_json(&report, 1);
        if let Value::Object(fields) = &mut object {
            fields.insert("kernel".into(), name.into());
            fields.insert("target".into(), target.name.clone().into());
            fields
                .insert("microseconds".into(), (1e6 * target.seconds(report.token_cycles)).into());
        }
        return output::print_json(&object);
    }
    output::print(&timing::render_kernel(&report))
}

/// Takes what loads the operands of a collective out of a report: its first phase, of `setup` cycles. Zero for
/// kernels that load nothing.
fn leave_out(report: &mut TimingReport, setup: u64, target: &Target) {
    if setup == 0 {
        return;
    }
    report.token_cycles -= setup;
    report.breakdown.compute -= setup;
    report.prefill_interval_cycles -= setup;
    for template in &mut report.templates {
        template.cycles -= setup;
        template.interval -= setup;
        if let Some(load) = template.phases.first_mut() {
            load.cycles -= setup;
            load.compute -= setup;
        }
        template.phases.retain(|phase| phase.cycles > 0);
    }
    let per_second = |cycles: u64| target.seconds(cycles.max(1)).recip();
    report.tokens_per_second = per_second(report.token_cycles);
    report.prefill_tokens_per_second = per_second(report.prefill_interval_cycles);
}

/// The sizes that were given.
struct Flags {
    kernel: String,
    given: BTreeMap<&'static str, u32>,
}

impl Flags {
    fn need(&mut self, flag: &'static str) -> Result<u32> {
        self.given.remove(flag).ok_or_else(|| {
            Fault::usage(format!("kernel {} needs --{flag}", self.kernel))
                .advise("sparkc simulate --help shows the sizes of each kernel")
                .into()
        })
    }

    fn or(&mut self, flag: &'static str, default: u32) -> u32 {
        self.given.remove(flag).unwrap_or(default)
    }

    fn all_used(&self) -> Result<()> {
        let Some(flag) = self.given.keys().next() else { return Ok(()) };
        let fault = Fault::usage(format!("kernel {} has no --{flag}", self.kernel));
        Err(fault.advise("sparkc simulate --help shows the sizes of each kernel").into())
    }
}

fn kernel(name: &str, args: &KernelArgs) -> Result<Kernel> {
    let sizes = [
        ("grid", args.grid),
        ("tile", args.tile),
        ("tile-n", args.tile_n),
        ("group-size", args.group_size),
        ("groups", args.groups),
        ("d", args.d),
        ("s", args.s),
        ("f", args.f),
        ("m", args.m),
        ("k", args.k),
        ("n", args.kernel_n),
        ("pes", args.pes),
        ("length", args.length),
    ];
    let given = sizes.into_iter().filter_map(|(flag, value)| Some((flag, value?))).collect();
    let mut flags = Flags { kernel: name.to_string(), given };
    let kernel = match name {
        "meshgemv" => {
            let (grid, tile) = (flags.need("grid")?, flags.need("tile")?);
            let group = flags.or("group-size", grid.isqrt());
            Kernel::MeshGemv { grid, tile: (tile, flags.or("tile-n", tile)), group }
        }
        "chain-gemv" => Kernel::ChainGemv { grid: flags.need("grid")?, tile: flags.need("tile")? },
        "decode-layer" => {
            let grid = flags.need("grid")?;
            let (d, s, f) = (flags.need("d")?, flags.need("s")?, flags.need("f")?);
            Kernel::DecodeLayer { grid, d, s, f, groups: flags.or("groups", grid.isqrt()) }
        }
        "meshgemm" | "summa" => {
            let (m, k, n) = (flags.need("m")?, flags.need("k")?, flags.need("n")?);
            gemm(name, flags.need("grid")?, (m, k, n))
        }
        "prefill-layer" => {
            let (d, s, f) = (flags.need("d")?, flags.need("s")?, flags.need("f")?);
            Kernel::PrefillLayer { grid: flags.need("grid")?, d, s, f }
        }
        "gemv" => {
            let region = args.region.unwrap_or((16, 16));
            Kernel::Gemv { region, k: flags.or("k", 256), n: flags.or("n", 256) }
        }
        "broadcast" | "reduce" | "allreduce" => {
            let op = match name {
                "broadcast" => Op::Broadcast,
                "reduce" => Op::Reduce,
                _ => Op::Allreduce,
            };
            let algorithm = algorithm(args.algo.unwrap_or(ReduceAlgorithm::KTree));
            let (pes, length) = (flags.or("pes", 16), flags.or("length", 256));
            Kernel::Collective { op, algorithm, pes, length }
        }
        _ => {
            let (name, known) = (name.to_string(), NAMES.join(", "));
            return Err(KernelError::Unknown { name, known }.into());
        }
    };
    flags.all_used()?;
    for (flag, given, fits) in [
        ("region", args.region.is_some(), matches!(kernel, Kernel::Gemv { .. })),
        ("algo", args.algo.is_some(), matches!(kernel, Kernel::Collective { .. })),
    ] {
        if given && !fits {
            return Err(Fault::usage(format!("kernel {name} has no --{flag}")).into());
        }
    }
    Ok(kernel)
}

/// A product of two matrices on a square of PEs.
fn gemm(name: &str, grid: u32, (m, k, n): (u32, u32, u32)) -> Kernel {
    match name {
        "summa" => Kernel::Summa { grid, m, k, n },
        _ => Kernel::MeshGemm { grid, m, k, n },
    }
}

fn algorithm(asked: ReduceAlgorithm) -> Algorithm {
    match asked {
        ReduceAlgorithm::Star => Algorithm::Star,
        ReduceAlgorithm::Chain => Algorithm::Chain,
        ReduceAlgorithm::Tree => Algorithm::Tree,
        ReduceAlgorithm::TwoPhase => Algorithm::TwoPhase,
        ReduceAlgorithm::KTree => Algorithm::KTree,
    }
}
