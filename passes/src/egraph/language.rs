//! The terms of the e-graph: ops of the IR with their attributes as leaf children.
//!
//! An op becomes a head (its spelling in the text form) whose children are its operands followed by
//! its attributes, each attribute a leaf of its own. So a pattern such as `(transpose (transpose ?x
//! ?p) ?q)` binds permutations like it binds values. Weights and the values of the skeleton
//! (parameters, caches, results of `repeat`) are leaves. Invariant: [`encode`] and [`decode`] are
//! inverse. Literals in patterns are written `perm:1,0,2`, `axis:1`, `real:1.0`, `act:silu`.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use egg::{FromOp, Id, Language};
use ir::{Activation, BinaryOp, Dim, Op, Real, ReduceOp, RopeSpec, UnaryOp, ValueId};
use tensor::DType;

/// An attribute of an op, as a leaf.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Attr {
    Axis(usize),
    Real(Real),
    Dim(Dim),
    Dims(Vec<Dim>),
    Perm(Vec<usize>),
    DType(DType),
    Act(Activation),
    Window(Option<usize>),
    Rope(Box<RopeSpec>),
}

/// What a term is, children aside.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Head {
    /// An attribute.
    Attr(Attr),
    /// A value that the e-graph takes as given.
    Given(ValueId),
    /// `weight`, which has no operands and is never matched by attribute.
    Weight(Box<Op>),
    /// An op by its spelling.
    Op(&'static str),
}

/// An e-node. `origin` says which rule wrote it (`None`: the input graph) and is no part of its
/// identity: of two equal terms the e-graph keeps one, whoever wrote it.
#[derive(Clone)]
pub(crate) struct Term {
    pub(crate) head: Head,
    pub(crate) children: Vec<Id>,
    pub(crate) origin: Option<&'static str>,
}

impl Term {
    pub(crate) fn new(head: Head, children: Vec<Id>) -> Self {
        Term { head, children, origin: None }
    }

    pub(crate) fn attr(attr: Attr) -> Self {
        Term::new(Head::Attr(attr), Vec::new())
    }

    /// Whether this is the op of the given spelling.
    pub(crate) fn is(&self, spelling: &str) -> bool {
        matches!(self.head, Head::Op(s) if s == spelling)
    }

    fn key(&self) -> (&Head, &[Id]) {
        (&self.head, &self.children)
    }
}

impl PartialEq for Term {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Term {}

impl Hash for Term {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialOrd for Term {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Term {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}{:?}", self.children)
    }
}

/// The head, as patterns spell it where they can.
impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.head {
            Head::Op(spelling) => f.write_str(spelling),
            Head::Given(value) => write!(f, "{value}"),
            Head::Weight(op) => match &**op {
                Op::Weight { name, .. } => write!(f, "weight:{name}"),
                _ => f.write_str("weight"),
            },
            Head::Attr(attr) => write!(f, "{attr:?}"),
        }
    }
}

impl Language for Term {
    type Discriminant = (Head, usize);

    fn discriminant(&self) -> Self::Discriminant {
        (self.head.clone(), self.children.len())
    }

    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// A pattern that names no op and no attribute.
#[derive(Debug)]
pub(crate) struct UnknownHead(#[allow(dead_code, reason = "shown by Debug")] String);

impl FromOp for Term {
    type Error = UnknownHead;

    fn from_op(text: &str, children: Vec<Id>) -> Result<Self, UnknownHead> {
        let unknown = || UnknownHead(text.to_string());
        if let Some((kind, value)) = text.split_once(':') {
            return literal(kind, value).map(Term::attr).ok_or_else(unknown);
        }
        let spelling = spelling(text).ok_or_else(unknown)?;
        Ok(Term::new(Head::Op(spelling), children))
    }
}

fn literal(kind: &str, value: &str) -> Option<Attr> {
    match kind {
        "axis" => value.parse().ok().map(Attr::Axis),
        "real" => value.parse().ok().map(|v: f64| Attr::Real(Real::new(v))),
        "perm" => value.split(',').map(|p| p.parse().ok()).collect::<Option<_>>().map(Attr::Perm),
        "act" => Activation::ALL.into_iter().find(|a| a.name() == value).map(Attr::Act),
        _ => None,
    }
}

/// The head of this spelling.
pub(crate) fn spelling(text: &str) -> Option<&'static str> {
    spellings().find(|s| *s == text)
}

/// Every spelling of a head: the op table, with `unary`, `binary` and `reduce` by function and all
/// activations as `act`.
fn spellings() -> impl Iterator<Item = &'static str> {
    let table = ir::op_table().iter().map(|row| row.name);
    let functions = UnaryOp::PLAIN.into_iter().map(UnaryOp::name);
    let functions = functions.chain(BinaryOp::ALL.into_iter().map(BinaryOp::name));
    let functions = functions.chain(ReduceOp::ALL.into_iter().map(ReduceOp::name));
    table.chain(functions).chain([ACT])
}

