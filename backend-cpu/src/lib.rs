//! CPU back end of sparkc: module to program, packed weights and one-file executable.
