//! The command line as clap types: the contract with users.
//!
//! Reading order: [`Cli`], [`Command`], then the arguments of each subcommand in the order of the
//! help. Long help and examples are in [`help`]. Invariant: names and meanings are only added to,
//! never changed; `tests/cases/help` shows every screen.
//! Does not check anything that needs a file: that is the commands'.

pub mod help;

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgMatches, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use runtime::Cpu;
use tensor::DType;

/// Compiles language models ahead of time: one model in, a wafer placement plan and one native
/// executable out, both with the same logits.
#[derive(Debug, Parser)]
#[command(
    name = "sparkc",
    bin_name = "sparkc",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = help::SPARKC
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Colours: always, never, or auto (on a terminal, unless NO_COLOR is set)
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t = Color::Auto,
        value_name = "WHEN",
        hide_possible_values = true,
        display_order = 900
    )]
    pub color: Color,
}

/// The definition with what holds for every option: `-1` is a value that its parser refuses, not an
/// option that nobody knows.
pub fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| {
            let option = !arg.is_positional() && arg.get_action().takes_values();
            arg.allow_negative_numbers(option)
        })
    })
}

/// Whether a command line that clap refused asks for JSON, as far as can be told.
pub fn asks_json(args: impl Iterator<Item = OsString>) -> bool {
    args.take_while(|arg| arg != "--").any(|arg| arg == "--json")
}

/// Whether the command was asked for JSON.
pub fn json(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, command)) => json(command),
        None => matches.try_get_one("json").is_ok_and(|flag| flag == Some(&true)),
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile a model to an executable, a wafer plan and a map
    #[command(after_help = help::COMPILE)]
    Compile(CompileArgs),
    /// Compile if needed, then write text with the executable
    #[command(after_help = help::RUN)]
    Run(RunArgs),
    /// Measure the executable beside other programs that run the same model
    #[command(after_help = help::BENCH)]
    Bench(BenchArgs),
    /// Execute a wafer plan: the tokens it produces and the time it takes
    #[command(after_help = help::SIMULATE)]
    Simulate(SimulateArgs),
    /// Run a model in the reference interpreter
    #[command(after_help = help::EVAL)]
    Eval(EvalArgs),
    /// Show what is inside a model, a plan or an executable
    #[command(after_help = help::INSPECT)]
    Inspect(InspectArgs),
    /// Prove a plan legal, independently of the compiler that made it
    #[command(after_help = help::VERIFY)]
    Verify(VerifyArgs),
    /// Lead a finished plan around PEs that died since; nothing else moves
    #[command(after_help = help::REPAIR)]
    Repair(RepairArgs),
    /// Check a certificate of the optimiser, independently of it
    #[command(after_help = help::VERIFY_PROOF)]
    VerifyProof(VerifyProofArgs),
    /// Run chosen passes on a .spark file and print the result
    #[command(after_help = help::OPT)]
    Opt(OptArgs),
    /// Shrink a .spark file in which passes go wrong to the smallest that shows it
    #[command(after_help = help::REDUCE)]
    Reduce(ReduceArgs),
    /// List the passes and the rewrites, or try the optimiser's parts
    #[command(after_help = help::PASSES, args_conflicts_with_subcommands = true)]
    Passes(PassesArgs),
    /// Say what a rewrite does, when, and why that is true
    #[command(after_help = help::EXPLAIN)]
    Explain(ExplainArgs),
    /// List the wafers sparkc knows, or show one
    #[command(after_help = help::TARGETS)]
    Targets(TargetsArgs),
    /// Print a shell's completion script
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
}

/// What decides the meaning and shape of a compiled model.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct ModelArgs {
    /// Directory with config.json and *.safetensors, a .safetensors file with config.json beside
    /// it, a .gguf file, a .spark file, or a bare config.json (shapes only)
    pub model: PathBuf,
    /// Weights of a .spark MODEL
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// How the KV cache is stored [default: f32; f16 where that would take 512 MiB or more and the
    /// weights have 16 bits or fewer]
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub kv_cache: Option<KvCache>,
}

