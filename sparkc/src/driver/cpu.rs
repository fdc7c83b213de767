//! The executable: optimised under the CPU's cost model, packed, written.

use std::path::Path;

use anyhow::Result;
use backend_cpu::{CpuCost, Progress};
use frontend::Model;
use ir::Module;
use passes::Report;
use runtime::Cpu;
use runtime::program::{Activations, CacheSpec};

use super::{Ask, assets, optimise, weights};
use crate::cli::BuildArgs;
use crate::exit::Fault;
use crate::report::diag;

/// What is known of an executable.
#[derive(Clone, Debug)]
pub struct Executable {
    /// The module it runs.
    pub module: Module,
    /// How the module came about.
    pub passes: Report,
    /// Bytes of the file; `None` when none was written.
    pub file_bytes: Option<u64>,
    /// Bytes of packed weights.
    pub weight_bytes: u64,
    /// What its products see of activations.
    pub activations: Activations,
    /// KV caches, of all layers.
    pub caches: Vec<CacheSpec>,
}

/// Compiles the executable to `path`, or to nowhere.
///
/// # Errors
/// What passes and back end find wrong; files that cannot be written.
pub fn compile(
    model: &Model,
    build: &BuildArgs,
    ask: Ask,
    path: Option<&Path>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Executable> {
    if let Cpu::Level(isa) = build.cpu
        && !isa.is_built()
    {
        let here = std::env::consts::ARCH;
        let message = format!("this sparkc makes executables for {here}, not for `{isa}`");
        return Err(Fault::bad_input("SPK5022", message)
            .advise(format!("use a sparkc built for {isa}"))
            .into());
    }
    // Packing to a file measures on the way.
    let ask = Ask { errors: path.is_none(), ..ask };
    let (module, mut passes) = optimise(model, build, &CpuCost, ask)?;
    let (source, activations) = (weights(model)?, super::activations(build.numerics));
    let mut assets = assets::assets(model, build.quant);
    assets.cpu = (build.cpu != Cpu::Native).then(|| build.cpu.to_string());
    if activations == Activations::Short {
        assets.facts.push(("activations".to_string(), "8 bits".to_string()));
    }
    let Some(path) = path else {
        let payload = backend_cpu::compile_in_memory(&module, activations, source, assets)?;
        return Ok(Executable {
            passes,
            file_bytes: None,
            weight_bytes: payload.weight_bytes() as u64,
            activations,
            caches: payload.program().caches.clone(),
            module,
        });
    };
    let summary = backend_cpu::compile(&module, activations, source, assets, path, progress)?;
    if let Some(why) = &summary.without_tables {
        let message = format!("{why}: the executable reads tokenizer.json at every start");
        diag::warn("SPK4801", &message);
    }
    for entry in passes.quantized.iter_mut().filter(|entry| entry.skipped.is_none()) {
        entry.relative_rms_error = summary.errors.get(&entry.name).map(|e| e.relative_rms());
    }
    Ok(Executable {
        module,
        passes,
        file_bytes: Some(summary.file_bytes),
        weight_bytes: summary.weight_bytes,
        activations,
        caches: summary.program.caches,
    })
}
