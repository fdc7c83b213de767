//! A decode step allocates nothing, on one thread or several.
//!
//! One test per process: the counter is the process's allocator.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sparkc_runtime as runtime;

mod support;

use runtime::{Sampler, Sampling, Session, SessionOptions, Wanted};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_decode_step_allocates_nothing() {
    let payload = Arc::new(support::decoder());
    let vocab = payload.program().vocab as usize;
    for threads in [1, 2] {
        for temperature in [0.0, 1.0] {
            let options = SessionOptions { threads, ..SessionOptions::default() };
            let mut session = Session::new(Arc::clone(&payload), options).unwrap();
            let sampling = Sampling { temperature, top_k: 5, top_p: 0.9, seed: 1 };
            let mut sampler = Sampler::new(sampling, vocab);
            let mut token = 1;
            let mut step = |session: &mut Session| {
                let mut next = 0;
                let choose = &mut |row: &[f32]| next = sampler.choose(row);
                session.feed(&[token], Wanted::Last, choose).unwrap();
                token = next;
            };
            // The first step may size what later ones use again, and threads allocate as they start.
            step(&mut session);
            std::thread::sleep(std::time::Duration::from_millis(100));
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..support::CONTEXT - 1 {
                step(&mut session);
            }
            let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
            assert_eq!(count, 0, "{threads} threads, temperature {temperature}");
        }
    }
}
