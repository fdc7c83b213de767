//! The arguments of an executable, and the help that teaches them.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::kernels::Cpu;
use crate::payload::GenerationDefaults;
use crate::sample::Sampling;
use crate::speculate::GUESSES_MAX;

/// A command line that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The arguments, as given.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the flags; `help` describes them")]
pub struct Args {
    pub prompt: Option<String>,
    pub protocol: Option<[usize; 3]>,
    pub tokens: Option<Vec<u32>>,
    pub n: Option<usize>,
    pub greedy: bool,
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub seed: Option<u64>,
    pub threads: Option<usize>,
    pub cpu: Option<Cpu>,
    pub speculate: Option<usize>,
    pub chat: bool,
    pub batch: Option<PathBuf>,
    pub parallel: Option<usize>,
    /// In MiB.
    pub kv_budget: Option<u64>,
    pub logits: Option<PathBuf>,
    pub bench: bool,
    pub info: bool,
    pub json: bool,
    pub help: bool,
    pub version: bool,
}

/// Most guesses that can be asked for.
const MAX_GUESSES: usize = 64;
/// Most threads that can be asked for.
const MAX_THREADS: usize = 1024;
/// Most sequences at once that can be asked for.
const MAX_PARALLEL: usize = 256;
/// Largest budget of KV caches that can be asked for, in MiB: 1 PiB.
const MAX_KV_BUDGET: u64 = 1 << 30;
/// Tokens of a text when neither the user nor the model says.
const DEFAULT_TOKENS: usize = 128;

impl Args {
    /// The arguments behind the program's name.
    ///
    /// # Errors
    /// A sentence about the first one that is wrong.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Args, UsageError> {
        let mut parser = lexopt::Parser::from_args(args);
        let mut out = Args::default();
        let mut texts = Vec::new();
        while let Some(arg) = parser.next().map_err(|e| UsageError(e.to_string()))? {
            // Owned, because the parser is asked for the value next.
            let flag = match arg {
                Short(letter) => format!("-{letter}"),
                Long(name) => format!("--{name}"),
                Value(text) => {
                    texts.push(text);
                    continue;
                }
            };
            out.flag(&flag, &mut parser).map_err(|e| UsageError(format!("{flag}: {e}")))?;
        }
        out.positional(texts).map_err(UsageError)?;
        out.check()?;
        Ok(out)
    }
}

