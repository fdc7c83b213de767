//! What the optimiser does to a model does not depend on how many layers it has.

use passes::{NeutralCost, Options, Report, optimize};

use crate::models;

/// Graphs after optimising a configuration with so many layers, without counts; and the report.
fn recipe(layers: usize) -> (Vec<String>, Report) {
    let config = harness::root().join("tests/configs/llama-3.1-8b/config.json");
    let text = std::fs::read_to_string(config).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["num_hidden_layers"] = layers.into();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let (module, report) =
        optimize(models::module(&path), &Options::default(), &NeutralCost).unwrap();
    let blocks = module.blocks.iter().map(ir::print_graph).collect();
    (blocks, report)
}

#[test]
fn a_hundred_layers_are_one_recipe() {
    let (one, few) = recipe(1);
    let (many, deep) = recipe(126);
    assert_eq!(one, many);
    assert_eq!(few.searches, deep.searches, "the same recipes, sizes and costs");
    assert!(few.searches.iter().all(|s| s.recipe.len() == 64));
}
