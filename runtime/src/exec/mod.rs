//! Runs a program: binds sizes for a step, then makes the calls in order.
//!
//! Invariant: once a session has seen a step of some size, further steps of at most that size
//! allocate nothing.

mod bind;
mod caches;
mod call;
mod session;

pub use session::{Session, SessionError, SessionOptions, Wanted};
