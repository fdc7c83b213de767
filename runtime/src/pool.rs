//! Threads that share the work of one kernel at a time, and the safe ways to cut a result among them.
//!
//! A fixed set of workers waits for a job by spinning for a short while, then yielding, then
//! sleeping; so a token costs no system call where the machine is ours, and an idle or shared machine
//! is left alone. Work is cut into parts. Each thread takes its own in order, so that it reads memory
//! as one stream, then what others have not begun, from their far end: all finish within one part of
//! each other, and a worker that the system does not run delays nobody. Neither the cut nor who
//! computes a part changes a result (see `kernels`).
//!
//! Invariant: `run` returns only when every part is done and no thread will touch the job again, so
//! a job may borrow.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Checks of the job counter before a thread starts to yield: some hundred microseconds, longer than
/// the part of a decode step that one thread does alone. To yield on a busy machine costs
/// milliseconds.
const SPINS: u32 = 10_000;
/// Yields before a worker goes to sleep: a fraction of a millisecond.
const YIELDS: u32 = 200;

/// Most parts of a job per thread: one of them is what threads wait for each other at the end.
const PARTS: usize = 24;
/// Work of a part, at least: a tenth of a microsecond, against some ten nanoseconds to take it.
const PART_WORK: usize = 1 << 12;
/// Work below which waking threads costs more than it saves.
const THREAD_WORK: usize = 1 << 15;

/// A job is called with the number of a part and that of the thread that computes it.
type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A pool of threads; the caller of [`Pool::run`] is thread 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    scratch: Vec<Mutex<Scratch>>,
    activations: Mutex<Scratch>,
    /// Held while a job runs: engines on several threads may share a pool.
    turn: Mutex<()>,
}

/// Keeps the counters that threads spin on in cache lines of their own.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    /// Grows by one with every job; workers wait for it to change.
    epoch: Line<AtomicU32>,
    /// Parts of the current job that are not reported done.
    pending: Line<AtomicUsize>,
    /// For each thread its share of the current job.
    shares: Vec<Line<AtomicU64>>,
    /// Workers asleep, or about to be.
    sleepers: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
    /// Written when no part is pending, read by who has taken a part: so never both at once.
    job: UnsafeCell<Option<JobPointer>>,
    lock: Mutex<()>,
    wake: Condvar,
}

/// A job with its lifetime erased.
#[derive(Clone, Copy)]
struct JobPointer(*const Job<'static>);

#[allow(unsafe_code, reason = "a job borrows from the caller of `run`, who waits for all threads")]
// SAFETY: the pointee is `Sync`, and `run` keeps it alive until no thread uses it.
unsafe impl Send for JobPointer {}

#[allow(unsafe_code, reason = "the job's cell is guarded by the shares")]
// SAFETY: everything but `job` is `Sync`; the cell is written only while no part is pending, and read
// only between taking a part and reporting it done.
unsafe impl Sync for Shared {}

/// The parts of one thread that nobody has taken: `next..end` of the job of an epoch.
#[derive(Clone, Copy)]
struct Share {
    epoch: u32,
    next: u16,
    end: u16,
}

impl Share {
    fn to_bits(self) -> u64 {
        u64::from(self.epoch) << 32 | u64::from(self.next) << 16 | u64::from(self.end)
    }

    fn from_bits(bits: u64) -> Share {
        Share { epoch: (bits >> 32) as u32, next: (bits >> 16) as u16, end: bits as u16 }
    }
}

/// Buffers of one thread, kept from job to job.
#[derive(Debug, Default)]
pub struct Scratch {
    floats: Vec<f32>,
    words: Vec<u32>,
    bytes: Vec<u8>,
}

/// `len` elements of any content that begin a cache line.
fn aligned<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    const LINE: usize = 64;
    let room = len + LINE / size_of::<T>();
    if buffer.len() < room {
        buffer.resize(room, T::default());
    }
    let start = buffer.as_ptr().align_offset(LINE).min(room - len);
    &mut buffer[start..start + len]
}

impl Scratch {
    /// `len` elements of any content.
    pub fn get(&mut self, len: usize) -> &mut [f32] {
        aligned(&mut self.floats, len)
    }

