//! How fast the model runs here: prompt, generation, time to the first token, memory.

use std::ops::ControlFlow;
use std::time::Instant;

use super::{Args, CliError, Streams};
use crate::generate::{GenerationOptions, Generator, Timings};
use crate::sample::Sampling;
use crate::text::Text;

/// Tokens of the measured prompt and text, as far as the context allows.
const PROMPT: usize = 512;
const TEXT: usize = 128;
/// Tokens of the prompt for the time to the first token.
const SHORT_PROMPT: usize = 32;

pub(super) fn bench(
    args: &Args,
    generator: &mut Generator,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let payload = generator.session().payload().clone();
    let context = generator.session().context();
    let text = args.n.unwrap_or(TEXT).min(context / 2);
    let prompt = match (&args.tokens, &args.prompt) {
        (Some(tokens), _) => tokens.clone(),
        (None, Some(prompt)) => Text::new(payload.assets())?.encode(prompt)?,
        (None, None) => filler(PROMPT.min(context - text), payload.program().vocab, 1),
    };
    let short = filler(SHORT_PROMPT.min(context.div_ceil(2)), payload.program().vocab, 2);
    let begin = Instant::now();
    run(generator, &short, 1)?;
    let first = begin.elapsed();
    // Measured on warm memory: the first run touched the weights.
    let prefill = run(generator, &prompt, 1)?;
    let decode = run(generator, &short, text)?;
    let weights = payload.weight_bytes() as f64;
    let bandwidth = weights * decode.decode_rate() / 1e9;
    let peak = peak_memory();
    let (isa, threads) = (generator.session().isa(), generator.session().threads());
    if args.json {
        let object = serde_json::json!({
            "prompt_tokens": prefill.prompt_tokens,
            "prompt_tokens_per_second": prefill.prompt_rate(),
            "decode_tokens": decode.decode_tokens,
            "decode_tokens_per_second": decode.decode_rate(),
            "decode_gigabytes_per_second": bandwidth,
            "first_token_seconds": first.as_secs_f64(),
            "peak_bytes": peak,
            "weight_bytes": payload.weight_bytes(),
            "threads": threads,
            "isa": isa.name(),
        });
        writeln!(streams.out, "{object}")?;
        return Ok(streams.out.flush()?);
    }
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    writeln!(
        streams.out,
        "prompt         {:>10.1} tokens/s   ({} tokens)\n\
         generation     {:>10.1} tokens/s   ({} tokens, {bandwidth:.1} GB/s of weights)\n\
         first token    {:>10.1} ms         ({} prompt tokens, weights not yet in cache)\n\
         peak memory    {:>10} MiB        (weights {:.1} MiB, mapped)\n\
         kernels        {isa}, {threads} threads",
        prefill.prompt_rate(),
        prefill.prompt_tokens,
        decode.decode_rate(),
        decode.decode_tokens,
        first.as_secs_f64() * 1e3,
        short.len(),
        peak.map_or_else(|| "?".to_string(), |p| format!("{:.1}", mebibytes(p))),
        mebibytes(payload.weight_bytes() as u64),
    )?;
    Ok(streams.out.flush()?)
}

fn run(generator: &mut Generator, prompt: &[u32], limit: usize) -> Result<Timings, CliError> {
    let options = GenerationOptions { limit, sampling: Sampling::GREEDY, stop_tokens: &[] };
    let generation =
        generator.generate(prompt, &options, None, &mut |_| ControlFlow::Continue(()))?;
    Ok(generation.timings)
}

/// Tokens spread over the vocabulary; two seeds share no beginning.
fn filler(n: usize, vocab: u32, seed: usize) -> Vec<u32> {
    (0..n.max(1)).map(|i| ((i * 7919 + seed * 104_729) % vocab.max(1) as usize) as u32).collect()
}

/// The largest resident size of this process so far, in bytes, where the system tells it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
