//! `sparkc compile --sweep`: the same model planned for every combination of some options.
//!
//! A sweep is a list of points in a fixed order. A point's result is one file, named by the digest of what
//! decides it, so a point that is there is never run again: interrupted sweeps go on, shards of one
//! sweep can run anywhere and write into one directory. The table and the chart are made of whatever
//! points are there. Plans are made and proven, not kept: `compile` with a point's options writes
//! one. Speeds are the compiler's claims.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use backend_wafer::WaferError;
use plan::Target;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::sweep_chart::chart;
use crate::cli::{BuildArgs, CompileArgs, Quant, WaferCount};
use crate::driver::{self, Ask, wafer};
use crate::exit::Fault;
use crate::report::built::{self, Speed};
use crate::report::progress::Progress;
use crate::report::table::Table;
use crate::report::{self, grouped};
use crate::{input, output};

/// One combination of options.
#[derive(Clone, Debug)]
struct Point {
    build: BuildArgs,
    grid: Option<(u32, u32)>,
}

/// Runs the points of `sweep` that are not there yet, then shows all.
///
/// # Errors
/// A sweep that makes no sense, a model that cannot be read, a directory that cannot be written.
pub fn run(args: &CompileArgs, sweep: &str) -> Result<()> {
    let points = points(&args.build, sweep)?;
    let directory = directory(args);
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create `{}`", directory.display()))?;
    let (shard, shards) = args.shard.unwrap_or((1, 1));
    let progress = Progress::new();
    let mut results = Vec::new();
    for (i, point) in points.iter().enumerate() {
        let name = format!("point {} of {}: {}", i + 1, points.len(), point.label());
        let mine = i as u32 % shards == shard - 1;
        let found = progress.stage(&name, |_| point.result(args, &directory, mine))?;
        results.extend(found);
    }
    progress.finish();
    let summary = json!({ "sparkc": env!("CARGO_PKG_VERSION"), "sweep": sweep, "points": results });
    output::write_file(&directory.join("sweep.json"), format!("{summary:#}\n").as_bytes())?;
    let table = table(&results, false);
    output::write_file(&directory.join("table.txt"), table.as_bytes())?;
    output::write_file(&directory.join("chart.svg"), chart(&results).as_bytes())?;
    if args.json {
        return output::print_json(&summary);
    }
    let colored = report::stdout_colored();
    let left = points.len() - results.len();
    let note = if left > 0 {
        format!("{left} points of other shards are missing\n")
    } else {
        String::new()
    };
    output::print(&format!(
        "{}{note}{}, {} and {} are in {}\n",
        self::table(&results, colored),
        "sweep.json",
        "table.txt",
        "chart.svg",
        directory.display()
    ))
}

fn directory(args: &CompileArgs) -> PathBuf {
    let path = &args.model.model;
    let named = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    let name = named.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy());
    args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.sweep")))
}

/// All combinations, the last axis fastest.
fn points(build: &BuildArgs, sweep: &str) -> Result<Vec<Point>> {
    let mut points = vec![Point { build: build.clone(), grid: None }];
    for axis in sweep.split(';').map(str::trim).filter(|axis| !axis.is_empty()) {
        let (key, values) = axis.split_once('=').unwrap_or((axis, ""));
        let mut next = Vec::new();
        for point in &points {
            for value in values.split(',').map(str::trim) {
                next.push(point.with(key.trim(), value)?);
            }
        }
        points = next;
    }
    Ok(points)
}

impl Point {
    fn with(&self, key: &str, value: &str) -> Result<Point> {
        let mut point = self.clone();
        let bad = || -> anyhow::Error {
            let message = format!("`{key}={value}` is no axis of a sweep");
            let advice = "axes: target=NAME, grid=WxH, wafers=N|auto, requests=N, context=N, \
                          quant=none|q8|q4, values separated by commas, axes by semicolons";
            Fault::bad_input("SPK5018", message).advise(advice).into()
        };
        let number = || value.parse::<u32>().ok().filter(|&n| n > 0);
        match key {
            "target" if !value.is_empty() => point.build.target = value.to_string(),
            "context" => point.build.context = Some(number().ok_or_else(bad)?),
            "requests" => point.build.requests = Some(number().ok_or_else(bad)?),
            "wafers" if value == "auto" => point.build.wafers = WaferCount::Auto,
            "wafers" => point.build.wafers = WaferCount::UpTo(number().ok_or_else(bad)?),
            "grid" => {
                let (w, h) = value.split_once('x').ok_or_else(bad)?;
                let size = w
                    .parse()
                    .ok()
                    .zip(h.parse().ok())
                    .filter(|&(w, h): &(u32, u32)| w > 0 && h > 0);
                point.grid = Some(size.ok_or_else(bad)?);
            }
            "quant" => {
                point.build.quant = match value {
                    "none" => Quant::None,
                    "q8" => Quant::Q8,
                    "q4" => Quant::Q4,
                    _ => return Err(bad()),
                }
            }
            _ => return Err(bad()),
        }
        Ok(point)
    }