    /// Two separate buffers of any content.
    pub fn two(&mut self, a: usize, b: usize) -> [&mut [f32]; 2] {
        self.get(a + b).split_at_mut(a).into()
    }

    /// Separate buffers of any content.
    pub fn several<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [f32]; N] {
        let mut rest = self.get(lengths.iter().sum());
        lengths.map(|len| rest.split_off_mut(..len).expect("the sum of the lengths"))
    }

    /// `len` words of any content.
    pub fn words(&mut self, len: usize) -> &mut [u32] {
        aligned(&mut self.words, len)
    }

    /// Two buffers of floats and one of bytes, of any content.
    pub fn floats_and_bytes(
        &mut self,
        [a, b]: [usize; 2],
        bytes: usize,
    ) -> ([&mut [f32]; 2], &mut [u8]) {
        let floats = aligned(&mut self.floats, a + b).split_at_mut(a);
        (floats.into(), aligned(&mut self.bytes, bytes))
    }
}

impl Pool {
    /// A pool of `threads` (at least 1), the caller included.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        Pool::build(threads, &[])
    }

    /// A pool whose threads, the caller too, are bound to a processor each, where the system can and
    /// there are as many processors: the scheduler of a busy machine puts two on one now and then.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn pinned(threads: usize) -> std::io::Result<Pool> {
        let processors = affinity::processors();
        let fits = threads > 1 && processors.len() == threads;
        Pool::build(threads, if fits { &processors } else { &[] })
    }

    fn build(threads: usize, processors: &[usize]) -> std::io::Result<Pool> {
        let threads = threads.max(1);
        if let Some(&processor) = processors.first() {
            affinity::bind(processor);
        }
        let shared = Arc::new(Shared {
            epoch: Line(AtomicU32::new(0)),
            pending: Line(AtomicUsize::new(0)),
            shares: (0..threads).map(|_| Line(AtomicU64::new(0))).collect(),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let scratch = (0..threads).map(|_| Mutex::default()).collect();
        let activations = Mutex::default();
        let turn = Mutex::default();
        let mut pool = Pool { shared, workers: Vec::new(), scratch, activations, turn };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("kernel-{index}"));
            let processor = processors.get(index).copied();
            pool.workers.push(builder.spawn(move || {
                if let Some(processor) = processor {
                    affinity::bind(processor);
                }
                shared.work(index);
            })?);
        }
        Ok(pool)
    }

    /// Number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Parts that a job of `grains` indivisible pieces is cut into; `None` for one thread alone.
    fn parts(&self, work: usize, grains: usize) -> Option<usize> {
        let threads = self.threads();
        let parts = (threads * (work / threads / PART_WORK).clamp(1, PARTS)).min(grains);
        (work >= THREAD_WORK && threads > 1).then_some(parts)
    }

    /// Calls `job(part, thread)` once for each part of `0..parts` and waits for all. One job runs at
    /// a time: other callers wait for it, so a job that runs another one on its pool never ends.
    ///
    /// # Panics
    /// When the job panics in any part.
    pub fn run(&self, parts: usize, job: &Job<'_>) {
        if self.workers.is_empty() || parts > usize::from(u16::MAX) {
            return (0..parts).for_each(|part| job(part, 0));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Waits when dropped, even by a panic: the job must outlive its use by workers.
        let wait = self.shared.publish(parts, job);
        self.shared.take_parts(0);
        drop(wait);
        if self.shared.panicked.swap(false, Ordering::Relaxed) {
            panic!("a kernel panicked");
        }
    }

    /// The scratch buffers of a thread.
    fn scratch(&self, thread: usize) -> MutexGuard<'_, Scratch> {
        self.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one job makes for the next, which all threads read.
    pub fn activations(&self) -> MutexGuard<'_, Scratch> {
        self.activations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for `floats` and `bytes` of scratch on every thread, so that later jobs that need
    /// no more allocate nothing, whichever thread they run on.
    pub fn reserve_scratch(&self, floats: usize, bytes: usize) {
        for thread in 0..self.threads() {
            self.scratch(thread).floats_and_bytes([floats, 0], bytes);
        }
    }

    /// Cuts `out` into contiguous parts at multiples of `grain`, and calls `f(first element, part,
    /// scratch)` for each; on this thread alone where the work, in multiplications, is little.
    pub fn split<T: Send>(
        &self,
        out: &mut [T],
        grain: usize,
        work: usize,
        f: &(dyn Fn(usize, &mut [T], &mut Scratch) + Sync),
    ) {
        let len = out.len();
        let Some(parts) = self.parts(work, len.div_ceil(grain.max(1))) else {
            return f(0, out, &mut self.scratch(0));
        };
        let target = Target::new(out, len);
        let parts = Parts { len, grain, parts };
        self.run(parts.parts, &|part, thread| {
            let part = parts.of(part);
            if !part.is_empty() {
                let mut columns = target.columns(part.clone());
                f(part.start, columns.row(0), &mut self.scratch(thread));
            }
        });
    }

    /// Cuts the columns of the row-major matrix `out` (rows of `width`) among the threads at
    /// multiples of `grain`, and calls `f(first column, columns, scratch)` for each part.
    pub fn split_columns(
        &self,
        out: &mut [f32],
        width: usize,
        grain: usize,
        work: usize,
        f: &(dyn Fn(usize, Columns<'_>, &mut Scratch) + Sync),
    ) {
        self.split_matrices([(out, width)], grain, work, &|_, first, columns, scratch| {
            f(first, columns, scratch);
        });
    }

    /// Cuts the columns of several matrices `(elements, width)` among the threads at multiples of
    /// `grain`, as one job, and calls `f(matrix, first column, columns, scratch)`.
    pub fn split_matrices<const N: usize>(
        &self,
        outs: [(&mut [f32], usize); N],
        grain: usize,
        work: usize,
        f: &(dyn Fn(usize, usize, Columns<'_>, &mut Scratch) + Sync),
    ) {
        let targets = outs.map(|(out, width)| Target::new(out, width));
        let grains = |t: &Target<'_, f32>| t.width.div_ceil(grain.max(1));
        let len = targets.iter().map(grains).sum();
        let Some(parts) = self.parts(work, len) else {
            for (i, target) in targets.iter().enumerate() {
                f(i, 0, target.columns(0..target.width), &mut self.scratch(0));
            }
            return;
        };
        let parts = Parts { len, grain: 1, parts };
        self.run(parts.parts, &|part, thread| {
            let part = parts.of(part);
            let mut before = 0;
            for (i, target) in targets.iter().enumerate() {
                let own = before..before + grains(target);
                before = own.end;
                let clip = |g: usize| (g.clamp(own.start, own.end) - own.start) * grain;
                let columns = clip(part.start)..clip(part.end).min(target.width);
                if columns.start < columns.end {
                    f(i, columns.start, target.columns(columns), &mut self.scratch(thread));
                }
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        self.shared.wake_sleepers();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its jobs, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

/// A published job. Waits for its parts when dropped.
struct Wait<'a> {
    shared: &'a Shared,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut spins = 0;
        while self.shared.pending.0.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Shared {
    /// Hands a job to all threads.
    fn publish(&self, parts: usize, job: &Job<'_>) -> Wait<'_> {
        let wait = self.publish_quietly(parts, job);
        self.wake_sleepers();
        wait
    }

    /// Hands a job to all threads that are awake.
    #[allow(unsafe_code, reason = "erases the lifetime of a job that outlives its use")]
    fn publish_quietly(&self, parts: usize, job: &Job<'_>) -> Wait<'_> {
        // SAFETY: only the lifetime changes; the caller holds the returned `Wait` while it borrows
        // what `job` borrows. A thread uses the job only between taking a part and reporting it
        // done, and `Wait` is dropped only when all parts are done.
        let job = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        // SAFETY: jobs take turns, and `run` waits for the parts of its own before the next: none is
        // pending, and nobody reads the cell.
        unsafe { *self.job.get() = Some(JobPointer(job)) };
        let (epoch, threads) =
            (self.epoch.0.load(Ordering::Relaxed).wrapping_add(1), self.shares.len());
        self.pending.0.store(parts, Ordering::Relaxed);
        for (thread, share) in self.shares.iter().enumerate() {
            let bound = |i: usize| (parts * i / threads) as u16;
            let share_now = Share { epoch, next: bound(thread), end: bound(thread + 1) };
            // Releases the job to those who take a part.
            share.0.store(share_now.to_bits(), Ordering::Release);
        }
        self.epoch.0.store(epoch, Ordering::SeqCst);
        Wait { shared: self }
    }

    /// Wakes the threads that sleep, after the epoch has changed.
    fn wake_sleepers(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
    }

    /// Computes the thread's own parts of the current job, then parts that nobody has begun.
    fn take_parts(&self, thread: usize) {
        let threads = self.shares.len();
        for owner in (0..threads).map(|i| (thread + i) % threads) {
            // One report for all: the count is a cache line that threads take from each other.
            let mut done = 0;
            while let Some(part) = self.take(owner, owner == thread) {
                self.compute(part, thread);
                done += 1;
            }
            if done > 0 {
                self.pending.0.fetch_sub(done, Ordering::Release);
            }
        }
    }

    /// Takes the first or the last part of a thread's share of whatever job is current.
    fn take(&self, owner: usize, first: bool) -> Option<usize> {
        let share = &self.shares[owner].0;
        let mut bits = share.load(Ordering::Acquire);
        loop {
            let now = Share::from_bits(bits);
            if now.next >= now.end {
                return None;
            }
            let (part, after) = if first {
                (now.next, Share { next: now.next + 1, ..now })
            } else {
                (now.end - 1, Share { end: now.end - 1, ..now })
            };
            // The epoch in the word makes it another word for each job: what was loaded is current.
            match share.compare_exchange_weak(
                bits,
                after.to_bits(),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(usize::from(part)),
                Err(found) => bits = found,
            }
        }
    }

    #[allow(unsafe_code, reason = "calls the job through its erased pointer")]
    fn compute(&self, part: usize, thread: usize) {
        // SAFETY: this part was taken and is not reported, so the cell is not written, and `run`
        // keeps the job alive.
        if let Some(JobPointer(job)) = unsafe { *self.job.get() } {
            // SAFETY: as above.
            let call = || unsafe { (*job)(part, thread) };
            if catch_unwind(AssertUnwindSafe(call)).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
    }

    /// The life of a worker.
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_change(seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            self.take_parts(thread);
        }
    }

    /// Waits until the epoch is no longer `seen`: spins, yields, then sleeps.
    fn wait_for_change(&self, seen: u32) -> u32 {
        for turn in 0..SPINS + YIELDS {
            let now = self.epoch.0.load(Ordering::Acquire);
            if now != seen {
                return now;
            }
            if turn < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = self.epoch.0.load(Ordering::SeqCst);
            if now != seen {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                return now;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Contiguous shares of `len` elements, cut at multiples of `grain`.
#[derive(Clone, Copy)]
struct Parts {
    len: usize,
    grain: usize,
    parts: usize,
}

impl Parts {
    fn of(self, part: usize) -> std::ops::Range<usize> {
        let grains = self.len.div_ceil(self.grain.max(1));
        let bound = |i: usize| (grains * i / self.parts * self.grain).min(self.len);
        bound(part)..bound(part + 1)
    }
}

/// A result matrix that threads write disjoint columns of.
struct Target<'a, T> {
    data: *mut T,
    rows: usize,
    width: usize,
    borrow: std::marker::PhantomData<&'a mut [T]>,
}

#[allow(unsafe_code, reason = "threads get disjoint columns of one buffer")]
// SAFETY: `columns` is private to this module, which asks for disjoint ranges only.
unsafe impl<T: Send> Sync for Target<'_, T> {}

impl<'a, T> Target<'a, T> {
    fn new(out: &'a mut [T], width: usize) -> Self {
        let rows = out.len().checked_div(width).unwrap_or(0);
        Target { data: out.as_mut_ptr(), rows, width, borrow: std::marker::PhantomData }
    }

    /// The caller asks for disjoint columns within the width.
    fn columns(&self, columns: std::ops::Range<usize>) -> Columns<'_, T> {
        assert!(columns.end <= self.width);
        Columns { target: self, columns }
    }
}

/// Some columns of a row-major matrix, for one thread to write.
pub struct Columns<'a, T = f32> {
    target: &'a Target<'a, T>,
    columns: std::ops::Range<usize>,
}

impl<T> Columns<'_, T> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.target.rows
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The columns of row `row`.
    ///
    /// # Panics
    /// When there is no such row.
    #[allow(unsafe_code, reason = "threads get disjoint columns of one buffer")]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.target.rows);
        let start = row * self.target.width + self.columns.start;
        // SAFETY: row and columns lie within the buffer that `Target` borrows mutably, and no other
        // `Columns` covers these columns.
        unsafe { std::slice::from_raw_parts_mut(self.target.data.add(start), self.columns.len()) }
    }
}

/// Which processors a thread may use. Failure is no error: then the system chooses.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "system calls on a local set of processors")]
mod affinity {
    /// The processors that this thread may use, in order.
    pub(super) fn processors() -> Vec<usize> {
        // SAFETY: a set is plain bits; the call fills as many as it has.
        let (found, set) = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            (libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set), set)
        };
        // SAFETY: the indices stay below the size of the set.
        let has = |&cpu: &usize| unsafe { libc::CPU_ISSET(cpu, &set) };
        if found != 0 { Vec::new() } else { (0..libc::CPU_SETSIZE as usize).filter(has).collect() }
    }

    /// Keeps this thread on one processor.
    pub(super) fn bind(processor: usize) {
        // SAFETY: the set is local, and the index came from `processors`.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(processor, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
    }
}

/// Elsewhere the system chooses.
#[cfg(not(target_os = "linux"))]
mod affinity {
    pub(super) fn processors() -> Vec<usize> {
        Vec::new()
    }

    pub(super) fn bind(_: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_written_once_on_any_thread_count() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            for (len, grain) in [(0, 16), (1, 16), (16, 16), (100, 16), (7, 1)] {
                let mut out = vec![0.0; len];
                for _ in 0..50 {
                    pool.split(&mut out, grain, usize::MAX, &|start, part, _| {
                        for (i, o) in part.iter_mut().enumerate() {
                            *o += (start + i) as f32;
                        }
                    });
                }
                let expected: Vec<f32> = (0..len).map(|i| 50.0 * i as f32).collect();
                assert_eq!(out, expected, "{threads} threads, {len} by {grain}");
            }
        }
    }

    #[test]
    fn columns_are_disjoint_and_cover_the_rows() {
        let pool = Pool::new(3).unwrap();
        let mut out = vec![0.0; 4 * 37];
        pool.split_columns(&mut out, 37, 8, usize::MAX, &|first, mut columns, _| {
            for row in 0..columns.rows() {
                for (i, o) in columns.row(row).iter_mut().enumerate() {
                    *o += (row * 37 + first + i) as f32;
                }
            }
        });
        assert!(out.iter().enumerate().all(|(i, &o)| o == i as f32));
    }

    #[test]
    fn a_panic_in_any_part_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(2).unwrap();
        for bad in [0, 1] {
            let job = |part: usize, _: usize| assert_ne!(part, bad, "expected by the test");
            assert!(catch_unwind(AssertUnwindSafe(|| pool.run(2, &job))).is_err());
            let calls = AtomicUsize::new(0);
            pool.run(2, &|_, _| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(2).unwrap();
        let caller = || {
            for parts in (1..9).cycle().take(400) {
                let calls = AtomicUsize::new(0);
                pool.run(parts, &|_, _| {
                    // Lets the others begin while this job runs.
                    std::thread::yield_now();
                    calls.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(calls.load(Ordering::Relaxed), parts);
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(caller)));
        });
    }

    #[test]
    fn a_worker_that_does_not_run_delays_nobody() {
        // The worker is kept from its part until the caller has computed it.
        let pool = Pool::new(2).unwrap();
        let guard = pool.shared.lock.lock().unwrap();
        while pool.shared.sleepers.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        // About to sleep, the worker waits for the lock that this thread holds.
        let by_caller = AtomicUsize::new(0);
        let job = |_: usize, thread: usize| {
            by_caller.fetch_add(usize::from(thread == 0), Ordering::Relaxed);
        };
        let wait = pool.shared.publish_quietly(2, &job);
        pool.shared.take_parts(0);
        drop(wait);
        assert_eq!(by_caller.load(Ordering::Relaxed), 2);
        drop(guard);
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            let calls = AtomicUsize::new(0);
            pool.run(2, &|_, _| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.load(Ordering::Relaxed), 2);
        }
    }
}
