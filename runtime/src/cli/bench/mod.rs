//! How fast the model runs here, and how close that is to what the machine can do.
//!
//! Decoding is measured without guessing ahead, since what guesses are worth depends on the text;
//! they are reported beside it. Shares are of limits measured in the same run (`limits`): bytes of
//! weights that a token needs against reading them, products of a prompt against multiply-adds.
//! With three numbers (`--bench PROMPT TEXT THREADS`) it speaks the protocol of benchmark drivers
//! instead: a line FIRST when the first token is known, then `RESULT {..}`.

mod limits;
mod together;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Instant;

use super::{Args, CliError, Streams};
use crate::generate::{Generation, GenerationOptions, Generator};
use crate::program::{Call, Index, Op, Operand, Program, Repeat, Step};
use crate::sample::Sampling;
use crate::text::Text;
use together::{Limits, Together};

/// Tokens of the measured prompt and text, as far as the context allows.
const PROMPT: usize = 512;
const TEXT: usize = 128;
/// Tokens of the prompt for the time to the first token.
const SHORT_PROMPT: usize = 32;

/// What was measured.
struct Measured {
    prompt: Generation,
    text: Generation,
    guessed: Generation,
    first_seconds: f64,
    short_tokens: usize,
    /// Bytes that the threads read per second when they do nothing else: the better of before and
    /// after the text.
    read_limit: f64,
    float_limit: f64,
    byte_limit: Option<f64>,
    work: Work,
    /// Before several texts at once were tried.
    peak_bytes: Option<u64>,
    together: Vec<Together>,
}

pub(super) fn bench(
    args: &Args,
    generator: &mut Generator,
    begin: Instant,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    if let Some([prompt, text, _]) = args.protocol {
        return protocol(prompt, text, args, generator, begin, streams);
    }
    let measured = measure(args, generator)?;
    if args.json {
        let object = as_json(&measured, generator);
        writeln!(streams.out, "{object}")?;
    } else {
        streams.out.write_all(as_text(&measured, generator).as_bytes())?;
    }
    Ok(streams.out.flush()?)
}

fn measure(args: &Args, generator: &mut Generator) -> Result<Measured, CliError> {
    let payload = generator.session().payload().clone();
    let (context, vocab) = (generator.session().context(), payload.program().vocab);
    let text = args.n.unwrap_or(TEXT).min(context / 2);
    let prompt = match (&args.tokens, &args.prompt) {
        (Some(tokens), _) => tokens.clone(),
        (None, Some(prompt)) => Text::of(&payload)?.encode(prompt)?,
        (None, None) => filler(PROMPT.min(context - text), vocab, 1),
    };
    let short = filler(SHORT_PROMPT.min(context.div_ceil(2)), vocab, 2);
    let begin = Instant::now();
    run(generator, &short, 1, 0)?;
    let first_seconds = begin.elapsed().as_secs_f64();
    let (isa, weights) = (generator.session().isa(), payload.weight_segment());
    let float_limit = limits::float_products(isa, generator.session().pool());
    let byte_limit = limits::byte_products(isa, generator.session().pool());
    // Measured on warm memory: the first run touched the weights.
    let prefill = run(generator, &prompt, 1, 0)?;
    let before = limits::read_rate(isa, generator.session().pool(), weights);
    let plain = run(generator, &short, text, 0)?;
    let after = limits::read_rate(isa, generator.session().pool(), weights);
    let guessed = run(generator, &short, text, args.guesses())?;
    if guessed.tokens != plain.tokens {
        return Err(CliError::Guessing);
    }
    let mut measured = Measured {
        prompt: prefill,
        text: plain,
        guessed,
        first_seconds,
        short_tokens: short.len(),
        read_limit: before.max(after),
        float_limit,
        byte_limit,
        work: Work::of(payload.program()),
        peak_bytes: peak_memory(),
        together: Vec::new(),
    };
    let limits = Limits { bytes: measured.read_limit, products: measured.product_limit().0 };
    measured.together = together::measure(generator.session(), &measured.work, limits)?;
    Ok(measured)
}

