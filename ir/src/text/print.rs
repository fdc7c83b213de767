//! Writes modules and graphs as text.
//!
//! Values are numbered in the order in which they are written, so the text does not depend on what
//! else the arenas hold. A graph that does not verify is printed too, for debugging, as long as its
//! ids are in range (SPK1116).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::{attribute, is_identifier};
use crate::{Graph, Module, Node, Op, ParamKind, ValueId};

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "module {} context {} {{", quoted(&self.name), self.context)?;
        for (key, value) in &self.meta {
            writeln!(f, "  meta {} = {}", quoted(key), quoted(value))?;
        }
        let names: Vec<&str> = self.blocks.iter().map(|b| b.name.as_str()).collect();
        for block in &self.blocks {
            Printer::new(block, &names, "  ").write(f, "block")?;
        }
        Printer::new(&self.main, &names, "  ").write(f, "graph")?;
        writeln!(f, "}}")
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printer::new(self, &[], "").write(f, "graph")
    }
}

/// A string literal.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Writes one graph.
struct Printer<'a> {
    graph: &'a Graph,
    blocks: &'a [&'a str],
    indent: &'a str,
    /// How each value is spelled.
    spelled: BTreeMap<ValueId, String>,
}

impl<'a> Printer<'a> {
    fn new(graph: &'a Graph, blocks: &'a [&'a str], indent: &'a str) -> Self {
        let params = graph.params().iter().map(|p| p.value);
        let results = graph.nodes().flat_map(|(_, n)| n.results.iter().copied());
        let defined: Vec<ValueId> = params.chain(results).collect();
        let name = |v: ValueId| {
            let known = v.index() < graph.value_count();
            known.then(|| graph.value(v).name.as_deref()).flatten()
        };
        let mut bearers: BTreeMap<&str, usize> = BTreeMap::new();
        for &v in &defined {
            if let Some(name) = name(v) {
                *bearers.entry(name).or_default() += 1;
            }
        }
        let mut spelled = BTreeMap::new();
        for (number, &v) in defined.iter().enumerate() {
            let text = match name(v) {
                None => format!("%{number}"),
                Some(name) => {
                    let text = match is_identifier(name) {
                        true => name.to_string(),
                        false => quoted(name),
                    };
                    let shared = bearers.get(name).is_some_and(|&n| n > 1);
                    if shared { format!("%{text}#{number}") } else { format!("%{text}") }
                }
            };
            spelled.insert(v, text);
        }
        Printer { graph, blocks, indent, spelled }
    }

    fn spell(&self, value: ValueId) -> String {
        let undefined = || format!("%undefined.{}", value.index());
        self.spelled.get(&value).cloned().unwrap_or_else(undefined)
    }

    fn list(&self, values: &[ValueId]) -> String {
        values.iter().map(|&v| self.spell(v)).collect::<Vec<_>>().join(", ")
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, keyword: &str) -> fmt::Result {
        let (graph, indent) = (self.graph, self.indent);
        write!(f, "{indent}{keyword} @{}(", graph.name)?;
        for (i, param) in graph.params().iter().enumerate() {
            let kind = match param.kind {
                ParamKind::Carry => "carry",
                ParamKind::Input => "input",
                ParamKind::State => "state",
            };
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{kind} {}: {}", self.spell(param.value), graph.ty(param.value))?;
        }
        writeln!(f, ") {{")?;
        for (_, node) in graph.nodes() {
            let types: Vec<String> =
                node.results.iter().map(|&v| graph.ty(v).to_string()).collect();
            let (results, types) = (self.list(&node.results), types.join(", "));
            writeln!(f, "{indent}  {results} = {} : {types}", self.op(node))?;
        }
        let values = self.list(&graph.results);
        let space = if values.is_empty() { "" } else { " " };
        writeln!(f, "{indent}  return{space}{values}")?;
        writeln!(f, "{indent}}}")
    }

    fn op(&self, node: &Node) -> String {
        let operands = self.list(&node.operands);
        match &node.op {
            Op::Weight { name, .. } => format!("weight {}", quoted(name)),
            Op::Const(value) => format!("const {value}"),
            Op::Repeat { block, first, count } => {
                let name = self.blocks.get(block.index());
                let name = name.map_or_else(|| block.to_string(), |name| format!("@{name}"));
                let end = u64::from(*first) + u64::from(*count);
                format!("repeat {name} {first}..{end} ({operands})")
            }
            op => {
                let mut text = attribute::spelling(op).to_string();
                if !operands.is_empty() {
                    text.push(' ');
                    text.push_str(&operands);
                }
                let attributes = attribute::print(op);
                if !attributes.is_empty() {
                    let list: Vec<String> =
                        attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    text.push_str(&format!(" {{{}}}", list.join(", ")));
                }
                text
            }
        }
    }
}
