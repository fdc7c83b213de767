//! Every dependency that is not ours stands in the workspace's manifest with what it is for.
//!
//! A reason is a comment on its line, so that who meets a name finds out why it is there, and who adds
//! one has to say. Does not look at versions or licences.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Finding;

const MANIFEST: &str = "Cargo.toml";

/// Dependencies without a reason.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let text = fs::read_to_string(root.join(MANIFEST)).context("cannot read Cargo.toml")?;
    Ok(without_reason(&text))
}

fn without_reason(manifest: &str) -> Vec<Finding> {
    let lines = manifest.lines().zip(1..);
    let section = lines.skip_while(|(line, _)| *line != "[workspace.dependencies]").skip(1);
    let section = section.take_while(|(line, _)| !line.starts_with('['));
    let is_dependency = |line: &str| !line.starts_with('#') && line.contains(" = ");
    let foreign = section.filter(|(line, _)| is_dependency(line) && !line.contains("path = "));
    let bare = foreign
        .filter(|(line, _)| line.split_once(" # ").is_none_or(|(_, why)| why.trim().is_empty()));
    bare.map(|(line, number)| {
        let name = line.split(' ').next().unwrap_or(line);
        let what = format!("{name} has no reason: say behind it, in a comment, what it is for");
        Finding::new(format!("{MANIFEST}:{number}"), what)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let manifest = "[workspace.dependencies]\n# Not ours.\nir = { path = \"ir\" }\n\
                        good = \"1\"  # numbers\nbad = { version = \"2\" }\n[profile.dev]\nx = 1\n";
        let findings = without_reason(manifest);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].place, "Cargo.toml:5");
        assert!(findings[0].what.starts_with("bad "));
    }
}