impl Measured {
    /// Bytes of weights read per second while decoding.
    fn decode_bytes(&self) -> f64 {
        self.work.token_bytes as f64 * self.text.timings.decode_rate()
    }

    /// Multiply-adds per second while reading the prompt, the head's included.
    fn prompt_products(&self) -> f64 {
        let timings = &self.prompt.timings;
        let products = self.work.layer_products as f64 * timings.prompt_tokens as f64;
        (products + self.work.head_products as f64) / timings.prompt.as_secs_f64().max(1e-9)
    }

    /// The limit that prompts run against: of bytes where most weights are quantised.
    fn product_limit(&self) -> (f64, &'static str) {
        match self.byte_limit.filter(|_| self.work.quantized) {
            Some(limit) => (limit, "8-bit"),
            None => (self.float_limit, "f32"),
        }
    }
}

fn as_json(m: &Measured, generator: &Generator) -> serde_json::Value {
    let session = generator.session();
    let (limit, kind) = m.product_limit();
    serde_json::json!({
        "prompt_tokens": m.prompt.timings.prompt_tokens,
        "prompt_tokens_per_second": m.prompt.timings.prompt_rate(),
        "prompt_gigaproducts_per_second": m.prompt_products() / 1e9,
        "limit_gigaproducts_per_second": limit / 1e9,
        "limit_products": kind,
        "prompt_share_of_limit": m.prompt_products() / limit,
        "decode_tokens": m.text.timings.decode_tokens,
        "decode_tokens_per_second": m.text.timings.decode_rate(),
        "decode_gigabytes_per_second": m.decode_bytes() / 1e9,
        "limit_gigabytes_per_second": m.read_limit / 1e9,
        "decode_share_of_limit": m.decode_bytes() / m.read_limit,
        "speculative_tokens_per_second": m.guessed.timings.decode_rate(),
        "guessed_tokens": m.guessed.timings.speculation.guessed,
        "accepted_tokens": m.guessed.timings.speculation.accepted,
        "acceptance": m.guessed.timings.speculation.rate(),
        "together": m.together.iter().map(|t| serde_json::json!({
            "sequences": t.sequences,
            "tokens_per_second": t.rate,
            "share_of_limit": t.share,
            "limit": if t.reads { "bytes" } else { "products" },
        })).collect::<Vec<_>>(),
        "first_token_seconds": m.first_seconds,
        "peak_bytes": m.peak_bytes,
        "weight_bytes": session.payload().weight_bytes(),
        "threads": session.threads(),
        "isa": session.isa().name(),
    })
}

fn as_text(m: &Measured, generator: &Generator) -> String {
    let session = generator.session();
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (limit, kind) = m.product_limit();
    let guesses = m.guessed.timings.speculation;
    format!(
        "prompt         {:>10.1} tokens/s   ({} tokens; {:.0} G multiply-adds/s, {:.0} % of {:.0} {kind})\n\
         generation     {:>10.1} tokens/s   ({} tokens; {:.1} GB/s of weights, {:.0} % of {:.1})\n\
         guessing ahead {:>10.1} tokens/s   ({} of {} guesses held, {:.0} %)\n\
         {}\
         first token    {:>10.1} ms         ({} prompt tokens, weights not yet in cache)\n\
         peak memory    {:>10} MiB        (weights {:.1} MiB, mapped)\n\
         kernels        {}, {} threads; limits measured in this run\n",
        m.prompt.timings.prompt_rate(),
        m.prompt.timings.prompt_tokens,
        m.prompt_products() / 1e9,
        100.0 * m.prompt_products() / limit,
        limit / 1e9,
        m.text.timings.decode_rate(),
        m.text.timings.decode_tokens,
        m.decode_bytes() / 1e9,
        100.0 * m.decode_bytes() / m.read_limit,
        m.read_limit / 1e9,
        m.guessed.timings.decode_rate(),
        guesses.accepted,
        guesses.guessed,
        100.0 * guesses.rate(),
        m.together.iter().map(line_of).collect::<String>(),
        m.first_seconds * 1e3,
        m.short_tokens,
        m.peak_bytes.map_or_else(|| "?".to_string(), |p| format!("{:.1}", mebibytes(p))),
        mebibytes(session.payload().weight_bytes() as u64),
        session.isa(),
        session.threads(),
    )
}

