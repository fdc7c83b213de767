//! Requests in flight: what the pipeline of regions sustains.

use anyhow::Result;
use simulator::{Level, Load, serve};

use crate::Figures;
use crate::programs;

/// Llama-3.1-8B at a context of 4096 on one wse3, 1 and 32 requests of 64 + 64 tokens.
pub(crate) fn llama_8b(figures: &mut Figures) -> Result<()> {
    let plan = programs::compile_config("llama-3.1-8b", &["--context", "4096"])?.plan()?;
    let at = |requests| serve(&plan, Level::L1, Load { requests, prompt: 64, generated: 64 });
    let (one, many) = (at(1)?, at(32)?);
    figures.at_least("tokens/s of one request", one.tokens_per_second, "tokens/s", 5000.0);
    figures.free("tokens/s of 32 requests", many.tokens_per_second, "tokens/s");
    figures.at_least("requests in flight", f64::from(many.in_flight), "", 32.0);
    // Whole prompts, one token behind the other through the pipeline of layers.
    let prompts = serve(&plan, Level::L1, Load { requests: 8, prompt: 4095, generated: 1 })?;
    figures.at_least("prefill", prompts.all_tokens_per_second, "tokens/s", 100_000.0);
    figures.free("between tokens, p99 of 32", many.token_seconds.p99 * 1e3, "ms");
    figures.free("energy, at most", many.joules_per_token_max, "J/token");
    Ok(())
}
