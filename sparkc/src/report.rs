//! What people read: errors, tables, progress. Commands decide what to say, this decides how.

pub mod built;
pub mod diag;
pub mod progress;
pub mod table;

use std::io::IsTerminal;
use std::sync::OnceLock;

use crate::cli::Color;

static COLOR: OnceLock<Color> = OnceLock::new();

/// Records the user's wish; later calls change nothing.
pub fn set_color(color: Color) {
    let _ = COLOR.set(color);
}

fn colored(terminal: bool) -> bool {
    match COLOR.get().copied().unwrap_or(Color::Auto) {
        Color::Always => true,
        Color::Never => false,
        // https://no-color.org: any non-empty value.
        Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    }
}

/// Whether tables on standard output are coloured.
pub fn stdout_colored() -> bool {
    colored(std::io::stdout().is_terminal())
}

/// Whether messages on standard error are coloured.
pub fn stderr_colored() -> bool {
    colored(std::io::stderr().is_terminal())
}

/// A way of standing out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As the terminal shows text.
    Plain,
    /// Headings.
    Bold,
    /// What may be skipped.
    Dim,
    /// Errors.
    Error,
    /// What is odd.
    Warning,
    /// What to try.
    Advice,
    /// Numbers that matter.
    Accent,
}

impl Style {
    /// `text` in this style, when `colored`.
    pub fn paint(self, text: &str, colored: bool) -> String {
        let code = match self {
            Style::Plain => "",
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Error => "1;31",
            Style::Warning => "1;33",
            Style::Advice => "1;32",
            Style::Accent => "36",
        };
        if !colored || code.is_empty() || text.is_empty() {
            return text.to_string();
        }
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// 1234567 as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in binary units with three digits: `17.3 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match (unit, value) {
        (0, _) => 0,
        (_, v) if v < 10.0 => 2,
        (_, v) if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Counts with a decimal suffix: `1.23 M`.
pub fn count(n: u64) -> String {
    match n {
        0..10_000 => grouped(n),
        10_000..10_000_000 => format!("{:.2} M", n as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_where_small() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(48 * 1024 * 900_000), "41.2 GiB");
        assert_eq!(count(3_940_000), "3.94 M");
    }

    #[test]
    fn style_needs_leave() {
        assert_eq!(Style::Error.paint("x", false), "x");
        assert_eq!(Style::Error.paint("x", true), "\x1b[1;31mx\x1b[0m");
    }
}
