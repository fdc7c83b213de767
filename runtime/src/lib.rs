//! What ships inside sparkc executables: kernels, threads, tokenizer, sampling and the generation loop.
