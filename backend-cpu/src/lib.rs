//! The CPU back end: module to program, packed weights and one-file executable.
//!
//! Stages, each a function: [`lower`] selects a kernel per op and plans the arena; packing
//! evaluates every constant and writes it in its kernel's layout, one at a time, straight into the
//! executable; [`tokenizer_tables`] turns tokenizer.json into tables; [`compile`] puts stub, weights,
//! tables and program together. The same module and weights give the same bytes on any machine.
//!
//! To add an op: an arm in `lower::ops`, a variant of `runtime::program::Op`, its kernel. What has no
//! fast kernel goes through the generic ones, so every verified module runs, optimised or not.
//! Does not do: optimisation of the module (`passes` does), execution (`runtime` does).

mod bundle;
mod cost;
mod error;
mod lower;
mod pack;
mod tokenizer;

pub use bundle::{Progress, Summary, compile, compile_in_memory, stub_bytes};
pub use cost::CpuCost;
pub use error::CpuError;
pub use lower::{Lowered, lower};
pub use tokenizer::{TokenizerTables, tables as tokenizer_tables};
