//! Structure checks that neither the compiler nor clippy makes.
//!
//! Reading order: `edges` (which crate may see which), `dependencies` (why others are there), `source`
//! (what a file looks like), `functions` (length, as a ratchet), `links` (documents).

mod dependencies;
mod edges;
mod functions;
mod links;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::say;

pub(crate) use functions::Ratchet;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// File, from the root; with a line where there is one.
    pub(crate) place: String,
    /// What is wrong and what would be right.
    pub(crate) what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Finding { place: place.into(), what: what.into() }
    }
}

/// A text file of the checkout.
pub(crate) struct Source {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    /// Content.
    pub(crate) text: String,
}

/// Runs every check.
pub(crate) fn run(root: &Path, ratchet: Ratchet) -> Result<()> {
    let rust = read_tree(root, "rs")?;
    let markdown = read_tree(root, "md")?;
    let mut findings = edges::check(root)?;
    findings.extend(dependencies::check(root)?);
    findings.extend(rust.iter().flat_map(source::check));
    findings.extend(functions::check(root, &rust, ratchet)?);
    findings.extend(markdown.iter().flat_map(|document| links::check(root, document)));
    findings.sort();
    for finding in &findings {
        say(&format!("{}: {}", finding.place, finding.what));
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    say(&format!("tidy: {} Rust files, {} documents, ok", rust.len(), markdown.len()));
    Ok(())
}

/// All files with an extension below the root, sorted, without build products and hidden folders.
fn read_tree(root: &Path, extension: &str) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let skipped = name.starts_with('.') || name == "target" || name.ends_with(".sparkc");
            if path.is_dir() && !skipped {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let path = path.strip_prefix(root).unwrap_or(&path);
                sources.push(Source { path: path.to_string_lossy().replace('\\', "/"), text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}
