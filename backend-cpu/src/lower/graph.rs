//! Lowers one graph: walks its nodes in order, gives every needed value a buffer, emits calls.

use ir::{BlockId, Dim, Graph, Module, Op, ParamKind, ValueId};
use runtime::program::{BufferId, CacheSpec, Call, Index, Op as Kernel, Operand, Repeat, Step};

use super::constants::{Form, Recipe};
use super::{PlannedBuffer, Shared, is_cache};
use crate::error::CpuError;

/// Where a value is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nowhere yet, or a constant.
    Undefined,
    /// In a buffer.
    Buffer(BufferId),
    /// The cache of one layer.
    Cache(Index),
    /// The caches of a stack, by layer.
    Stack(Vec<u32>),
    /// What a `cache_read` of this cache yields: read in place where the reader can.
    CacheView(Index),
}

/// A block being lowered for a range of layers.
pub(super) struct BlockScope {
    id: BlockId,
    layers: std::ops::Range<u32>,
    /// Constants of a layer: the columns of the loop's weight table.
    constants: Vec<(ValueId, Form)>,
    /// Caches: the columns of the loop's cache table.
    caches: Vec<Vec<u32>>,
}

/// One graph on its way into the program.
pub(super) struct GraphLower<'a> {
    module: &'a Module,
    pub(super) graph: &'a Graph,
    block: Option<BlockScope>,
    cc: Vec<bool>,
    needed: Vec<bool>,
    values: Vec<Value>,
    pub(super) shared: &'a mut Shared,
    /// The calls so far; of a block, the body of its loop.
    pub(super) steps: Vec<Step>,
}

impl<'a> GraphLower<'a> {
    pub(super) fn new(
        module: &'a Module,
        graph: &'a Graph,
        block: Option<BlockScope>,
        shared: &'a mut Shared,
    ) -> Self {
        let cc = graph.compile_time_constants();
        let values = vec![Value::Undefined; graph.value_count()];
        let needed = needed(graph);
        GraphLower { module, graph, block, cc, needed, values, shared, steps: Vec::new() }
    }

    /// Lowers every node that something needs.
    pub(super) fn nodes(&mut self) -> Result<(), CpuError> {
        let graph = self.graph;
        for (_, node) in graph.nodes() {
            let wanted = node.results.iter().any(|v| self.needed[v.index()]);
            if !wanted || self.cc[node.results[0].index()] {
                continue;
            }
            // A product may have been lowered beside an earlier one of the same value.
            if matches!(node.op, Op::Matmul) && self.is_defined(node.results[0]) {
                continue;
            }
            match node.op {
                Op::Repeat { block, first, count } => {
                    self.repeat(block, first..first.saturating_add(count), node)?;
                }
                _ => self.op(node)?,
            }
        }
        Ok(())
    }

    /// Caches for the state parameters of `main`.
    pub(super) fn bind_states(&mut self) -> Result<(), CpuError> {
        for param in self.graph.params().iter().filter(|p| p.kind == ParamKind::State) {
            let ty = self.graph.ty(param.value).as_cache();
            let ty = ty.ok_or_else(|| self.internal("a state that is no cache"))?;
            let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let spec =
                CacheSpec { heads: narrow(ty.heads), width: narrow(ty.head_dim), dtype: ty.dtype };
            let ids = (0..ty.layers.unwrap_or(1)).map(|_| {
                self.shared.caches.push(spec);
                narrow(self.shared.caches.len() - 1)
            });
            let ids: Vec<u32> = ids.collect();
            self.values[param.value.index()] = match ty.layers {
                Some(_) => Value::Stack(ids),
                None => Value::Cache(Index::Fixed(ids[0])),
            };
        }
        Ok(())
    }

    /// Whether a value has its place.
    fn is_defined(&self, value: ValueId) -> bool {
        !matches!(self.values[value.index()], Value::Undefined)
    }