/// Dtype of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvCache {
    /// 32 bits
    F32,
    /// 16 bits, 11 of precision
    F16,
    /// 16 bits, 8 of precision, the range of f32
    Bf16,
}

impl KvCache {
    /// The dtype of this name.
    pub fn dtype(self) -> DType {
        match self {
            KvCache::F32 => DType::F32,
            KvCache::F16 => DType::F16,
            KvCache::Bf16 => DType::BF16,
        }
    }
}

/// Options that choose what the compiler makes.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct BuildArgs {
    /// Wafer: a preset (see `sparkc targets`) or a TOML file
    #[arg(long, default_value = "wse3", value_name = "NAME|FILE.toml")]
    pub target: String,
    /// Wafers to spread the layers over: at most N, or auto for as few as hold the model (grids below
    /// 65,536 PEs: as many as the target says)
    #[arg(long, default_value = "auto", value_name = "N|auto", value_parser = wafers)]
    pub wafers: WaferCount,
    /// Requests that the wafers should work on at once: as many regions at least, with several layers
    /// each where that makes a token faster; 1 gives the fastest token [default: 24]
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=u32::MAX))]
    pub requests: Option<u32>,
    /// Dead PEs: a file with a line `X Y` each (built columns of all wafers, row), or `column X`
    #[arg(long, value_name = "FILE")]
    pub defects: Option<PathBuf>,
    /// Store weights in fewer bits: q8 is 8.5, q4 is 4.5 bits a weight
    #[arg(long, value_enum, default_value_t = Quant::None, value_name = "KIND")]
    pub quant: Quant,
    /// Longest sequence in tokens, prompt included [default: the model's]
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=u32::MAX))]
    pub context: Option<u32>,
    /// What may be done to the numbers; lossy lets the executable read activations in 8 bits beside
    /// q8 and q4 weights, but for groups with outliers
    #[arg(long, value_enum, default_value_t = Numerics::Reassoc, value_name = "TIER")]
    pub numerics: Numerics,
    /// Processor of the executable: native takes the best where it runs; x86-64-v4, x86-64-v3,
    /// aarch64 and portable give the same bits everywhere and are refused elsewhere
    #[arg(long, default_value_t = Cpu::Native, value_name = "NAME")]
    pub cpu: Cpu,
}

/// How many wafers a plan may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaferCount {
    /// As few as hold the model.
    Auto,
    /// At most this many.
    UpTo(u32),
}

/// Weight-only quantisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quant {
    /// As in the file
    None,
    /// Groups of 32 along K, 8 bits each and one f16 scale
    Q8,
    /// Groups of 32 along K, 4 bits each and one f16 scale
    Q4,
    /// Groups of 32 along K, 4 bits each, one f16 scale and one f16 minimum
    Q4m,
}

/// The loosest kind of rewrite allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Numerics {
    /// The same bits, given the order of accumulation
    Exact,
    /// The order of accumulation may change
    Reassoc,
    /// A stored value may be rounded differently
    Reround,
    /// Quantisation and the like
    Lossy,
}

/// One artefact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Emit {
    /// model: the native executable
    Cpu,
    /// model.wplan: the program of every tile
    Wafer,
    /// map.html: the wafer to look at
    Map,
    /// model.spark: the optimised IR
    Ir,
    /// cpu.proof and wafer.proof: why the optimised IR equals the model; only when asked for
    Proof,
}

