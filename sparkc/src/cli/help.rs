//! The examples under each subcommand's help. Every line that starts with `sparkc` is a command that
//! parses; a test proves it.

/// Under `sparkc --help`.
pub const SPARKC: &str = "\
Start here:
  sparkc compile models/tinypy        everything, into ./tinypy.sparkc
  tinypy.sparkc/model \"def \"          text from the executable
  sparkc simulate tinypy.sparkc --tokens 1,2,3 -n 8
                                      the same tokens from the simulated wafer
  sparkc inspect tinypy.sparkc --map  where the model lives

Exit codes: 0 ok, 1 bad input, 2 usage, 3 does not fit, 4 resource limit, 70 bug in sparkc,
130 interrupted. Data goes to stdout, everything else to stderr; with --json why a command failed
is an object on stdout too.";

/// `compile`.
pub const COMPILE: &str = "\
Writes a directory, complete or not at all:
  model         executable: program, packed weights and tokenizer in one file
  model.wplan   wafer plan: the program of every tile
  map.html      the wafer to look at, offline
  model.spark   the optimised IR
  report.json   sizes, rewrites, predicted speed, memory
  source        link to MODEL, where `sparkc simulate` finds the weights

Examples:
  sparkc compile models/tinypy
  sparkc compile models/tinypy --quant q8 -o small.sparkc
  sparkc compile Llama-3.1-8B/config.json --target wse3 --context 4096
                                      shapes only: plan and map, no executable
  sparkc compile models/tinypy --emit wafer,map --dry-run
  sparkc compile Llama-3.1-70B/config.json --wafers 6 --context 4096
  sparkc compile config.json --sweep \"wafers=1,2;context=4096,8192\" --shard 1/4
  sparkc compile tiny.spark --weights tiny.safetensors";

/// `run`.
pub const RUN: &str = "\
A model is compiled into ./NAME.sparkc first, unless that is newer than the model. The other flags
are those of the executable; `DIR/model --help` says more.

Examples:
  sparkc run models/tinypy \"def fibonacci(\" -n 64
  sparkc run models/tinypy \"def \" --quant q8
  sparkc run tinypy.sparkc \"class \" --temp 0.8 --top-k 40 --seed 7
  sparkc run tinypy.sparkc --bench --threads 2
  sparkc run tinypy.sparkc --tokens 1,2,3 --logits out.safetensors --json";

