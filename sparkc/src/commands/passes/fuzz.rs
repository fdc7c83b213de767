//! `sparkc passes fuzz`: random models, optimised at every tier, against the interpreter.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result};
use ir::Module;
use ir::random::{self, RandomOptions};
use passes::{Level, Moved, Tier};
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
    let (mut bounds, mut failed) = (Vec::new(), Vec::new());
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
                        if seed >= last || send.send((seed, verdict(seed))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            for (seed, verdict) in receive {
                match verdict {
                    Verdict::Unknown => {}
                    Verdict::Same(moved) => bounds.push(moved),
                    Verdict::Differs(why) => failed.push((seed, why)),
                }
                bar.set_message(format!("random models: seed {seed}, {} compared", bounds.len()));
            }
        });
        Ok::<(), anyhow::Error>(())
    })?;
    progress.finish();
    // Threads finish in any order; what is said does not depend on it.
    failed.sort();
    let (compared, tightness) = (bounds.len(), Tightness::of(&bounds));
    if let Some(folder) = &args.save {
        for (seed, _) in &failed {
            let path = folder.join(format!("seed-{seed}.spark"));
            output::write_file(&path, module(*seed).to_string().as_bytes())?;
        }
    }
    say(args, compared, &tightness, &failed)?;
    match failed.first() {
        None => Ok(()),
        Some((seed, why)) => Err(Fault::internal(format!("seed {seed}: {why}")).into()),
    }
}

/// What was tried and found.
fn say(
    args: &FuzzArgs,
    compared: usize,
    tightness: &Tightness,
    failed: &[(u64, String)],
) -> Result<()> {
    if args.json {
        let failures: Vec<_> =
            failed.iter().map(|(seed, why)| json!({ "seed": seed, "why": why })).collect();
        return output::print_json(&json!({
            "first_seed": args.seed,
            "models": args.count,
            "compared": compared,
            "median_bound_f64": tightness.median,
            "bounds_f64_below_1e-6": tightness.tight,
            "largest_share_of_bound": tightness.share,
            "failures": failures,
        }));
    }
    output::print(&format!(
        "seeds {}..={}: {compared} models mean the same at every tier, {} do not\n\
             exact: bit by bit; reassoc: within the bound of each model, in f64 {:.1e} of the largest logit \
             in the median, below 1e-6 for {} of them; no difference above {:.0} % of its bound\n",
        args.seed,
        args.seed + args.count - 1,
        failed.len(),
        tightness.median,
        tightness.tight,
        100.0 * tightness.share
    ))
}

fn threads(args: &FuzzArgs) -> u32 {
    let cores = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    args.threads.unwrap_or_else(cores)
}

/// What became of the model of a seed.
enum Verdict {
    /// It cannot be evaluated to begin with.
    Unknown,
    /// It means the same at every tier.
    Same(Moved),
    /// It does not: why.
    Differs(String),
}

fn verdict(seed: u64) -> Verdict {
    let mut moved = None;
    for tier in [Tier::Exact, Tier::Reassoc] {
        match outcome(&module(seed), Level::O2.pipeline(), tier, None) {
            Outcome::Unknown => return Verdict::Unknown,
            Outcome::Same(found) => moved = moved.or(found),
            fault => return Verdict::Differs(format!("{tier}: {fault}")),
        }
    }
    moved.map_or(Verdict::Unknown, Verdict::Same)
}

/// How much the bounds of tier `reassoc` say.
struct Tightness {
    /// The median bound in f64, as a fraction of the largest logit.
    median: f64,
    /// Models whose bound is below a millionth.
    tight: usize,
    /// The largest difference as a share of its bound.
    share: f64,
}

impl Tightness {
    fn of(moved: &[Moved]) -> Tightness {
        let mut bounds: Vec<f64> = moved.iter().map(|m| m.function.bound).collect();
        bounds.sort_by(f64::total_cmp);
        let shares = moved.iter().map(|m| m.function.share.max(m.running.share));
        Tightness {
            median: bounds.get(bounds.len() / 2).copied().unwrap_or(0.0),
            tight: bounds.iter().filter(|b| **b < 1e-6).count(),
            share: shares.fold(0.0, f64::max),
        }
    }
}

fn module(seed: u64) -> Module {
    random::module(seed, &RandomOptions::default())
}
