//! The limits of this machine, measured in the same process as the model: how fast its threads read
//! the model's own weights, and how many products they make when they do nothing else.

use std::time::{Duration, Instant};

use crate::kernels::{Isa, peak};

/// How long a measurement runs: long against the start of threads and the ticks of the system.
const LONG: Duration = Duration::from_millis(120);
/// Measurements of a limit, at least; the best counts, because what disturbs only slows down. The
/// first touches the pages.
const PASSES: usize = 4;

/// Limits of all threads together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes read per second: the best pass over the weights.
    pub(super) read: f64,
    /// f32 multiply-adds per second.
    pub(super) float_products: f64,
    /// Multiply-adds of bytes per second, where the instruction set has them.
    pub(super) byte_products: Option<f64>,
}

impl Limits {
    pub(super) fn measure(isa: Isa, threads: usize, weights: &[u8]) -> Limits {
        let float = |rounds| Some(peak::float_products(isa, rounds));
        let byte = |rounds| peak::byte_products(isa, rounds);
        Limits {
            read: read_rate(isa, threads, weights),
            float_products: product_rate(threads, &float).unwrap_or(0.0),
            byte_products: product_rate(threads, &byte),
        }
    }
}

/// Bytes per second of the best pass; each thread reads its own contiguous part, as kernels do.
fn read_rate(isa: Isa, threads: usize, weights: &[u8]) -> f64 {
    let part = weights.len().div_ceil(threads).max(1);
    // Small models are read many times in a pass.
    let times = (64 << 20) / weights.len().max(1) + 1;
    let (begin, mut best, mut passes) = (Instant::now(), 0f64, 0);
    while passes < PASSES || begin.elapsed() < LONG {
        passes += 1;
        let pass = Instant::now();
        std::thread::scope(|scope| {
            for part in weights.chunks(part) {
                scope.spawn(move || (0..times).for_each(|_| peak::read(isa, part)));
            }
        });
        best = best.max((weights.len() * times) as f64 / pass.elapsed().as_secs_f64());
    }
    best
}

/// Products per second, the best of [`PASSES`]: the rounds that take a part of [`LONG`] on one
/// thread, on all of them.
fn product_rate(threads: usize, run: &(dyn Fn(u64) -> Option<u64> + Sync)) -> Option<f64> {
    const TRIAL: u64 = 200_000;
    let begin = Instant::now();
    run(TRIAL)?;
    let trial = begin.elapsed().as_secs_f64().max(1e-9);
    let rounds = (TRIAL as f64 * LONG.as_secs_f64() / PASSES as f64 / trial) as u64 + 1;
    let mut best = 0f64;
    for _ in 0..PASSES {
        let begin = Instant::now();
        let each = std::thread::scope(|scope| {
            (1..threads).for_each(|_| drop(scope.spawn(|| run(rounds))));
            run(rounds)
        })?;
        best = best.max((each * threads as u64) as f64 / begin.elapsed().as_secs_f64());
    }
    Some(best)
}
