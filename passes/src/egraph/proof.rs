//! Certificates: the equations that make the extracted graph equal to the one given, as text.
//!
//! While the search runs, every rule that makes two terms equal notes both sides as written. Afterwards
//! a congruence closure (Nieuwenhuis and Oliveras, "Proof-producing congruence closure", RTA 2005)
//! replays the equations in order until the graphs are equal, explains why, and keeps the equations that
//! the explanation uses; then those that can be left out go. The checker (crate `proof`) shares no code
//! with this one: it reads the text, checks each equation against its own statement of the rule, and
//! that the equations entail the result. Skeleton nodes (caches, repeats) must be the same on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use egg::Id;
use ir::{Dim, Graph, Op, Type, ValueId};

use super::facts::{EGraph, Fact};
use super::language::{Attr, Head, encode};
use super::rule::{Equation, Tree};
use crate::{Cost, PassError};

/// Version of the text; the checker reads no other.
pub(crate) const HEADER: &str = "sparkc-proof 1";

/// A term of the certificate: head and attributes as text, and its operands.
type Key = (String, Vec<u32>);

/// One step that the proof uses, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofStep {
    /// Name of the rule.
    pub rule: &'static str,
    /// What was there, as an expression; parts that other steps do not touch are named by type.
    pub before: String,
    /// What it equals.
    pub after: String,
    /// Cost of the cheapest graph that the steps up to this one allow, when that was asked for.
    pub cost: Option<Cost>,
}

/// The proof that one graph equals another.
#[derive(Clone)]
pub(crate) struct GraphProof {
    /// The section of the certificate.
    pub(crate) text: String,
    pub(crate) steps: Vec<ProofStep>,
    /// Which of the equations noted each step is.
    pub(crate) used: Vec<usize>,
}

/// Every term that occurs, each once.
#[derive(Default)]
struct Table {
    index: BTreeMap<Key, u32>,
    terms: Vec<Key>,
}

impl Table {
    fn add(&mut self, head: String, operands: Vec<u32>) -> u32 {
        let next = self.terms.len() as u32;
        let key = (head, operands);
        let id = *self.index.entry(key.clone()).or_insert(next);
        if id == next {
            self.terms.push(key);
        }
        id
    }
}

/// What the graph outside the e-graph reads: each skeleton node with its operands, and the results.
type Reads = Vec<(String, Vec<u32>)>;

/// Proves `after` equal to `before` from the equations that the search noted.
pub(crate) fn prove(
    before: &Graph,
    after: &Graph,
    egraph: &EGraph,
    equations: &[Equation],
) -> Result<GraphProof, PassError> {
    let mut table = Table::default();
    let reads_before = load(before, &mut table)?;
    let reads_after = load(after, &mut table)?;
    let outer = |reads: &Reads| reads.iter().flat_map(|r| r.1.clone()).collect::<Vec<u32>>();
    let goals: Vec<(u32, u32)> =
        outer(&reads_before).into_iter().zip(outer(&reads_after)).collect();
    let mut reader =
        Reader { egraph, names: skeleton_names(before), table, known: BTreeMap::new() };
    let mut steps = Vec::with_capacity(equations.len());
    for equation in equations {
        let (left, right) = (reader.tree(&equation.left)?, reader.tree(&equation.right)?);
        steps.push(Step { rule: equation.rule, left, right });
    }
    let table = reader.table;
    let used = needed_steps(&table, &steps, &goals)
        .ok_or_else(|| PassError::internal("the rewrites noted do not explain the result"))?;
    let steps: Vec<Step> = used.iter().map(|&i| steps[i]).collect();
    let text = print(&before.name, &table, &reads_before, &reads_after, &steps);
    let shown = steps.iter().map(|s| ProofStep {
        rule: s.rule,
        before: expression(&table, s.left, 3),
        after: expression(&table, s.right, 3),
        cost: None,
    });
    Ok(GraphProof { text, steps: shown.collect(), used })
}

#[derive(Clone, Copy)]
struct Step {
    rule: &'static str,
    left: u32,
    right: u32,
}

/// Names of parameters and skeleton results that both graphs share.
fn skeleton_names(graph: &Graph) -> BTreeMap<ValueId, String> {
    let mut names = BTreeMap::new();
    for (i, param) in graph.params().iter().enumerate() {
        names.insert(param.value, format!("given p{i} : {}", type_text(graph.ty(param.value))));
    }
    let skeleton = graph.nodes().filter(|(_, n)| !n.op.info().pure);
    for (k, (_, node)) in skeleton.enumerate() {
        for (j, &value) in node.results.iter().enumerate() {
            names.insert(value, format!("given s{k}.{j} : {}", type_text(graph.ty(value))));
        }
    }
    names
}

