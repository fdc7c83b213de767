//! A module with every layer written out, as some front ends write it: what the pass `roll` undoes.

use std::collections::BTreeMap;

use ir::{CacheType, Graph, Module, Op, ParamKind, Type, ValueId};

/// The module without blocks. Names of values go, names of weights get their layer's number.
///
/// # Panics
/// When the module does not verify.
pub fn flat(module: &Module) -> Module {
    let old = &module.main;
    let mut main = Graph::new("main");
    // A value of `main` is one value, a stack one cache per layer.
    let mut known: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
    for param in old.params() {
        let of = match old.ty(param.value) {
            Type::Cache(CacheType { layers: Some(layers), .. }) => *layers,
            _ => 1,
        };
        let values = (0..of).map(|_| main.add_param(param.kind, one(old.ty(param.value)), None));
        known.insert(param.value, values.collect());
    }
    for (_, node) in old.nodes() {
        let Op::Repeat { block, first, count } = node.op else {
            let operands = node.operands.iter().map(|v| known[v][0]).collect();
            let results = copy(&mut main, old, node, operands);
            node.results.iter().zip(results).for_each(|(&v, r)| drop(known.insert(v, vec![r])));
            continue;
        };
        let block = &module.blocks[block.index()];
        let carries = block.params().iter().filter(|p| p.kind == ParamKind::Carry).count();
        let mut returned: Vec<Vec<ValueId>> = vec![Vec::new(); node.results.len()];
        for layer in 0..count {
            let given = block.params().iter().zip(&node.operands).enumerate();
            let given = given.map(|(i, (param, v))| match param.kind {
                ParamKind::Carry if layer > 0 => returned[i][layer as usize - 1],
                ParamKind::State => known[v][layer as usize],
                _ => known[v][0],
            });
            let results = inline(&mut main, block, first + layer, &given.collect::<Vec<_>>());
            returned.iter_mut().zip(results).for_each(|(list, r)| list.push(r));
        }
        for (i, (&value, mut list)) in node.results.iter().zip(returned).enumerate() {
            if i < carries {
                list = list.split_off(list.len() - 1);
            }
            known.insert(value, list);
        }
    }
    main.results = old.results.iter().flat_map(|v| known[v].clone()).collect();
    let mut out = module.clone();
    (out.main, out.blocks) = (main, Vec::new());
    ir::verify(&out).unwrap_or_else(|e| panic!("{e}"));
    out
}

/// One layer's cache; tensors stay what they are.
fn one(ty: &Type) -> Type {
    match ty {
        Type::Cache(cache) => Type::Cache(CacheType { layers: None, ..cache.clone() }),
        ty => ty.clone(),
    }
}

fn copy(main: &mut Graph, of: &Graph, node: &ir::Node, operands: Vec<ValueId>) -> Vec<ValueId> {
    let types = node.results.iter().map(|&v| of.ty(v).clone()).collect();
    let id = main.add_node(node.op.clone(), operands, types);
    main.node(id).results.clone()
}

fn inline(main: &mut Graph, block: &Graph, layer: u32, given: &[ValueId]) -> Vec<ValueId> {
    let params = block.params().iter().map(|p| p.value);
    let mut known: BTreeMap<ValueId, ValueId> = params.zip(given.iter().copied()).collect();
    for (_, node) in block.nodes() {
        let mut node = node.clone();
        if let Op::Weight { name, .. } = &mut node.op {
            *name = name.replace("{layer}", &layer.to_string());
        }
        let operands = node.operands.iter().map(|v| known[v]).collect();
        let results = copy(main, block, &node, operands);
        known.extend(node.results.iter().copied().zip(results));
    }
    block.results.iter().map(|v| known[v]).collect()
}
