//! The sparkc command line.
fn main() {}
