//! `sparkc run`: compiles when there is nothing newer than the model, then becomes the executable.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use frontend::OpenOptions;

use super::compile::{self, names};
use crate::cli::{BuildArgs, CompileArgs, Emit, ModelArgs, Numerics, Quant, RunArgs, WaferCount};
use crate::exit::Fault;

/// Runs it; does not come back when the executable starts.
///
/// # Errors
/// A model that cannot be compiled, a directory without executable.
pub fn run(args: &RunArgs) -> Result<()> {
    let executable = executable(&args.model, args.quant)?;
    let error = Command::new(&executable).args(flags(args)).exec();
    Err(error).with_context(|| format!("cannot start `{}`", executable.display()))
}

/// The executable of a directory or of a model; compiles where there is none.
///
/// # Errors
/// As [`run`].
pub fn executable(path: &Path, quant: Quant) -> Result<PathBuf> {
    let inside = path.join(names::EXECUTABLE);
    if path.join(crate::output::MARKER).is_file() {
        if quant != Quant::None {
            let message =
                format!("`{}` is compiled already, --quant is for models", path.display());
            let advice = "give the model, or the directory of `sparkc compile --quant`";
            return Err(Fault::bad_input("SPK5013", message).advise(advice).into());
        }
        if inside.is_file() {
            return absolute(&inside);
        }
        let message = format!("`{}` contains no executable", path.display());
        let advice = "compile the model again, with `cpu` in --emit";
        return Err(Fault::bad_input("SPK5013", message).advise(advice).into());
    }
    let model = frontend::open(path, &OpenOptions::default())?;
    let kind = match quant {
        Quant::None => String::new(),
        other => format!("-{}", crate::driver::quant(other).map_or("none", |d| d.name())),
    };
    let destination = PathBuf::from(format!("{}{kind}.sparkc", model.info.name));
    let built = destination.join(names::EXECUTABLE);
    if !is_current(&destination, &built, path) {
        compile::compile(&compile_args(path, destination, quant))?;
    }
    absolute(&built)
}

/// `exec` looks names without a `/` up in PATH.
fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot find `{}`", path.display()))
}

/// Whether `built` was made from the model at `path`, after its files were last changed. As `make`
/// does it: nothing is recorded but the link to the model.
fn is_current(destination: &Path, built: &Path, path: &Path) -> bool {
    let source = destination.join(names::SOURCE);
    let same = matches!((source.canonicalize(), path.canonicalize()), (Ok(a), Ok(b)) if a == b);
    let made = modified(built);
    let changed = newest(path);
    same && matches!((made, changed), (Some(made), Some(changed)) if made > changed)
}

/// When a file, or the newest file of a directory, was changed.
fn newest(path: &Path) -> Option<SystemTime> {
    if !path.is_dir() {
        return modified(path);
    }
    let entries = std::fs::read_dir(path).ok()?;
    entries.filter_map(|entry| modified(&entry.ok()?.path())).max()
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

/// The compilation that `run` needs: the executable alone.
fn compile_args(model: &Path, destination: PathBuf, quant: Quant) -> CompileArgs {
    CompileArgs {
        model: ModelArgs { model: model.to_path_buf(), weights: None, kv_cache: None },
        output: Some(destination),
        build: BuildArgs {
            target: "wse3".to_string(),
            wafers: WaferCount::Auto,
            requests: None,
            defects: None,
            quant,
            context: None,
            numerics: Numerics::Reassoc,
            cpu: runtime::Cpu::Native,
        },
        emit: vec![Emit::Cpu, Emit::Ir],
        embed_weights: false,
        sweep: None,
        shard: None,
        dry_run: false,
        json: false,
    }
}

/// The flags as the executable spells them.
fn flags(args: &RunArgs) -> Vec<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    let mut value = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            flags.extend([name.into(), value.into()]);
        }
    };
    let ids = |tokens: &Vec<u32>| tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    value("-n", args.n.map(|n| n.to_string()));
    value("--temp", args.sampling.temp.map(|t| t.to_string()));
    value("--top-k", args.sampling.top_k.map(|k| k.to_string()));
    value("--top-p", args.sampling.top_p.map(|p| p.to_string()));
    value("--seed", args.sampling.seed.map(|s| s.to_string()));
    value("--threads", args.threads.map(|n| n.to_string()));
    value("--cpu", args.cpu.map(|cpu| cpu.to_string()));
    value("--speculate", args.speculate.map(|n| n.to_string()));
    value("--parallel", args.parallel.map(|n| n.to_string()));
    value("--kv-budget", args.kv_budget.map(|n| n.to_string()));
    value("--tokens", args.tokens.as_ref().map(ids));
    let switches = [
        ("--greedy", args.sampling.greedy),
        ("--chat", args.chat),
        ("--bench", args.bench),
        ("--info", args.info),
        ("--json", args.json),
    ];
    flags.extend(switches.iter().filter(|(_, on)| *on).map(|(name, _)| OsString::from(name)));
    if let Some(path) = &args.logits {
        flags.extend(["--logits".into(), path.into()]);
    }
    if let Some(path) = &args.batch {
        flags.extend(["--batch".into(), path.into()]);
    }
    if let Some(prompt) = &args.prompt {
        // A prompt may begin with a dash.
        flags.extend(["--".into(), prompt.into()]);
    }
    flags
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command as Subcommand};

    #[test]
    fn flags_reach_the_executable_as_given() {
        for (line, expected) in [
            (
                "-n 3 --temp 0.5 --top-k 0 --cpu x86-64-v3 --tokens 1,2 --logits l.st --json",
                "-n 3 --temp 0.5 --top-k 0 --cpu x86-64-v3 --tokens 1,2 --json --logits l.st",
            ),
            (
                "--batch - --parallel 4 --kv-budget 64 --greedy",
                "--parallel 4 --kv-budget 64 --greedy --batch -",
            ),
        ] {
            let line = format!("sparkc run m {line}");
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Subcommand::Run(args) = cli.command else { panic!("not run") };
            let flags: Vec<String> =
                flags(&args).into_iter().map(|f| f.into_string().unwrap()).collect();
            assert_eq!(flags.join(" "), expected);
        }
    }
}
