//! E-graphs in the JSON of extraction-gym and egraph-serialize: nodes with op, children, eclass, cost.
//!
//! Children name nodes and stand for their e-classes; `root_eclasses` says what is wanted. Costs are
//! floats; the search works on integers, so they are scaled by a power of two to 60 bits in all, which is
//! exact unless costs of one file differ by more than 10^12. Untrusted input: errors, never panics.

use std::fmt;

use indexmap::IndexMap;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Limits, Node, Problem, Solution};

/// Why a file is no extraction problem.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GymError {
    /// Not JSON of this form.
    #[error("not an e-graph in JSON: {0}")]
    Json(String),
    /// A child or root that is nowhere.
    #[error("{from} names {what} {name:?}, which does not exist")]
    Unknown {
        /// Who names it.
        from: String,
        /// `node` or `e-class`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A node that stands twice: JSON does not say which of the two is meant.
    #[error("node {0:?} stands twice")]
    Twice(String),
    /// A cost below 0, or costs whose sum is beyond [`MOST`].
    #[error(
        "node {node:?} costs {cost:e}: expected a number of at least 0, and at most {MOST:e} in all"
    )]
    Cost {
        /// The node.
        node: String,
        /// As written.
        cost: f64,
    },
    /// Nothing is asked for.
    #[error("root_eclasses is empty: nothing to extract")]
    NoRoots,
    /// Every choice has a cycle.
    #[error("the roots cannot be extracted: every choice of nodes has a cycle")]
    Infeasible,
}

impl GymError {
    /// The stable code, `SPK3201` and so on.
    pub fn code(&self) -> &'static str {
        match self {
            GymError::Json(_) => "SPK3201",
            GymError::Unknown { .. } => "SPK3202",
            GymError::Cost { .. } => "SPK3203",
            GymError::NoRoots => "SPK3204",
            GymError::Infeasible => "SPK3205",
            GymError::Twice(_) => "SPK3206",
        }
    }
}

/// Costs beyond this in all are no costs: no sum of real ones is near.
pub const MOST: f64 = 1e30;

#[derive(Deserialize)]
struct File {
    #[serde(deserialize_with = "entries")]
    nodes: Vec<(String, FileNode)>,
    #[serde(default)]
    root_eclasses: Vec<String>,
}

#[derive(Deserialize)]
struct FileNode {
    #[serde(default)]
    children: Vec<String>,
    eclass: String,
    #[serde(default = "one")]
    cost: f64,
}

/// The entries of an object as they stand, so that a name may be found twice.
fn entries<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, FileNode)>, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<(String, FileNode)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of nodes")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while let Some(entry) = map.next_entry()? {
                found.push(entry);
            }
            Ok(found)
        }
    }
    from.deserialize_map(Entries)
}

fn one() -> f64 {
    1.0
}

/// A file, read and indexed.
#[derive(Clone, Debug)]
pub struct Gym {
    problem: Problem,
    /// Names of the e-classes.
    classes: Vec<String>,
    /// Names and costs of the nodes of each class.
    nodes: Vec<Vec<(String, f64)>>,
    scale: f64,
}

/// What was extracted from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// Sum of the costs of the nodes picked, each once.
    pub cost: f64,
    /// No choice costs less.
    pub bound: f64,
    /// E-class and node, operands first.
    pub choices: Vec<(String, String)>,
    /// As the search counted it.
    pub work: u64,
}

impl Gym {
    /// Reads a file's text.
    ///
    /// # Errors
    /// See [`GymError`].
    pub fn parse(text: &str) -> Result<Gym, GymError> {
        let file: File = serde_json::from_str(text).map_err(|e| GymError::Json(e.to_string()))?;
        if file.root_eclasses.is_empty() {
            return Err(GymError::NoRoots);
        }
        let mut index: IndexMap<&str, usize> = IndexMap::new();
        let mut by_name: IndexMap<&str, &FileNode> = IndexMap::new();
        for (name, node) in &file.nodes {
            let next = index.len();
            index.entry(&node.eclass).or_insert(next);
            if by_name.insert(name, node).is_some() {
                return Err(GymError::Twice(name.clone()));
            }
        }
        let scale = scale_of(&file)?;
        let mut classes = vec![Vec::new(); index.len()];
        let mut nodes = vec![Vec::new(); index.len()];
        for (name, node) in &file.nodes {
            let operand = |child: &String| {
                let found = by_name.get(child.as_str()).and_then(|n| index.get(n.eclass.as_str()));
                found.copied().ok_or_else(|| unknown(format!("node {name:?}"), "node", child))
            };
            let operands = node.children.iter().map(operand).collect::<Result<_, _>>()?;
            // The sum stays below 2^61, so each fits.
            let cost = (node.cost * scale).round() as u64;
            let class = index[node.eclass.as_str()];
            classes[class].push(Node { cost, operands });
            nodes[class].push((name.clone(), node.cost));
        }
        let root = |name: &String| {
            let found = index.get(name.as_str()).copied();
            found.ok_or_else(|| unknown("root_eclasses".to_string(), "e-class", name))
        };
        let roots = file.root_eclasses.iter().map(root).collect::<Result<_, _>>()?;
        let names = index.keys().map(|n| (*n).to_string()).collect();
        Ok(Gym { problem: Problem { classes, roots }, classes: names, nodes, scale })
    }

