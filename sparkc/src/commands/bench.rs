//! `sparkc bench`: the executable beside other programs that run the same model, in one interleaved run.
//!
//! Every program is a process of its own and speaks one protocol: argv has prompt length, tokens and
//! threads; a line FIRST when the first token is known, then `RESULT {"prefill_tps", "decode_tps",
//! "rss_mb"}`. A repetition is two processes: a short prompt and a text (time to first token,
//! generation, memory), a long prompt (prompt speed). Repetitions are interleaved, so that drift hits
//! all alike; reported are medians with the least and the most. Without a peer installed it measures
//! the executable alone, and says so. Peers are found, never installed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::run as running;
use crate::cli::BenchArgs;
use crate::exit::Fault;
use crate::output;
use crate::report;
use crate::report::progress::Progress;
use crate::report::table::Table;

/// Drives `transformers`; the protocol above.
const TRANSFORMERS: &str = include_str!("bench/transformers_driver.py");
/// Drives llama.cpp by its Python package.
const LLAMA_CPP: &str = include_str!("bench/llama_cpp_driver.py");

/// A program that is measured.
struct Case {
    name: String,
    /// Program and arguments, with `{M}`, `{P}`, `{G}` and `{T}` to be filled in.
    command: Vec<String>,
    rows: Vec<Row>,
}

/// One repetition.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    first_seconds: f64,
    decode: f64,
    prompt: f64,
    peak_mebibytes: Option<f64>,
}

/// Runs it.
///
/// # Errors
/// A model that cannot be compiled, an executable that does not run.
pub fn run(args: &BenchArgs) -> Result<()> {
    let executable = running::executable(&args.model, args.quant)?;
    let mut cases = vec![Case::ours(&executable)];
    cases.extend(installed(&args.model));
    for peer in &args.peer {
        cases.push(Case::given(peer)?);
    }
    let threads = args.threads.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
    });
    let progress = Progress::new();
    let mut failures = Vec::new();
    for repetition in 1..=args.reps {
        let mut kept = Vec::new();
        for mut case in cases {
            let stage = format!("{} {repetition}/{}", case.name, args.reps);
            match progress.stage(&stage, |_| case.repeat(args, threads)) {
                Ok(row) => {
                    case.rows.push(row);
                    kept.push(case);
                }
                Err(error) if kept.is_empty() => return Err(error),
                // A peer that cannot run this model is left out, not the comparison.
                Err(error) => failures.push((case.name, format!("{error:#}"))),
            }
        }
        cases = kept;
    }
    if args.json {
        return output::print_json(&as_json(&cases, &failures, threads));
    }
    output::print(&as_text(&cases, &failures, threads))
}

impl Case {
    fn ours(executable: &Path) -> Case {
        let path = executable.display().to_string();
        let flags = ["--bench", "{P}", "{G}", "{T}"].map(str::to_string);
        Case {
            name: "sparkc".to_string(),
            command: [vec![path], flags.to_vec()].concat(),
            rows: Vec::new(),
        }
    }

    /// A peer as the user gives it: NAME=COMMAND.
    fn given(text: &str) -> Result<Case> {
        let advice = "as in --peer 'mine=./driver {M} {P} {G} {T}'";
        let (name, command) = text
            .split_once('=')
            .filter(|(_, command)| !command.trim().is_empty())
            .ok_or_else(|| Fault::usage(format!("`{text}` is no NAME=COMMAND")).advise(advice))?;
        let command = command.split_whitespace().map(str::to_string).collect();
        Ok(Case { name: name.to_string(), command, rows: Vec::new() })
    }

    fn repeat(&self, args: &BenchArgs, threads: u32) -> Result<Row> {
        let (first_seconds, short) = self.once(args, (args.short, args.text, threads))?;
        let (_, long) = self.once(args, (args.prompt, 1, threads))?;
        let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_f64);
        let needed = |value: &Value, key: &str| {
            number(value, key).with_context(|| format!("{} reports no {key}", self.name))
        };
        Ok(Row {
            first_seconds,
            decode: needed(&short, "decode_tps")?,
            prompt: needed(&long, "prefill_tps")?,
            peak_mebibytes: number(&short, "rss_mb"),
        })
    }

    /// One process: seconds to its first token and what it reports.
    fn once(
        &self,
        args: &BenchArgs,
        (prompt, text, threads): (u32, u32, u32),
    ) -> Result<(f64, Value)> {
        let fill = |part: &String| {
            part.replace("{M}", &args.model.display().to_string())
                .replace("{P}", &prompt.to_string())
                .replace("{G}", &text.to_string())
                .replace("{T}", &threads.to_string())
        };
        let mut words = self.command.iter().map(fill);
        let program = words.next().unwrap_or_default();
        let begin = Instant::now();
        let mut child = Command::new(&program)
            .args(words)
            .env("OMP_NUM_THREADS", threads.to_string())
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start `{program}`"))?;
        let (mut first, mut result) = (None, None);
        for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
            let line = line?;
            if line == "FIRST" {
                first.get_or_insert(begin.elapsed().as_secs_f64());
            } else if let Some(json) = line.strip_prefix("RESULT ") {
                result = serde_json::from_str(json).ok();
            }
        }
        let status = child.wait()?;
        match (first, result) {
            (Some(first), Some(result)) if status.success() => Ok((first, result)),
            _ => bail!("{} does not run here ({status})", self.name),
        }
    }
}

