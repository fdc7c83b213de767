//! The text form `.spark`: printing, and parsing with line and column.
//!
//! ```text
//! module = "module" STRING "context" INT "{" { "meta" STRING "=" STRING } { block } graph "}"
//! block  = "block" body                    a graph that the graph repeats; the graph comes last
//! graph  = "graph" body
//! body   = "@" NAME "(" [ param { "," param } ] ")" "{" { node } "return" [ values ] "}"
//! param  = ( "carry" | "input" | "state" ) value ":" type
//! node   = values "=" op ":" type { "," type }
//! op     = "weight" STRING | "const" NUMBER
//!        | "repeat" "@" NAME INT ".." INT "(" [ values ] ")"
//!        | NAME [ values ] [ "{" NAME "=" attribute { "," NAME "=" attribute } "}" ]
//! values = value { "," value }
//! value  = "%" ( NAME | STRING | INT ) [ "#" INT ]
//! type   = [ "cache" [ "x" INT ] ] DTYPE "[" [ dim { "," dim } ] "]"
//! dim    = [ "-" ] term { ( "+" | "-" ) term }        term = factor { "*" factor }
//! factor = INT | "T" | "C" | "R"
//! ```
//!
//! A value is spelled by its name; by name and number (`%x#7`) where several share the name; by
//! number where it has none. Elementwise functions, activations and reductions are ops by their
//! own names (`add`, `silu`, `reduce_sum`). Ops whose result type says everything (`weight`,
//! `cast`, `quantize`, `reshape`, `broadcast`) have no attributes. `//` starts a comment.
//!
//! `parse(print(m)) == m` for every verified module whose arenas hold just what the order holds
//! ([`Graph::compact`]); other modules come back compacted. Parsing checks the type of every result
//! where it stands, so that errors have a place; all else is `verify`'s. Text from strangers may do
//! no harm: nothing recurses, and memory is in proportion to the text.

mod attribute;
mod lex;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::{Graph, Module};

/// Why text is not a module, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub kind: ParseErrorKind,
}

/// What is wrong with text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseErrorKind {
    /// A character or a literal that is no token.
    #[error("{0}")]
    Token(String),
    /// A token where another is due.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What may stand here.
        expected: String,
        /// What stands here.
        found: String,
    },
    /// A value, block, op or dtype that is not known here.
    #[error("unknown {kind} {name}")]
    Unknown {
        /// What kind of name.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A second definition of a name.
    #[error("{0} is defined twice")]
    Duplicate(String),
    /// An op that does not fit its operands, or a result that is stated with another type.
    #[error("{0}")]
    Type(String),
    /// A missing, unknown or ill-formed attribute.
    #[error("{0}")]
    Attribute(String),
    /// More than the language allows: axes, terms of a dim, the size of a number.
    #[error("{0}")]
    Limit(String),
}

impl ParseError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self.kind {
            ParseErrorKind::Token(_) => "SPK1001",
            ParseErrorKind::Expected { .. } => "SPK1002",
            ParseErrorKind::Unknown { .. } => "SPK1003",
            ParseErrorKind::Duplicate(_) => "SPK1004",
            ParseErrorKind::Type(_) => "SPK1005",
            ParseErrorKind::Attribute(_) => "SPK1006",
            ParseErrorKind::Limit(_) => "SPK1007",
        }
    }
}

/// `3:14: unknown value %x`
impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.kind)
    }
}

impl std::error::Error for ParseError {}

/// Reads a module. Verify it before use.
///
/// # Errors
/// The first thing that is wrong, with line and column.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    parse::module(text)
}

/// Reads one graph without `repeat`, as [`print_graph`] writes it.
///
/// # Errors
/// As [`parse`].
pub fn parse_graph(text: &str) -> Result<Graph, ParseError> {
    parse::lone_graph(text)
}

/// The text form of a module; also its `Display`.
pub fn print(module: &Module) -> String {
    module.to_string()
}

/// The text form of one graph; also its `Display`. Blocks that it repeats are spelled by id.
pub fn print_graph(graph: &Graph) -> String {
    graph.to_string()
}

/// Whether `text` may stand for itself as a name: a letter or `_`, then letters, digits, `_`, `.`.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}