impl Args {
    fn check(&self) -> Result<(), UsageError> {
        let sampled = self.temperature.is_some() || self.top_k.is_some() || self.top_p.is_some();
        let clash = |a: &str, b: &str| Err(UsageError(format!("{a} and {b} exclude each other")));
        if self.prompt.is_some() && self.tokens.is_some() {
            return clash("a prompt", "--tokens");
        }
        if self.greedy && sampled {
            return clash("--greedy", "--temp, --top-k and --top-p");
        }
        if self.chat && self.tokens.is_some() {
            return clash("--chat", "--tokens");
        }
        if self.bench && self.logits.is_some() {
            return clash("--bench", "--logits");
        }
        self.check_batch()?;
        self.check_sampling()?;
        if let Some(n) = self.speculate.filter(|&n| n > MAX_GUESSES) {
            return Err(UsageError(format!("--speculate {n}: expected 0 to {MAX_GUESSES}")));
        }
        match self.threads {
            Some(n) if n == 0 || n > MAX_THREADS => {
                Err(UsageError(format!("--threads {n}: expected 1 to {MAX_THREADS}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the numbers of sampling are possible; those of a batch's lines are checked there.
    fn check_sampling(&self) -> Result<(), UsageError> {
        let range = |name: &str, value: Option<f32>, ok: fn(f32) -> bool, what: &str| match value {
            Some(v) if !ok(v) => Err(UsageError(format!("{name} {v}: expected {what}"))),
            _ => Ok(()),
        };
        range("--temp", self.temperature, |t| t >= 0.0 && t.is_finite(), "a number from 0 up")?;
        range("--top-p", self.top_p, |p| p > 0.0 && p <= 1.0, "a number above 0, at most 1")
    }

    fn check_batch(&self) -> Result<(), UsageError> {
        let error = |why: String| Err(UsageError(why));
        let given = [
            (self.prompt.is_some(), "a prompt"),
            (self.tokens.is_some(), "--tokens"),
            (self.bench, "--bench"),
            (self.logits.is_some(), "--logits"),
            (self.speculate.is_some(), "--speculate"),
        ];
        match given.iter().find(|(is_given, _)| *is_given) {
            Some((_, name)) if self.batch.is_some() => {
                return error(format!("{name} and --batch exclude each other"));
            }
            _ => {}
        }
        if self.batch.is_none() && (self.parallel.is_some() || self.kv_budget.is_some()) {
            return error("--parallel and --kv-budget are for --batch".to_string());
        }
        match (self.parallel, self.kv_budget) {
            (Some(n), _) if n == 0 || n > MAX_PARALLEL => {
                error(format!("--parallel {n}: expected 1 to {MAX_PARALLEL}"))
            }
            (_, Some(n)) if n == 0 || n > MAX_KV_BUDGET => {
                error(format!("--kv-budget {n}: expected 1 to {MAX_KV_BUDGET}, in MiB"))
            }
            _ => Ok(()),
        }
    }

    /// Most tokens of a text: what is given, else what the model's authors want.
    pub(super) fn limit(&self, defaults: &GenerationDefaults) -> usize {
        let model = defaults.max_new_tokens.map_or(DEFAULT_TOKENS, |n| n as usize);
        self.n.unwrap_or(model)
    }

    /// Most tokens to guess ahead.
    pub fn guesses(&self) -> usize {
        self.speculate.unwrap_or(GUESSES_MAX)
    }

    /// How to choose tokens: what is given, else what the model's authors want.
    pub fn sampling(&self, defaults: &GenerationDefaults) -> Sampling {
        let asked = self.temperature.is_some() || self.top_k.is_some() || self.top_p.is_some();
        if self.greedy || !(defaults.sample || asked) {
            return Sampling { seed: self.seed.unwrap_or(0), ..Sampling::GREEDY };
        }
        Sampling {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k) as usize,
            top_p: self.top_p.unwrap_or(defaults.top_p),
            seed: self.seed.unwrap_or(0),
        }
    }
}

impl Args {
    /// A prompt; or, for `--bench`, three numbers.
    fn positional(&mut self, texts: Vec<OsString>) -> Result<(), String> {
        let texts: Result<Vec<String>, _> = texts.into_iter().map(OsString::into_string).collect();
        let texts = texts.map_err(|_| "the prompt is not UTF-8".to_string())?;
        if let (true, [prompt, text, threads]) = (self.bench, texts.as_slice())
            && let (Ok(prompt), Ok(text), Ok(threads)) =
                (prompt.parse(), text.parse(), threads.parse())
        {
            self.protocol = Some([prompt, text, threads]);
            self.threads = Some(threads);
            return Ok(());
        }
        if let Some(second) = texts.get(1) {
            return Err(format!("`{second}` is a second prompt: put quotes around one"));
        }
        self.prompt = texts.into_iter().next();
        Ok(())
    }

    fn flag(&mut self, flag: &str, parser: &mut lexopt::Parser) -> Result<(), lexopt::Error> {
        match flag {
            "-n" => self.n = Some(parser.value()?.parse()?),
            "--greedy" => self.greedy = true,
            "--temp" => self.temperature = Some(parser.value()?.parse()?),
            "--top-k" => self.top_k = Some(parser.value()?.parse()?),
            "--top-p" => self.top_p = Some(parser.value()?.parse()?),
            "--seed" => self.seed = Some(parser.value()?.parse()?),
            "--threads" => self.threads = Some(parser.value()?.parse()?),
            "--speculate" => self.speculate = Some(parser.value()?.parse()?),
            "--cpu" => self.cpu = Some(parser.value()?.parse()?),
            "--chat" => self.chat = true,
            "--batch" => self.batch = Some(parser.value()?.into()),
            "--parallel" => self.parallel = Some(parser.value()?.parse()?),
            "--kv-budget" => self.kv_budget = Some(parser.value()?.parse()?),
            "--tokens" => self.tokens = Some(token_list(&parser.value()?.string()?)?),
            "--logits" => self.logits = Some(parser.value()?.into()),
            "--bench" => self.bench = true,
            "--info" => self.info = true,
            "--json" => self.json = true,
            "-h" | "--help" => self.help = true,
            "-V" | "--version" => self.version = true,
            _ => return Err("there is no such flag".into()),
        }
        Ok(())
    }
}

fn token_list(text: &str) -> Result<Vec<u32>, lexopt::Error> {
    let bad = |part: &str| format!("`{part}` is no token id: expected 1,2,3");
    let parse = |part: &str| part.trim().parse().map_err(|_| bad(part).into());
    text.split(',').map(parse).collect()
}

/// The text of `--help`.
pub(super) fn help(program: &str) -> String {
    format!(
        "A language model in one file. It continues a text, or talks.

Usage: {program} [PROMPT] [flags]
       echo PROMPT | {program} [flags]

  {program} \"Once upon a time\"         continue a text
  {program} --chat                     talk; every answer sees the conversation
  {program} \"2 + 2 =\" --greedy -n 8    always the most likely token, at most 8
  {program} --bench                    how fast is it here?

What to write:
  -n N              at most N tokens
  --greedy          always the most likely token
  --temp T          randomness: 0 is greedy, 1 is the model's own
  --top-k K         choose among the K most likely tokens; 0 for all
  --top-p P         choose among the most likely tokens that make up P of the probability
  --seed S          other random choices; the same seed gives the same text [default: 0]
  --chat            put the prompt into the model's chat template; without a prompt, converse

Many texts at once:
  --batch FILE      a request a line (JSON; - for standard input), a JSON object a line as texts
                    end. Fields: prompt or tokens; id, chat, max_tokens, greedy, temperature,
                    top_k, top_p, seed, stop. What a line does not say, the flags above say
  --parallel N      at most N at once; the others wait [default: 8]. Never changes a text
  --kv-budget MIB   memory for KV caches; texts that begin alike share theirs
                    [default: 2048, or what one whole context takes]

What to read and report:
  --tokens 1,2,3    prompt as token ids
  --logits FILE     write the logits of every prompt position to a safetensors file
  --json            print one JSON object: text, tokens, prompt_tokens, timings
  --bench           measure prompt and generation speed, time to first token, memory, and how
                    close they are to this machine's limits
  --bench P G T     as a driver of benchmarks: a prompt of P tokens, G more, T threads; prints
                    FIRST at the first token, then RESULT {{..}}
  --info            describe the model inside

How to run:
  --threads N       threads [default: one per core]; never changes the result
  --speculate N     guess up to N tokens ahead where the text repeats itself, 0 for none
                    [default: 7]; never changes the result
  --cpu NAME        instructions to use: native (the best here), x86-64-v4, x86-64-v3, aarch64 or
                    portable [default: what it was compiled for, which is native unless told]
  -h, --help        this text
  -V, --version     version of sparkc that made this file

Sampling defaults are the model's own. Exit codes: 0 ok, 1 bad input, 2 usage, 3 does not fit the
context, 4 resource limit, 70 internal, 130 interrupted.
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, UsageError> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_contract_parses() {
        let args =
            parse("hello -n 3 --temp 0.5 --top-k 4 --top-p 0.9 --seed 7 --threads 2").unwrap();
        assert_eq!(args.prompt.as_deref(), Some("hello"));
        assert_eq!((args.n, args.threads, args.seed), (Some(3), Some(2), Some(7)));
        let args = parse("--tokens 1,2,3 --logits out.st --json --greedy").unwrap();
        assert_eq!(args.tokens, Some(vec![1, 2, 3]));
        assert!(args.greedy && args.json);
        assert_eq!(parse("--bench 32 128 2").unwrap().protocol, Some([32, 128, 2]));
        assert!(parse("--bench hello").unwrap().prompt.is_some());
        let args = parse("--batch - --parallel 16 --kv-budget 64 --chat -n 5").unwrap();
        assert_eq!((args.parallel, args.kv_budget), (Some(16), Some(64)));
        let flags =
            ["--chat", "--bench", "--info", "--cpu x86-64-v3", "--cpu native", "--help", "-V"];
        assert!(flags.iter().all(|f| parse(f).is_ok()));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("a b", "second prompt"),
            ("--tokens 1,x", "`x` is no token id"),
            ("--frobnicate", "--frobnicate"),
            ("-n many", "many"),
            ("--temp -1", "-1"),
            ("--top-p 0", "above 0"),
            ("--threads 0", "1 to 1024"),
            ("--speculate 65", "0 to 64"),
            ("--cpu mmx", "mmx"),
            ("hello --tokens 1", "exclude"),
            ("--greedy --temp 1", "exclude"),
            ("--batch a.jsonl hello", "exclude"),
            ("--batch a.jsonl --bench", "exclude"),
            ("--parallel 4", "for --batch"),
            ("--batch - --parallel 0", "1 to 256"),
            ("--batch - --kv-budget 0", "in MiB"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn the_models_defaults_yield_to_flags() {
        let model =
            GenerationDefaults { sample: true, temperature: 0.6, top_k: 20, ..Default::default() };
        assert_eq!(parse("").unwrap().sampling(&model).temperature, 0.6);
        assert_eq!(parse("--temp 1").unwrap().sampling(&model).top_k, 20);
        assert_eq!(parse("--greedy").unwrap().sampling(&model), Sampling::GREEDY);
        let plain = GenerationDefaults::default();
        assert_eq!(parse("").unwrap().sampling(&plain), Sampling::GREEDY);
        assert_eq!(parse("--top-k 5").unwrap().sampling(&plain).temperature, 1.0);
    }
}