const ACT: &str = "act";

/// Head and attributes of a pure op.
pub(crate) fn encode(op: &Op) -> (Head, Vec<Attr>) {
    let name = op.info().name;
    let (spelling, attrs) = match op {
        Op::Weight { .. } => return (Head::Weight(Box::new(op.clone())), Vec::new()),
        Op::Const(value) => (name, vec![Attr::Real(*value)]),
        Op::CausalMask { window } => (name, vec![Attr::Window(*window)]),
        Op::Unary(UnaryOp::Act(act)) => (ACT, vec![Attr::Act(*act)]),
        Op::Unary(function) => (function.name(), Vec::new()),
        Op::Binary(function) => (function.name(), Vec::new()),
        Op::Cast(dtype) | Op::Quantize(dtype) => (name, vec![Attr::DType(*dtype)]),
        Op::Reduce { op, axis } => (op.name(), vec![Attr::Axis(*axis)]),
        Op::RmsNorm { eps } => (name, vec![Attr::Real(*eps)]),
        Op::Reshape(dims) | Op::Broadcast(dims) => (name, vec![Attr::Dims(dims.clone())]),
        Op::Transpose(perm) => (name, vec![Attr::Perm(perm.clone())]),
        Op::Slice { axis, start, end } => {
            (name, vec![Attr::Axis(*axis), Attr::Dim(start.clone()), Attr::Dim(end.clone())])
        }
        Op::Concat { axis } => (name, vec![Attr::Axis(*axis)]),
        Op::Rope(spec) => (name, vec![Attr::Rope(spec.clone())]),
        Op::Attention { scale, window } => (name, vec![Attr::Real(*scale), Attr::Window(*window)]),
        Op::Glu(act) => (name, vec![Attr::Act(*act)]),
        Op::Positions | Op::Matmul | Op::Softmax | Op::Gather => (name, Vec::new()),
        Op::CacheAppend | Op::CacheRead | Op::Repeat { .. } => (name, Vec::new()),
    };
    (Head::Op(spelling), attrs)
}