/// `sparkc compile`.
#[derive(Args, Debug)]
pub struct CompileArgs {
    /// Model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Directory to write [default: ./NAME.sparkc]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// What to build.
    #[command(flatten)]
    pub build: BuildArgs,
    /// Artefacts to write [default: all that the model allows]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub emit: Vec<Emit>,
    /// Pack the weights into model.wplan, so that it can be simulated without the model
    #[arg(long)]
    pub embed_weights: bool,
    /// Plan every combination of options, as in "wafers=1,2;context=4096,8192;quant=none,q8": one
    /// result per point, one table, one chart; points that are there are not planned again
    #[arg(long, value_name = "AXES", conflicts_with_all = ["emit", "embed_weights", "dry_run"])]
    pub sweep: Option<String>,
    /// Only every N-th point of the sweep, from the I-th
    #[arg(long, value_name = "I/N", requires = "sweep", value_parser = shard)]
    pub shard: Option<(u32, u32)>,
    /// Compile everything, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the report as one JSON object instead of the summary
    #[arg(long)]
    pub json: bool,
}

/// The next token: greedy unless a temperature is given.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct SamplingArgs {
    /// Always take the most likely token
    #[arg(long, conflicts_with_all = ["temp", "top_k", "top_p"])]
    pub greedy: bool,
    /// Sampling temperature; 0 is greedy
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub temp: Option<f32>,
    /// Sample among the K most likely tokens; 0 for all
    #[arg(long, value_name = "K", value_parser = number::<u32>(0..=u32::MAX))]
    pub top_k: Option<u32>,
    /// Sample among the most likely tokens that make up probability P
    #[arg(long, value_name = "P", value_parser = probability)]
    pub top_p: Option<f32>,
    /// Seed of the sampler
    #[arg(long, value_name = "S", value_parser = number::<u64>(0..=u64::MAX))]
    pub seed: Option<u64>,
}

/// `sparkc run`: the flags after MODEL are those of the executable.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Model to compile, or directory that `sparkc compile` wrote
    #[arg(value_name = "MODEL|DIR")]
    pub model: PathBuf,
    /// Text to continue
    pub prompt: Option<String>,
    /// Of a model to compile: store weights in fewer bits (q8, q4 or q4m), into ./NAME-KIND.sparkc
    #[arg(long, value_enum, default_value_t = Quant::None, value_name = "KIND", hide_possible_values = true)]
    pub quant: Quant,
    /// Most tokens to generate
    #[arg(short, value_name = "N", value_parser = number::<u32>(0..=u32::MAX))]
    pub n: Option<u32>,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=u32::MAX))]
    pub threads: Option<u32>,
    /// Instructions to use: native, x86-64-v4, x86-64-v3, aarch64 or portable [default: what it was
    /// compiled for]
    #[arg(long, value_name = "NAME")]
    pub cpu: Option<Cpu>,
    /// Guess up to N tokens ahead where the text repeats itself [default: 7]
    #[arg(long, value_name = "N", value_parser = number::<u32>(0..=64))]
    pub speculate: Option<u32>,
    /// Put the prompt into the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// Prompt as token ids
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', value_name = "1,2,3", conflicts_with = "prompt", value_parser = number::<u32>(0..=u32::MAX))]
    pub tokens: Option<Vec<u32>>,
    /// Many texts at once: a JSON request a line (- for standard input), a JSON answer a line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "tokens", "logits", "bench", "speculate"])]
    pub batch: Option<PathBuf>,
    /// With --batch: at most N at once [default: 8]
    #[arg(long, value_name = "N", requires = "batch", value_parser = number::<u32>(1..=256))]
    pub parallel: Option<u32>,
    /// With --batch: memory for KV caches [default: 2048, or what one whole context takes]
    #[arg(long, value_name = "MIB", requires = "batch", value_parser = number::<u64>(1..=1 << 30))]
    pub kv_budget: Option<u64>,
    /// Write the logits of every prompt position to a safetensors file
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    /// Measure prompt and generation speed
    #[arg(long)]
    pub bench: bool,
    /// Describe the executable
    #[arg(long)]
    pub info: bool,
    /// Print one JSON object: text, tokens, prompt_tokens, timings
    #[arg(long)]
    pub json: bool,
}

