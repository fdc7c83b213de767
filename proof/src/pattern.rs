//! Patterns: terms with variables, matched against terms as they are written.
//!
//! `(transpose (transpose ?x ?p) ?q)`: operands first, then attributes. A variable that occurs twice is
//! the same term or attribute twice. The operands of add, mul, max and min match in either order.

use std::collections::BTreeMap;

use crate::term::{Attr, Term};

/// A pattern.
#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    Variable(String),
    Literal(Attr),
    Node(String, Vec<Pattern>),
}

/// What a variable stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bound {
    Term(usize),
    Attr(Attr),
}

pub(crate) type Bindings = BTreeMap<String, Bound>;

impl Pattern {
    /// Reads a pattern of the table of rules.
    pub(crate) fn parse(text: &str) -> Option<Pattern> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let mut words = spaced.split_whitespace();
        let pattern = Pattern::read(words.next()?, &mut words)?;
        words.next().is_none().then_some(pattern)
    }

    fn read<'a>(word: &str, words: &mut impl Iterator<Item = &'a str>) -> Option<Pattern> {
        if word.starts_with('?') {
            return Some(Pattern::Variable(word.to_string()));
        }
        if word != "(" {
            return Attr::parse(word).map(Pattern::Literal);
        }
        let head = words.next()?.to_string();
        let mut children = Vec::new();
        loop {
            match words.next()? {
                ")" => return Some(Pattern::Node(head, children)),
                word => children.push(Pattern::read(word, words)?),
            }
        }
    }

    /// Every way to match a term that extends the bindings.
    pub(crate) fn matches(&self, terms: &[Term], at: usize, bindings: Bindings) -> Vec<Bindings> {
        match self {
            Pattern::Variable(name) => bind(bindings, name, Bound::Term(at)),
            Pattern::Literal(_) => Vec::new(),
            Pattern::Node(head, children) => {
                let term = &terms[at];
                if term.head != *head || children.len() != term.operands.len() + term.attrs.len() {
                    return Vec::new();
                }
                let mut found = in_order(terms, children, &term.operands, &bindings);
                if let ("add" | "mul" | "max" | "min", [a, b]) = (&head[..], &term.operands[..]) {
                    found.extend(in_order(terms, children, &[*b, *a], &bindings));
                }
                let attrs = children[term.operands.len()..].iter().zip(&term.attrs);
                attrs.fold(found, |found, (pattern, attr)| {
                    found.into_iter().flat_map(|b| pattern.matches_attr(attr, b)).collect()
                })
            }
        }
    }

    fn matches_attr(&self, attr: &Attr, bindings: Bindings) -> Vec<Bindings> {
        match self {
            Pattern::Variable(name) => bind(bindings, name, Bound::Attr(attr.clone())),
            Pattern::Literal(literal) if literal == attr => vec![bindings],
            Pattern::Literal(_) | Pattern::Node(..) => Vec::new(),
        }
    }

    /// Names of the variables.
    pub(crate) fn variables(&self) -> Vec<&str> {
        match self {
            Pattern::Variable(name) => vec![name],
            Pattern::Literal(_) => Vec::new(),
            Pattern::Node(_, children) => children.iter().flat_map(Pattern::variables).collect(),
        }
    }
}

fn in_order(
    terms: &[Term],
    children: &[Pattern],
    operands: &[usize],
    bindings: &Bindings,
) -> Vec<Bindings> {
    children.iter().zip(operands).fold(vec![bindings.clone()], |found, (pattern, &operand)| {
        found.into_iter().flat_map(|b| pattern.matches(terms, operand, b)).collect()
    })
}

fn bind(mut bindings: Bindings, name: &str, to: Bound) -> Vec<Bindings> {
    match bindings.get(name) {
        Some(known) if *known != to => Vec::new(),
        Some(_) => vec![bindings],
        None => {
            bindings.insert(name.to_string(), to);
            vec![bindings]
        }
    }
}
