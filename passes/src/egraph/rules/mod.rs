//! The rules, one file per family. `README.md` one folder up says how to write one.

mod attention;
mod matmul;
mod merge;
mod mlp;
mod norm;
mod rows;
mod views;

use super::rule::Rule;

/// Every rule, by family.
pub(crate) fn all() -> impl Iterator<Item = &'static Rule> {
    let families: [&'static [Rule]; 7] = [
        views::RULES,
        rows::RULES,
        matmul::RULES,
        merge::RULES,
        norm::RULES,
        mlp::RULES,
        attention::RULES,
    ];
    families.into_iter().flatten()
}
