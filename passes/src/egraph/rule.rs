//! Rewrite rules as data, and what turns one into egg rewrites.
//!
//! A rule is a row: name, tier, one sentence why it is true, left side, side condition, right side.
//! The condition reads facts of what the left side bound (types, cc-ness, attributes) and may bind
//! more variables, computed attributes above all, for the right side to use. Only where no pattern
//! can say it (any number of operands), the right side is code.
//!
//! A right side that has no type for the operands at hand does not fire: being well-typed is part of
//! every side condition. A right side of another type than the left is a bug and stops the search
//! (see `facts`). Commutative ops of a left side match in both orders.

use std::sync::LazyLock;

use egg::{
    Applier, ENodeOrVar, Id, Language, Pattern, PatternAst, RecExpr, Rewrite, Subst, Symbol, Var,
};
use ir::{Dim, Op, Real, TensorType};

use super::facts::{EGraph, Fact, Facts, type_of};
use super::language::{Attr, Head, Term, encode};
use super::rules;
use crate::Tier;

/// One rewrite rule.
pub(crate) struct Rule {
    /// Kebab-case; users see it.
    pub(crate) name: &'static str,
    /// What it may do to numbers.
    pub(crate) tier: Tier,
    /// One sentence: why both sides are the same.
    pub(crate) why: &'static str,
    /// Pattern.
    pub(crate) lhs: &'static str,
    /// The side condition in words; empty when there is none but well-typedness.
    pub(crate) condition: &'static str,
    /// The side condition: `None` refuses. May bind variables.
    pub(crate) when: Condition,
    /// What the left side equals.
    pub(crate) rhs: Rhs,
}