fn line_of(t: &Together) -> String {
    format!(
        "{:>2} at once     {:>10.1} tokens/s   ({:.0} % of what {} allows)\n",
        t.sequences,
        t.rate,
        100.0 * t.share,
        if t.reads { "reading the weights once a step" } else { "multiplying" },
    )
}

/// One process of a benchmark of several programs.
fn protocol(
    prompt: usize,
    text: usize,
    args: &Args,
    generator: &mut Generator,
    begin: Instant,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let vocab = generator.session().payload().program().vocab;
    let loaded = begin.elapsed().as_secs_f64();
    let mut written = Ok(());
    let mut first = true;
    let options = GenerationOptions {
        limit: text + 1,
        sampling: Sampling::GREEDY,
        stop_tokens: &[],
        guesses: args.speculate.unwrap_or(0),
    };
    let prompt = filler(prompt, vocab, 1);
    let generation = generator.generate(&prompt, &options, None, &mut |_| {
        if std::mem::take(&mut first) {
            written = writeln!(streams.out, "FIRST").and_then(|()| streams.out.flush());
        }
        ControlFlow::Continue(())
    })?;
    written?;
    let timings = generation.timings;
    let object = serde_json::json!({
        "load_s": loaded,
        "prefill_tps": timings.prompt_rate(),
        "decode_tps": timings.decode_rate(),
        "accepted": timings.speculation.rate(),
    });
    writeln!(streams.out, "RESULT {object}")?;
    Ok(streams.out.flush()?)
}

fn run(
    generator: &mut Generator,
    prompt: &[u32],
    limit: usize,
    guesses: usize,
) -> Result<Generation, CliError> {
    let options =
        GenerationOptions { limit, sampling: Sampling::GREEDY, stop_tokens: &[], guesses };
    generator.forget();
    Ok(generator.generate(prompt, &options, None, &mut |_| ControlFlow::Continue(()))?)
}

/// What a token costs, by the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Work {
    /// Bytes of weights that a decode step reads; not the rows of tables that are gathered from.
    token_bytes: u64,
    /// Multiply-adds with weights per token of a prompt.
    layer_products: u64,
    /// Multiply-adds of the head, once a prompt.
    head_products: u64,
    /// Whether most of them are with quantised weights.
    quantized: bool,
}

impl Work {
    fn of(program: &Program) -> Work {
        let mut read = BTreeSet::new();
        let (mut work, mut quantized) = (Work::default(), 0);
        let mut visit = |call: &Call, at: &dyn Fn(Index) -> u32| {
            if let Op::Linear { weight } = call.op {
                let weight = at(weight);
                let Some(found) = program.weights.get(weight as usize) else { return };
                let products = found.dims.iter().map(|&d| u64::from(d)).product();
                let is_head = found.dims.first() == Some(&program.vocab);
                *(if is_head { &mut work.head_products } else { &mut work.layer_products }) +=
                    products;
                quantized += if found.dtype.is_quantized() { products } else { 0 };
                read.insert(weight);
            }
            read.extend(call.operands.iter().filter_map(|operand| match operand {
                Operand::Constant(index) => Some(at(*index)),
                _ => None,
            }));
        };
        for step in &program.steps {
            match step {
                Step::Call(call) => visit(call, &|index| fixed(index, None)),
                Step::Repeat(repeat) => {
                    for layer in 0..repeat.count as usize {
                        let at = |index| fixed(index, Some((repeat, layer)));
                        repeat.calls.iter().for_each(|call| visit(call, &at));
                    }
                }
            }
        }
        work.token_bytes =
            read.iter().filter_map(|&i| program.weights.get(i as usize)).map(|w| w.bytes).sum();
        work.quantized = 2 * quantized > work.layer_products + work.head_products;
        work
    }
}

fn fixed(index: Index, layer: Option<(&Repeat, usize)>) -> u32 {
    match (index, layer) {
        (Index::Fixed(i), _) => i,
        (Index::Layer(column), Some((repeat, layer))) => repeat.weight(layer, column),
        (Index::Layer(_), None) => u32::MAX,
    }
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