    /// Products of `x` with constant matrices that are needed and not lowered yet, as (matrix,
    /// result): the runtime makes one job of calls that follow each other.
    pub(super) fn products_of(&self, x: ValueId) -> Vec<(ValueId, ValueId)> {
        let nodes = self.graph.nodes().map(|(_, node)| node);
        let products = nodes.filter(|n| matches!(n.op, Op::Matmul) && n.operands[0] == x);
        let pairs = products.map(|n| (n.operands[1], n.results[0]));
        let open = |&(_, out): &(_, ValueId)| {
            self.needed[out.index()] && !self.is_constant(out) && !self.is_defined(out)
        };
        let matrix = |w: ValueId| self.graph.ty(w).as_tensor().is_some_and(|t| t.dims.len() == 2);
        pairs.filter(open).filter(|&(w, _)| self.is_constant(w) && matrix(w)).collect()
    }

    /// Whether a value is a compile-time constant.
    pub(super) fn is_constant(&self, value: ValueId) -> bool {
        self.cc[value.index()]
    }

    /// Extents of a tensor value.
    pub(super) fn dims(&self, value: ValueId) -> Result<Vec<Dim>, CpuError> {
        let tensor = self.graph.ty(value).as_tensor();
        Ok(tensor.ok_or_else(|| self.internal("a cache used as a tensor"))?.dims.clone())
    }

    pub(super) fn internal(&self, why: &str) -> CpuError {
        CpuError::Internal { why: format!("@{}: {why}", self.graph.name) }
    }

    pub(super) fn unsupported(&self, op: &Op, why: String) -> CpuError {
        let (graph, op) = (format!("@{}", self.graph.name), op.info().name.to_string());
        CpuError::Unsupported { graph, op, why }
    }

    /// Where a value is.
    pub(super) fn value(&self, value: ValueId) -> &Value {
        &self.values[value.index()]
    }

    /// Says where a value is.
    pub(super) fn set(&mut self, value: ValueId, place: Value) {
        self.values[value.index()] = place;
    }

    /// A fresh buffer for a value.
    pub(super) fn define(&mut self, value: ValueId) -> Result<BufferId, CpuError> {
        let dims = self.dims(value)?;
        let buffer = self.new_buffer(dims);
        self.set(value, Value::Buffer(buffer));
        Ok(buffer)
    }

    /// A buffer with memory of its own.
    pub(super) fn new_buffer(&mut self, dims: Vec<Dim>) -> BufferId {
        let elements = dims.iter().fold(Dim::from(1), |n, d| &n * d);
        let storage = self.shared.memory.add(elements);
        self.add_view(storage, Dim::from(0), dims)
    }

    /// A view of `buffer` from element `offset` on.
    pub(super) fn view(&mut self, buffer: BufferId, offset: &Dim, dims: Vec<Dim>) -> BufferId {
        let base = &self.shared.buffers[buffer as usize];
        let (storage, offset) = (base.storage, &base.offset + offset);
        self.add_view(storage, offset, dims)
    }

    fn add_view(&mut self, storage: usize, offset: Dim, dims: Vec<Dim>) -> BufferId {
        self.shared.buffers.push(PlannedBuffer { storage, offset, dims });
        (self.shared.buffers.len() - 1) as BufferId
    }

    /// The value as an operand: a buffer, or a constant in place.
    pub(super) fn operand(&mut self, value: ValueId) -> Result<Operand, CpuError> {
        if !self.is_constant(value) {
            return self.buffer_of(value).map(Operand::Buffer);
        }
        match self.graph.producer(value) {
            Some((_, node)) if matches!(node.op, Op::Const(_)) => {
                let Op::Const(x) = node.op else { return Err(self.internal("a constant")) };
                Ok(Operand::Scalar(x.get() as f32))
            }
            _ => self.constant(value, Form::Plain).map(Operand::Constant),
        }
    }

