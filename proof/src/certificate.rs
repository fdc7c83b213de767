//! The text of certificates.
//!
//! ```text
//! sparkc-proof 1
//! tier reassoc
//! graph layer
//! t0 = given p0 : f32[1*T,64]          a value of the skeleton, with its type
//! t1 = weight norm.weight : bf16[64]   a tensor of the model
//! t2 = rms_norm t0 t1 real:1e-5        an op: operands are earlier terms, then attributes
//! before return t2                     what the graph outside the terms reads, in order
//! after return t7
//! step rms-norm-gain t2 t7             two terms that the rule makes equal
//! end
//! ```
//!
//! Reads untrusted text: every index is checked, nothing is allocated by declared size.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::ProofError;
use crate::rules::Tier;
use crate::term::{Attr, Term, Type, infer};

/// A certificate whose terms all have types.
pub(crate) struct Certificate {
    pub(crate) tier: Tier,
    pub(crate) sections: Vec<Section>,
}

/// One graph.
#[derive(Default)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) terms: Vec<Term>,
    pub(crate) before: Vec<Read>,
    pub(crate) after: Vec<Read>,
    pub(crate) steps: Vec<Step>,
}

/// Something outside that reads terms: a skeleton node, or the results.
pub(crate) struct Read {
    pub(crate) reader: String,
    pub(crate) terms: Vec<usize>,
}

/// An equation.
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) rule: String,
    pub(crate) left: usize,
    pub(crate) right: usize,
}

impl Certificate {
    pub(crate) fn parse(text: &str) -> Result<Certificate, ProofError> {
        let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
        let mut next = |expected: &str| {
            lines.next().ok_or_else(|| syntax(0, &format!("the text ends, expected {expected}")))
        };
        let (line, header) = next("the header")?;
        if header != "sparkc-proof 1" {
            return Err(syntax(line, "expected `sparkc-proof 1`"));
        }
        let (line, tier) = next("the tier")?;
        let tier = tier.strip_prefix("tier ").and_then(Tier::parse);
        let tier = tier.ok_or_else(|| syntax(line, "expected `tier` and a numeric tier"))?;
        let mut sections = Vec::new();
        let mut open: Option<Section> = None;
        for (line, text) in lines {
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            match (&mut open, word) {
                (None, "graph") => {
                    open = Some(Section { name: rest.to_string(), ..Section::default() });
                }
                (Some(_), "end") if rest.is_empty() => sections.extend(open.take()),
                (Some(section), "step") => section.steps.push(section.step(line, rest)?),
                (Some(section), "before") => section.before.push(section.read(line, rest)?),
                (Some(section), "after") => section.after.push(section.read(line, rest)?),
                (Some(section), _) => section.term(line, word, rest)?,
                (None, _) => return Err(syntax(line, "expected `graph` and a name")),
            }
        }
        match open {
            Some(_) => Err(syntax(0, "the text ends inside a graph")),
            None if sections.is_empty() => Err(syntax(0, "no graph")),
            None => Ok(Certificate { tier, sections }),
        }
    }
}

impl Section {
    /// `tN = head ...`, N counting up from 0.
    fn term(&mut self, line: usize, word: &str, rest: &str) -> Result<(), ProofError> {
        if word != format!("t{}", self.terms.len()) {
            return Err(syntax(line, &format!("expected the term t{}", self.terms.len())));
        }
        let text = rest.strip_prefix("= ").ok_or_else(|| syntax(line, "expected ` = `"))?;
        let (head, rest) = text.split_once(' ').unwrap_or((text, ""));
        let term = if head == "given" || head == "weight" {
            leaf(line, head, text, rest)?
        } else {
            self.op(line, head, rest)?
        };
        self.terms.push(term);
        Ok(())
    }

    fn op(&self, line: usize, head: &str, rest: &str) -> Result<Term, ProofError> {
        let (mut operands, mut attrs, mut text) = (Vec::new(), Vec::new(), head.to_string());
        for word in rest.split(' ').filter(|w| !w.is_empty()) {
            match self.index(word) {
                Some(operand) if attrs.is_empty() => operands.push(operand),
                _ => {
                    let attr = Attr::parse(word);
                    attrs.push(attr.ok_or_else(|| syntax(line, &format!("what is {word:?}?")))?);
                    let _ = write!(text, " {word}");
                }
            }
        }
        let types: Vec<&Type> = operands.iter().map(|&o| &self.terms[o].ty).collect();
        let ty = infer(head, &attrs, &types).map_err(|why| ProofError::Type { line, why })?;
        let sized = ty.dims().is_some_and(|d| d.iter().all(|p| p.value().is_some()));
        // A rotation may look at the number of tokens.
        let from_constants = head != "rope" && operands.iter().all(|&o| self.terms[o].constant);
        let constant = sized && from_constants && (!operands.is_empty() || head == "const");
        Ok(Term { head: head.to_string(), operands, attrs, text, ty, constant })
    }

