//! The typed intermediate representation of sparkc: types, ops, graphs, text form, verifier and reference interpreter.