    /// The options in a fixed order; what decides the result beside the model.
    fn options(&self) -> Value {
        json!({
            "target": self.build.target,
            "grid": self.grid.map(|(w, h)| format!("{w}x{h}")),
            "wafers": match self.build.wafers {
                WaferCount::Auto => json!("auto"),
                WaferCount::UpTo(n) => json!(n),
            },
            "requests": self.build.requests,
            "context": self.build.context,
            "quant": driver::quant(self.build.quant).map_or("none", tensor::DType::name),
            "numerics": driver::tier(self.build.numerics).name(),
        })
    }

    fn label(&self) -> String {
        let object = self.options();
        let set = object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| !value.is_null() && *key != "numerics");
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
        set.map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(" ")
    }

    fn target(&self) -> Result<Target> {
        let mut target = driver::target_of(&self.build)?;
        if let Some((width, height)) = self.grid {
            (target.width, target.height) = (width, height);
            target.check()?;
        }
        Ok(target)
    }

    /// The stored result, or with `compute` a new one.
    fn result(&self, args: &CompileArgs, directory: &Path, compute: bool) -> Result<Option<Value>> {
        let model = driver::open(&args.model, self.build.context)?;
        let target = self.target()?;
        let machine = serde_json::to_string(&target)?;
        let digest = Sha256::digest(
            format!(
                "{} {} {} {machine}",
                env!("CARGO_PKG_VERSION"),
                model.info.digest,
                self.options()
            )
            .as_bytes(),
        );
        let digest: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        let path = directory.join(format!("point-{digest}.json"));
        if let Ok(text) = input::read(&path, input::SMALL)
            && let Ok(known) = serde_json::from_slice(&text)
        {
            return Ok(Some(known));
        }
        if !compute {
            return Ok(None);
        }
        let mut value = json!({ "point": digest, "options": self.options() });
        match wafer::compile(&model, &self.build, &target, Ask::default(), &|_| {}) {
            Ok(planned) => {
                let (plan, speed) = (&planned.plan, Speed::of(&planned.plan));
                value["wafers"] = json!(plan.target.wafers);
                value["regions"] = json!(plan.regions.len());
                value["pes"] = json!(built::pes(plan));
                value["token_cycles"] = json!(plan.claims.token_cycles);
                value["tokens_per_second"] = json!(speed.decode);
                value["pipeline_tokens_per_second"] = json!(speed.prefill);
                value["plan_digest"] = json!(plan::codec::digest(plan));
            }
            Err(error) => match error.downcast_ref::<WaferError>() {
                Some(reason) if reason.does_not_fit() => {
                    value["refused"] = json!(reason.to_string());
                }
                _ => return Err(error),
            },
        }
        output::write_file(&path, format!("{value:#}\n").as_bytes())?;
        Ok(Some(value))
    }
}

/// One row per point.
fn table(results: &[Value], colored: bool) -> String {
    let mut table = Table::new(&[
        "target",
        "context",
        "quant",
        ">wafers",
        ">regions",
        ">PEs",
        ">tokens/s, one request",
        ">tokens/s, full pipeline",
    ]);
    for point in results {
        let options = &point["options"];
        let text = |v: &Value| match v {
            Value::String(s) => s.clone(),
            Value::Null => "-".to_string(),
            other => other.to_string(),
        };
        let number = |key: &str| point[key].as_f64().map_or("-".into(), |n| grouped(n as u64));
        let grid = options["grid"].as_str().map_or(String::new(), |g| format!(" {g}"));
        let fits = point.get("refused").is_none();
        table.row([
            format!("{}{grid}", text(&options["target"])),
            text(&options["context"]),
            text(&options["quant"]),
            if fits { number("wafers") } else { "does not fit".to_string() },
            number("regions"),
            number("pes"),
            number("tokens_per_second"),
            number("pipeline_tokens_per_second"),
        ]);
    }
    table.render(colored)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn compile_args(words: &[&str]) -> CompileArgs {
        let words = ["sparkc", "compile", "model"].iter().chain(words);
        match Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(Command::Compile(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn axes_multiply_in_a_fixed_order() {
        let build = compile_args(&[]).build;
        let all = points(&build, "wafers=1,auto; context=64,128,256").expect("axes");
        let labels: Vec<String> = all.iter().map(Point::label).collect();
        assert_eq!(labels.len(), 6);
        assert_eq!(labels[1], "target=wse3 wafers=1 context=128 quant=none");
        assert_eq!(labels[3], "target=wse3 wafers=auto context=64 quant=none");
        for wrong in ["speed=1", "context=0", "grid=5", "quant=q2", "wafers=many", "target="] {
            assert!(points(&build, wrong).is_err(), "{wrong}");
        }
    }
}
