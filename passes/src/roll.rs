//! Rolls a flat decoder, written layer after layer, into blocks and `repeat`s.
//!
//! Some front ends (and people) write every layer out. Everything after this pass costs per *block*,
//! so layers that are equal but for the index in their weight names become one. Weight names say where
//! layers begin (`layers`); each layer is brought into a form in which nothing but its structure is left,
//! its boundary included (`form`); layers of equal form are of one kind, wherever they stand: a kind
//! becomes a block, each row of adjacent layers of a kind a `repeat` (`build`). So layers of two kinds that
//! take turns are two blocks. Time is linear in the graph. Nothing is guessed: equal form is isomorphism,
//! and what does not fit stays as it is. Caches of the layers of a row become one stack.
//!
//! Not rolled: modules that have blocks already, layers that are the only ones of their kind.

mod build;
mod form;
mod layers;

use ir::Module;

use crate::PassError;
use crate::manager::{Changed, Pass, PassCx};

/// See the module.
pub(crate) struct Roll;

impl Pass for Roll {
    fn run(&self, module: &mut Module, _cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        if !module.blocks.is_empty() {
            return Ok(Changed::No);
        }
        let kinds = layers::kinds(&module.main);
        if kinds.is_empty() {
            return Ok(Changed::No);
        }
        (module.blocks, module.main) = build::rolled(&module.main, &kinds)?;
        Ok(Changed::Yes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ir::{Activation, BlockId, Graph, Node, NodeId, Op, Param, ParamKind, UnaryOp, ValueId};

    use super::*;
    use crate::Tier;
    use crate::emit::Emit;
    use crate::testing::{Decoder, assert_same_meaning, run_pass};

    /// The module with every layer written out.
    fn flat(module: &Module) -> Module {
        let old = &module.main;
        let mut emit = Emit::new("main");
        let mut new_id = BTreeMap::new();
        for param in old.params().iter().filter(|p| p.kind == ParamKind::Input) {
            let value = old.value(param.value);
            let added =
                emit.graph_mut().add_param(param.kind, value.ty.clone(), value.name.clone());
            new_id.insert(param.value, added);
        }
        let count = module.repeats().next().unwrap().2;
        let block = &module.blocks[0];
        let states = block.params().iter().filter(|p| p.kind == ParamKind::State);
        let states: Vec<&Param> = states.collect();
        let mut caches = Vec::new();
        for _ in 0..count {
            let add =
                |p: &&Param| emit.graph_mut().add_param(p.kind, block.ty(p.value).clone(), None);
            caches.push(states.iter().map(add).collect::<Vec<_>>());
        }
        let mut successors = Vec::new();
        for (_, node) in old.nodes() {
            let operands: Vec<_> =
                node.operands.iter().filter_map(|v| new_id.get(v).copied()).collect();
            if !matches!(node.op, Op::Repeat { .. }) {
                let results = emit.copy(old, node, &operands);
                new_id.insert(node.results[0], results[0]);
                continue;
            }
            let mut x = operands[0];
            for layer in 0..count {
                let mut given = vec![x, operands[1]];
                given.extend(&caches[layer as usize]);
                let results = inline(&mut emit, block, layer, &given);
                x = results[0];
                successors.extend_from_slice(&results[1..]);
            }
            new_id.insert(node.results[0], x);
        }
        let mut results = vec![new_id[&old.results[0]]];
        results.extend(successors);
        emit.graph_mut().results = results;
        let mut out = module.clone();
        out.main = emit.graph().clone();
        out.blocks.clear();
        ir::verify(&out).unwrap();
        out
    }

    fn inline(emit: &mut Emit, block: &Graph, layer: u32, given: &[ValueId]) -> Vec<ValueId> {
        let mut new_id: BTreeMap<ValueId, ValueId> =
            block.params().iter().map(|p| p.value).zip(given.iter().copied()).collect();
        for (_, node) in block.nodes() {
            let operands: Vec<_> = node.operands.iter().map(|v| new_id[v]).collect();
            let mut node = node.clone();
            if let Op::Weight { name, .. } = &mut node.op {
                *name = name.replace("{layer}", &layer.to_string());
            }
            let results = emit.copy(block, &node, &operands);
            new_id.insert(node.results[0], results[0]);
        }
        block.results.iter().map(|v| new_id[v]).collect()
    }

    #[test]
    fn a_flat_decoder_becomes_a_block_and_a_repeat() {
        let decoder = Decoder { layers: 4, bias: true, ..Decoder::default() };
        let original = decoder.module();
        let before = flat(&original);
        let mut after = before.clone();
        assert!(run_pass("roll", &mut after));
        assert_eq!(after.repeats().collect::<Vec<_>>(), [(BlockId::new(0), 0, 4)]);
        assert_eq!(after.blocks[0].order().len(), original.blocks[0].order().len());
        assert_eq!(after.weights(), original.weights());
        assert_same_meaning(&before, &after, Tier::Exact);
        assert!(!run_pass("roll", &mut after));
    }

    #[test]
    fn layers_that_begin_before_their_first_weight_are_found() {
        // Primitive norms: the squares of a layer stand before any of its weights.
        let text = r#"module "t" context 64 {
  graph @main(input %tokens: i32[T]) {
    %e = weight "e" : f32[16, 8]
    %x = gather %e, %tokens : f32[T, 8]
    %a0 = square %x : f32[T, 8]
    %w0 = weight "h.5.w" : f32[8, 8]
    %b0 = matmul %a0, %w0 : f32[T, 8]
    %c0 = tanh %b0 : f32[T, 8]
    %a1 = square %c0 : f32[T, 8]
    %w1 = weight "h.6.w" : f32[8, 8]
    %b1 = matmul %a1, %w1 : f32[T, 8]
    %c1 = tanh %b1 : f32[T, 8]
    %l = slice %c1 {axis=0, start=T - R, end=T} : f32[R, 8]
    return %l
  }
}
"#;
        let before = ir::parse(text).unwrap();
        let mut after = before.clone();
        assert!(run_pass("roll", &mut after));
        assert_eq!(after.repeats().collect::<Vec<_>>(), [(BlockId::new(0), 5, 2)]);
        assert_eq!(after.blocks[0].order().len(), 4);
        assert_same_meaning(&before, &after, Tier::Exact);
    }

    #[test]
    fn two_kinds_of_layers_become_two_blocks() {
        let mut module = flat(&Decoder { layers: 5, ..Decoder::default() }.module());
        // From layer 3 on another activation.
        let acts: Vec<NodeId> = {
            let nodes = module.main.nodes();
            nodes.filter(|(_, n)| matches!(n.op, Op::Unary(UnaryOp::Act(_)))).map(|n| n.0).collect()
        };
        for &id in &acts[3..] {
            module.main.node_mut(id).op = Op::Unary(UnaryOp::Act(Activation::Relu));
        }
        let mut after = module.clone();
        assert!(run_pass("roll", &mut after));
        let [first, second] = [0, 1].map(BlockId::new);
        assert_eq!(after.repeats().collect::<Vec<_>>(), [(first, 0, 3), (second, 3, 2)]);
        assert_eq!(after.weights(), module.weights());
        assert_same_meaning(&module, &after, Tier::Exact);
    }

    #[test]
    fn kinds_that_take_turns_become_two_blocks() {
        let mut module = flat(&Decoder { layers: 7, ..Decoder::default() }.module());
        // Every third layer another activation: A A B A A B A.
        let acts: Vec<NodeId> = {
            let nodes = module.main.nodes();
            nodes.filter(|(_, n)| matches!(n.op, Op::Unary(UnaryOp::Act(_)))).map(|n| n.0).collect()
        };
        for &id in acts.iter().skip(2).step_by(3) {
            module.main.node_mut(id).op = Op::Unary(UnaryOp::Act(Activation::Relu));
        }
        let mut after = module.clone();
        assert!(run_pass("roll", &mut after));
        let [a, b] = [0, 1].map(BlockId::new);
        let expected = [(a, 0, 2), (b, 2, 1), (a, 3, 2), (b, 5, 1), (a, 6, 1)];
        assert_eq!(after.repeats().collect::<Vec<_>>(), expected);
        assert_eq!(after.weights(), module.weights());
        assert_same_meaning(&module, &after, Tier::Exact);
    }

    #[test]
    fn eighty_layers_that_take_turns_become_two_blocks() {
        let mut module = flat(&Decoder { layers: 80, ..Decoder::default() }.module());
        let acts = module.main.nodes().filter(|(_, n)| matches!(n.op, Op::Unary(UnaryOp::Act(_))));
        let acts: Vec<NodeId> = acts.map(|n| n.0).collect();
        for &id in acts.iter().step_by(2) {
            module.main.node_mut(id).op = Op::Unary(UnaryOp::Act(Activation::Relu));
        }
        let mut after = module.clone();
        assert!(run_pass("roll", &mut after));
        assert_eq!((after.blocks.len(), after.repeats().count()), (2, 80));
        assert_eq!(after.weights(), module.weights());
    }

    /// A layer whose output something else reads as well ends its row.
    #[test]
    fn an_output_that_is_read_twice_ends_a_row() {
        let mut module = flat(&Decoder { layers: 5, ..Decoder::default() }.module());
        let mut rolled = module.clone();
        assert!(run_pass("roll", &mut rolled));
        let adds = |g: &Graph| {
            let adds = g.nodes().filter(|(_, n)| n.op == Op::Binary(ir::BinaryOp::Add));
            adds.map(|n| n.0).collect::<Vec<NodeId>>()
        };
        // The last add of the second layer is its output; add it to the output of the last layer.
        let all = adds(&module.main);
        let per_layer = all.len() / 5;
        let output = module.main.node(all[2 * per_layer - 1]).results[0];
        let last = module.main.node(all[5 * per_layer - 1]).results[0];
        let ty = module.main.ty(last).clone();
        let op = Op::Binary(ir::BinaryOp::Add);
        let id = module.main.add_node(op, vec![last, output], vec![ty]);
        let sum = module.main.node(id).results[0];
        let mut order = module.main.order().to_vec();
        let new = order.pop().unwrap();
        let at = order.iter().position(|&n| n == all[5 * per_layer - 1]).unwrap();
        order.insert(at + 1, new);
        module.main.set_order(order);
        module.main.replace_uses(last, sum);
        module.main.node_mut(id).operands[0] = last;
        ir::verify(&module).unwrap();
        let mut after = module.clone();
        assert!(run_pass("roll", &mut after));
        let [a] = [0].map(BlockId::new);
        assert_eq!(after.repeats().collect::<Vec<_>>(), [(a, 0, 2), (a, 2, 3)]);
        assert_same_meaning(&module, &after, Tier::Exact);
    }

    #[test]
    fn a_layer_that_differs_stays_flat() {
        let original = Decoder { layers: 3, ..Decoder::default() }.module();
        let change = |f: &dyn Fn(&mut Node) -> bool| {
            let mut module = flat(&original);
            let ids: Vec<NodeId> = module.main.order().to_vec();
            // The last one that can be changed: one layer differs from the others.
            assert!(ids.iter().rev().any(|&id| f(module.main.node_mut(id))));
            let before = module.clone();
            run_pass("roll", &mut module);
            assert_same_meaning(&before, &module, Tier::Exact);
            module.repeats().map(|r| r.2).sum::<u32>()
        };
        let other_activation = change(&|node| match &mut node.op {
            Op::Unary(UnaryOp::Act(act)) => {
                *act = Activation::Relu;
                true
            }
            _ => false,
        });
        assert_eq!(other_activation, 2);
        let other_weight = change(&|node| match &mut node.op {
            Op::Weight { name, .. } if name.starts_with("2.q") => {
                *name = "other".to_string();
                true
            }
            _ => false,
        });
        assert_eq!(other_weight, 2);
        assert_eq!(change(&|_| true), 3, "nothing was changed");
    }
}