    /// The problem, costs scaled to integers.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Number of nodes and of e-classes.
    pub fn size(&self) -> (usize, usize) {
        (self.nodes.iter().map(Vec::len).sum(), self.classes.len())
    }

    /// Extracts.
    ///
    /// # Errors
    /// [`GymError::Infeasible`].
    pub fn solve(&self, limits: Limits) -> Result<Extracted, GymError> {
        let found = self.problem.solve(limits).ok_or(GymError::Infeasible)?;
        let needed = self.problem.needed(|c| found.picks[c]).ok_or(GymError::Infeasible)?;
        let node = |&(class, node): &(usize, usize)| &self.nodes[class][node];
        let cost: f64 = needed.iter().map(|pick| node(pick).1).sum();
        Ok(Extracted {
            cost,
            bound: self.bound(&found, cost),
            choices: self.name(&needed),
            work: found.work,
        })
    }

    fn bound(&self, found: &Solution, cost: f64) -> f64 {
        if found.is_optimal() { cost } else { (found.bound as f64 / self.scale).min(cost) }
    }

    fn name(&self, needed: &[(usize, usize)]) -> Vec<(String, String)> {
        let named = |&(class, node): &(usize, usize)| {
            (self.classes[class].clone(), self.nodes[class][node].0.clone())
        };
        needed.iter().map(named).collect()
    }
}

fn unknown(from: String, what: &'static str, name: &str) -> GymError {
    GymError::Unknown { from, what, name: name.to_string() }
}

/// The power of two by which costs become integers whose sum is below 2^61.
fn scale_of(file: &File) -> Result<f64, GymError> {
    let mut sum = 0.0f64;
    for (name, node) in &file.nodes {
        sum += node.cost;
        if !(node.cost >= 0.0 && sum <= MOST) {
            return Err(GymError::Cost { node: name.clone(), cost: node.cost });
        }
    }
    if sum == 0.0 {
        return Ok(1.0);
    }
    // Rounding may add one half per node, far below what is kept free.
    let exponent = (60.0 - sum.log2().ceil()).clamp(-1000.0, 1000.0);
    Ok(exponent.exp2())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> &'static str {
        match Gym::parse(text).and_then(|g| g.solve(Limits::default())) {
            Err(error) => error.code(),
            Ok(found) => panic!("{found:?}"),
        }
    }

    #[test]
    fn a_shared_node_is_paid_once() {
        let text = r#"{"nodes": {
            "a": {"op": "f", "children": ["b", "c"], "eclass": "A", "cost": 1},
            "b": {"op": "g", "children": ["d"], "eclass": "B", "cost": 0.5},
            "c": {"op": "h", "children": ["d"], "eclass": "C"},
            "c2": {"op": "leaf", "eclass": "C", "cost": 1.75},
            "d": {"op": "leaf", "eclass": "D", "cost": 3}},
            "root_eclasses": ["A"]}"#;
        let found = Gym::parse(text).unwrap().solve(Limits::default()).unwrap();
        assert_eq!((found.cost, found.bound), (5.5, 5.5));
        assert_eq!(found.choices.last(), Some(&("A".to_string(), "a".to_string())));
    }

    #[test]
    fn what_is_wrong_has_a_code() {
        let node = |body: &str| format!(r#"{{"nodes": {{"a": {body}}}, "root_eclasses": ["A"]}}"#);
        assert_eq!(code("{"), "SPK3201");
        assert_eq!(code(&node(r#"{"op": "f"}"#)), "SPK3201");
        assert_eq!(code(&node(r#"{"eclass": "A", "cost": null}"#)), "SPK3201");
        assert_eq!(code(&"[".repeat(100_000)), "SPK3201");
        assert_eq!(code(&node(r#"{"eclass": "A", "children": ["z"]}"#)), "SPK3202");
        assert_eq!(code(&node(r#"{"eclass": "B"}"#)), "SPK3202");
        assert_eq!(code(&node(r#"{"eclass": "A", "cost": -1}"#)), "SPK3203");
        assert_eq!(code(r#"{"nodes": {}}"#), "SPK3204");
        assert_eq!(code(&node(r#"{"eclass": "A", "children": ["a"]}"#)), "SPK3205");
        let huge = r#"{"eclass": "A", "cost": 1e308}, "b": {"eclass": "A", "cost": 1e308}"#;
        assert_eq!(code(&node(huge)), "SPK3203");
        assert_eq!(code(&node(r#"{"eclass": "A", "cost": 1e31}"#)), "SPK3203");
        let twice = r#"{"eclass": "A", "cost": 1}, "a": {"eclass": "A", "cost": 3}"#;
        assert_eq!(code(&node(twice)), "SPK3206");
    }

    #[test]
    fn costs_of_any_size_are_exact() {
        for unit in [1e-12, 0.1, 1e15, 1e27] {
            let text = format!(
                r#"{{"nodes": {{"a": {{"eclass": "A", "cost": {}}}, "b": {{"eclass": "A", "cost": {}}}}},
                    "root_eclasses": ["A"]}}"#,
                3.0 * unit,
                2.0 * unit
            );
            let found = Gym::parse(&text).unwrap().solve(Limits::default()).unwrap();
            assert_eq!((found.cost, found.bound), (2.0 * unit, 2.0 * unit));
        }
    }
}