/// The terms of a graph, and what is read of them.
fn load(graph: &Graph, table: &mut Table) -> Result<Reads, PassError> {
    let names = skeleton_names(graph);
    let mut ids: BTreeMap<ValueId, u32> = BTreeMap::new();
    for (value, name) in names {
        ids.insert(value, table.add(name, Vec::new()));
    }
    let find = |ids: &BTreeMap<ValueId, u32>, v: &ValueId| {
        let id = ids.get(v).copied();
        id.ok_or_else(|| PassError::internal(format!("{v} is used before it is defined")))
    };
    let mut reads = Vec::new();
    for (_, node) in graph.nodes() {
        let operands: Vec<u32> =
            node.operands.iter().map(|v| find(&ids, v)).collect::<Result<_, _>>()?;
        if node.op.info().pure {
            let (head, attrs) = encode(&node.op);
            let id = table.add(head_text(&head, &attrs), operands);
            ids.insert(node.results[0], id);
        } else {
            reads.push((escape(&format!("{:?}", node.op)), operands));
        }
    }
    let results = graph.results.iter().map(|v| find(&ids, v)).collect::<Result<_, _>>()?;
    reads.push(("return".to_string(), results));
    Ok(reads)
}

/// Reads terms of the e-graph as they were first written.
struct Reader<'a> {
    egraph: &'a EGraph,
    names: BTreeMap<ValueId, String>,
    table: Table,
    known: BTreeMap<Id, u32>,
}

impl Reader<'_> {
    /// The first term of a class. A stack, not recursion: graphs are deep.
    fn class(&mut self, class: Id) -> Result<u32, PassError> {
        let mut stack = vec![class];
        while let Some(&top) = stack.last() {
            if self.known.contains_key(&top) {
                stack.pop();
                continue;
            }
            let term = self.egraph.id_to_node(top);
            let (mut operands, mut attrs, mut missing) = (Vec::new(), Vec::new(), false);
            for &child in &term.children {
                match (&self.egraph[child].data, self.known.get(&child)) {
                    (Fact::Attr(attr), _) => attrs.push(attr.clone()),
                    (Fact::Value { .. }, Some(&known)) => operands.push(known),
                    (Fact::Value { .. }, None) => {
                        stack.push(child);
                        missing = true;
                    }
                }
            }
            if !missing {
                let head = self.head(&term.head, &attrs)?;
                let id = self.table.add(head, operands);
                self.known.insert(top, id);
                stack.pop();
            }
        }
        self.known.get(&class).copied().ok_or_else(|| PassError::internal("a class without term"))
    }

    fn head(&self, head: &Head, attrs: &[Attr]) -> Result<String, PassError> {
        match head {
            Head::Given(value) => {
                self.names.get(value).cloned().ok_or_else(|| {
                    PassError::internal(format!("{value} is no value of the skeleton"))
                })
            }
            head => Ok(head_text(head, attrs)),
        }
    }

    /// A tree: a handful of terms over classes.
    fn tree(&mut self, tree: &Tree) -> Result<u32, PassError> {
        let (head, children) = match tree {
            Tree::Class(id) => return self.class(*id),
            Tree::Term(head, children) => (head, children),
        };
        let (mut operands, mut attrs) = (Vec::new(), Vec::new());
        for child in children {
            match child {
                Tree::Term(Head::Attr(attr), _) => attrs.push(attr.clone()),
                Tree::Class(id) => match &self.egraph[*id].data {
                    Fact::Attr(attr) => attrs.push(attr.clone()),
                    Fact::Value { .. } => operands.push(self.class(*id)?),
                },
                Tree::Term(..) => operands.push(self.tree(child)?),
            }
        }
        let head = self.head(head, &attrs)?;
        Ok(self.table.add(head, operands))
    }
}

fn head_text(head: &Head, attrs: &[Attr]) -> String {
    let mut text = match head {
        Head::Op(spelling) => (*spelling).to_string(),
        Head::Weight(op) => match &**op {
            Op::Weight { name, dtype, shape } => {
                let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
                format!("weight {} : {dtype}[{}]", escape(name), shape.join(","))
            }
            op => op.info().name.to_string(),
        },
        Head::Attr(_) | Head::Given(_) => String::new(),
    };
    for attr in attrs {
        let _ = write!(text, " {}", attr_text(attr));
    }
    text
}