    /// The value in a buffer, copied there if it is a constant or in a cache.
    pub(super) fn buffer_of(&mut self, value: ValueId) -> Result<BufferId, CpuError> {
        match self.values[value.index()] {
            Value::Buffer(buffer) => Ok(buffer),
            Value::CacheView(cache) => {
                let buffer = self.define(value)?;
                self.emit(Kernel::CacheRead, vec![Operand::Cache(cache)], buffer);
                Ok(buffer)
            }
            _ if self.is_constant(value) => {
                let source = self.operand(value)?;
                let buffer = self.define(value)?;
                let dims = self.dims(value)?;
                let copy = super::ops::whole_copy(&dims);
                self.emit(copy, vec![source], buffer);
                Ok(buffer)
            }
            _ => Err(self.internal(&format!("{value} is used before it is computed"))),
        }
    }

    /// The stored form of a constant.
    pub(super) fn constant(&mut self, value: ValueId, form: Form) -> Result<Index, CpuError> {
        let Some(block) = &mut self.block else {
            let recipe = Recipe { block: None, value, layer: None, form };
            let id = self.shared.constants.add(self.graph, recipe);
            return id.map(Index::Fixed).map_err(|why| self.internal(&why));
        };
        let known = block.constants.iter().position(|c| *c == (value, form));
        let column = known.unwrap_or_else(|| {
            block.constants.push((value, form));
            block.constants.len() - 1
        });
        Ok(Index::Layer(column as u32))
    }

    /// Appends a call and moves time on.
    pub(super) fn emit(&mut self, op: Kernel, operands: Vec<Operand>, out: BufferId) {
        let buffers = operands.iter().filter_map(|o| match o {
            Operand::Buffer(id) => Some(*id),
            _ => None,
        });
        for id in buffers.chain(std::iter::once(out)) {
            let storage = self.shared.buffers[id as usize].storage;
            self.shared.memory.touch(storage);
        }
        self.steps.push(Step::Call(Call { op, operands, out }));
        self.shared.memory.tick();
    }

    /// A loop over layers.
    fn repeat(
        &mut self,
        id: BlockId,
        layers: std::ops::Range<u32>,
        node: &ir::Node,
    ) -> Result<(), CpuError> {
        let block = self.module.block(id);
        let mut places = Vec::new();
        let mut carries = Vec::new();
        let mut caches = Vec::new();
        for (param, &operand) in block.params().iter().zip(&node.operands) {
            places.push(match (param.kind, self.value(operand)) {
                (ParamKind::State, Value::Stack(ids)) if ids.len() == layers.len() => {
                    caches.push(ids.clone());
                    Value::Cache(Index::Layer(caches.len() as u32 - 1))
                }
                (ParamKind::State, _) => return Err(self.internal("a state that is no stack")),
                (ParamKind::Input, _) => Value::Buffer(self.buffer_of(operand)?),
                (ParamKind::Carry, _) => {
                    let source = self.operand(operand)?;
                    let dims = self.dims(operand)?;
                    let carry = self.new_buffer(dims.clone());
                    self.emit(super::ops::whole_copy(&dims), vec![source], carry);
                    carries.push(carry);
                    Value::Buffer(carry)
                }
            });
        }
        let start = self.shared.memory.now();
        let stacks = caches.clone();
        let scope = BlockScope { id, layers: layers.clone(), constants: Vec::new(), caches };
        let mut body = GraphLower::new(self.module, block, Some(scope), self.shared);
        for (param, place) in block.params().iter().zip(places) {
            body.set(param.value, place);
        }
        body.nodes()?;
        body.carry_over(&carries)?;
        let repeat = body.into_repeat()?;
        self.shared.memory.close_loop(start);
        self.shared.memory.tick();
        self.steps.push(Step::Repeat(repeat));
        for (i, &result) in node.results.iter().enumerate() {
            let place = if is_cache(self.graph.ty(result)) {
                Value::Stack(stacks[i - carries.len()].clone())
            } else {
                Value::Buffer(carries[i])
            };
            self.set(result, place);
        }
        Ok(())
    }

