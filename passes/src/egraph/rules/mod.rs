//! The rules, one file per family. `README.md` one folder up says how to write one.

mod attention;
mod matmul;
mod merge;
mod mlp;
mod norm;
mod rows;
mod views;

use super::rule::Rule;

/// Rules by family, each the name of its file.
pub(crate) const FAMILIES: [(&str, &[Rule]); 7] = [
    ("views", views::RULES),
    ("rows", rows::RULES),
    ("matmul", matmul::RULES),
    ("merge", merge::RULES),
    ("norm", norm::RULES),
    ("mlp", mlp::RULES),
    ("attention", attention::RULES),
];

/// Every rule, by family.
pub(crate) fn all() -> impl Iterator<Item = &'static Rule> {
    FAMILIES.into_iter().flat_map(|(_, rules)| rules)
}

/// The family of a rule.
pub(crate) fn family(rule: &str) -> &'static str {
    let of = FAMILIES.into_iter().find(|(_, rules)| rules.iter().any(|r| r.name == rule));
    of.map_or("", |(name, _)| name)
}
