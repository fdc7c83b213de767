//! What a Rust file looks like: a header, a bounded length, a name that means something, no leftovers.

use super::{Finding, Source};

/// Most lines of a file outside of its test module.
const LINES_MAX: usize = 1000;

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "stuff"];

/// What must not be committed. Split so that this file does not contain them.
const LEFTOVERS: &[&str] =
    &[concat!("to", "do!("), concat!("unimplemented", "!("), concat!("db", "g!(")];

/// Where unsafe code may stand.
const UNSAFE_PLACES: &[&str] = &[
    "runtime/src/kernels/arch",
    "runtime/src/mmap.rs",
    "runtime/src/pool",
    "frontend/src/mmap.rs",
];

/// All findings in one file.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let path = source.path.as_str();
    let mut findings = Vec::new();
    if !source.text.trim_start().starts_with("//!") {
        let what = "no `//!` header: say what the file is, its invariant, what it does not do";
        findings.push(Finding::new(path, what));
    }
    let lines = code_lines(path, &source.text);
    if lines > LINES_MAX {
        let what = format!("{lines} lines outside of tests, at most {LINES_MAX}: split it");
        findings.push(Finding::new(path, what));
    }
    let named = path.split('/').map(|part| part.trim_end_matches(".rs"));
    for name in named.filter(|name| EMPTY_NAMES.contains(name)) {
        findings.push(Finding::new(path, format!("`{name}` says nothing: name what it holds")));
    }
    for (i, line) in source.text.lines().enumerate() {
        let place = || format!("{path}:{}", i + 1);
        for leftover in LEFTOVERS.iter().filter(|l| line.contains(**l)) {
            findings.push(Finding::new(place(), format!("`{leftover}` is not finished work")));
        }
        if uses_unsafe(line) && !UNSAFE_PLACES.iter().any(|p| path.starts_with(p)) {
            findings.push(Finding::new(place(), "unsafe code outside of the modules meant for it"));
        }
    }
    findings
}

/// Lines before the file's test module; none in a file that is one.
pub(super) fn code_lines(path: &str, text: &str) -> usize {
    if path.ends_with("/tests.rs") {
        return 0;
    }
    let lines: Vec<&str> = text.lines().collect();
    let is_test_module = |i: usize| {
        let next = lines.get(i + 1).copied().unwrap_or_default();
        lines[i] == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{')
    };
    (0..lines.len()).find(|&i| is_test_module(i)).unwrap_or(lines.len())
}

fn uses_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or(line).trim_start();
    let keyword = concat!("un", "safe ");
    ["{", "fn", "impl", "extern", "trait"].iter().any(|what| {
        let token = format!("{keyword}{what}");
        code.find(&token).is_some_and(|at| !code[..at].contains('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.to_string(), text: text.to_string() };
        check(&source).into_iter().map(|f| f.what).collect()
    }

    #[test]
    fn a_header_is_asked_for() {
        assert_eq!(findings("a/src/x.rs", "//! X.\nfn f() {}\n"), Vec::<String>::new());
        assert!(findings("a/src/x.rs", "fn f() {}\n")[0].contains("header"));
    }

    #[test]
    fn length_counts_without_tests() {
        let code = "//! X.\n".repeat(LINES_MAX);
        let tests = format!("{code}#[cfg(test)]\nmod tests {{\n}}\n");
        assert!(findings("a/src/x.rs", &tests).is_empty());
        assert!(findings("a/src/x.rs", &format!("{code}//\n"))[0].contains("split it"));
    }

    #[test]
    fn empty_names_leftovers_and_unsafe_are_found() {
        assert!(findings("a/src/utils.rs", "//! X.\n")[0].contains("says nothing"));
        let leftover = format!("//! X.\nfn f() {{ {}) }}\n", LEFTOVERS[0]);
        assert!(findings("a/src/x.rs", &leftover)[0].contains("not finished"));
        let block = format!("//! X.\nfn f() {{ {}safe {{}} }}\n", "un");
        assert!(findings("a/src/x.rs", &block)[0].contains("unsafe code outside"));
        assert!(findings("runtime/src/mmap.rs", &block).is_empty());
    }
}
