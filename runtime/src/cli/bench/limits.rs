//! The limits of this machine, measured in the same process and on the same threads as the model: how
//! fast they read the model's own weights, and how many products they make when they do nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::kernels::{Isa, peak};
use crate::pool::Pool;

/// How long a measurement runs: long against the ticks of the system.
const LONG: Duration = Duration::from_millis(120);
/// Measurements of a limit, at least; the best counts, because what disturbs only slows down.
const PASSES: usize = 4;

/// Bytes that all threads read per second: the best pass over the weights, each thread its own
/// contiguous part, as kernels do.
pub(super) fn read_rate(isa: Isa, pool: &Pool, weights: &[u8]) -> f64 {
    let part = weights.len().div_ceil(pool.threads()).max(1);
    // Small models are read many times in a pass.
    let times = (64 << 20) / weights.len().max(1) + 1;
    let (begin, mut best, mut passes) = (Instant::now(), 0f64, 0);
    while passes < PASSES || begin.elapsed() < LONG {
        passes += 1;
        let pass = Instant::now();
        pool.run(pool.threads(), &|i, _| {
            let part = weights.chunks(part).nth(i).unwrap_or_default();
            (0..times).for_each(|_| peak::read(isa, part));
        });
        best = best.max((weights.len() * times) as f64 / pass.elapsed().as_secs_f64());
    }
    best
}

/// f32 multiply-adds per second of all threads.
pub(super) fn float_products(isa: Isa, pool: &Pool) -> f64 {
    product_rate(pool, &|rounds| Some(peak::float_products(isa, rounds))).unwrap_or(0.0)
}

/// Multiply-adds of bytes per second of all threads, where the instruction set has them.
pub(super) fn byte_products(isa: Isa, pool: &Pool) -> Option<f64> {
    product_rate(pool, &|rounds| peak::byte_products(isa, rounds))
}

/// Products per second, the best of [`PASSES`]: the rounds that take a part of [`LONG`] on one
/// thread, on all of them.
fn product_rate(pool: &Pool, run: &(dyn Fn(u64) -> Option<u64> + Sync)) -> Option<f64> {
    const TRIAL: u64 = 200_000;
    let begin = Instant::now();
    run(TRIAL)?;
    let trial = begin.elapsed().as_secs_f64().max(1e-9);
    let rounds = (TRIAL as f64 * LONG.as_secs_f64() / PASSES as f64 / trial) as u64 + 1;
    let mut best = 0f64;
    for _ in 0..PASSES {
        let (begin, done) = (Instant::now(), AtomicU64::new(0));
        pool.run(pool.threads(), &|_, _| {
            done.fetch_add(run(rounds).unwrap_or(0), Ordering::Relaxed);
        });
        best = best.max(done.into_inner() as f64 / begin.elapsed().as_secs_f64());
    }
    Some(best)
}