/// A side condition in code.
pub(crate) type Condition = fn(&mut Match<'_>) -> Option<()>;

/// The right side of a rule.
pub(crate) enum Rhs {
    /// A pattern over the variables of the left side and of the condition.
    Pattern(&'static str),
    /// Code that adds terms and makes them equal to classes; what a pattern cannot say.
    Code(fn(&mut Match<'_>) -> Option<()>),
}

/// The condition that always holds. Never inlined, so that it has one address: trials of rules ask whether
/// a rule has a condition.
#[inline(never)]
pub(crate) fn always(_: &mut Match<'_>) -> Option<()> {
    Some(())
}

/// One side of an equation as it is written, classes at its leaves.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    /// Whatever is in a class.
    Class(Id),
    /// A term.
    Term(Head, Vec<Tree>),
}

impl Tree {
    /// An op of trees.
    pub(crate) fn op(op: &Op, operands: Vec<Tree>) -> Tree {
        let (head, attrs) = encode(op);
        let attrs = attrs.into_iter().map(|a| Tree::Term(Head::Attr(a), Vec::new()));
        Tree::Term(head, operands.into_iter().chain(attrs).collect())
    }

    /// A term of the e-graph, down to the classes of its children.
    pub(crate) fn term(term: &Term) -> Tree {
        Tree::Term(term.head.clone(), term.children.iter().map(|&c| Tree::Class(c)).collect())
    }

    /// The same with another first child.
    pub(crate) fn on(term: &Term, first: Tree) -> Tree {
        let rest = term.children.iter().skip(1).map(|&c| Tree::Class(c));
        Tree::Term(term.head.clone(), std::iter::once(first).chain(rest).collect())
    }

    fn pattern(ast: &PatternAst<Term>, subst: &Subst) -> Option<Tree> {
        let mut trees: Vec<Tree> = Vec::with_capacity(ast.as_ref().len());
        for node in ast.as_ref() {
            trees.push(match node {
                ENodeOrVar::Var(var) => Tree::Class(*subst.get(*var)?),
                ENodeOrVar::ENode(term) => {
                    let children = term.children.iter().map(|&c| trees[usize::from(c)].clone());
                    Tree::Term(term.head.clone(), children.collect())
                }
            });
        }
        trees.pop()
    }
}

/// Something a rule made equal; what a proof is made of.
#[derive(Clone, Debug)]
pub(crate) struct Equation {
    pub(crate) rule: &'static str,
    pub(crate) left: Tree,
    pub(crate) right: Tree,
}

/// One place where a left side matched.
pub(crate) struct Match<'a> {
    pub(crate) egraph: &'a mut EGraph,
    /// The class that the left side matched.
    pub(crate) root: Id,
    subst: Subst,
    lhs: &'a PatternAst<Term>,
    rule: &'static str,
    unions: Vec<Id>,
}

impl Match<'_> {
    fn var(name: &str) -> Var {
        name.parse().expect("rules name variables with a question mark")
    }

    /// The class bound to a variable.
    pub(crate) fn id(&self, var: &str) -> Id {
        self.subst[Self::var(var)]
    }

    /// The type of a bound value, when it is a tensor.
    pub(crate) fn ty(&self, var: &str) -> Option<TensorType> {
        self.type_of(self.id(var))
    }

    /// The tensor type of a class.
    pub(crate) fn type_of(&self, id: Id) -> Option<TensorType> {
        match &self.egraph[id].data {
            Fact::Value { ty, .. } => ty.as_tensor().cloned(),
            Fact::Attr(_) => None,
        }
    }

    /// Asks a side condition, by a name that says what must hold; `None` refuses. Every condition is asked
    /// here, so that trials can leave out one at a time.
    pub(crate) fn holds(&self, condition: &'static str, holds: bool) -> Option<()> {
        let waived = self.egraph.analysis.trial.as_ref().is_some_and(|t| t.waives(condition));
        (holds || waived).then_some(())
    }

    /// Asks that a bound value is a compile-time constant.
    pub(crate) fn constant(&self, var: &'static str) -> Option<()> {
        self.holds(named(CONSTANT, var), self.cc(var))
    }

    /// Asks that a bound value is none.
    pub(crate) fn run_time(&self, var: &'static str) -> Option<()> {
        self.holds(named(RUN_TIME, var), !self.cc(var))
    }

    /// Asks that a bound value has two axes.
    pub(crate) fn matrix(&self, var: &'static str) -> Option<()> {
        self.holds(named(MATRIX, var), self.rank(var)? == 2)
    }

    /// Asks that a bound value is a compile-time constant without axes.
    pub(crate) fn constant_scalar(&self, var: &'static str) -> Option<()> {
        self.constant(var)?;
        self.holds("c is a scalar", self.rank(var)? == 0)
    }

    /// Asks that two bound values are not known to be equal.
    pub(crate) fn different(&self, a: &'static str, b: &'static str) -> Option<()> {
        let (a, b) = (self.egraph.find(self.id(a)), self.egraph.find(self.id(b)));
        self.holds("both are different values", a != b)
    }

    /// Rank of a bound tensor.
    pub(crate) fn rank(&self, var: &str) -> Option<usize> {
        self.ty(var).map(|t| t.rank())
    }

    /// Whether a bound value is a compile-time constant.
    pub(crate) fn cc(&self, var: &str) -> bool {
        self.is_cc(self.id(var))
    }

    /// Whether a class is a compile-time constant.
    pub(crate) fn is_cc(&self, id: Id) -> bool {
        matches!(self.egraph[id].data, Fact::Value { cc: true, .. })
    }

    /// When the first term of a class was written; orders values as the program does.
    pub(crate) fn birth(&self, id: Id) -> usize {
        match self.egraph[id].data {
            Fact::Value { birth, .. } => birth,
            Fact::Attr(_) => usize::MAX,
        }
    }

    /// The attribute bound to a variable.
    pub(crate) fn attr(&self, var: &str) -> Option<Attr> {
        self.attr_of(self.id(var))
    }

    /// The attribute that a class is.
    pub(crate) fn attr_of(&self, id: Id) -> Option<Attr> {
        match &self.egraph[id].data {
            Fact::Attr(attr) => Some(attr.clone()),
            Fact::Value { .. } => None,
        }
    }

    /// A bound axis.
    pub(crate) fn axis(&self, var: &str) -> Option<usize> {
        if let Attr::Axis(axis) = self.attr(var)? { Some(axis) } else { None }
    }

    /// A bound permutation.
    pub(crate) fn perm(&self, var: &str) -> Option<Vec<usize>> {
        if let Attr::Perm(perm) = self.attr(var)? { Some(perm) } else { None }
    }

    /// A bound dim.
    pub(crate) fn dim(&self, var: &str) -> Option<Dim> {
        if let Attr::Dim(dim) = self.attr(var)? { Some(dim) } else { None }
    }

    /// A bound number.
    pub(crate) fn real(&self, var: &str) -> Option<f64> {
        if let Attr::Real(real) = self.attr(var)? { Some(real.get()) } else { None }
    }

    /// Binds a variable to an attribute, for the right side.
    pub(crate) fn bind_attr(&mut self, var: &str, attr: Attr) {
        let id = self.egraph.add(Term::attr(attr));
        self.subst.insert(Self::var(var), id);
    }

    /// Binds a variable to a number.
    pub(crate) fn bind_real(&mut self, var: &str, value: f64) -> Option<()> {
        let sound = value.is_finite();
        sound.then(|| self.bind_attr(var, Attr::Real(Real::new(value))))
    }

    /// The terms of a class with the given spelling, canonical, in a fixed order.
    pub(crate) fn terms(&self, id: Id, spelling: &str) -> Vec<Term> {
        self.egraph[id].nodes.iter().filter(|t| t.is(spelling)).cloned().collect()
    }

    /// The terms that have `id` as a child, each with its class, oldest class first.
    pub(crate) fn parents(&self, id: Id) -> Vec<(Id, Term)> {
        let canonical = |term: &Term| term.clone().map_children(|c| self.egraph.find(c));
        let parents = self.egraph[id]
            .parents()
            .map(|p| (self.egraph.find(p), canonical(self.egraph.id_to_node(p))));
        let mut parents: Vec<_> = parents.collect();
        parents.sort_by(|a, b| (self.birth(a.0), &a.1).cmp(&(self.birth(b.0), &b.1)));
        parents.dedup();
        parents
    }

    /// Adds a term; `None` when it has no type.
    pub(crate) fn add_term(&mut self, head: Head, children: Vec<Id>) -> Option<Id> {
        let mut term = Term::new(head, children);
        term.origin = Some(self.rule);
        type_of(self.egraph, &term).ok()?;
        Some(self.egraph.add(term))
    }

    /// The left side as it matched.
    pub(crate) fn left(&self) -> Option<Tree> {
        Tree::pattern(self.lhs, &self.subst)
    }

    /// Writes a tree into the e-graph; `None` when it has no type.
    pub(crate) fn write(&mut self, tree: &Tree) -> Option<Id> {
        match tree {
            Tree::Class(id) => Some(self.egraph.find(*id)),
            Tree::Term(head @ Head::Attr(_), _) => {
                Some(self.egraph.add(Term::new(head.clone(), Vec::new())))
            }
            Tree::Term(head, children) => {
                let children: Option<Vec<Id>> = children.iter().map(|c| self.write(c)).collect();
                self.add_term(head.clone(), children?)
            }
        }
    }

    /// Writes both sides of an equation and makes them one class; `None` when one has no type.
    pub(crate) fn equal(&mut self, left: Tree, right: Tree) -> Option<()> {
        let (a, b) = (self.write(&left)?, self.write(&right)?);
        // Otherwise the analysis asserts: a rule that does this is a bug.
        if self.type_of(a) != self.type_of(b)
            && let Some(count) = &mut self.egraph.analysis.ill_typed
        {
            *count += 1;
            return None;
        }
        if self.egraph.union(a, b) {
            self.unions.push(self.egraph.find(a));
            let rule = self.rule;
            if let Some(equations) = &mut self.egraph.analysis.equations {
                equations.push(Equation { rule, left, right });
            }
        }
        Some(())
    }

    /// The rules that wrote the terms which the left side matched: this one builds on them.
    fn history(&self) -> Vec<&'static str> {
        let lhs = self.lhs;
        let mut earlier = Vec::new();
        let mut ids: Vec<Id> = Vec::with_capacity(lhs.as_ref().len());
        for node in lhs.as_ref() {
            let id = match node {
                ENodeOrVar::Var(var) => Some(self.subst[*var]),
                ENodeOrVar::ENode(term) => {
                    let child = |c: Id| self.egraph.find(ids[usize::from(c)]);
                    let term = term.clone().map_children(child);
                    let class = self.egraph.lookup(term.clone());
                    let stored =
                        class.and_then(|c| self.egraph[c].nodes.iter().find(|t| **t == term));
                    earlier.extend(stored.and_then(|t| t.origin));
                    class
                }
            };
            // Every part of a match is in the e-graph.
            let Some(id) = id else { return earlier };
            ids.push(id);
        }
        earlier
    }
}

