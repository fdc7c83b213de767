//! `sparkc compile`: a model becomes a directory of artefacts, complete or not at all.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use backend_cpu::{CpuCost, CpuError};
use backend_wafer::WaferCost;
use frontend::Model;
use indicatif::ProgressBar;
use passes::CostModel;
use plan::Target;
use runtime::program::Activations;
use serde_json::{Value, json};
use tensor::DType;

use super::sweep;
use crate::cli::{BuildArgs, CompileArgs, Emit, Quant};
use crate::driver::cpu::{self, Executable};
use crate::driver::heldout::Difference;
use crate::driver::wafer::{self, Planned};
use crate::driver::{self, Ask, heldout, plan_file};
use crate::exit::Fault;
use crate::output::{self, MARKER, Staging};
use crate::report::built::{Built, unmet_requests};
use crate::report::diag;
use crate::report::progress::{self, Progress};
use crate::report::{self, Style};

/// File names of an output directory.
pub mod names {
    /// The executable.
    pub const EXECUTABLE: &str = "model";
    /// The plan.
    pub const PLAN: &str = "model.wplan";
    /// The map.
    pub const MAP: &str = "map.html";
    /// The optimised IR.
    pub const IR: &str = "model.spark";
    /// Certificate of the executable's module.
    pub const CPU_PROOF: &str = "cpu.proof";
    /// Certificate of the plan's module.
    pub const WAFER_PROOF: &str = "wafer.proof";
    /// Link to the model that was compiled.
    pub const SOURCE: &str = "source";
    /// Link to the weights of a .spark model.
    pub const SOURCE_WEIGHTS: &str = "source-weights";
}

/// Runs it.
///
/// # Errors
/// A model that cannot be opened or compiled, a directory that cannot be written.
pub fn run(args: &CompileArgs) -> Result<()> {
    if let Some(axes) = &args.sweep {
        return sweep::run(args, axes);
    }
    let built = compile(args)?;
    if args.json {
        return output::print_json(&built.as_json());
    }
    let colored = report::stdout_colored();
    let mut text = built.render(colored);
    if !args.dry_run {
        text.push_str(&next_steps(&built, colored));
    }
    output::print(&text)
}

/// Compiles and writes; prints nothing on standard output.
///
/// # Errors
/// As [`run`].
pub fn compile(args: &CompileArgs) -> Result<Built> {
    let progress = Progress::new();
    let model = progress.stage("open model", |_| driver::open(&args.model, args.build.context))?;
    let emit = wanted(args, &model)?;
    if args.embed_weights && !emit.contains(&Emit::Wafer) {
        let message =
            "--embed-weights packs weights into model.wplan, which is not among the artefacts";
        return Err(Fault::usage(message).advise("add `wafer` to --emit").into());
    }
    let target = driver::target_of(&args.build)?;
    let destination = destination(args, &model);
    let proof = emit.contains(&Emit::Proof);
    let ask = Ask { proof, errors: !emit.contains(&Emit::Cpu), ..Ask::default() };
    let staging = if args.dry_run { None } else { Some(Staging::begin(&destination)?) };

    // The plan first: it is made quickly, and "does not fit" should not come late.
    let planned = if emit.contains(&Emit::Wafer) || emit.contains(&Emit::Map) {
        Some(progress.stage("plan the wafer", |bar| plan(&model, &args.build, &target, ask, bar))?)
    } else {
        None
    };
    if let Some(why) = planned.as_ref().and_then(unmet_requests) {
        diag::warn("SPK4803", &why);
    }
    let executable = if emit.contains(&Emit::Cpu) {
        let path = staging.as_ref().map(|s| s.path(names::EXECUTABLE));
        let packed = progress.stage("pack the executable", |bar| {
            pack(&model, &args.build, ask, path.as_deref(), bar)
        });
        Some(packed.map_err(|error| under_final_name(error, &destination))?)
    } else {
        None
    };
    let (quantisation, short) =
        progress.stage("measure", |_| heldout_costs(&model, &args.build, executable.as_ref()))?;
    let mut built = Built {
        name: destination.display().to_string(),
        model: model_json(&model),
        options: options_json(args, &emit),
        executable,
        planned: None,
        quantisation,
        short,
        files: Vec::new(),
        takes_text: model.assets.tokenizer_json.is_some(),
        talks: model.assets.chat_template.is_some(),
    };
    if let Some(planned) = planned {
        let bytes = plan_bytes(args, &model, &planned)?;
        if let Some(staging) = &staging {
            progress
                .stage("write plan and map", |_| write_plan(staging, &emit, &planned, &bytes))?;
        }
        built.planned = Some((planned, bytes.len() as u64));
    }
    if let Some(staging) = staging {
        finish(args, &emit, staging, &mut built, &model)?;
    }
    Ok(built)
}