/// `sparkc bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Model to compile, or directory that `sparkc compile` wrote
    #[arg(value_name = "MODEL|DIR")]
    pub model: PathBuf,
    /// Store weights in fewer bits: q8 is 8.5, q4 is 4.5 bits a weight
    #[arg(long, value_enum, default_value_t = Quant::None, value_name = "KIND")]
    pub quant: Quant,
    /// A peer besides those that are found: NAME=COMMAND, with {M} for MODEL, {P} for the tokens of
    /// the prompt, {G} for those of the text and {T} for threads
    #[arg(long, value_name = "NAME=COMMAND")]
    pub peer: Vec<String>,
    /// Repetitions of each program, interleaved
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = number::<u32>(1..=100))]
    pub reps: u32,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=u32::MAX))]
    pub threads: Option<u32>,
    /// Tokens of the prompt whose speed is measured
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = number::<u32>(1..=u32::MAX))]
    pub prompt: u32,
    /// Tokens of the prompt before the text
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = number::<u32>(1..=u32::MAX))]
    pub short: u32,
    /// Tokens of the text
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = number::<u32>(1..=u32::MAX))]
    pub text: u32,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `sparkc simulate`.
#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// Directory that `sparkc compile` wrote, or a .wplan file
    #[arg(value_name = "DIR|PLAN", required_unless_present = "kernel")]
    pub plan: Option<PathBuf>,
    /// Prompt as token ids
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', value_name = "1,2,3", value_parser = number::<u32>(0..=u32::MAX))]
    pub tokens: Vec<u32>,
    /// Prompt as text, through the model's tokenizer
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["tokens", "timing_only", "requests", "kernel"])]
    pub prompt: Option<String>,
    /// Tokens to generate after the prompt [default: 0]
    #[arg(short, value_name = "N", value_parser = number::<u32>(0..=u32::MAX))]
    pub n: Option<u32>,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Write the logits of every prompt position to a safetensors file
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    /// How time is found: messages as runs (0, 1) or wavelet by wavelet (2), on one line of tiles per
    /// class (0, 2) or on all (1, 3); tests hold all levels to the same cycles
    #[arg(long, default_value_t = 0, value_name = "0|1|2|3",
          value_parser = number::<u8>(0..=3))]
    pub level: u8,
    /// Time only, no numbers: needs no weights
    #[arg(long, conflicts_with = "logits")]
    pub timing_only: bool,
    /// Requests in flight: throughput, latencies, KV capacity and energy under load, in time only.
    /// Each has the prompt of --tokens (or --prompt-length) and generates -n tokens [default of -n: 64]
    #[arg(long, value_name = "N", conflicts_with_all = ["logits", "trace", "kernel"],
          value_parser = number::<u32>(1..=65536))]
    pub requests: Option<u32>,
    /// Prompt tokens of each request [default: as many as --tokens has, else 64]
    #[arg(long, value_name = "N", requires = "requests", conflicts_with = "tokens",
          value_parser = number::<u32>(1..=u32::MAX))]
    pub prompt_length: Option<u32>,
    /// Write a trace that ui.perfetto.dev opens
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Where the model is, when neither the plan nor DIR leads to its weights
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Print one JSON object: also cycles, tokens_per_second, breakdown
    #[arg(long)]
    pub json: bool,
    /// Kernel.
    #[command(flatten)]
    pub kernel: KernelArgs,
}

