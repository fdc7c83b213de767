//! Target-independent passes of sparkc: pass manager, canonicalisation, e-graph rewriting and quantisation.
