//! An executable: the model inside, without running it.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::cli::InspectArgs;
use crate::output;
use crate::report::table::Table;
use crate::report::{self, Style};

/// Shows it.
pub(super) fn run(args: &InspectArgs, path: &Path) -> Result<()> {
    let payload = runtime::find_payload(path).with_context(|| format!("`{}`", path.display()))?;
    let (program, assets) = (payload.program(), payload.assets());
    let file_bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    let calls: usize = program.steps.iter().map(|_| 1).sum();
    if args.json {
        let facts: Map<String, Value> =
            assets.facts.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        return output::print_json(&json!({
            "kind": "executable",
            "file_bytes": file_bytes,
            "weight_bytes": payload.weight_bytes(),
            "context": program.context,
            "vocab": program.vocab,
            "steps": calls,
            "weights": program.weights.len(),
            "tokenizer": assets.has_tokenizer(),
            "chat_template": assets.chat_template.is_some(),
            "facts": facts,
        }));
    }
    let colored = report::stdout_colored();
    let mut table = Table::new(&["", ""]);
    for (name, value) in &assets.facts {
        table.row([name, value]);
    }
    table.row(["file", &report::bytes(file_bytes)]);
    table.row(["packed weights", &report::bytes(payload.weight_bytes() as u64)]);
    table.row(["context", &report::grouped(u64::from(program.context))]);
    table.row(["vocabulary", &report::grouped(u64::from(program.vocab))]);
    table.row(["tokenizer", if assets.has_tokenizer() { "yes" } else { "none" }]);
    table.row(["chat template", if assets.chat_template.is_some() { "yes" } else { "none" }]);
    let title = Style::Bold.paint("executable", colored);
    output::print(&format!("{title}\n{}", table.render(colored)))
}
