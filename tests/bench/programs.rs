//! Runs the program under test for a bench, and measures it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use harness::root;

/// The program under test.
pub(crate) const SPARKC: &str = env!("CARGO_BIN_EXE_sparkc-under-test");

/// What a run of the program took.
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// Most memory resident, in MB; `None` where the system does not say.
    pub(crate) peak_mb: Option<f64>,
}

/// Runs `sparkc` with these arguments in `folder`.
pub(crate) fn sparkc(folder: &Path, args: &[&str]) -> Result<Measured> {
    let begin = Instant::now();
    // GNU time tells the peak, and is not everywhere.
    let time = Path::new("/usr/bin/time");
    let mut command = if time.is_file() {
        let mut command = Command::new(time);
        command.args(["-f", "peak %M", SPARKC]);
        command
    } else {
        Command::new(SPARKC)
    };
    let run = command.args(args).current_dir(folder).output().context("cannot start sparkc")?;
    let seconds = begin.elapsed().as_secs_f64();
    let stderr = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        bail!("sparkc {}: {stderr}", args.join(" "));
    }
    let peak =
        stderr.lines().filter_map(|l| l.strip_prefix("peak ")?.parse::<f64>().ok()).next_back();
    Ok(Measured { seconds, peak_mb: peak.map(|kb| kb / 1e3) })
}

/// Seconds that all threads of this process were on a core so far, and those of the first thread alone:
/// on a machine that does other work too they say more than a clock. Zeros where the system does not say.
pub(crate) fn processor_seconds() -> (f64, f64) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    // Fields 14 and 15, counted after the name in parentheses, in hundredths of a second.
    let stat = read("/proc/self/stat");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    let main = read("/proc/thread-self/schedstat");
    let nanoseconds = main.split_whitespace().next().and_then(|f| f.parse::<f64>().ok());
    (ticks / 100.0, nanoseconds.unwrap_or(0.0) / 1e9)
}

/// What `sparkc compile` wrote, in a folder that goes with this value.
pub(crate) struct Built {
    folder: tempfile::TempDir,
    /// What compiling took.
    pub(crate) compile: Measured,
}

impl Built {
    /// The folder with `out.sparkc`.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The plan.
    pub(crate) fn plan(&self) -> Result<plan::Plan> {
        let bytes = std::fs::read(self.folder().join("out.sparkc/model.wplan"))?;
        Ok(plan::codec::decode(&bytes)?)
    }
}

/// Compiles a committed configuration (a folder of `tests/configs`) to a plan and a map.
pub(crate) fn compile_config(name: &str, options: &[&str]) -> Result<Built> {
    let config: PathBuf = root().join("tests/configs").join(name).join("config.json");
    compile(&config, options)
}

/// Compiles a model to a plan and a map.
pub(crate) fn compile(model: &Path, options: &[&str]) -> Result<Built> {
    let folder = tempfile::tempdir()?;
    let model = model.to_str().context("a path that is no text")?;
    let mut args = vec!["compile", model, "--emit", "wafer,map", "-o", "out.sparkc"];
    args.extend(options);
    let compile = sparkc(folder.path(), &args)?;
    Ok(Built { folder, compile })
}