/// `bench`.
pub const BENCH: &str = "\
Programs run one after another, each in a process of its own, and take turns; medians are reported.
Found where installed for `python3`: llama_cpp (for .gguf) and transformers. A peer of your own prints
a line FIRST at its first token and then RESULT {\"prefill_tps\": .., \"decode_tps\": .., \"rss_mb\": ..}.

Examples:
  sparkc bench model-q8_0.gguf
  sparkc bench models/tinypy --quant q4 --prompt 128 --reps 5
  sparkc bench DIR --peer \"mine=./driver model.bin {P} {G} {T}\" --json";

/// `simulate`.
pub const SIMULATE: &str = "\
The simulator knows nothing of how the plan was made. Weights are looked for in --model, in the plan
(compile --embed-weights), then where DIR/source points.

Examples:
  sparkc simulate tinypy.sparkc --prompt \"def \" -n 8
  sparkc simulate tinypy.sparkc --tokens 1,2,3 -n 32
  sparkc simulate tinypy.sparkc --tokens 1,2,3 --timing-only --level 2 --json
  sparkc simulate model.wplan --model models/tinypy --tokens 1 --logits out.safetensors
  sparkc simulate tinypy.sparkc --tokens 1,2 --trace trace.json
  sparkc simulate tinypy.sparkc --requests 32 --prompt-length 128 -n 256
  sparkc simulate --kernel gemv --target wse3 --region 32x32 --k 4096 --n 4096
  sparkc simulate --kernel meshgemv --target wse3 --grid 360 --tile 24 --group-size 15 --json
  sparkc simulate --kernel meshgemm --target wse3 --grid 360 --m 4320 --k 4320 --n 4320
  sparkc simulate --kernel summa --target wse3 --grid 360 --m 4320 --k 4320 --n 4320
  sparkc simulate --kernel decode-layer --target wse2 --grid 420 --d 10 --s 10 --f 35 --groups 20
  sparkc simulate --kernel prefill-layer --target wse3 --grid 480 --d 9 --s 9 --f 30
  sparkc simulate --kernel reduce --algo two-phase --target wse2 --pes 64 --length 32";

/// `eval`.
pub const EVAL: &str = "\
Slow and obvious: what every other way of running the model is compared with.

Examples:
  sparkc eval models/tinypy --tokens 1,2,3 -n 8
  sparkc eval models/tinypy --prompt \"def \" -n 16
  sparkc eval models/tinypy --tokens 1,2,3 --logits expected.safetensors --json";

/// `inspect`.
pub const INSPECT: &str = "\
Examples:
  sparkc inspect models/tinypy             architecture, sizes, tensors
  sparkc inspect models/tinypy --rewrites  what the optimiser does, per target
  sparkc inspect tinypy.sparkc --map       the wafer in the terminal
  sparkc inspect tinypy.sparkc --tile 3,7  what one tile holds and does
  sparkc inspect tinypy.sparkc/model.wplan --svg map.svg --html map.html --png map.png
  sparkc inspect 4k.sparkc --compare 16k.sparkc --html both.html
  sparkc inspect tinypy.sparkc/model       the executable";

/// `verify`.
pub const VERIFY: &str = "\
Checks that every weight element is pinned once, SRAM holds at every step, no two live flows share a
color on a router, every receive has its send, and no tiles wait for each other in a circle.
Exit code 0: legal. 1: not legal, or not a plan; every violation is listed.

Examples:
  sparkc verify tinypy.sparkc
  sparkc verify tinypy.sparkc/model.wplan --json";

/// `repair`.
pub const REPAIR: &str = "\
The nearest spare of the row takes the dead PE's place: what lies between the two moves by one
column and loads its weights again; regions, programs and all other tiles stay as they are. The
old plan is proven before, the new paths before it is written. In a directory of `compile` the map
and report.json follow.
`sparkc compile --defects FILE` plans around many from the start.
Exit code 3: the row has no spare left, or there is no path around the dead PEs.

Examples:
  sparkc repair tinypy.sparkc --dead 12,40
  sparkc repair llama.sparkc/model.wplan --dead 101,7 --dead 640,988 -o repaired.wplan --json";

/// `verify-proof`.
pub const VERIFY_PROOF: &str = "\
A certificate lists the rewrites that lead from the model's graphs to the optimised ones. The checker
knows the rules but nothing of the optimiser: it types every term, matches every step against its rule
and follows the equations. Exit code 0: proven. 1: refused, with the line.
A certificate names its weights and shapes; --model checks that they are those of a model.

Examples:
  sparkc compile models/tinypy --emit cpu,proof
  sparkc verify-proof tinypy.sparkc/cpu.proof --json
  sparkc verify-proof tinypy.sparkc/cpu.proof --model models/tinypy";

/// `explain`.
pub const EXPLAIN: &str = "\
Examples:
  sparkc explain merge-projections
  sparkc explain gain-into-weight --json";

/// `opt`.
pub const OPT: &str = "\
Examples:
  sparkc opt tinypy.sparkc/model.spark --passes canonicalize,dce
  sparkc opt layer.spark --passes O2 --print-after egraph -o layer-opt.spark
  sparkc opt layer.spark --passes O2 --stop-after egraph --proof layer.proof";

/// `reduce`.
pub const REDUCE: &str = "\
Examples:
  sparkc reduce wrong.spark -o small.spark           what differs, fails or panics after O2
  sparkc reduce wrong.spark --passes egraph --numerics exact
  sparkc reduce big.spark --command \"grep -q softmax {}\"

The module is edited (repeats and nodes left out) as long as it shows what it shows at first: passes
change its meaning, panic, or fail with the same code. `sparkc passes fuzz --save DIR` writes candidates.";

/// `passes`.
pub const PASSES: &str = "\
Examples:
  sparkc passes
  sparkc passes --json
  sparkc passes extract egraph.json --json
  sparkc passes verify-rules
  sparkc passes bound models/tinypy
  sparkc passes fuzz --count 100000";

/// `passes bound`.
pub const BOUND: &str = "\
Examples:
  sparkc passes bound models/tinypy
  sparkc passes bound models/tinypy --tokens 315,221,17 --json

Tier reassoc keeps the function of real numbers and may change what f32 makes of it. Both modules are
evaluated in f64 with a bound on every rounding (running error analysis), which shows that they compute one
function and how far the f32 logits of each are from it; the sum is the bound. It is a bound for this prompt.";

/// `targets`.
pub const TARGETS: &str = "\
Examples:
  sparkc targets
  sparkc targets wse3 > my-wafer.toml     a starting point for --target my-wafer.toml";

/// `completions`.
pub const COMPLETIONS: &str = "\
Examples:
  sparkc completions bash > ~/.local/share/bash-completion/completions/sparkc
  sparkc completions zsh > ~/.zfunc/_sparkc
  sparkc completions fish > ~/.config/fish/completions/sparkc.fish";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_example_parses() {
        let screens = [
            SPARKC,
            COMPILE,
            RUN,
            BENCH,
            SIMULATE,
            EVAL,
            INSPECT,
            VERIFY,
            VERIFY_PROOF,
            OPT,
            REDUCE,
            PASSES,
            EXPLAIN,
            TARGETS,
            COMPLETIONS,
        ];
        let mut examples = 0;
        for line in screens.iter().flat_map(|s| s.lines()) {
            let Some(command) = line.strip_prefix("  sparkc ") else { continue };
            Cli::try_parse_from(words(command)).unwrap_or_else(|e| panic!("{line}: {e}"));
            examples += 1;
        }
        assert!(examples > 20);
    }

    /// Words as a shell splits them: quotes, a redirection ends them, so do two blanks (a remark).
    fn words(command: &str) -> Vec<String> {
        let command = command.split(" > ").next().unwrap_or(command);
        let command = command.split("  ").next().unwrap_or(command);
        let mut words = vec!["sparkc".to_string()];
        for (i, part) in command.split('"').enumerate() {
            if i % 2 == 1 {
                words.push(part.to_string());
            } else {
                words.extend(part.split_whitespace().map(str::to_string));
            }
        }
        words
    }
}
