//! Graphs as petgraph sees them, for algorithms: order, cycles, equality of structure.
//!
//! The view is built when it is asked for and holds ids only, so it is never out of step with a
//! graph that changes. Cache order is an edge like any other: what reads or consumes a version of a
//! cache comes before what consumes it next. Not for interpretation: the order of a graph is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::{Graph, NodeId, Op, Type, ValueId};

/// An edge from every ordered node to each that must come later: users of its results, and the
/// consumer of a cache it reads. Node weights are ids; edges that say the same occur once.
pub fn dependencies(graph: &Graph) -> DiGraph<NodeId, ()> {
    let mut view = DiGraph::new();
    let mut index: BTreeMap<NodeId, NodeIndex> = BTreeMap::new();
    for (id, _) in graph.nodes() {
        index.insert(id, view.add_node(id));
    }
    let mut edges = BTreeSet::new();
    let mut readers: BTreeMap<ValueId, Vec<NodeIndex>> = BTreeMap::new();
    for (id, node) in graph.nodes().filter(|(_, n)| n.op == Op::CacheRead) {
        for &cache in &node.operands {
            readers.entry(cache).or_default().push(index[&id]);
        }
    }
    for (id, node) in graph.nodes() {
        let to = index[&id];
        for &operand in &node.operands {
            if let Some(from) = graph.producer(operand).and_then(|(p, _)| index.get(&p)) {
                edges.insert((*from, to));
            }
            if node.op != Op::CacheRead {
                let before = readers.get(&operand).into_iter().flatten();
                edges.extend(before.map(|&reader| (reader, to)));
            }
        }
    }
    for (from, to) in edges {
        view.add_edge(from, to, ());
    }
    view
}

/// An order in which every value is defined before it is used, as near to the present order as that
/// allows: of all nodes that may come next, the first. For passes that append nodes and redirect
/// uses: `graph.set_order(topological_order(&graph)?)`.
///
/// # Errors
/// The nodes of a cycle, in their present order.
pub fn topological_order(graph: &Graph) -> Result<Vec<NodeId>, Vec<NodeId>> {
    let view = dependencies(graph);
    // Indices of the view are positions in the present order.
    let mut waiting: Vec<usize> = view
        .node_indices()
        .map(|i| view.neighbors_directed(i, petgraph::Direction::Incoming).count())
        .collect();
    let ready = view.node_indices().filter(|i| waiting[i.index()] == 0);
    let mut ready: BTreeSet<NodeIndex> = ready.collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(next) = ready.pop_first() {
        order.push(view[next]);
        for later in view.neighbors(next) {
            waiting[later.index()] -= 1;
            if waiting[later.index()] == 0 {
                ready.insert(later);
            }
        }
    }
    if order.len() == waiting.len() {
        return Ok(order);
    }
    let is_cycle =
        |part: &Vec<NodeIndex>| part.len() > 1 || part.iter().any(|&i| view.contains_edge(i, i));
    let mut cycle = tarjan_scc(&view).into_iter().find(is_cycle).unwrap_or_default();
    cycle.sort_unstable();
    Err(cycle.into_iter().map(|i| view[i]).collect())
}

