//! Checks certificates of the e-graph optimiser, knowing nothing of how they came about.
//!
//! A certificate holds, per graph, terms, what is read of them before and after optimising, and steps:
//! "by this rule these two terms are equal". The checker infers the type of every term, checks every step
//! against *its own* statement of the rule (pattern and side condition, or structure), and closes the
//! equations under congruence. It accepts when everything that was read before equals what is read after,
//! pair by pair, around the same skeleton of caches and repeats. It decides nothing by search.
//! Trusted: this crate, nothing else. It depends on no other crate of sparkc and on no e-graph library.
//!
//! Reading order: [`check`], `certificate`, `term`, `pattern`, `rules`, `structure`, `closure`.

mod certificate;
mod closure;
mod conditions;
mod pattern;
mod poly;
mod rules;
mod structure;
mod term;
#[cfg(test)]
mod tests;

use certificate::{Certificate, Section};
use closure::Closure;
pub use rules::{RuleStatement, Tier, rules};

/// Why a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// A line that is not in the language of certificates.
    #[error("line {line}: {why}")]
    Syntax {
        /// 1-based.
        line: usize,
        /// What was expected.
        why: String,
    },
    /// A term without a type.
    #[error("line {line}: {why}")]
    Type {
        /// 1-based.
        line: usize,
        /// What does not fit.
        why: String,
    },
    /// A rule that the checker does not know.
    #[error("line {line}: no rule is called {rule:?}")]
    UnknownRule {
        /// 1-based.
        line: usize,
        /// As written.
        rule: String,
    },
    /// A rule that may do more to numbers than the certificate says.
    #[error("line {line}: {rule} is of the tier {tier}, the certificate says {allowed}")]
    Tier {
        /// 1-based.
        line: usize,
        /// The rule.
        rule: &'static str,
        /// Its tier.
        tier: Tier,
        /// Tier of the certificate.
        allowed: Tier,
    },
    /// A step that is no instance of its rule.
    #[error("line {line}: not an instance of {rule}: {why}")]
    Step {
        /// 1-based.
        line: usize,
        /// The rule.
        rule: &'static str,
        /// What does not hold.
        why: String,
    },
    /// Different state, or another number of results.
    #[error("graph {graph}: caches, repeats or results differ before and after")]
    Skeleton {
        /// Name of the graph.
        graph: String,
    },
    /// The steps do not make the graphs equal.
    #[error("graph {graph}: operand {operand} of {reader} is not proven equal")]
    NotEqual {
        /// Name of the graph.
        graph: String,
        /// What reads the value.
        reader: String,
        /// Which of its operands.
        operand: usize,
    },
}

impl ProofError {
    /// The stable code, `SPK3301` and so on.
    pub fn code(&self) -> &'static str {
        match self {
            ProofError::Syntax { .. } => "SPK3301",
            ProofError::Type { .. } => "SPK3302",
            ProofError::UnknownRule { .. } => "SPK3303",
            ProofError::Tier { .. } => "SPK3304",
            ProofError::Step { .. } => "SPK3305",
            ProofError::Skeleton { .. } => "SPK3306",
            ProofError::NotEqual { .. } => "SPK3307",
        }
    }
}

/// What a certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// No step does more to numbers.
    pub tier: Tier,
    /// One entry per graph.
    pub graphs: Vec<CheckedGraph>,
}

/// The theorem about one graph: what `before` says equals what `after` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedGraph {
    /// Name of the graph.
    pub name: String,
    /// Steps used.
    pub steps: usize,
    /// Names of their rules, each once, sorted.
    pub rules: Vec<String>,
    /// The graph before, in canonical text: compare it with the graph you know.
    pub before: String,
    /// The graph after, in canonical text.
    pub after: String,
}

/// Checks a certificate.
///
/// # Errors
/// The first thing that is wrong, with its line where it has one.
pub fn check(text: &str) -> Result<Checked, ProofError> {
    let certificate = Certificate::parse(text)?;
    let tier = certificate.tier;
    let graphs = certificate.sections.iter().map(|s| check_section(s, tier));
    Ok(Checked { tier, graphs: graphs.collect::<Result<_, _>>()? })
}

fn check_section(section: &Section, tier: Tier) -> Result<CheckedGraph, ProofError> {
    let graph = || section.name.clone();
    let mut closure = Closure::new(&section.terms);
    let mut used = std::collections::BTreeSet::new();
    for step in &section.steps {
        let rule = rules::find(&step.rule)
            .ok_or_else(|| ProofError::UnknownRule { line: step.line, rule: step.rule.clone() })?;
        let (line, name) = (step.line, rule.name);
        if rule.tier > tier {
            return Err(ProofError::Tier { line, rule: name, tier: rule.tier, allowed: tier });
        }
        rules::holds(rule, &section.terms, step.left, step.right)
            .map_err(|why| ProofError::Step { line, rule: name, why })?;
        closure.merge(step.left, step.right);
        used.insert(step.rule.clone());
    }
    let shape = |reads: &[certificate::Read]| -> Vec<(String, usize)> {
        reads.iter().map(|r| (r.reader.clone(), r.terms.len())).collect()
    };
    if shape(&section.before) != shape(&section.after) || section.before.is_empty() {
        return Err(ProofError::Skeleton { graph: graph() });
    }
    for (before, after) in section.before.iter().zip(&section.after) {
        for (operand, (&a, &b)) in before.terms.iter().zip(&after.terms).enumerate() {
            if !closure.same(a, b) {
                let reader = before.reader.clone();
                return Err(ProofError::NotEqual { graph: graph(), reader, operand });
            }
        }
    }
    Ok(CheckedGraph {
        name: graph(),
        steps: section.steps.len(),
        rules: used.into_iter().collect(),
        before: section.statement(&section.before),
        after: section.statement(&section.after),
    })
}
