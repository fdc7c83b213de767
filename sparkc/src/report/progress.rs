//! Progress on standard error, on a terminal only: one line per finished stage, a bar for the
//! current one.
//!
//! Off a terminal it prints nothing, so logs and pipes stay clean. Times are shown, never written to
//! an artefact.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Style;

/// The stages of one command.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    visible: bool,
}

impl Progress {
    /// Progress of a command; silent off a terminal.
    pub fn new() -> Self {
        let visible = std::io::stderr().is_terminal();
        let bar = if visible { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if visible {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Progress { bar, visible }
    }

    /// Runs a stage and leaves a line with its time when it succeeds.
    pub fn stage<T, E>(
        &self,
        name: &str,
        work: impl FnOnce(&ProgressBar) -> Result<T, E>,
    ) -> Result<T, E> {
        let begin = Instant::now();
        self.bar.set_style(spinner());
        self.bar.set_message(name.to_string());
        let outcome = work(&self.bar);
        if outcome.is_ok() && self.visible {
            let time = Style::Dim.paint(&seconds(begin.elapsed()), super::stderr_colored());
            self.bar.println(format!("  {name:<32} {time:>10}"));
        }
        outcome
    }

    /// Removes the bar from the screen.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {msg}").unwrap_or_else(|_| {
        // The template is a constant; a spinner without style serves as well.
        ProgressStyle::default_spinner()
    })
}

/// Shows a stage of a known number of bytes as a bar.
pub fn byte_steps(bar: &ProgressBar, total: u64) {
    bar.set_length(total);
    bar.set_position(0);
    let template = "  {msg:<32} [{bar:30}] {bytes}/{total_bytes} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

/// `850 ms`, `3.2 s`.
pub fn seconds(time: Duration) -> String {
    let s = time.as_secs_f64();
    if s < 1.0 { format!("{:.0} ms", s * 1e3) } else { format!("{s:.1} s") }
}
