//! Executes wafer placement plans: function per tile and time at four levels of fidelity.