/// The op of a head with these attributes; `None` when they do not belong together.
pub(crate) fn decode(head: &Head, attrs: &[&Attr]) -> Option<Op> {
    let spelling = match head {
        Head::Weight(op) => return Some((**op).clone()),
        Head::Op(spelling) => *spelling,
        Head::Attr(_) | Head::Given(_) => return None,
    };
    let function = UnaryOp::PLAIN.into_iter().find(|f| f.name() == spelling).map(Op::Unary);
    let function = function
        .or_else(|| BinaryOp::ALL.into_iter().find(|f| f.name() == spelling).map(Op::Binary));
    if function.is_some() && attrs.is_empty() {
        return function;
    }
    let reduction = ReduceOp::ALL.into_iter().find(|f| f.name() == spelling);
    if let (Some(op), [Attr::Axis(axis)]) = (reduction, attrs) {
        return Some(Op::Reduce { op, axis: *axis });
    }
    Some(match (spelling, attrs) {
        ("const", [Attr::Real(value)]) => Op::Const(*value),
        ("positions", []) => Op::Positions,
        ("causal_mask", [Attr::Window(window)]) => Op::CausalMask { window: *window },
        (ACT, [Attr::Act(act)]) => Op::Unary(UnaryOp::Act(*act)),
        ("cast", [Attr::DType(dtype)]) => Op::Cast(*dtype),
        ("quantize", [Attr::DType(dtype)]) => Op::Quantize(*dtype),
        ("matmul", []) => Op::Matmul,
        ("softmax", []) => Op::Softmax,
        ("rms_norm", [Attr::Real(eps)]) => Op::RmsNorm { eps: *eps },
        ("reshape", [Attr::Dims(dims)]) => Op::Reshape(dims.clone()),
        ("broadcast", [Attr::Dims(dims)]) => Op::Broadcast(dims.clone()),
        ("transpose", [Attr::Perm(perm)]) => Op::Transpose(perm.clone()),
        ("slice", [Attr::Axis(axis), Attr::Dim(start), Attr::Dim(end)]) => {
            Op::Slice { axis: *axis, start: start.clone(), end: end.clone() }
        }
        ("concat", [Attr::Axis(axis)]) => Op::Concat { axis: *axis },
        ("gather", []) => Op::Gather,
        ("rope", [Attr::Rope(spec)]) => Op::Rope(spec.clone()),
        ("attention", [Attr::Real(scale), Attr::Window(window)]) => {
            Op::Attention { scale: *scale, window: *window }
        }
        ("glu", [Attr::Act(act)]) => Op::Glu(*act),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ir::RopeScaling;

    use super::*;

    #[test]
    fn decode_inverts_encode() {
        let rope = RopeSpec { dim: 8, theta: Real::new(1e4), scaling: RopeScaling::None };
        let dims = vec![Dim::from(2), Dim::from(ir::Symbol::T)];
        let mut ops = vec![
            Op::Weight { name: "w".into(), dtype: DType::BF16, shape: vec![2, 3] },
            Op::Const(Real::new(0.5)),
            Op::Positions,
            Op::CausalMask { window: Some(4) },
            Op::Cast(DType::F16),
            Op::Quantize(DType::Q4),
            Op::Matmul,
            Op::Softmax,
            Op::RmsNorm { eps: Real::new(1e-5) },
            Op::Reshape(dims.clone()),
            Op::Transpose(vec![1, 0]),
            Op::Slice { axis: 1, start: 0.into(), end: 2.into() },
            Op::Concat { axis: 0 },
            Op::Broadcast(dims),
            Op::Gather,
            Op::Rope(Box::new(rope)),
            Op::Attention { scale: Real::new(0.1), window: None },
        ];
        ops.extend(UnaryOp::PLAIN.map(Op::Unary));
        ops.extend(Activation::ALL.map(|a| Op::Unary(UnaryOp::Act(a))));
        ops.extend(Activation::ALL.map(Op::Glu));
        ops.extend(BinaryOp::ALL.map(Op::Binary));
        ops.extend(ReduceOp::ALL.map(|op| Op::Reduce { op, axis: 1 }));
        for row in ir::op_table().iter().filter(|row| row.pure) {
            assert!(ops.iter().any(|op| op.kind() == row.kind), "no example of {}", row.name);
        }
        for op in ops {
            let (head, attrs) = encode(&op);
            assert_eq!(decode(&head, &attrs.iter().collect::<Vec<_>>()), Some(op));
        }
    }

    #[test]
    fn patterns_name_ops_and_literals() {
        assert_eq!(Term::from_op("perm:1,0", vec![]).unwrap(), Term::attr(Attr::Perm(vec![1, 0])));
        assert!(Term::from_op("silu", vec![]).is_err());
        assert!(Term::from_op("act:silu", vec![]).is_ok());
        assert!(Term::from_op("reduce_mean", vec![]).is_ok());
        assert!(Term::from_op("axis:x", vec![]).is_err());
    }
}