/// What to write: what was asked for, or all that the model allows.
fn wanted(args: &CompileArgs, model: &Model) -> Result<Vec<Emit>> {
    let weightless = model.weights.is_none();
    if args.emit.is_empty() {
        let all = [Emit::Cpu, Emit::Wafer, Emit::Map, Emit::Ir];
        let plan = can_be_planned(model, &args.build);
        let possible = |e: &Emit| match e {
            Emit::Cpu => !weightless,
            Emit::Wafer | Emit::Map => plan,
            Emit::Ir | Emit::Proof => true,
        };
        return Ok(all.into_iter().filter(possible).collect());
    }
    if weightless && args.emit.contains(&Emit::Cpu) {
        let message = "an executable needs weights, the model has shapes only";
        let fault = Fault::bad_input("SPK5012", message);
        return Err(fault.advise("leave `cpu` out of --emit, or give the weights").into());
    }
    Ok(args.emit.clone())
}

/// Whether a PE has a storage for all weights: of those that files hold, `q4m` has none.
fn can_be_planned(model: &Model, build: &BuildArgs) -> bool {
    let mut headers = model.weights.iter().flat_map(|w| w.names().filter_map(|n| w.header(n)));
    let plan = build.quant != Quant::None || headers.all(|h| h.dtype != Some(DType::Q4M));
    if !plan {
        let message = "weights of q4m (4 bits with a minimum) have no storage on a PE: no wafer plan \
                       is made; --quant q8 or q4 stores them otherwise";
        diag::warn("SPK4802", message);
    }
    plan
}

fn destination(args: &CompileArgs, model: &Model) -> PathBuf {
    let default = || PathBuf::from(format!("{}.sparkc", model.info.name));
    args.output.clone().unwrap_or_else(default)
}

fn plan(
    model: &Model,
    build: &BuildArgs,
    target: &Target,
    ask: Ask,
    bar: &ProgressBar,
) -> Result<Planned> {
    wafer::compile(model, build, target, ask, &|stage| {
        bar.set_message(format!("plan the wafer: {}", stage.name()));
    })
}

fn pack(
    model: &Model,
    build: &BuildArgs,
    ask: Ask,
    path: Option<&Path>,
    bar: &ProgressBar,
) -> Result<Executable> {
    let mut begun = false;
    cpu::compile(model, build, ask, path, &mut |p| {
        if !begun {
            progress::byte_steps(bar, p.total);
            begun = true;
        }
        bar.set_position(p.done);
    })
}

/// Names the file as the user knows it, where the back end names the temporary one.
fn under_final_name(error: anyhow::Error, destination: &Path) -> anyhow::Error {
    match error.downcast::<CpuError>() {
        Ok(CpuError::Write { source, .. }) => {
            let shown = destination.join(names::EXECUTABLE);
            anyhow::Error::new(io::Error::from(source.kind()))
                .context(format!("cannot write `{}`", shown.display()))
        }
        Ok(error) => error.into(),
        Err(error) => error,
    }
}

/// What quantisation of weights costs, and what short activations cost on top, as far as either was
/// asked for and there is a text to measure on.
fn heldout_costs(
    model: &Model,
    build: &BuildArgs,
    executable: Option<&Executable>,
) -> Result<(Option<Difference>, Option<Difference>)> {
    let quantized = driver::quant(build.quant).is_some();
    let short = driver::activations(build.numerics) == Activations::Short;
    let Some(executable) = executable.filter(|_| quantized || short) else {
        return Ok((None, None));
    };
    let Some(text) = heldout::beside(model)? else { return Ok((None, None)) };
    let full = (&executable.module, Activations::Full);
    let cost =
        |wanted: bool, before, after| wanted.then(|| text.cost(model, before, after)).transpose();
    Ok((
        cost(quantized, (&model.module, Activations::Full), full)?,
        cost(short, full, (&executable.module, Activations::Short))?,
    ))
}

fn plan_bytes(args: &CompileArgs, model: &Model, planned: &Planned) -> Result<Vec<u8>> {
    if !args.embed_weights {
        return Ok(plan::codec::encode(&planned.plan));
    }
    let weights = plan_file::weights_of(&planned.plan, driver::weights(model)?)?;
    Ok(plan::codec::encode_with_weights(&planned.plan, &weights))
}

fn write_plan(staging: &Staging, emit: &[Emit], planned: &Planned, bytes: &[u8]) -> Result<()> {
    if emit.contains(&Emit::Wafer) {
        staging.write(names::PLAN, bytes)?;
    }
    if emit.contains(&Emit::Map) {
        staging.write(names::MAP, backend_wafer::report::html(&planned.plan).as_bytes())?;
    }
    Ok(())
}

/// Writes what is left and puts the directory in its place.
fn finish(
    args: &CompileArgs,
    emit: &[Emit],
    staging: Staging,
    built: &mut Built,
    model: &Model,
) -> Result<()> {
    if emit.contains(&Emit::Ir) {
        staging.write(names::IR, ir_text(args, built, model)?.as_bytes())?;
    }
    if emit.contains(&Emit::Proof) {
        for (name, text) in proofs(args, built, model)? {
            staging.write(name, text.as_bytes())?;
        }
    }
    let artefacts = [names::EXECUTABLE, names::PLAN, names::MAP, names::IR];
    for name in artefacts.into_iter().chain([names::CPU_PROOF, names::WAFER_PROOF]) {
        if let Ok(metadata) = std::fs::metadata(staging.path(name)) {
            built.files.push((name.to_string(), metadata.len()));
        }
    }
    let report = serde_json::to_string_pretty(&built.as_json())? + "\n";
    staging.write(MARKER, report.as_bytes())?;
    link(&staging, names::SOURCE, &args.model.model)?;
    if let Some(weights) = &args.model.weights {
        link(&staging, names::SOURCE_WEIGHTS, weights)?;
    }
    staging.commit()
}