/// `sparkc simulate --kernel`: one kernel on a bare region.
#[derive(Args, Debug)]
#[command(next_help_heading = "One kernel on a bare region, for calibration")]
// `requires = "kernel"` alone is not held beside a plan, which excludes the kernel.
#[group(conflicts_with = "plan")]
pub struct KernelArgs {
    /// Kernel to time instead of a plan: meshgemv, chain-gemv, meshgemm, summa, decode-layer,
    /// prefill-layer, gemv, broadcast, reduce, allreduce
    #[arg(long, value_name = "NAME",
          conflicts_with_all = ["plan", "tokens", "n", "logits", "model"])]
    pub kernel: Option<String>,
    /// Wafer the region lies on: a preset or a TOML file
    #[arg(long, default_value = "wse3", value_name = "NAME|FILE.toml")]
    pub target: String,
    /// meshgemv, chain-gemv, meshgemm, summa, decode-layer, prefill-layer: side of the square of tiles
    #[arg(long, value_name = "P", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub grid: Option<u32>,
    /// meshgemv, chain-gemv: rows of the matrix per tile, and columns unless --tile-n says otherwise
    #[arg(long, value_name = "M", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub tile: Option<u32>,
    /// meshgemv: columns of the matrix per tile
    #[arg(long, value_name = "N", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub tile_n: Option<u32>,
    /// meshgemv: tiles per group of the reduction tree, or the nearest number that gives each group a
    /// root [default: about the root of the grid]
    #[arg(long, value_name = "G", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub group_size: Option<u32>,
    /// decode-layer: groups of each reduction tree [default: about the root of the grid]
    #[arg(long, value_name = "G", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub groups: Option<u32>,
    /// decode-layer, prefill-layer: hidden elements per tile
    #[arg(long, value_name = "D", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub d: Option<u32>,
    /// decode-layer, prefill-layer: cached tokens per tile; tokens of the prompt per tile
    #[arg(long, value_name = "S", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub s: Option<u32>,
    /// decode-layer, prefill-layer: feed-forward elements per tile
    #[arg(long, value_name = "F", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub f: Option<u32>,
    /// gemv: width and height of the region in tiles [default: 16x16]
    #[arg(long, allow_hyphen_values = true, value_name = "WxH", value_parser = extent, requires = "kernel")]
    pub region: Option<(u32, u32)>,
    /// meshgemm, summa: rows of the left matrix
    #[arg(long, value_name = "M", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub m: Option<u32>,
    /// meshgemm, summa, gemv: inner extent [default of gemv: 256]
    #[arg(long, value_name = "K", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub k: Option<u32>,
    /// meshgemm, summa, gemv: columns of the result [default of gemv: 256]
    #[arg(id = "kernel_n", long = "n", value_name = "N", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub kernel_n: Option<u32>,
    /// reduce, allreduce: algorithm [default: k-tree]
    #[arg(long, value_enum, value_name = "ALGORITHM", requires = "kernel")]
    pub algo: Option<ReduceAlgorithm>,
    /// broadcast, reduce, allreduce: tiles of the row [default: 16]
    #[arg(long, value_name = "P", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub pes: Option<u32>,
    /// broadcast, reduce, allreduce: 32-bit elements per tile [default: 256]
    #[arg(long, value_name = "B", requires = "kernel", value_parser = number::<u32>(0..=u32::MAX))]
    pub length: Option<u32>,
}

/// How a reduction along a row goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReduceAlgorithm {
    /// All send to the first tile
    Star,
    /// Neighbour by neighbour
    Chain,
    /// Pairs at distance 1, 2, 4, ...
    Tree,
    /// Chains in groups of about sqrt(P), then a chain of their roots
    TwoPhase,
    /// The two-level tree to the middle that compiled models use
    KTree,
}

/// `sparkc eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Prompt as token ids
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', value_name = "1,2,3", required_unless_present = "prompt", value_parser = number::<u32>(0..=u32::MAX))]
    pub tokens: Vec<u32>,
    /// Prompt as text, through the model's tokenizer
    #[arg(long, value_name = "TEXT", conflicts_with = "tokens")]
    pub prompt: Option<String>,
    /// Tokens to generate after the prompt
    #[arg(short, default_value_t = 0, value_name = "N", value_parser = number::<u32>(0..=u32::MAX))]
    pub n: u32,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Write the logits of every prompt position to a safetensors file
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
    /// Print one JSON object: text, tokens, prompt_tokens, timings
    #[arg(long)]
    pub json: bool,
}