/// Conditions on one variable: a table per kind, a name per variable.
type Named = [(&'static str, &'static str); 9];

macro_rules! on_variables {
    ($what:literal) => {
        [
            ("?a", concat!("a is ", $what)),
            ("?b", concat!("b is ", $what)),
            ("?c", concat!("c is ", $what)),
            ("?d", concat!("d is ", $what)),
            ("?g", concat!("g is ", $what)),
            ("?t", concat!("t is ", $what)),
            ("?w", concat!("w is ", $what)),
            ("?x", concat!("x is ", $what)),
            ("?y", concat!("y is ", $what)),
        ]
    };
}

const CONSTANT: Named = on_variables!("constant");
const RUN_TIME: Named = on_variables!("known at run time only");
const MATRIX: Named = on_variables!("a matrix");

fn named(names: Named, var: &'static str) -> &'static str {
    names.iter().find(|(v, _)| *v == var).map_or(var, |(_, name)| name)
}

struct RuleApplier {
    rule: &'static Rule,
    lhs: PatternAst<Term>,
    rhs: Option<PatternAst<Term>>,
}

impl Applier<Term, Facts> for RuleApplier {
    fn apply_one(
        &self,
        egraph: &mut EGraph,
        root: Id,
        subst: &Subst,
        _ast: Option<&PatternAst<Term>>,
        _name: Symbol,
    ) -> Vec<Id> {
        // egg looks at its limit between rules only; one rule may not overshoot either.
        if egraph.total_size() > egraph.analysis.node_limit {
            return Vec::new();
        }
        let (subst, rule) = (subst.clone(), self.rule.name);
        let mut at = Match { egraph, root, subst, lhs: &self.lhs, rule, unions: Vec::new() };
        if (self.rule.when)(&mut at).is_none() {
            return Vec::new();
        }
        let history = at.history();
        match (&self.rhs, &self.rule.rhs) {
            // A right side without a type does not fire.
            (Some(ast), _) => {
                let left = at.left();
                let right = Tree::pattern(ast, &at.subst);
                let _ = left.zip(right).and_then(|(left, right)| at.equal(left, right));
            }
            // A code side that gives up half-way has added terms at most, which is harmless.
            (None, Rhs::Code(code)) => drop(code(&mut at)),
            (None, Rhs::Pattern(_)) => {}
        }
        if !at.unions.is_empty() {
            let edges = history.into_iter().map(|earlier| (rule, earlier));
            at.egraph.analysis.built_on.extend(edges);
        }
        at.unions
    }
}

/// The left sides of a rule, one per order of its commutative ops, each with the right side.
pub(crate) fn sides(rule: &Rule) -> Vec<(Pattern<Term>, Option<PatternAst<Term>>)> {
    let rhs = match rule.rhs {
        Rhs::Pattern(text) => Some(parse(rule, text)),
        Rhs::Code(_) => None,
    };
    let variants = orders(&parse(rule, rule.lhs));
    variants.into_iter().map(|lhs| (Pattern::new(lhs), rhs.clone())).collect()
}

/// Applies a rule at one match; whether it made anything equal.
pub(crate) fn apply(
    egraph: &mut EGraph,
    rule: &Rule,
    lhs: &Pattern<Term>,
    rhs: &Option<PatternAst<Term>>,
    root: Id,
    subst: &Subst,
) -> bool {
    let subst = subst.clone();
    let lhs = &lhs.ast;
    let mut at = Match { egraph, root, subst, lhs, rule: rule.name, unions: Vec::new() };
    if (rule.when)(&mut at).is_none() {
        return false;
    }
    match rule.rhs {
        Rhs::Pattern(_) => {
            let right = rhs.as_ref().and_then(|ast| Tree::pattern(ast, &at.subst));
            let _ = at.left().zip(right).and_then(|(left, right)| at.equal(left, right));
        }
        Rhs::Code(code) => drop(code(&mut at)),
    }
    !at.unions.is_empty()
}

const COMMUTATIVE: [&str; 4] = ["add", "mul", "max", "min"];

/// The egg rewrites of the rules given, compiled once per process: there are hundreds, and searches of
/// small graphs take less time than reading their patterns.
pub(crate) fn rewrites(rules: &[&'static Rule]) -> Vec<&'static Rewrite<Term, Facts>> {
    type Compiled = Vec<(&'static str, Vec<Rewrite<Term, Facts>>)>;
    static COMPILED: LazyLock<Compiled> =
        LazyLock::new(|| rules::all().map(|rule| (rule.name, compile(rule))).collect());
    let wanted = |name: &str| rules.iter().any(|r| r.name == name);
    COMPILED.iter().filter(|(name, _)| wanted(name)).flat_map(|(_, rewrites)| rewrites).collect()
}

/// The egg rewrites of a rule: one per order of the commutative ops of its left side.
fn compile(rule: &'static Rule) -> Vec<Rewrite<Term, Facts>> {
    let lhs = parse(rule, rule.lhs);
    let variants = orders(&lhs);
    let rhs = match rule.rhs {
        Rhs::Pattern(text) => Some(parse(rule, text)),
        Rhs::Code(_) => None,
    };
    let rewrite = |(i, ast): (usize, PatternAst<Term>)| {
        let applier = RuleApplier { rule, lhs: ast.clone(), rhs: rhs.clone() };
        let name = format!("{}#{i}", rule.name);
        Rewrite::new(name, Pattern::new(ast), applier).expect("appliers declare no variables")
    };
    variants.into_iter().enumerate().map(rewrite).collect()
}

fn parse(rule: &Rule, text: &str) -> PatternAst<Term> {
    text.parse().unwrap_or_else(|e| panic!("rule {}: {text}: {e:?}", rule.name))
}

/// The pattern with the operands of every subset of its commutative ops swapped.
fn orders(ast: &PatternAst<Term>) -> Vec<PatternAst<Term>> {
    let swappable = |node: &ENodeOrVar<Term>| match node {
        ENodeOrVar::ENode(term) => {
            COMMUTATIVE.iter().any(|s| term.is(s)) && term.children[0] != term.children[1]
        }
        ENodeOrVar::Var(_) => false,
    };
    let places = ast.as_ref().iter().enumerate().filter(|(_, n)| swappable(n));
    let places: Vec<usize> = places.map(|(i, _)| i).collect();
    let swapped = |subset: usize| {
        let mut nodes = ast.as_ref().to_vec();
        for (bit, &place) in places.iter().enumerate() {
            if subset >> bit & 1 == 1 {
                nodes[place].children_mut().swap(0, 1);
            }
        }
        RecExpr::from(nodes)
    };
    (0..1 << places.len()).map(swapped).collect()
}
