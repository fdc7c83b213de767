//! Function length as a ratchet: functions over the limit are listed in a file; a listed function
//! may shrink, never grow, and no new one is added by itself.
//!
//! Lines are counted from `fn` to the closing brace at the same indentation, which rustfmt
//! guarantees. Test modules do not count.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::source::code_lines;
use super::{Finding, Source};

/// Longest function that needs no entry.
const LINES_MAX: usize = 70;

/// The list, from the root.
const LIST: &str = "xtask/long-functions.txt";

/// What to do about the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ratchet {
    /// Report functions that are not listed or have grown.
    Check,
    /// Write the list anew. New entries show in review.
    Update,
}

/// Functions over the limit: `file function` to lines.
type Lengths = BTreeMap<String, usize>;

/// Compares the sources with the list, or rewrites it.
pub(super) fn check(root: &Path, sources: &[Source], ratchet: Ratchet) -> Result<Vec<Finding>> {
    let found = long_functions(sources);
    let path = root.join(LIST);
    if ratchet == Ratchet::Update {
        let lines: Vec<String> = found.iter().map(|(name, n)| format!("{n} {name}\n")).collect();
        fs::write(&path, lines.concat()).with_context(|| format!("cannot write {LIST}"))?;
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {LIST}"))?;
    Ok(compare(&found, &parse(&text)))
}

fn parse(text: &str) -> Lengths {
    let entry = |line: &str| {
        let (lines, name) = line.split_once(' ')?;
        Some((name.to_string(), lines.parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

fn compare(found: &Lengths, listed: &Lengths) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, &lines) in found {
        let limit = listed.get(name).copied().unwrap_or(LINES_MAX);
        if lines > limit {
            let what = format!("{lines} lines, at most {limit}: extract what has a name");
            findings.push(Finding::new(name, what));
        }
    }
    for name in listed.keys().filter(|name| !found.contains_key(*name)) {
        let what = format!("listed in {LIST}, but short now: run `cargo xtask tidy --update`");
        findings.push(Finding::new(name, what));
    }
    findings
}

fn long_functions(sources: &[Source]) -> Lengths {
    let mut lengths = Lengths::new();
    for source in sources {
        let code = code_lines(&source.path, &source.text);
        let lines: Vec<&str> = source.text.lines().take(code).collect();
        for (i, line) in lines.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            let indent = line.len() - line.trim_start().len();
            let closing = format!("{}}}", " ".repeat(indent));
            let length = lines[i..].iter().position(|l| **l == closing).map_or(1, |n| n + 1);
            if length > LINES_MAX {
                let longest = lengths.entry(format!("{} {name}", source.path)).or_default();
                *longest = length.max(*longest);
            }
        }
    }
    lengths
}

/// The name of the function that begins on this line with its body to follow.
fn function_name(line: &str) -> Option<&str> {
    let mut code = line.trim_start();
    if code.ends_with(';') || code.ends_with('}') {
        return None;
    }
    for prefix in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe "] {
        code = code.strip_prefix(prefix).unwrap_or(code);
    }
    let name = code.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(body_lines: usize) -> Source {
        let body = "    x();\n".repeat(body_lines);
        Source {
            path: "a/src/x.rs".to_string(),
            text: format!("pub fn long(a: u8) {{\n{body}}}\n"),
        }
    }

    #[test]
    fn a_listed_function_may_shrink_and_never_grow() {
        let listed = parse("90 a/src/x.rs long\n");
        assert!(compare(&long_functions(&[source(88)]), &listed).is_empty());
        assert!(compare(&long_functions(&[source(80)]), &listed).is_empty());
        assert_eq!(compare(&long_functions(&[source(89)]), &listed).len(), 1);
        let stale = compare(&long_functions(&[source(10)]), &listed);
        assert!(stale[0].what.contains("short now"));
    }

    #[test]
    fn a_new_long_function_is_found() {
        assert!(compare(&long_functions(&[source(68)]), &Lengths::new()).is_empty());
        assert_eq!(compare(&long_functions(&[source(69)]), &Lengths::new()).len(), 1);
    }
}
