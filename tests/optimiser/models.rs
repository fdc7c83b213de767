//! Every model of the repository: configurations of well-known models, fixtures of every family.

use std::path::PathBuf;

use frontend::OpenOptions;
use ir::Module;

/// Paths of all models, sorted.
pub(crate) fn paths() -> Vec<PathBuf> {
    let mut paths = vec![harness::default_model()];
    for folder in ["tests/configs", "tests/fixtures/hf"] {
        for entry in std::fs::read_dir(harness::root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let config = path.join("config.json");
            let weights = path.join("model.safetensors").is_file();
            if config.is_file() {
                paths.push(if weights { path } else { config });
            }
        }
    }
    paths.sort();
    assert!(paths.len() > 10, "{paths:?}");
    paths
}

/// The module of a model.
pub(crate) fn module(path: &std::path::Path) -> Module {
    let model = frontend::open(path, &OpenOptions::default());
    model.unwrap_or_else(|e| panic!("{}: {e}", path.display())).module
}
