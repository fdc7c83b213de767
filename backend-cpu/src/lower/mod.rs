//! Module to program: a kernel for every op, a place for every value, a recipe for every constant.
//!
//! Values become buffers; reshapes and row ranges become views of them. Constants stay expressions
//! ([`Recipe`]) until packing. A block becomes a loop over layers with a table of its weights and
//! caches. Times on the line of `memory` are calls; a loop's body is on it once.

mod cache;
mod constants;
mod graph;
mod memory;
mod ops;

use ir::{Module, Op, ParamKind, Type, ValueId};
use runtime::program::{Activations, Buffer, Program, Rope};

use crate::error::CpuError;
use constants::Constants;
pub(crate) use constants::{Form, Recipe, filled, weight_names};
use graph::GraphLower;
use memory::Memory;

/// A program and how to make its weights.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The program; weights have their final places.
    pub program: Program,
    /// One per weight of the program, in order.
    pub(crate) recipes: Vec<Recipe>,
    /// Bytes of the weight segment.
    pub weight_bytes: u64,
}

/// What grows while graphs are lowered.
#[derive(Default)]
struct Shared {
    memory: Memory,
    buffers: Vec<PlannedBuffer>,
    constants: Constants,
    caches: Vec<runtime::program::CacheSpec>,
    ropes: Vec<(ir::RopeSpec, Rope)>,
}

/// A buffer whose slot is not chosen yet.
struct PlannedBuffer {
    storage: usize,
    offset: ir::Dim,
    dims: Vec<ir::Dim>,
}

/// Lowers a verified module to a program whose products see this of activations.
///
/// # Errors
/// When `main` is not a language model's entry, an op is used in a way that no kernel covers, or
/// the context is too large to count.
pub fn lower(module: &Module, activations: Activations) -> Result<Lowered, CpuError> {
    let entry = |why: String| CpuError::Entry { why };
    let vocab = vocab(module).map_err(entry)?;
    let limit = runtime::program::INTEGER_LIMIT;
    if module.context >= limit as usize || vocab >= limit {
        return Err(CpuError::TooLarge { context: module.context, vocab, limit });
    }
    let mut shared = Shared::default();
    let mut main = GraphLower::new(module, &module.main, None, &mut shared);
    let mut inputs = main.graph.params().iter().filter(|p| p.kind != ParamKind::State);
    let (Some(tokens), None) = (inputs.next().map(|p| p.value), inputs.next()) else {
        return Err(entry("main takes other inputs than its tokens".to_string()));
    };
    check_embeddings(module, tokens, vocab).map_err(entry)?;
    let token_buffer = main.define(tokens)?;
    main.bind_states()?;
    main.nodes()?;
    let logits = main.buffer_of(main.graph.results[0])?;
    let steps = main.steps;
    shared.memory.keep(shared.buffers[logits as usize].storage);
    let plan = shared.memory.plan(module.context).map_err(|why| CpuError::Internal { why })?;
    let place = |b: &PlannedBuffer| Buffer {
        slot: plan.slot_of[b.storage],
        offset: memory::size(&b.offset),
        dims: b.dims.iter().map(memory::size).collect(),
    };
    let (weights, recipes, weight_bytes) = shared.constants.finish();
    let program = Program {
        name: module.name.clone(),
        vocab,
        context: u32::try_from(module.context).unwrap_or(u32::MAX),
        slots: plan.slots,
        buffers: shared.buffers.iter().map(place).collect(),
        caches: shared.caches,
        weights,
        ropes: shared.ropes.into_iter().map(|(_, rope)| rope).collect(),
        steps,
        tokens: token_buffer,
        logits,
        activations,
    };
    program.check(weight_bytes).map_err(|e| CpuError::Internal { why: e.to_string() })?;
    Ok(Lowered { program, recipes, weight_bytes })
}

/// Width of the logits, the first result of `main`.
fn vocab(module: &Module) -> Result<u32, String> {
    let main = &module.main;
    let logits = main.results.first().and_then(|&v| main.ty(v).as_tensor());
    let width = match logits.map(|t| t.dims.as_slice()) {
        Some([_, width]) => width.as_const().and_then(|n| u32::try_from(n).ok()),
        _ => None,
    };
    width.ok_or_else(|| "main returns no logits f32[R, vocab]".to_string())
}

/// Every token that the logits name has a row in what tokens are looked up in: texts continue with it.
fn check_embeddings(module: &Module, tokens: ValueId, vocab: u32) -> Result<(), String> {
    let main = &module.main;
    let lookups = main.nodes().filter(|(_, n)| n.op == Op::Gather && n.operands[1] == tokens);
    for (_, node) in lookups {
        let table = main.ty(node.operands[0]).as_tensor();
        let rows = table.and_then(|t| t.dims.first()?.as_const());
        if let Some(rows) = rows.filter(|&rows| rows < vocab as usize) {
            return Err(format!(
                "tokens are looked up in {rows} rows, but there are {vocab} logits: \
                 tokens from {rows} on would have no row"
            ));
        }
    }
    Ok(())
}

/// Whether a type is a cache.
fn is_cache(ty: &Type) -> bool {
    ty.as_cache().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_logits_is_refused() {
        let module = Module::new("empty", 8, ir::Graph::new("main"));
        let error = lower(&module, Activations::Full).unwrap_err();
        assert_eq!(error.code(), "SPK4002");
    }
}
