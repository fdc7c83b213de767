//! Runs a program: binds sizes for a step, then makes the calls in order.
//!
//! Invariant: once an engine has seen a step of some size, further steps of at most that size
//! allocate nothing.

mod bind;
mod caches;
mod call;
mod engine;
mod session;

pub(crate) use engine::{CHUNK, Engine};
pub use engine::{SessionError, SessionOptions, Wanted};
pub use session::Session;