fn attr_text(attr: &Attr) -> String {
    let list = |dims: &[Dim]| dims.iter().map(dim_text).collect::<Vec<_>>().join(",");
    match attr {
        Attr::Axis(axis) => format!("axis:{axis}"),
        Attr::Real(real) => format!("real:{:?}", real.get()),
        Attr::Dim(dim) => format!("dim:{}", dim_text(dim)),
        Attr::Dims(dims) => format!("dims:{}", list(dims)),
        Attr::Perm(perm) => {
            let perm: Vec<String> = perm.iter().map(usize::to_string).collect();
            format!("perm:{}", perm.join(","))
        }
        Attr::DType(dtype) => format!("dtype:{dtype}"),
        Attr::Act(act) => format!("act:{}", act.name()),
        Attr::Window(None) => "window:none".to_string(),
        Attr::Window(Some(window)) => format!("window:{window}"),
        Attr::Rope(spec) => format!("rope:{}", escape(&format!("{spec:?}"))),
    }
}

/// `2*C*T+-1`: coefficient first, then symbols.
fn dim_text(dim: &Dim) -> String {
    let term = |(exponents, coefficient): &([u8; 3], i64)| {
        let mut text = coefficient.to_string();
        for (symbol, &n) in ir::Symbol::ALL.iter().zip(exponents) {
            for _ in 0..n {
                let _ = write!(text, "*{}", symbol.name());
            }
        }
        text
    };
    let terms: Vec<String> = dim.terms().iter().map(term).collect();
    if terms.is_empty() { "0".to_string() } else { terms.join("+") }
}

fn type_text(ty: &Type) -> String {
    match ty {
        Type::Tensor(t) => {
            let dims: Vec<String> = t.dims.iter().map(dim_text).collect();
            format!("{}[{}]", t.dtype, dims.join(","))
        }
        Type::Cache(cache) => format!("cache:{}", escape(&cache.to_string())),
    }
}

/// Letters, digits and a few marks as they are, all else as %XX.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-{}/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The steps that make the goals hold, in order, none of which can be left out.
fn needed_steps(table: &Table, steps: &[Step], goals: &[(u32, u32)]) -> Option<Vec<usize>> {
    let all: Vec<usize> = (0..steps.len()).collect();
    let mut kept = explained(table, steps, &all, goals)?;
    // An explanation may go a long way round: leave out what the rest entails.
    let mut at = kept.len();
    while at > 0 {
        at -= 1;
        let mut fewer = kept.clone();
        fewer.remove(at);
        if let Some(less) = explained(table, steps, &fewer, goals) {
            at = at.min(less.len());
            kept = less;
        }
    }
    Some(kept)
}

fn explained(
    table: &Table,
    steps: &[Step],
    of: &[usize],
    goals: &[(u32, u32)],
) -> Option<Vec<usize>> {
    let mut closure = Closure::new(table, goals, steps, of);
    for &i in of {
        closure.merge(steps[i].left, steps[i].right, Reason::Step(i));
        if goals.iter().all(|&(a, b)| closure.find(a) == closure.find(b)) {
            break;
        }
    }
    let met = goals.iter().all(|&(a, b)| closure.find(a) == closure.find(b));
    met.then(|| closure.explain(goals).into_iter().collect())
}

/// Why two terms were merged.
#[derive(Clone, Copy)]
enum Reason {
    /// The equation of this number.
    Step(usize),
    /// Equal heads, equal operands.
    Congruence(u32, u32),
}

/// Congruence closure with a forest of reasons.
struct Closure<'a> {
    table: &'a Table,
    root: Vec<u32>,
    members: Vec<Vec<u32>>,
    /// Terms that read a class, by its root.
    uses: Vec<Vec<u32>>,
    signatures: BTreeMap<(u32, Vec<u32>), u32>,
    /// Number of each head.
    heads: Vec<u32>,
    /// The forest: each term's neighbour towards the root of its tree, and why they are equal.
    towards: Vec<Option<(u32, Reason)>>,
}

