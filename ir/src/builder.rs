//! Ergonomic construction of graphs: infers types, refuses ill-formed nodes.

use tensor::DType;

use crate::{
    BinaryOp, BlockId, CacheType, Dim, Graph, InferError, Module, Op, ParamKind, Real, Type,
    UnaryOp, ValueId, infer,
};

/// Builds one graph, node by node, in execution order.
#[derive(Debug)]
pub struct Builder {
    graph: Graph,
}

impl Builder {
    /// A builder of an empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Builder { graph: Graph::new(name) }
    }

    /// A builder that appends to an existing graph.
    pub fn from_graph(graph: Graph) -> Self {
        Builder { graph }
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Appends a parameter. Carries come first, then inputs, then states.
    pub fn param(&mut self, kind: ParamKind, ty: impl Into<Type>, name: &str) -> ValueId {
        self.graph.add_param(kind, ty.into(), Some(name.to_string()))
    }

    /// Applies any op but `repeat`.
    ///
    /// # Errors
    /// When the operands do not fit the op.
    pub fn apply(&mut self, op: Op, operands: &[ValueId]) -> Result<ValueId, InferError> {
        let types: Vec<Type> = operands.iter().map(|&v| self.graph.ty(v).clone()).collect();
        let ty = infer(&op, &types)?;
        let node = self.graph.add_node(op, operands.to_vec(), vec![ty]);
        Ok(self.graph.node(node).results[0])
    }

    /// Names a value for readers of the text form.
    pub fn name(&mut self, value: ValueId, name: &str) -> ValueId {
        self.graph.value_mut(value).name = Some(name.to_string());
        value
    }

    /// A weight by name.
    ///
    /// # Errors
    /// None today; a `Result` so that construction chains with `?`.
    pub fn weight(
        &mut self,
        name: impl Into<String>,
        dtype: DType,
        shape: &[usize],
    ) -> Result<ValueId, InferError> {
        let op = Op::Weight { name: name.into(), dtype, shape: shape.to_vec() };
        self.apply(op, &[])
    }

    /// An f32 scalar.
    ///
    /// # Errors
    /// None today; see [`Builder::weight`].
    pub fn constant(&mut self, value: f64) -> Result<ValueId, InferError> {
        self.apply(Op::Const(Real::new(value)), &[])
    }

    /// An elementwise function of one tensor.
    ///
    /// # Errors
    /// When the operand is not a tensor of floats.
    pub fn unary(&mut self, op: UnaryOp, x: ValueId) -> Result<ValueId, InferError> {
        self.apply(Op::Unary(op), &[x])
    }

    /// An elementwise function of two tensors.
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn binary(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> Result<ValueId, InferError> {
        self.apply(Op::Binary(op), &[a, b])
    }

    /// Matrix product.
    ///
    /// # Errors
    /// When the inner extents differ.
    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, InferError> {
        self.apply(Op::Matmul, &[a, b])
    }

    /// The same elements under other dims.
    ///
    /// # Errors
    /// When the element counts differ.
    pub fn reshape(&mut self, x: ValueId, dims: Vec<Dim>) -> Result<ValueId, InferError> {
        self.apply(Op::Reshape(dims), &[x])
    }

    /// Axes permuted.
    ///
    /// # Errors
    /// When `perm` is not a permutation of the axes.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId, InferError> {
        self.apply(Op::Transpose(perm.to_vec()), &[x])
    }

    /// `x W^T` with W[N, K] as checkpoints store it: `matmul(x, transpose(w))`.
    ///
    /// # Errors
    /// When the inner extents differ.
    pub fn linear(&mut self, x: ValueId, weight: ValueId) -> Result<ValueId, InferError> {
        let transposed = self.transpose(weight, &[1, 0])?;
        self.matmul(x, transposed)
    }

    /// Repeats a block for layers `first..first + count`. Result types: a carry has its operand's
    /// type, a cache stack the length its block returns.
    ///
    /// # Errors
    /// When operands and block parameters differ in number or type.
    pub fn repeat(
        &mut self,
        id: BlockId,
        block: &Graph,
        layers: std::ops::Range<u32>,
        operands: &[ValueId],
    ) -> Result<Vec<ValueId>, InferError> {
        let count = layers.end.saturating_sub(layers.start);
        let given: Vec<Type> = operands.iter().map(|&v| self.graph.ty(v).clone()).collect();
        let types = repeat_types(block, count, &given)
            .map_err(|why| InferError::Operand { op: "repeat", why })?;
        let op = Op::Repeat { block: id, first: layers.start, count };
        let node = self.graph.add_node(op, operands.to_vec(), types);
        Ok(self.graph.node(node).results.clone())
    }

    /// The finished graph.
    pub fn finish(mut self, results: Vec<ValueId>) -> Graph {
        self.graph.results = results;
        self.graph
    }
}

/// Types of the results of `repeat`, from the block and the operand types.
///
/// # Errors
/// A sentence when an operand is not what the block's parameter asks for.
pub(crate) fn repeat_types(block: &Graph, count: u32, given: &[Type]) -> Result<Vec<Type>, String> {
    if count == 0 {
        return Err("repeats no layer".to_string());
    }
    if given.len() != block.params().len() {
        let (name, wanted) = (&block.name, block.params().len());
        return Err(format!("@{name} has {wanted} parameters, found {} operands", given.len()));
    }
    for (i, (param, ty)) in block.params().iter().zip(given).enumerate() {
        let wanted = stacked(block.ty(param.value), count);
        if wanted != *ty {
            return Err(format!("operand {i} of @{} is {ty}, expected {wanted}", block.name));
        }
    }
    Ok(block.results.iter().map(|&v| stacked(block.ty(v), count)).collect())
}

/// A block's type as `main` sees it: caches become stacks.
fn stacked(ty: &Type, count: u32) -> Type {
    match ty {
        Type::Cache(cache) => Type::Cache(CacheType { layers: Some(count), ..cache.clone() }),
        Type::Tensor(_) => ty.clone(),
    }
}

impl Module {
    /// A module without blocks.
    pub fn new(name: impl Into<String>, context: usize, main: Graph) -> Self {
        Module {
            name: name.into(),
            context,
            blocks: Vec::new(),
            main,
            meta: std::collections::BTreeMap::new(),
        }
    }
}
