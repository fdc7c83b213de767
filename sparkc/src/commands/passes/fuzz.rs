//! `sparkc passes fuzz`: random models, optimised at every tier, against the interpreter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use anyhow::Result;
use ir::eval::{EvalOptions, eval_module};
use ir::random::{self, RandomOptions};
use ir::{Module, WeightMap};
use passes::{NeutralCost, Options, Tier};
use serde_json::json;

use crate::cli::FuzzArgs;
use crate::exit::Fault;
use crate::output;
use crate::report::progress::Progress;

/// Tokens fed; how many rows of logits are compared.
const TOKENS: [u32; 5] = [1, 5, 2, 10, 3];
const ROWS: usize = 4;

/// Runs it.
///
/// # Errors
/// When a model does not mean the same after optimising: that is a bug in sparkc.
pub(super) fn run(args: &FuzzArgs) -> Result<()> {
    let progress = Progress::new();
    let (mut compared, mut failed) = (0u64, Vec::new());
    let last = args.seed.saturating_add(args.count);
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
        let last = args.seed.saturating_add(args.count).saturating_sub(1);
        output::print(&format!(
            "seeds {}..={last}: {compared} models mean the same at every tier, {} do not\n",
            args.seed,
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
    let options = RandomOptions { half_activations: false, ..RandomOptions::default() };
    let module = random::module(seed, &options);
    let weights = random::weights(&module, seed);
    let expected = logits(&module, &weights)?;
    for tier in [Tier::Exact, Tier::Reassoc] {
        let options = Options { tier, ..Options::default() };
        let (after, _) = match passes::optimize(module.clone(), &options, &NeutralCost) {
            Ok(found) => found,
            Err(error) => return Some(Some(format!("{tier}: {error}"))),
        };
        // Random norms of small rows lose digits that a decoder keeps.
        let slack = if tier == Tier::Exact { tier } else { Tier::Reround };
        let Some(found) = logits(&after, &weights) else {
            return Some(Some(format!("{tier}: cannot be evaluated any more")));
        };
        if let Err(mismatch) = tensor::compare::check(&found, &expected, slack.tolerance()) {
            return Some(Some(format!("{tier}: {mismatch}")));
        }
    }
    Some(None)
}

fn logits(module: &Module, weights: &WeightMap) -> Option<Vec<f32>> {
    let found = eval_module(module, weights, &TOKENS, ROWS, EvalOptions::default());
    found.ok().map(|t| t.to_f32())
}
