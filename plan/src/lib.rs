//! Wafer placement plans: target description, plan format, codec, dump and an independent legality verifier.