/// `sparkc inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Model, .wplan, .spark, executable, or directory that `sparkc compile` wrote
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Weights of a .spark file
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Draw the wafer in the terminal
    #[arg(long)]
    pub map: bool,
    /// What one tile holds and does
    #[arg(long, allow_hyphen_values = true, value_name = "X,Y", value_parser = coordinates)]
    pub tile: Option<(u32, u32)>,
    /// One region of the plan
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Lower bounds of the plan, how far it is from them, and what would help
    #[arg(long)]
    pub bounds: bool,
    /// Rewrites used, where, and what each saved on each target
    #[arg(long)]
    pub rewrites: bool,
    /// Write the map as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write the map as one offline HTML file; with --rewrites, every rewrite: before, after, rule, cost
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the map as a PNG picture, one pixel per tile
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
    /// A second plan: --html shows both side by side
    #[arg(long, value_name = "DIR|PLAN", requires = "html")]
    pub compare: Option<PathBuf>,
    /// Wafer, numerics, quantisation and context when PATH is a model.
    #[command(flatten)]
    pub build: BuildArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `sparkc verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// A .wplan file, or directory that `sparkc compile` wrote
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `sparkc repair`.
#[derive(Args, Debug)]
pub struct RepairArgs {
    /// A .wplan file, or directory that `sparkc compile` wrote
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// A PE that is dead: column, counted over all wafers with their spare columns, and row
    #[arg(long, allow_hyphen_values = true, value_name = "X,Y", value_parser = coordinates, required = true)]
    pub dead: Vec<(u32, u32)>,
    /// Where the new plan goes [default: in place of the old one, with the map beside it]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `sparkc verify-proof`.
#[derive(Args, Debug)]
pub struct VerifyProofArgs {
    /// A certificate: cpu.proof or wafer.proof of `sparkc compile --emit proof`, or of `sparkc opt --proof`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Check too that it is about this model, not about another with other weights or shapes
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// --quant of the compile
    #[arg(long, value_enum, default_value_t = Quant::None, value_name = "KIND", requires = "model")]
    pub quant: Quant,
    /// --context of the compile
    #[arg(long, value_name = "N", requires = "model", value_parser = number::<u32>(0..=u32::MAX))]
    pub context: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `sparkc explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Name of a rewrite; `sparkc passes` lists them
    pub rule: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `sparkc opt`.
#[derive(Args, Debug)]
pub struct OptArgs {
    /// A .spark file
    #[arg(value_name = "FILE.spark")]
    pub file: PathBuf,
    /// Passes, comma-separated, with options in braces; or O0, O1, O2
    #[arg(long, value_name = "LIST")]
    pub passes: String,
    /// Print the IR after every pass, or after passes of this name, to stderr
    #[arg(long, value_name = "PASS", num_args = 0..=1, default_missing_value = "all")]
    pub print_after: Option<String>,
    /// Stop after this many passes, or after the first of this name
    #[arg(long, value_name = "N|PASS")]
    pub stop_after: Option<String>,
    /// Write the certificate of the rewrites, for `sparkc verify-proof`
    #[arg(long, value_name = "FILE")]
    pub proof: Option<PathBuf>,
    /// What the passes may do to the numbers
    #[arg(long, value_enum, default_value_t = Numerics::Reassoc, value_name = "TIER")]
    pub numerics: Numerics,
    /// Weights, for passes that read them
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Write here instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print one JSON object: the IR and what each pass did
    #[arg(long)]
    pub json: bool,
}