    fn index(&self, word: &str) -> Option<usize> {
        let index = word.strip_prefix('t')?.parse().ok()?;
        (index < self.terms.len()).then_some(index)
    }

    fn read(&self, line: usize, rest: &str) -> Result<Read, ProofError> {
        let mut words = rest.split(' ');
        let reader = words.next().unwrap_or("").to_string();
        let terms: Option<Vec<usize>> = words.map(|w| self.index(w)).collect();
        let terms = terms.ok_or_else(|| syntax(line, "expected terms that are there"))?;
        Ok(Read { reader, terms })
    }

    fn step(&self, line: usize, rest: &str) -> Result<Step, ProofError> {
        let words: Vec<&str> = rest.split(' ').collect();
        let [rule, left, right] = words.as_slice() else {
            return Err(syntax(line, "expected a rule and two terms"));
        };
        let both = self.index(left).zip(self.index(right));
        let (left, right) =
            both.ok_or_else(|| syntax(line, "expected two terms that are there"))?;
        Ok(Step { line, rule: (*rule).to_string(), left, right })
    }

    /// The graph that is read, in canonical text: terms numbered as they are first needed.
    pub(crate) fn statement(&self, reads: &[Read]) -> String {
        let mut number: BTreeMap<usize, usize> = BTreeMap::new();
        let mut text = String::new();
        for read in reads {
            for &root in &read.terms {
                self.write(root, &mut number, &mut text);
            }
            let _ = write!(text, "{}", read.reader);
            for term in &read.terms {
                let _ = write!(text, " {}", number[term]);
            }
            text.push('\n');
        }
        text
    }

    fn write(&self, root: usize, number: &mut BTreeMap<usize, usize>, text: &mut String) {
        let mut stack = vec![root];
        while let Some(&top) = stack.last() {
            let term = &self.terms[top];
            let missing = term.operands.iter().find(|o| !number.contains_key(o));
            if let Some(&operand) = missing.filter(|_| !number.contains_key(&top)) {
                stack.push(operand);
                continue;
            }
            stack.pop();
            if !number.contains_key(&top) {
                let operands = term.operands.iter().map(|o| format!(" {}", number[o]));
                let operands: String = operands.collect();
                let _ = writeln!(text, "{} = {} of{operands}", number.len(), term.text);
                number.insert(top, number.len());
            }
        }
    }
}

/// Whether this is how a value of the skeleton is called: `pN`, a parameter, or `sK.J`, a result of the
/// K-th reader.
fn is_skeleton(name: &str) -> bool {
    let number = |n: &str| n.parse::<u32>().is_ok_and(|v| v.to_string() == n);
    match (name.strip_prefix('p'), name.strip_prefix('s').and_then(|s| s.split_once('.'))) {
        (Some(n), _) => number(n),
        (_, Some((k, j))) => number(k) && number(j),
        _ => false,
    }
}

/// `given NAME : TYPE` or `weight NAME : TYPE`.
fn leaf(line: usize, head: &str, text: &str, rest: &str) -> Result<Term, ProofError> {
    let (name, ty) =
        rest.split_once(" : ").ok_or_else(|| syntax(line, "expected a name and a type"))?;
    if head == "given" && !is_skeleton(name) {
        return Err(syntax(line, &format!("{name:?} is no value of the skeleton")));
    }
    let ty = Type::parse(ty).ok_or_else(|| syntax(line, &format!("{ty:?} is no type")))?;
    let sized = ty.dims().is_some_and(|d| d.iter().all(|p| p.value().is_some()));
    Ok(Term {
        head: head.to_string(),
        operands: Vec::new(),
        attrs: Vec::new(),
        text: text.to_string(),
        ty,
        constant: head == "weight" && sized,
    })
}

fn syntax(line: usize, why: &str) -> ProofError {
    ProofError::Syntax { line, why: why.to_string() }
}
