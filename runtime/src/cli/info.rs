//! What is inside an executable.

use super::{CliError, Streams};
use crate::payload::Payload;
use crate::program::Step;

pub(super) fn info(
    payload: &Payload,
    json: bool,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let (program, assets) = (payload.program(), payload.assets());
    let layers: u32 = program
        .steps
        .iter()
        .map(|step| match step {
            Step::Repeat(repeat) => repeat.count,
            Step::Call(_) => 0,
        })
        .sum();
    let cache: u64 = program.caches.iter().map(|c| c.bytes_per_token()).sum();
    let defaults = &assets.generation;
    let sampling = if defaults.sample {
        let (t, k, p) = (defaults.temperature, defaults.top_k, defaults.top_p);
        format!("temperature {t}, top-k {k}, top-p {p}")
    } else {
        "greedy".to_string()
    };
    if json {
        let facts: serde_json::Map<String, serde_json::Value> =
            assets.facts.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        let object = serde_json::json!({
            "name": program.name,
            "vocab": program.vocab,
            "context": program.context,
            "layers": layers,
            "weight_bytes": payload.weight_bytes(),
            "cache_bytes_per_token": cache,
            "tokenizer": assets.has_tokenizer(),
            "chat": assets.chat_template.is_some(),
            "sample": defaults.sample,
            "temperature": defaults.temperature,
            "top_k": defaults.top_k,
            "top_p": defaults.top_p,
            "stop_tokens": defaults.stop_tokens,
            "facts": facts,
        });
        writeln!(streams.out, "{object}")?;
        return Ok(streams.out.flush()?);
    }
    let yes = |has: bool| if has { "yes" } else { "no" };
    let mebibytes = payload.weight_bytes() as f64 / f64::from(1 << 20);
    let mut rows = vec![
        ("model".to_string(), program.name.clone()),
        ("layers".to_string(), layers.to_string()),
        ("vocabulary".to_string(), program.vocab.to_string()),
        ("context".to_string(), format!("{} tokens", program.context)),
        ("weights".to_string(), format!("{mebibytes:.2} MiB, mapped")),
        ("KV cache".to_string(), format!("{cache} bytes per token")),
        ("tokenizer".to_string(), yes(assets.has_tokenizer()).to_string()),
        ("chat".to_string(), yes(assets.chat_template.is_some()).to_string()),
        ("sampling".to_string(), sampling),
    ];
    rows.extend(assets.facts.iter().cloned());
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        writeln!(streams.out, "{name:width$}  {value}")?;
    }
    Ok(streams.out.flush()?)
}
