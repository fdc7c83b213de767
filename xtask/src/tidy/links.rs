//! Relative links of documents lead to files that exist.

use std::path::Path;

use super::{Finding, Source};

/// Links of one document that lead nowhere.
pub(super) fn check(root: &Path, document: &Source) -> Vec<Finding> {
    let folder = Path::new(&document.path).parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    for (i, line) in document.text.lines().enumerate() {
        for target in targets(line) {
            let file = target.split('#').next().unwrap_or(target);
            let outside = target.contains("://") || target.starts_with("mailto:");
            if outside || file.is_empty() || root.join(folder).join(file).exists() {
                continue;
            }
            let place = format!("{}:{}", document.path, i + 1);
            findings.push(Finding::new(place, format!("link to {target}, which does not exist")));
        }
    }
    findings
}

/// What stands in the parentheses of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_and_resolved_from_the_document() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "[a](tidy.rs) [b](https://example.org) [c](#here) [d](nowhere.md)";
        let document = Source { path: "src/x.md".to_string(), text: text.to_string() };
        let findings = check(root, &document);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("nowhere.md"));
    }
}
