//! Help, version and usage errors of the real program.