impl<'a> Closure<'a> {
    /// Holds the terms that goals and steps are made of.
    fn new(table: &'a Table, goals: &[(u32, u32)], steps: &[Step], of: &[usize]) -> Self {
        let n = table.terms.len();
        let mut wanted = vec![false; n];
        let mut stack: Vec<u32> = goals.iter().flat_map(|g| [g.0, g.1]).collect();
        stack.extend(of.iter().flat_map(|&i| [steps[i].left, steps[i].right]));
        while let Some(term) = stack.pop() {
            if !std::mem::replace(&mut wanted[term as usize], true) {
                stack.extend(&table.terms[term as usize].1);
            }
        }
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut heads = Vec::with_capacity(n);
        for (head, _) in &table.terms {
            let next = numbers.len() as u32;
            heads.push(*numbers.entry(head).or_insert(next));
        }
        let mut closure = Closure {
            table,
            root: (0..n as u32).collect(),
            members: (0..n as u32).map(|i| vec![i]).collect(),
            uses: vec![Vec::new(); n],
            signatures: BTreeMap::new(),
            heads,
            towards: vec![None; n],
        };
        for term in (0..n as u32).filter(|&t| wanted[t as usize]) {
            for &operand in &table.terms[term as usize].1 {
                closure.uses[operand as usize].push(term);
            }
            closure.signatures.insert(closure.signature(term), term);
        }
        closure
    }

    fn find(&self, term: u32) -> u32 {
        self.root[term as usize]
    }

    fn signature(&self, term: u32) -> (u32, Vec<u32>) {
        let operands = self.table.terms[term as usize].1.iter().map(|&o| self.find(o));
        (self.heads[term as usize], operands.collect())
    }

    fn merge(&mut self, a: u32, b: u32, reason: Reason) {
        let mut pending = vec![(a, b, reason)];
        while let Some((a, b, reason)) = pending.pop() {
            let (mut small, mut large) = (self.find(a), self.find(b));
            if small == large {
                continue;
            }
            let (mut from, mut to) = (a, b);
            if self.members[small as usize].len() > self.members[large as usize].len() {
                std::mem::swap(&mut small, &mut large);
                std::mem::swap(&mut from, &mut to);
            }
            self.reroot(from);
            self.towards[from as usize] = Some((to, reason));
            let moved = std::mem::take(&mut self.members[small as usize]);
            moved.iter().for_each(|&m| self.root[m as usize] = large);
            self.members[large as usize].extend(moved);
            let readers = std::mem::take(&mut self.uses[small as usize]);
            for &reader in &readers {
                let signature = self.signature(reader);
                let other = *self.signatures.entry(signature).or_insert(reader);
                if self.find(other) != self.find(reader) {
                    pending.push((reader, other, Reason::Congruence(reader, other)));
                }
            }
            self.uses[large as usize].extend(readers);
        }
    }

    /// Turns the edges around from a term to the root of its tree.
    fn reroot(&mut self, term: u32) {
        let (mut at, mut edge) = (term, self.towards[term as usize].take());
        while let Some((next, reason)) = edge {
            edge = self.towards[next as usize].replace((at, reason));
            at = next;
        }
    }

    /// The steps behind equalities that hold.
    fn explain(&self, goals: &[(u32, u32)]) -> BTreeSet<usize> {
        let mut used = BTreeSet::new();
        let mut seen: BTreeSet<(u32, u32)> = BTreeSet::new();
        let mut pending: Vec<(u32, u32)> = goals.to_vec();
        while let Some((a, b)) = pending.pop() {
            if a == b || !seen.insert((a.min(b), a.max(b))) {
                continue;
            }
            let above: BTreeSet<u32> = self.path(a).map(|(t, _)| t).chain([self.top(a)]).collect();
            let meets = |t: &u32| above.contains(t);
            let common = self.path(b).map(|(t, _)| t).chain([self.top(b)]).find(meets);
            for start in [a, b] {
                for (term, reason) in self.path(start) {
                    if Some(term) == common {
                        break;
                    }
                    match reason {
                        Reason::Step(i) => drop(used.insert(i)),
                        Reason::Congruence(x, y) => {
                            let operands = |t: u32| self.table.terms[t as usize].1.iter().copied();
                            pending.extend(operands(x).zip(operands(y)));
                        }
                    }
                }
            }
        }
        used
    }

    /// Terms from one towards the root of its tree, each with the reason of the edge to the next.
    fn path(&self, term: u32) -> impl Iterator<Item = (u32, Reason)> {
        let mut at = Some(term);
        std::iter::from_fn(move || {
            let here = at?;
            let (next, reason) = self.towards[here as usize]?;
            at = Some(next);
            Some((here, reason))
        })
    }

