//! `sparkc passes fuzz`: random models, optimised at every tier, against the interpreter.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result};
use ir::Module;
use ir::random::{self, RandomOptions};
use passes::{Level, Tier};
use serde_json::json;

use crate::cli::FuzzArgs;
use crate::commands::differential::{Outcome, outcome};
use crate::exit::Fault;
use crate::output;
use crate::report::progress::Progress;

/// Runs it.
///
/// # Errors
/// When a model does not mean the same after optimising: that is a bug in sparkc. A folder for such
/// models that cannot be made.
pub(super) fn run(args: &FuzzArgs) -> Result<()> {
    if let Some(folder) = &args.save {
        // Before the work, not after it.
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
    }
    let progress = Progress::new();
    let (mut compared, mut failed) = (0u64, Vec::new());
    let last = args.seed + args.count;
    let next = AtomicU64::new(args.seed);
    progress.stage("random models", |bar| {
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            for _ in 0..threads(args) {
                let (send, next) = (send.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= last || send.send((seed, differs(seed))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            for (seed, verdict) in receive {
                match verdict {
                    None => {}
                    Some(None) => compared += 1,
                    Some(Some(why)) => failed.push((seed, why)),
                }
                bar.set_message(format!("random models: seed {seed}, {compared} compared"));
            }
        });
        Ok::<(), anyhow::Error>(())
    })?;
    progress.finish();
    // Threads finish in any order; what is said does not depend on it.
    failed.sort();
    if let Some(folder) = &args.save {
        for (seed, _) in &failed {
            let path = folder.join(format!("seed-{seed}.spark"));
            output::write_file(&path, module(*seed).to_string().as_bytes())?;
        }
    }
    if args.json {
        let failures: Vec<_> =
            failed.iter().map(|(seed, why)| json!({ "seed": seed, "why": why })).collect();
        output::print_json(&json!({
            "first_seed": args.seed,
            "models": args.count,
            "compared": compared,
            "failures": failures,
        }))?;
    } else {
        output::print(&format!(
            "seeds {}..={}: {compared} models mean the same at every tier, {} do not\n",
            args.seed,
            last - 1,
            failed.len()
        ))?;
    }
    match failed.first() {
        None => Ok(()),
        Some((seed, why)) => Err(Fault::internal(format!("seed {seed}: {why}")).into()),
    }
}

fn threads(args: &FuzzArgs) -> u32 {
    let cores = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    args.threads.unwrap_or_else(cores)
}

/// Why the model of a seed changes its meaning: `Some(None)` when it does not, `None` when it cannot be
/// evaluated to begin with.
fn differs(seed: u64) -> Option<Option<String>> {
    for tier in [Tier::Exact, Tier::Reassoc] {
        match outcome(&module(seed), Level::O2.pipeline(), tier, None) {
            Outcome::Unknown => return None,
            Outcome::Same => {}
            fault => return Some(Some(format!("{tier}: {fault}"))),
        }
    }
    Some(None)
}

fn module(seed: u64) -> Module {
    random::module(seed, &RandomOptions { half_activations: false, ..RandomOptions::default() })
}
