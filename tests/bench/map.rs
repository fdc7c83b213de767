//! The map of a whole wafer in a browser.

use std::process::Command;

use anyhow::{Context, Result, bail};
use harness::root;
use serde_json::Value;

use crate::Figures;
use crate::programs;

/// Llama-3.1-8B on one wse3. Chromium is driven by `scripts/map_frames.py`.
pub(crate) fn llama_8b(figures: &mut Figures) -> Result<()> {
    let built = programs::compile_config("llama-3.1-8b", &["--context", "4096"])?;
    let page = built.folder().join("out.sparkc/map.html");
    let bytes = std::fs::metadata(&page)?.len();
    figures.at_most("page", bytes as f64 / 1e6, "MB", 1.0);
    let script = root().join("scripts/map_frames.py");
    let run = Command::new("python3").arg(&script).arg(&page).output();
    let run = run.context("cannot start python3")?;
    if !run.status.success() {
        bail!("{}: {}", script.display(), String::from_utf8_lossy(&run.stderr).trim());
    }
    let found: Value = serde_json::from_slice(&run.stdout)?;
    let value = |name: &str| {
        found.get(name).and_then(Value::as_f64).with_context(|| format!("no {name} was measured"))
    };
    figures.at_most("first paint", value("first_paint_ms")?, "ms", 300.0);
    figures.at_most(
        "pan and zoom, p95 of frames that draw, unpaced",
        value("frame_p95_ms")?,
        "ms",
        16.7,
    );
    figures.at_most("script of a frame, p95", value("script_p95_ms")?, "ms", 16.7);
    Ok(())
}
