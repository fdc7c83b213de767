//! A model: architecture, sizes and tensors.

use std::collections::BTreeMap;

use anyhow::Result;
use frontend::Model;
use serde_json::{Value, json};

use crate::cli::{InspectArgs, ModelArgs};
use crate::report::table::Table;
use crate::report::{self, Style};
use crate::{driver, output};

/// Shows it.
pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let (model, weights) = (args.path.clone(), args.weights.clone());
    let model_args = ModelArgs { model, weights, kv_cache: None };
    let model = driver::open(&model_args, args.build.context)?;
    if args.json {
        return output::print_json(&as_json(&model));
    }
    output::print(&render(&model, report::stdout_colored()))
}

/// Weights that differ only in the layer, as one row.
struct Group {
    count: usize,
    dtype: tensor::DType,
    shape: Vec<usize>,
    bytes: u64,
}

/// Weights of the module; layer numbers become `*`.
fn groups(model: &Model) -> BTreeMap<String, Group> {
    let mut groups = BTreeMap::new();
    for weight in model.module.weights() {
        let part =
            |p: &str| if p.bytes().all(|b| b.is_ascii_digit()) { "*" } else { p }.to_string();
        let name = weight.name.split('.').map(part).collect::<Vec<_>>().join(".");
        let elements = tensor::element_count(&weight.shape).unwrap_or(usize::MAX) as u64;
        let blocks = elements.div_ceil(weight.dtype.block_len() as u64);
        let bytes = blocks.saturating_mul(weight.dtype.block_bytes() as u64);
        let (dtype, shape) = (weight.dtype, weight.shape);
        let group = groups.entry(name).or_insert(Group { count: 0, dtype, shape, bytes: 0 });
        group.count += 1;
        group.bytes = group.bytes.saturating_add(bytes);
    }
    groups
}

fn layers(model: &Model) -> u64 {
    model.module.repeats().map(|(_, _, count)| u64::from(count)).sum()
}

fn render(model: &Model, colored: bool) -> String {
    let groups = groups(model);
    let bytes = groups.values().map(|g| g.bytes).fold(0, u64::saturating_add);
    let mut facts = Table::new(&["", ""]);
    facts.row(["family", &model.info.family]);
    facts.row(["parameters", &report::count(model.info.parameters)]);
    facts.row(["weights", &format!("{} as {}", report::bytes(bytes), model.info.dtype)]);
    facts.row(["layers", &layers(model).to_string()]);
    facts.row(["context", &report::grouped(model.module.context as u64)]);
    facts.row(["tokenizer", if model.assets.tokenizer_json.is_some() { "yes" } else { "none" }]);
    facts.row(["chat template", if model.assets.chat_template.is_some() { "yes" } else { "none" }]);
    facts.row(["digest", &model.info.digest.to_string()[..16]]);
    let mut tensors = Table::new(&["tensor", ">count", "dtype", "shape", ">bytes"]);
    for (name, group) in &groups {
        tensors.row([
            name.clone(),
            group.count.to_string(),
            group.dtype.to_string(),
            format!("{:?}", group.shape),
            report::bytes(group.bytes),
        ]);
    }
    let title = Style::Bold.paint(&model.info.name, colored);
    format!("{title}\n{}\n{}", facts.render(colored), tensors.render(colored))
}

fn as_json(model: &Model) -> Value {
    let tensors: Vec<Value> = groups(model)
        .into_iter()
        .map(|(name, group)| {
            json!({
                "name": name,
                "count": group.count,
                "dtype": group.dtype.name(),
                "shape": group.shape,
                "bytes": group.bytes,
            })
        })
        .collect();
    json!({
        "kind": "model",
        "name": model.info.name,
        "family": model.info.family,
        "parameters": model.info.parameters,
        "dtype": model.info.dtype.name(),
        "layers": layers(model),
        "context": model.module.context,
        "tokenizer": model.assets.tokenizer_json.is_some(),
        "chat_template": model.assets.chat_template.is_some(),
        "digest": model.info.digest.to_string(),
        "tensors": tensors,
    })
}
