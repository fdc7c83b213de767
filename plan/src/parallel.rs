//! The same function over all items on all cores, results in order.

use std::sync::Mutex;
use std::sync::PoisonError;

/// Most threads used.
const THREADS_MAX: usize = 16;

/// `f` of every item. Whoever computes what, the results are those of a loop.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(items.len()).min(THREADS_MAX);
    let next = Mutex::new(0..items.len());
    let work = || {
        let mut done = Vec::new();
        loop {
            let i = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(i) = i else { return done };
            done.push((i, f(&items[i])));
        }
    };
    let mut all: Vec<(usize, R)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for thread in others {
            match thread.join() {
                Ok(part) => all.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, r)| r).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_order() {
        let items: Vec<u32> = (0..1000).collect();
        let squares = super::map(&items, |v| v * v);
        assert!(squares.iter().enumerate().all(|(i, v)| *v == (i * i) as u32));
        assert!(super::map(&[] as &[u32], |v| *v).is_empty());
    }
}