/// `sparkc reduce`.
#[derive(Args, Debug)]
pub struct ReduceArgs {
    /// A .spark file after which passes panic, fail, or change what it means
    #[arg(value_name = "FILE.spark")]
    pub file: PathBuf,
    /// Passes, comma-separated, with options in braces; or O0, O1, O2
    #[arg(long, default_value = "O2", value_name = "LIST")]
    pub passes: String,
    /// Keep what makes this shell command exit with 0 instead; {} is the file
    #[arg(long, value_name = "CMD")]
    pub command: Option<String>,
    /// Seconds that the command may take each time; beyond, it counts as failed
    #[arg(long, default_value_t = 60, value_name = "S", requires = "command", value_parser = number::<u64>(1..=86_400))]
    pub timeout: u64,
    /// What the passes may do to the numbers
    #[arg(long, value_enum, default_value_t = Numerics::Reassoc, value_name = "TIER")]
    pub numerics: Numerics,
    /// Weights [default: random ones]
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Most modules to try
    #[arg(long, default_value_t = 5000, value_name = "N", value_parser = number::<usize>(0..=usize::MAX))]
    pub limit: usize,
    /// Write here instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print one JSON object: the module, what it shows, sizes before and after
    #[arg(long)]
    pub json: bool,
}

/// `sparkc passes`.
#[derive(Args, Debug)]
pub struct PassesArgs {
    /// What to try; the list when not given.
    #[command(subcommand)]
    pub command: Option<PassesCommand>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `sparkc passes ...`.
#[derive(Debug, Subcommand)]
pub enum PassesCommand {
    /// Extract from an e-graph in the JSON of extraction-gym, with proof of optimality
    Extract(ExtractArgs),
    /// Put every rewrite on trial: theorems, numbers, mutants, near misses
    VerifyRules(VerifyRulesArgs),
    /// Optimise random models and compare with the interpreter
    Fuzz(FuzzArgs),
    /// Bound how far optimising may move the logits of a prompt, and say how far it does
    #[command(after_help = help::BOUND)]
    Bound(BoundArgs),
}

/// `sparkc passes bound`.
#[derive(Args, Debug)]
pub struct BoundArgs {
    /// Model; its weights are random ones where it has none.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Prompt as token ids [default: five of them]
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', value_name = "1,2,3", value_parser = number::<u32>(0..=u32::MAX))]
    pub tokens: Vec<u32>,
    /// Target whose costs decide what the optimiser picks for the wafer: wse3, wse2 or a TOML file
    #[arg(long, default_value = "wse3", value_name = "NAME|FILE")]
    pub target: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `sparkc passes verify-rules`.
#[derive(Args, Debug)]
pub struct VerifyRulesArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `sparkc passes fuzz`.
#[derive(Args, Debug)]
pub struct FuzzArgs {
    /// Random models to try
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = number::<u64>(1..=(1 << 62) - 1))]
    pub count: u64,
    /// Seed of the first; the next has the next seed
    #[arg(long, default_value_t = 0, value_name = "S", value_parser = number::<u64>(0..=(1 << 62) - 1))]
    pub seed: u64,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=1024))]
    pub threads: Option<u32>,
    /// Write every model that failed to this folder, for `sparkc reduce`
    #[arg(long, value_name = "DIR")]
    pub save: Option<PathBuf>,
    /// Print one JSON object: seeds tried and those that failed
    #[arg(long)]
    pub json: bool,
}

/// `sparkc passes extract`.
#[derive(Args, Debug)]
pub struct ExtractArgs {
    /// E-graph: nodes with op, children, eclass and cost, and root_eclasses
    #[arg(value_name = "FILE.json")]
    pub file: PathBuf,
    /// Operands the search may look at; 100 million take about a second
    #[arg(long, default_value_t = 30_000_000, value_name = "N", value_parser = number::<u64>(0..=u64::MAX))]
    pub work: u64,
    /// Print one JSON object: cost, bound, gap, choices
    #[arg(long)]
    pub json: bool,
}

