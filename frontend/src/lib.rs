//! Model file formats of sparkc: Hugging Face directories, safetensors and .spark text to IR.
