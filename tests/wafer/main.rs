//! Compiled wafer plans: legal, and executed by the simulator with the results of `ir::eval` and of
//! transformers. Here because only this crate may see the compiler and the simulator together.

mod calibration;
mod context;
mod decoder;
mod defects;
mod engine;
mod execute;
mod fixtures;
mod kernels;
mod levels;
mod meshgemm;
mod prefill;
mod products;
mod published;
mod refusals;
mod scale;
mod shared;
mod summa;
mod wafers;