/// `sparkc targets`.
#[derive(Args, Debug)]
pub struct TargetsArgs {
    /// Show this target as the TOML that --target reads
    pub name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `sparkc completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Shell
    pub shell: clap_complete::Shell,
}

/// Reads a whole number within `range`; says which numbers those are where it is not.
fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + Display + PartialOrd + Clone,
{
    move |text| match text.parse() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => Err(format!("expected a whole number from {} to {}", range.start(), range.end())),
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(t) if t.is_finite() && t >= 0.0 => Ok(t),
        _ => Err("a temperature is a number of at least 0".to_string()),
    }
}

fn probability(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(p) if p > 0.0 && p <= 1.0 => Ok(p),
        _ => Err("a probability here is above 0 and at most 1".to_string()),
    }
}

fn wafers(text: &str) -> Result<WaferCount, String> {
    match text.parse::<u32>() {
        Ok(n @ 1..=1024) => Ok(WaferCount::UpTo(n)),
        _ if text == "auto" => Ok(WaferCount::Auto),
        _ => Err("expected auto or a number from 1 to 1024".to_string()),
    }
}

fn shard(text: &str) -> Result<(u32, u32), String> {
    pair(text, '/')
        .filter(|&(i, n)| (1..=n).contains(&i))
        .ok_or_else(|| "expected I/N with I from 1 to N, as in 3/16".to_string())
}

fn coordinates(text: &str) -> Result<(u32, u32), String> {
    pair(text, ',').ok_or_else(|| "expected X,Y, as in 12,40".to_string())
}

fn extent(text: &str) -> Result<(u32, u32), String> {
    pair(text, 'x')
        .filter(|&(w, h)| w > 0 && h > 0)
        .ok_or_else(|| "expected WxH, as in 16x16".to_string())
}

fn pair(text: &str, separator: char) -> Option<(u32, u32)> {
    let (a, b) = text.split_once(separator)?;
    Some((a.trim().parse().ok()?, b.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_subcommand_teaches_by_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("sparkc {}", command.get_name());
            assert!(help.contains(&example), "help of `{}` has no example", command.get_name());
        }
    }

    #[test]
    fn pairs_are_read_strictly() {
        assert_eq!(extent("4x3"), Ok((4, 3)));
        assert!(extent("0x3").is_err());
        assert_eq!(coordinates("4,3"), Ok((4, 3)));
        assert!(coordinates("4").is_err());
    }

    #[test]
    fn numbers_that_are_none_are_told_which_are() {
        let context = |n: &str| {
            let line = ["sparkc", "compile", "m", "--context", n];
            command().try_get_matches_from(line).unwrap_err().to_string()
        };
        for n in ["0", "-1", "many", "1.5", "99999999999999999999"] {
            let said = context(n);
            assert!(said.contains(n) && said.contains("from 1 to 4294967295"), "{n}: {said}");
        }
    }

    #[test]
    fn a_pair_with_a_minus_is_a_value_that_is_wrong() {
        for (line, says) in [
            ("inspect p --tile -1,5", "expected X,Y"),
            ("repair p --dead -1,5", "expected X,Y"),
            ("eval m --tokens -1,5", "from 0 to"),
            ("run m --tokens -1,5", "from 0 to"),
            ("simulate p --tokens 1,-5", "from 0 to"),
            ("simulate --kernel gemv --region -4x4", "expected WxH"),
        ] {
            let words = format!("sparkc {line}");
            let said = command().try_get_matches_from(words.split(' ')).unwrap_err().to_string();
            assert!(said.contains(says), "{line}: {said}");
        }
    }

    #[test]
    fn sizes_of_a_kernel_are_not_ignored_beside_a_plan() {
        for flag in [["--grid", "8"], ["--target", "wse2"]] {
            let line = ["sparkc", "simulate", "DIR", "--tokens", "1", flag[0], flag[1]];
            assert!(command().try_get_matches_from(line).is_err(), "{flag:?}");
        }
        let line = ["sparkc", "simulate", "--kernel", "gemv", "--target", "wse2", "--k", "8"];
        assert!(command().try_get_matches_from(line).is_ok());
    }
}