/// The peers that are installed and can read this model.
fn installed(model: &Path) -> Vec<Case> {
    let Some(python) = python() else { return Vec::new() };
    let gguf = model.extension().is_some_and(|e| e == "gguf");
    let has = |modules: &str| {
        let mut probe = Command::new(&python);
        quiet(probe.args(["-c", &format!("import {modules}")]))
    };
    let mut cases = Vec::new();
    let mut add = |name: &str, driver: &str| {
        let command = [&python, "-c", driver, "{M}", "{P}", "{G}", "{T}"].map(str::to_string);
        cases.push(Case { name: name.to_string(), command: command.to_vec(), rows: Vec::new() });
    };
    if gguf && has("llama_cpp") {
        add("llama.cpp", LLAMA_CPP);
    }
    if (gguf && has("torch, transformers, accelerate, gguf"))
        || (model.is_dir() && has("torch, transformers"))
    {
        add("transformers f32", TRANSFORMERS);
    }
    cases
}

/// The interpreter of the shell, where there is one.
fn python() -> Option<String> {
    ["python3", "python"].into_iter().map(str::to_string).find(|name| {
        let mut probe = Command::new(name);
        quiet(probe.arg("--version"))
    })
}

fn quiet(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|s| s.success())
}

/// Median, least and most.
fn spread(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let (least, most) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    };
    Some([median, least, most])
}

type Column = (&'static str, &'static str, fn(&Row) -> Option<f64>);

/// Heading, key and value of what is reported.
const COLUMNS: [Column; 4] = [
    (">prompt tokens/s", "prompt_tokens_per_second", |row| Some(row.prompt)),
    (">text tokens/s", "decode_tokens_per_second", |row| Some(row.decode)),
    (">first token s", "first_token_seconds", |row| Some(row.first_seconds)),
    (">peak MiB", "peak_mebibytes", |row| row.peak_mebibytes),
];

fn as_json(cases: &[Case], failures: &[(String, String)], threads: u32) -> Value {
    let case = |case: &Case| {
        let mut object = serde_json::Map::new();
        object.insert("name".to_string(), case.name.clone().into());
        object.insert("repetitions".to_string(), case.rows.len().into());
        for (_, key, value) in COLUMNS {
            let spread = spread(case.rows.iter().filter_map(value).collect());
            let spread = spread
                .map(|[median, least, most]| json!({"median": median, "min": least, "max": most}));
            object.insert(key.to_string(), json!(spread));
        }
        Value::Object(object)
    };
    let failed = |(name, why): &(String, String)| json!({"name": name, "why": why});
    json!({
        "threads": threads,
        "programs": cases.iter().map(case).collect::<Vec<_>>(),
        "left_out": failures.iter().map(failed).collect::<Vec<_>>(),
    })
}

fn as_text(cases: &[Case], failures: &[(String, String)], threads: u32) -> String {
    let headings: Vec<&str> = ["program"].into_iter().chain(COLUMNS.map(|c| c.0)).collect();
    let mut table = Table::new(&headings);
    for case in cases {
        let cell = |(_, _, value): Column| {
            let spread = spread(case.rows.iter().filter_map(value).collect());
            spread.map_or_else(String::new, |[median, least, most]| {
                format!("{} ({}-{})", short(median), short(least), short(most))
            })
        };
        table.row([case.name.clone()].into_iter().chain(COLUMNS.map(cell)));
    }
    let repetitions = cases.first().map_or(0, |case| case.rows.len());
    let mut text = table.render(report::stdout_colored());
    text.push_str(&format!(
        "\nmedians of {repetitions} interleaved repetitions (least-most), {threads} threads\n"
    ));
    if cases.len() == 1 {
        text.push_str(
            "no peer is installed: `pip install llama-cpp-python`, or give one with --peer\n",
        );
    }
    for (name, why) in failures {
        text.push_str(&format!("left out {name}: {why}\n"));
    }
    text
}

/// Three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_come_with_their_spread() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), Some([2.0, 1.0, 3.0]));
        assert_eq!(spread(vec![4.0, 1.0]), Some([2.5, 1.0, 4.0]));
        assert_eq!(spread(Vec::new()), None);
    }

    #[test]
    fn peers_are_given_as_names_and_commands() {
        let case = Case::given("mine=./driver {M} {P} {G} {T}").unwrap();
        assert_eq!((case.name.as_str(), case.command.len()), ("mine", 5));
        assert!(Case::given("mine").is_err() && Case::given("mine= ").is_err());
    }
}
