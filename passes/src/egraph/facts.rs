//! What is known of every e-class: its type, whether it is a compile-time constant, which attribute
//! it is. An egg `Analysis` whose merge *asserts*: two terms of different type are never equal, so
//! such a union is a bug in a rule and stops here, not in a wrong answer later.

use std::cell::RefCell;
use std::collections::BTreeSet;

use egg::{Analysis, DidMerge, Id};
use ir::{Type, infer};

use super::language::{Attr, Head, Term, decode};
use super::rule::Equation;

/// The e-graph of this crate.
pub(crate) type EGraph = egg::EGraph<Term, Facts>;

/// Facts of one class.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    /// The class of an attribute.
    Attr(Attr),
    /// The class of a value.
    Value {
        /// Its type.
        ty: Type,
        /// Whether some term of the class is a function of weights and constants only.
        cc: bool,
        /// The smallest id ever of a term of this class: the order in which values came to be,
        /// whatever egg names the class.
        birth: usize,
    },
}

/// Which side conditions a rule asks; one of them may be waived to see whether that is noticed.
#[derive(Default)]
pub(crate) struct Trial {
    pub(crate) waived: Option<&'static str>,
    pub(crate) asked: RefCell<BTreeSet<&'static str>>,
}

impl Trial {
    /// Notes that a condition is asked; whether it is waived.
    pub(crate) fn waives(&self, condition: &'static str) -> bool {
        self.asked.borrow_mut().insert(condition);
        self.waived == Some(condition)
    }
}

/// The analysis.
#[derive(Default)]
pub(crate) struct Facts {
    /// Types of skeleton values, by `ValueId`.
    pub(crate) given: Vec<Type>,
    /// `(rule, earlier)`: a left side of `rule` matched a term that `earlier` wrote.
    pub(crate) built_on: BTreeSet<(&'static str, &'static str)>,
    /// How often a rule wrote sides of different types, where that is counted (mutants) and no bug.
    pub(crate) ill_typed: Option<usize>,
    /// Set while a rule is on trial.
    pub(crate) trial: Option<Trial>,
    /// Rules write nothing more above this many e-nodes.
    pub(crate) node_limit: usize,
    /// What rules made equal, in order, when a proof is wanted.
    pub(crate) equations: Option<Vec<Equation>>,
}

impl Analysis<Term> for Facts {
    type Data = Fact;

    fn make(egraph: &mut EGraph, term: &Term, id: Id) -> Fact {
        if let Head::Attr(attr) = &term.head {
            return Fact::Attr(attr.clone());
        }
        let birth = usize::from(id);
        let (ty, cc) = type_of(egraph, term).unwrap_or_else(|why| {
            panic!("rule {:?} wrote an ill-typed {term}: {why}", term.origin)
        });
        Fact::Value { ty, cc, birth }
    }

    fn remake(egraph: &mut EGraph, term: &Term, id: Id) -> Fact {
        // Facts only ever gain cc-ness; the type of a term cannot change.
        let class = egraph.find(id);
        match &egraph[class].data {
            Fact::Attr(attr) => Fact::Attr(attr.clone()),
            Fact::Value { ty, birth, .. } => {
                let cc = type_of(egraph, term).is_ok_and(|(_, cc)| cc);
                Fact::Value { ty: ty.clone(), cc, birth: *birth }
            }
        }
    }

    fn merge(&mut self, a: &mut Fact, b: Fact) -> DidMerge {
        match (a, b) {
            (Fact::Attr(x), Fact::Attr(y)) => {
                assert_eq!(*x, y, "a rule made two different attributes equal");
                DidMerge(false, false)
            }
            (
                Fact::Value { ty, cc, birth },
                Fact::Value { ty: other_ty, cc: other_cc, birth: other_birth },
            ) => {
                assert_eq!(*ty, other_ty, "a rule made values of different types equal");
                let merged = (*cc || other_cc, (*birth).min(other_birth));
                let did = DidMerge((*cc, *birth) != merged, (other_cc, other_birth) != merged);
                (*cc, *birth) = merged;
                did
            }
            (a, b) => panic!("a rule made an attribute equal to a value: {a:?}, {b:?}"),
        }
    }
}

/// Type and cc-ness of a term whose children are in the e-graph.
pub(crate) fn type_of(egraph: &EGraph, term: &Term) -> Result<(Type, bool), String> {
    if let Head::Given(value) = term.head {
        return Ok((egraph.analysis.given[value.index()].clone(), false));
    }
    let (mut types, mut attrs, mut cc) = (Vec::new(), Vec::new(), true);
    for &child in &term.children {
        match &egraph[child].data {
            Fact::Attr(attr) => attrs.push(attr),
            Fact::Value { ty, cc: child_cc, .. } => {
                types.push(ty.clone());
                cc &= child_cc;
            }
        }
    }
    let op = decode(&term.head, &attrs).ok_or("attributes that the op does not have")?;
    let ty = infer(&op, &types).map_err(|e| e.to_string())?;
    let leaf = matches!(op, ir::Op::Weight { .. } | ir::Op::Const(_));
    let sized = ty.as_tensor().is_some_and(|t| t.const_shape().is_some());
    Ok((ty, (leaf || (cc && !types.is_empty())) && sized))
}