    fn top(&self, term: u32) -> u32 {
        let mut at = term;
        while let Some((next, _)) = self.towards[at as usize] {
            at = next;
        }
        at
    }
}

/// The section of one graph: terms that matter, what is read before and after, steps.
fn print(name: &str, table: &Table, before: &Reads, after: &Reads, steps: &[Step]) -> String {
    let mut wanted = vec![false; table.terms.len()];
    let reads = before.iter().chain(after).flat_map(|r| r.1.iter().copied());
    let mut stack: Vec<u32> = reads.chain(steps.iter().flat_map(|s| [s.left, s.right])).collect();
    while let Some(term) = stack.pop() {
        if !std::mem::replace(&mut wanted[term as usize], true) {
            stack.extend(&table.terms[term as usize].1);
        }
    }
    let mut number = vec![0; wanted.len()];
    let mut text = format!("graph {}\n", escape(name));
    let kept = table.terms.iter().enumerate().filter(|(i, _)| wanted[*i]);
    for (next, (i, (head, operands))) in kept.enumerate() {
        number[i] = next;
        let (spelling, attrs) = head.split_once(' ').unwrap_or((head, ""));
        let _ = write!(text, "t{next} = {spelling}");
        for &operand in operands {
            let _ = write!(text, " t{}", number[operand as usize]);
        }
        let space = if attrs.is_empty() { "" } else { " " };
        let _ = writeln!(text, "{space}{attrs}");
    }
    for (when, reads) in [("before", before), ("after", after)] {
        for (op, terms) in reads {
            let _ = write!(text, "{when} {op}");
            for &term in terms {
                let _ = write!(text, " t{}", number[term as usize]);
            }
            text.push('\n');
        }
    }
    for step in steps {
        let (left, right) = (number[step.left as usize], number[step.right as usize]);
        let _ = writeln!(text, "step {} t{left} t{right}", step.rule);
    }
    text.push_str("end\n");
    text
}

/// A term as people read it, down to a depth.
fn expression(table: &Table, term: u32, depth: usize) -> String {
    let (head, operands) = &table.terms[term as usize];
    if let Some(weight) = head.strip_prefix("weight ") {
        return weight.split(" : ").next().unwrap_or(weight).to_string();
    }
    if let Some(given) = head.strip_prefix("given ") {
        return given.split(" : ").next().unwrap_or(given).to_string();
    }
    let (spelling, attrs) = head.split_once(' ').unwrap_or((head, ""));
    if operands.is_empty() && attrs.is_empty() {
        return spelling.to_string();
    }
    let mut inside: Vec<String> = if depth == 0 {
        vec!["...".to_string()]
    } else {
        operands.iter().map(|&o| expression(table, o, depth - 1)).collect()
    };
    inside.extend((!attrs.is_empty() && !attrs.starts_with("rope:")).then(|| attrs.to_string()));
    format!("{spelling}({})", inside.join(", "))
}

/// A graph in canonical text, as the checker states it: terms numbered as they are first needed.
///
/// # Errors
/// When the graph uses a value before it is defined.
pub fn statement(graph: &Graph) -> Result<String, PassError> {
    let mut table = Table::default();
    let reads = load(graph, &mut table)?;
    let mut number: BTreeMap<u32, usize> = BTreeMap::new();
    let mut text = String::new();
    for (reader, terms) in &reads {
        let mut stack: Vec<u32> = terms.iter().rev().copied().collect();
        while let Some(&top) = stack.last() {
            let (head, operands) = &table.terms[top as usize];
            let missing = operands.iter().find(|o| !number.contains_key(o));
            match missing.filter(|_| !number.contains_key(&top)) {
                Some(&operand) => stack.push(operand),
                None => {
                    stack.pop();
                    let next = number.len();
                    if !number.contains_key(&top) {
                        let operands: Vec<String> =
                            operands.iter().map(|o| format!(" {}", number[o])).collect();
                        let _ = writeln!(text, "{next} = {head} of{}", operands.concat());
                        number.insert(top, next);
                    }
                }
            }
        }
        let terms: Vec<String> = terms.iter().map(|t| format!(" {}", number[t])).collect();
        let _ = writeln!(text, "{reader}{}", terms.concat());
    }
    Ok(text)
}