/// Links to where the model is, for `simulate` and `run`. A link and no text, because artefacts must
/// not depend on paths: reading through it gives the same bytes wherever the model lies.
fn link(staging: &Staging, name: &str, to: &Path) -> Result<()> {
    // A file keeps its name, which tells its kind, though it may be a link itself.
    let (folder, file) = match (to.parent(), to.file_name()) {
        (Some(folder), Some(file)) if to.is_file() => (folder, Some(file)),
        _ => (to, None),
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder =
        folder.canonicalize().with_context(|| format!("cannot resolve `{}`", to.display()))?;
    let to = file.map_or(folder.clone(), |file| folder.join(file));
    symlink(to, staging.path(name)).with_context(|| staging.cannot(name))
}

/// The module of the executable; without one that of the plan; without both as the CPU would get it.
fn ir_text(args: &CompileArgs, built: &Built, model: &Model) -> Result<String> {
    let module = match (&built.executable, &built.planned) {
        (Some(executable), _) => executable.module.clone(),
        (None, Some((planned, _))) => planned.module.clone(),
        (None, None) => driver::optimise(model, &args.build, &CpuCost, Ask::default())?.0,
    };
    Ok(module.compact().to_string())
}

fn model_json(model: &Model) -> Value {
    let layers: u64 = model.module.repeats().map(|(_, _, count)| u64::from(count)).sum();
    json!({
        "family": model.info.family,
        "parameters": model.info.parameters,
        "dtype": model.info.dtype.name(),
        "layers": layers,
        "context": model.module.context,
        "digest": model.info.digest.to_string(),
    })
}

/// The certificates of what was compiled; of both targets when neither was.
fn proofs(args: &CompileArgs, built: &Built, model: &Model) -> Result<Vec<(&'static str, String)>> {
    let cpu = built.executable.as_ref().map(|e| (names::CPU_PROOF, e.passes.proof.text.clone()));
    let wafer = built.planned.as_ref();
    let wafer = wafer.map(|(p, _)| (names::WAFER_PROOF, p.passes.proof.text.clone()));
    let compiled: Vec<_> = cpu.into_iter().chain(wafer).collect();
    if !compiled.is_empty() {
        return Ok(compiled);
    }
    let ask = Ask { proof: true, ..Ask::default() };
    let target = driver::target_of(&args.build)?;
    let of = |cost: &dyn CostModel| -> Result<String> {
        Ok(driver::optimise(model, &args.build, cost, ask)?.1.proof.text)
    };
    let wafer = of(&WaferCost::new(&target))?;
    Ok(vec![(names::CPU_PROOF, of(&CpuCost)?), (names::WAFER_PROOF, wafer)])
}

fn options_json(args: &CompileArgs, emit: &[Emit]) -> Value {
    let emit: Vec<String> = emit.iter().map(|e| format!("{e:?}").to_lowercase()).collect();
    json!({
        "emit": emit,
        "quant": driver::quant(args.build.quant).map_or("none", tensor::DType::name),
        "numerics": driver::tier(args.build.numerics).name(),
    })
}

fn next_steps(built: &Built, colored: bool) -> String {
    let directory = &built.name;
    let has = |name: &str| built.files.iter().any(|(n, _)| n == name);
    let mut lines = Vec::new();
    if has(names::EXECUTABLE) {
        let prompt = match (built.takes_text, built.talks) {
            (true, true) => "--chat \"Who are you?\"",
            (true, false) => "\"def \"",
            (false, _) => "--tokens 1,2,3",
        };
        lines.push(format!("{} {prompt}", dotted(directory, names::EXECUTABLE)));
    }
    if has(names::PLAN) && has(names::EXECUTABLE) {
        lines.push(format!("sparkc simulate {directory} --tokens 1,2,3 -n 8"));
    } else if has(names::PLAN) {
        lines.push(format!("sparkc simulate {directory} --tokens 1 --timing-only"));
    }
    if has(names::PLAN) {
        lines.push(format!("sparkc inspect {directory} --map"));
    }
    if has(names::MAP) {
        lines.push(format!("open {directory}/{} in a browser", names::MAP));
    }
    let title = Style::Advice.paint("next", colored);
    let lines: Vec<String> = lines.into_iter().map(|line| format!("    {line}\n")).collect();
    format!("  {title}\n{}", lines.concat())
}

/// A path that a shell runs: with a `/` in it.
fn dotted(directory: &str, name: &str) -> String {
    Path::new(directory).join(name).display().to_string()
}
