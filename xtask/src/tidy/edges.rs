//! Which crate of ours may depend on which: the architecture, proven from `cargo metadata`.
//!
//! An absence says more than an edge: the simulator never sees the compiler, the runtime never sees
//! the IR. Dev-dependencies count too: a test that needs more belongs into `tests`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Finding;

const COMPILER: &[&str] = &["egg", "petgraph"];

/// What a crate may see: crates of ours, and third-party crates it must not see.
struct Rule {
    folder: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

const ALL: &[&str] = &[
    "tensor",
    "ir",
    "frontend",
    "passes",
    "plan",
    "backend-wafer",
    "simulator",
    "runtime",
    "backend-cpu",
    "proof",
    "sparkc",
];

const RULES: &[Rule] = &[
    Rule { folder: "tensor", ours: &[], never: COMPILER },
    Rule { folder: "ir", ours: &["tensor"], never: &["egg", "safetensors"] },
    Rule { folder: "frontend", ours: &["tensor", "ir"], never: COMPILER },
    Rule { folder: "passes", ours: &["tensor", "ir"], never: &["safetensors"] },
    Rule { folder: "plan", ours: &["tensor"], never: COMPILER },
    Rule {
        folder: "backend-wafer",
        ours: &["tensor", "ir", "passes", "plan"],
        never: &["safetensors"],
    },
    Rule { folder: "simulator", ours: &["tensor", "plan"], never: COMPILER },
    Rule { folder: "runtime", ours: &["tensor"], never: COMPILER },
    Rule {
        folder: "backend-cpu",
        ours: &["tensor", "ir", "passes", "runtime"],
        never: &["safetensors"],
    },
    // The judge of certificates trusts nobody: no crate of ours, no e-graph library.
    Rule { folder: "proof", ours: &[], never: COMPILER },
    Rule { folder: "sparkc", ours: ALL, never: &[] },
    Rule { folder: "tests", ours: ALL, never: &[] },
    Rule { folder: "xtask", ours: &[], never: &[] },
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Set for crates of the workspace.
    path: Option<String>,
}

/// Every edge that the rules do not allow.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    Ok(metadata.packages.iter().flat_map(check_package).collect())
}

fn check_package(package: &Package) -> Vec<Finding> {
    let folder = folder_of(&package.manifest_path);
    let place = format!("{folder}/Cargo.toml");
    let Some(rule) = RULES.iter().find(|r| r.folder == folder) else {
        let what = "a crate without a rule: say in xtask/src/tidy/edges.rs what it may see";
        return vec![Finding::new(place, what)];
    };
    let mut findings = Vec::new();
    let expected = if folder == "sparkc" { folder.clone() } else { format!("sparkc-{folder}") };
    if package.name != expected {
        let what = format!("package is called {}, its folder asks for {expected}", package.name);
        findings.push(Finding::new(&place, what));
    }
    for dependency in &package.dependencies {
        let name = &dependency.name;
        let allowed = match &dependency.path {
            Some(path) => rule.ours.contains(&last(path)),
            None => !rule.never.contains(&name.as_str()),
        };
        if !allowed {
            findings.push(Finding::new(&place, format!("{folder} must not depend on {name}")));
        }
    }
    findings
}

fn folder_of(manifest: &str) -> String {
    let folder = manifest.trim_end_matches("/Cargo.toml");
    last(folder).to_string()
}

fn last(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(folder: &str, dependencies: &[(&str, bool)]) -> Package {
        Package {
            name: format!("sparkc-{folder}"),
            manifest_path: format!("/x/{folder}/Cargo.toml"),
            dependencies: dependencies
                .iter()
                .map(|&(name, ours)| Dependency {
                    name: name.to_string(),
                    path: ours.then(|| format!("/x/{}", name.trim_start_matches("sparkc-"))),
                })
                .collect(),
        }
    }

    #[test]
    fn the_judge_never_sees_the_accused() {
        let bad = package("simulator", &[("sparkc-plan", true), ("sparkc-backend-wafer", true)]);
        let findings = check_package(&bad);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("must not depend on sparkc-backend-wafer"));
        assert!(check_package(&package("simulator", &[("sparkc-plan", true)])).is_empty());
    }

    #[test]
    fn what_ships_stays_lean_and_new_crates_need_a_rule() {
        assert_eq!(check_package(&package("runtime", &[("egg", false)])).len(), 1);
        assert_eq!(check_package(&package("helpers", &[])).len(), 1);
    }
}