/// A hash of how each value is computed: equal for values that are the same expression over the
/// same parameters (by position and type), whatever their ids, names and order. Weight names go
/// through `weight_name` first, so equal layers hash alike when it hides the layer index. Indexed by
/// `ValueId`; values outside the order have 0. Stable within a build of sparkc: never store it.
pub fn structural_hashes(graph: &Graph, weight_name: impl Fn(&str) -> String) -> Vec<u64> {
    let mut hashes = vec![0; graph.value_count()];
    for (i, param) in graph.params().iter().enumerate() {
        hashes[param.value.index()] = hash(&(i, param.kind, graph.ty(param.value)));
    }
    for (_, node) in graph.nodes() {
        let op = match &node.op {
            Op::Weight { name, dtype, shape } => {
                Op::Weight { name: weight_name(name), dtype: *dtype, shape: shape.clone() }
            }
            op => op.clone(),
        };
        let operands: Vec<u64> = node.operands.iter().map(|v| hashes[v.index()]).collect();
        for (i, &result) in node.results.iter().enumerate() {
            hashes[result.index()] = hash(&(&op, &operands, i));
        }
    }
    hashes
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Whether two graphs return the same expressions of like parameters: ids, names, order, sharing and
/// dead nodes aside. Exact, by walking both at once; weights must have the same names.
pub fn same_structure(a: &Graph, b: &Graph) -> bool {
    let types = |g: &Graph| -> Vec<(_, Type)> {
        g.params().iter().map(|p| (p.kind, g.ty(p.value).clone())).collect()
    };
    if types(a) != types(b) || a.results.len() != b.results.len() {
        return false;
    }
    // Each expression gets a number; equal expressions of either graph get the same.
    let mut numbers: BTreeMap<(Option<Op>, Vec<usize>, usize), usize> = BTreeMap::new();
    let mut number = |graph: &Graph| -> Vec<Option<usize>> {
        let mut of = vec![0; graph.value_count()];
        for (i, param) in graph.params().iter().enumerate() {
            let next = numbers.len();
            of[param.value.index()] = *numbers.entry((None, vec![], i)).or_insert(next);
        }
        for (_, node) in graph.nodes() {
            let operands: Vec<usize> = node.operands.iter().map(|v| of[v.index()]).collect();
            for (i, &result) in node.results.iter().enumerate() {
                let next = numbers.len();
                let key = (Some(node.op.clone()), operands.clone(), i);
                of[result.index()] = *numbers.entry(key).or_insert(next);
            }
        }
        graph.results.iter().map(|v| of.get(v.index()).copied()).collect()
    };
    number(a) == number(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{self, RandomOptions};
    use crate::testing::{Style, decoder};
    use crate::{BinaryOp, Builder, ParamKind, TensorType, verify_graph};
    use tensor::{DType, Rng};

    #[test]
    fn a_shuffled_order_is_repaired_and_a_good_one_kept() {
        let mut rng = Rng::new(1);
        for seed in 0..40 {
            let module = random::module(seed, &RandomOptions::default());
            for graph in &module.blocks {
                assert_eq!(topological_order(graph).as_deref(), Ok(graph.order()));
                let mut order = graph.order().to_vec();
                for i in (1..order.len()).rev() {
                    order.swap(i, rng.below(i + 1));
                }
                let mut shuffled = graph.clone();
                shuffled.set_order(order);
                let order = topological_order(&shuffled).expect("there is no cycle");
                shuffled.set_order(order);
                assert_eq!(verify_graph(&shuffled), Ok(()), "seed {seed}");
                assert!(same_structure(graph, &shuffled));
            }
        }
    }

    #[test]
    fn a_read_comes_before_the_version_is_consumed() {
        let mut graph = decoder(Style::Fused).blocks.remove(0);
        // Reads the keys as they came, written after the append.
        let keys = graph.params()[2].value;
        let ty = graph.ty(keys).as_cache().expect("a state").tensor();
        let read = graph.add_node(Op::CacheRead, vec![keys], vec![ty.into()]);
        assert!(verify_graph(&graph).is_err());
        let order = topological_order(&graph).expect("there is no cycle");
        let place = |id| order.iter().position(|&n| n == id);
        let append = graph.nodes().find(|(_, n)| n.op == Op::CacheAppend).map(|(id, _)| id);
        assert!(place(read) < place(append.expect("it appends")));
        graph.set_order(order);
        assert_eq!(verify_graph(&graph), Ok(()));
    }

    #[test]
    fn cycles_are_named() {
        let mut b = Builder::new("g");
        let x = b.param(ParamKind::Input, TensorType::new(DType::F32, [1usize]), "x");
        let y = b.binary(BinaryOp::Add, x, x).expect("typed");
        let z = b.binary(BinaryOp::Add, y, x).expect("typed");
        let w = b.binary(BinaryOp::Mul, z, z).expect("typed");
        let mut graph = b.finish(vec![w]);
        let ids = graph.order().to_vec();
        graph.node_mut(ids[0]).operands[0] = z;
        assert_eq!(topological_order(&graph), Err(ids[..2].to_vec()));
    }

    #[test]
    fn structure_is_what_is_left_without_names_ids_and_order() {
        let a = decoder(Style::Fused).blocks.remove(0);
        let mut b = a.clone();
        for i in 0..b.value_count() {
            b.value_mut(ValueId::new(i)).name = None;
        }
        b.add_node(
            Op::Positions,
            vec![],
            vec![TensorType::new(DType::I32, [crate::Symbol::T]).into()],
        );
        assert!(same_structure(&a, &b));
        let keep = |name: &str| name.to_string();
        let of = |g: &Graph, v: ValueId| structural_hashes(g, keep)[v.index()];
        for (x, y) in a.results.iter().zip(&b.results) {
            assert_eq!(of(&a, *x), of(&b, *y));
        }
        let rename = |name: &str| name.replace("{layer}", "3");
        for id in b.order().to_vec() {
            if let Op::Weight { name, .. } = &mut b.node_mut(id).op {
                *name = rename(name);
            }
        }
        assert!(!same_structure(&a, &b));
        assert_ne!(of(&a, a.results[0]), of(&b, b.results[0]));
        let hidden = structural_hashes(&a, rename);
        assert_eq!(hidden[a.results[0].index()], of(&b, b.results[0]));
        assert!(!same_structure(&a, &decoder(Style::Primitive).blocks[0]));
    }
}