    /// Ends the body of a loop: results become the carries of the next layer.
    fn carry_over(&mut self, carries: &[BufferId]) -> Result<(), CpuError> {
        let results = &self.graph.results[..carries.len()];
        let sources = results.iter().map(|&v| self.operand(v)).collect::<Result<Vec<_>, _>>()?;
        let mut copies = Vec::new();
        for (i, (&carry, &result)) in carries.iter().zip(results).enumerate() {
            let mut source = sources[i];
            if let Operand::Buffer(buffer) = source {
                // Another result may be what this carry was before.
                let others = sources.iter().enumerate().filter(|&(j, _)| j != i);
                let wanted = others.into_iter().any(|(_, &other)| self.shares(other, carry));
                if buffer == carry || !wanted && self.compute_in_place(buffer, carry) {
                    continue;
                }
                if carries.iter().any(|&c| self.shares(source, c)) {
                    // Another carry's old value: set aside before the carries are overwritten.
                    let dims = self.dims(result)?;
                    let aside = self.new_buffer(dims.clone());
                    self.emit(super::ops::whole_copy(&dims), vec![source], aside);
                    source = Operand::Buffer(aside);
                }
            }
            copies.push((source, carry, self.dims(result)?));
        }
        for (source, carry, dims) in copies {
            self.emit(super::ops::whole_copy(&dims), vec![source], carry);
        }
        Ok(())
    }

    /// Whether an operand lies in the memory of a buffer.
    fn shares(&self, operand: Operand, buffer: BufferId) -> bool {
        let storage = |b: BufferId| self.shared.buffers[b as usize].storage;
        matches!(operand, Operand::Buffer(b) if storage(b) == storage(buffer))
    }

    /// Lets `result` be computed in the memory of `carry` where the old value is dead before the
    /// new one is written.
    fn compute_in_place(&mut self, result: BufferId, carry: BufferId) -> bool {
        let buffers = &self.shared.buffers;
        let (from, to) = (&buffers[result as usize], &buffers[carry as usize]);
        let (from_storage, to_storage) = (from.storage, to.storage);
        let whole = from.offset == to.offset && from.dims == to.dims;
        if !whole || !self.shared.memory.merge(from_storage, to_storage) {
            return false;
        }
        for buffer in &mut self.shared.buffers {
            if buffer.storage == from_storage {
                buffer.storage = to_storage;
            }
        }
        true
    }

    /// The finished loop, with its tables.
    fn into_repeat(self) -> Result<Repeat, CpuError> {
        let Some(block) = self.block else {
            return Err(CpuError::Internal { why: "main is no loop".to_string() });
        };
        let mut weights = Vec::new();
        let mut caches = Vec::new();
        for (row, layer) in block.layers.clone().enumerate() {
            let add = |&(value, form): &(ValueId, Form)| {
                let recipe = Recipe { block: Some(block.id), value, layer: Some(layer), form };
                self.shared.constants.add(self.graph, recipe)
            };
            let ids = block.constants.iter().map(add).collect::<Result<Vec<_>, _>>();
            weights.push(ids.map_err(|why| CpuError::Internal { why })?);
            caches.push(block.caches.iter().map(|ids| ids[row]).collect());
        }
        let calls = self.steps.into_iter().filter_map(|step| match step {
            Step::Call(call) => Some(call),
            // `verify` refuses a repeat inside a block.
            Step::Repeat(_) => None,
        });
        let (count, first) = (block.layers.len() as u32, block.layers.start);
        Ok(Repeat { count, first, weights, caches, calls: calls.collect() })
    }
}

/// Which values the results of a graph depend on.
fn needed(graph: &Graph) -> Vec<bool> {
    let mut needed = vec![false; graph.value_count()];
    graph.results.iter().for_each(|v| needed[v.index()] = true);
    for (_, node) in graph.nodes().rev() {
        if node.results.iter().any(|v| needed[v.index()]) {
            node.operands.iter().for_each(|v| needed[v.index()] = true);
        }
    }
    needed
}
