//! `sparkc inspect`: what is inside a model, a plan, an executable or an output directory.

mod bounds;
mod executable;
mod model;
mod plan;
mod rewrites;
mod rewrites_page;
mod tile;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;

use crate::cli::InspectArgs;
use crate::commands::compile::names;
use crate::driver::plan_file;
use crate::exit::Fault;
use crate::output::MARKER;

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    Plan,
    Executable,
    /// Written by `compile`.
    Directory,
}

/// Runs it.
///
/// # Errors
/// A path that is none of these, or a question that does not fit it.
pub fn run(args: &InspectArgs) -> Result<()> {
    let asks_for_plan = args.map
        || args.tile.is_some()
        || args.region.is_some()
        || args.bounds
        || args.svg.is_some()
        || args.html.is_some()
        || args.png.is_some();
    match kind(&args.path) {
        Kind::Model if args.rewrites => rewrites::run(args),
        Kind::Model if asks_for_plan => plan::run_compiled(args),
        Kind::Model => model::run(args),
        _ if args.rewrites => {
            let message = format!("`{}` is compiled already", args.path.display());
            let advice = "--rewrites wants the model; report.json has those of this compilation";
            Err(Fault::bad_input("SPK5025", message).advise(advice).into())
        }
        Kind::Plan => plan::run(args, &plan_file::read(&args.path)?.plan),
        Kind::Executable if asks_for_plan => {
            let message = format!("`{}` is an executable, it has no map", args.path.display());
            Err(Fault::bad_input("SPK5025", message)
                .advise("give model.wplan, or the directory")
                .into())
        }
        Kind::Executable => executable::run(args, &args.path),
        Kind::Directory if !args.path.join(names::PLAN).is_file() && !asks_for_plan => {
            executable::run(args, &args.path.join(names::EXECUTABLE))
        }
        Kind::Directory => plan::run(args, &plan_file::read(&args.path)?.plan),
    }
}

/// By the marker of a directory, by the first bytes of a file.
fn kind(path: &Path) -> Kind {
    if path.is_dir() {
        return if path.join(MARKER).is_file() { Kind::Directory } else { Kind::Model };
    }
    let mut first = [0; 8];
    // Opening a pipe would wait for its writer.
    if !path.is_file() {
        return Kind::Model;
    }
    let read = File::open(path).and_then(|mut f| f.read_exact(&mut first));
    match read {
        Ok(()) if first == ::plan::codec::MAGIC => Kind::Plan,
        // ELF, and Mach-O of 64 bits.
        Ok(()) if first.starts_with(b"\x7fELF") || first.starts_with(b"\xcf\xfa\xed\xfe") => {
            Kind::Executable
        }
        _ if path.extension().is_some_and(|e| e == "wplan") => Kind::Plan,
        _ => Kind::Model,
    }
}
