//! What ships inside sparkc executables: the program format, kernels, threads, tokenizer, sampling
//! and the generation loop.
//!
//! An executable is this crate's `sparkc-stub` binary with a [payload](Payload) appended: a
//! [`Program`] (a linear list of calls over one arena, with layer loops), packed weights that are
//! mapped and never copied, and the tokenizer. [`Session`] runs the program; [`Generator`] makes
//! text with it, [`Batch`] many texts at once; [`cli`] is the command line of every executable.
//!
//! Reading order: [`program`], [`Payload`], [`kernels`], [`Session`], [`Generator`], [`cli`].
//! Invariant: the bits of a result depend on the model, the tokens and the instruction set, never on
//! the number of threads, on how the tokens were split into steps, or on what else a step computes.
//! Does not know: the IR, the compiler, any model file format.

mod batch;
pub mod cli;
mod exec;
mod generate;
pub mod kernels;
mod mmap;
mod payload;
mod pool;
pub mod program;
mod sample;
mod speculate;
mod text;

pub use batch::{Batch, BatchError, BatchOptions, Finished, NewToken, Request, TokenSink};
pub use exec::{Session, SessionError, SessionOptions, Wanted};
pub use generate::{Generation, GenerationOptions, Generator, LogitsSink, StopReason, Timings};
pub use kernels::{Cpu, Isa};
pub use payload::{
    Assets, FOOTER_BYTES, GenerationDefaults, Payload, PayloadError, PayloadHead, WEIGHT_ALIGN,
    find_payload, write_tail,
};
pub use pool::Pool;
pub use program::Program;
pub use sample::{NoDistribution, Sampler, Sampling};
pub use speculate::{GUESSES_MAX, Speculation};
pub use text::{ChatMessage, Text, TextError, TextStream, tokenizer};
