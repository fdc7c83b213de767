//! KV caches: appended to and read in place, because the module proves them linear.

use ir::{Dim, Node, Symbol, ValueId};
use runtime::program::{Index, Op as Kernel, Operand};

use super::graph::{GraphLower, Value};
use super::memory::size;
use crate::error::CpuError;

impl GraphLower<'_> {
    fn cache(&self, value: ValueId) -> Result<(Index, &ir::CacheType), CpuError> {
        match (self.value(value), self.graph.ty(value).as_cache()) {
            (Value::Cache(index), Some(ty)) => Ok((*index, ty)),
            _ => Err(self.internal(&format!("{value} is no cache of one layer"))),
        }
    }

    /// Stores new rows behind those that the cache holds.
    pub(super) fn cache_append(&mut self, node: &Node) -> Result<(), CpuError> {
        let (cache, ty) = self.cache(node.operands[0])?;
        let at = size(&ty.len);
        if !ty.dtype.is_float() {
            return Err(self.unsupported(&node.op, format!("a cache of {}", ty.dtype)));
        }
        let rows = self.buffer_of(node.operands[1])?;
        // The call has no result; its operand stands in for one.
        self.emit(Kernel::CacheAppend { cache, at }, vec![Operand::Buffer(rows)], rows);
        self.set(node.results[0], Value::Cache(cache));
        Ok(())
    }

    /// Readers that can, read the cache in place; the others get a copy when they ask for it. Rows
    /// that are there stay there, so a later append changes nothing.
    pub(super) fn cache_read(&mut self, cache: ValueId, out: ValueId) -> Result<(), CpuError> {
        let (index, ty) = self.cache(cache)?;
        let all = &Dim::from(Symbol::C) + &Dim::from(Symbol::T);
        let whole = ty.len == all;
        self.set(out, Value::CacheView(index));
        if whole {
            return Ok(());
        }
        self.buffer_of(out).map(drop)
    }
}
