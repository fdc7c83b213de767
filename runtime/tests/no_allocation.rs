//! A decode step allocates nothing, on one thread or several.
//!
//! One test per process: the counter is the process's allocator.

use std::alloc::System;
use std::sync::Arc;

use sparkc_runtime as runtime;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

mod support;

use std::ops::ControlFlow;

use runtime::{
    Batch, BatchOptions, Payload, Request, Sampler, Sampling, Session, SessionOptions, Wanted,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_decode_step_allocates_nothing() {
    let payload = Arc::new(support::decoder());
    let vocab = payload.program().vocab as usize;
    for threads in [1, 2] {
        for temperature in [0.0, 1.0] {
            let options = SessionOptions { threads, ..SessionOptions::default() };
            let mut session =
                Session::new(Arc::clone(&payload), options).expect("works on this program");
            let sampling = Sampling { temperature, top_k: 5, top_p: 0.9, seed: 1 };
            let mut sampler = Sampler::new(sampling, vocab);
            let mut token = 1;
            let mut step = |session: &mut Session| {
                let mut next = 0;
                let choose = &mut |row: &[f32]| next = sampler.choose(row).expect("finite logits");
                session.feed(&[token], Wanted::Last, choose).expect("works on this program");
                token = next;
            };
            // The first step may size what later ones use again, and threads allocate as they start.
            step(&mut session);
            std::thread::sleep(std::time::Duration::from_millis(100));
            let region = Region::new(ALLOCATOR);
            for _ in 0..support::CONTEXT - 1 {
                step(&mut session);
            }
            let change = region.change();
            let count = change.allocations + change.reallocations;
            assert_eq!(count, 0, "{threads} threads, temperature {temperature}");
        }
        steps_of_many_sequences(&payload, threads);
    }
}

/// As many sequences as fit one job and more, once they write.
fn steps_of_many_sequences(payload: &Arc<Payload>, threads: usize) {
    let session = SessionOptions { threads, ..SessionOptions::default() };
    let options = BatchOptions { session, parallel: 20, kv_bytes: 0 };
    let mut batch = Batch::new(Arc::clone(payload), options).expect("works on this program");
    for id in 0..20 {
        let temperature = (id % 2) as f32;
        let sampling = Sampling { temperature, top_k: 5, top_p: 0.9, seed: id };
        let prompt = vec![1 + id as u32; 4];
        let request = Request { id, prompt, limit: 40, sampling, stop_tokens: Vec::new() };
        batch.push(request).expect("fits");
    }
    let mut finished = Vec::new();
    let sink = &mut |_: runtime::NewToken<'_>| ControlFlow::Continue(());
    (0..4).for_each(|_| batch.step(sink, &mut finished).expect("works"));
    std::thread::sleep(std::time::Duration::from_millis(100));
    let region = Region::new(ALLOCATOR);
    (0..30).for_each(|_| batch.step(sink, &mut finished).expect("works"));
    let change = region.change();
    assert_eq!(change.allocations + change.reallocations, 0, "{threads} threads, 20 sequences");
    assert!(finished.is_empty());
}
