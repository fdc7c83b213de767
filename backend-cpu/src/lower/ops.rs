//! A kernel for every op.

use ir::{Activation, BinaryOp, Dim, Node, Op, ReduceOp, RopeScaling, RopeSpec, UnaryOp, ValueId};
use runtime::program::{
    Binary, DynamicRope, Op as Kernel, Operand, Reduce, Rope, StridedCopy, Unary,
};
use tensor::DType;

use super::constants::Form;
use super::graph::{GraphLower, Value};
use super::memory::size;
use crate::error::CpuError;

impl GraphLower<'_> {
    /// Emits the calls of one node that is no constant and no repeat.
    pub(super) fn op(&mut self, node: &Node) -> Result<(), CpuError> {
        let (x, out) = (&node.operands, node.results[0]);
        match &node.op {
            Op::Weight { .. } | Op::Const(_) => Err(self.internal("a constant that is none")),
            Op::Positions => self.compute(Kernel::Positions, &[], out),
            Op::CausalMask { window } => {
                let window = self.window(&node.op, *window)?;
                self.compute(Kernel::CausalMask { window }, &[], out)
            }
            Op::Unary(f) => self.compute(Kernel::Unary(unary(*f)), x, out),
            Op::Binary(f) => self.compute(Kernel::Binary(binary(*f)), x, out),
            Op::Cast(dtype) | Op::Quantize(dtype) => self.round(*dtype, x[0], out),
            Op::Matmul => self.matmul(x[0], x[1], out),
            Op::Reduce { op, axis } => {
                let axis = u8::try_from(*axis).map_err(|_| self.internal("an axis beyond 255"))?;
                self.compute(Kernel::Reduce { op: reduce(*op), axis }, x, out)
            }
            Op::Softmax => self.compute(Kernel::Softmax, x, out),
            Op::RmsNorm { eps } => self.compute(Kernel::RmsNorm { eps: eps.get() as f32 }, x, out),
            Op::Reshape(dims) => {
                let buffer = self.buffer_of(x[0])?;
                let view = self.view(buffer, &Dim::from(0), dims.clone());
                self.set(out, Value::Buffer(view));
                Ok(())
            }
            Op::Transpose(perm) => self.transpose(perm, x[0], out),
            Op::Slice { axis, start, .. } => self.slice(*axis, start, x[0], out),
            Op::Concat { axis } => self.concat(*axis, x, out),
            Op::Broadcast(dims) => self.broadcast(dims, x[0], out),
            Op::Gather => self.gather(x[0], x[1], out),
            Op::Rope(spec) => {
                let rope = self.rope(&node.op, spec)?;
                self.compute(Kernel::Rope { rope }, x, out)
            }
            Op::Attention { scale, window } => {
                let window = self.window(&node.op, *window)?;
                self.attention(scale.get() as f32, window, x, out)
            }
            Op::Glu(act) => self.compute(Kernel::Glu(activation(*act)), x, out),
            Op::CacheAppend => self.cache_append(node),
            Op::CacheRead => self.cache_read(x[0], out),
            Op::Repeat { .. } => Err(self.internal("a repeat inside a block")),
        }
    }

    /// One call with operands as they are.
    fn compute(&mut self, op: Kernel, x: &[ValueId], out: ValueId) -> Result<(), CpuError> {
        let operands = x.iter().map(|&v| self.operand(v)).collect::<Result<_, _>>()?;
        let buffer = self.define(out)?;
        self.emit(op, operands, buffer);
        Ok(())
    }

    fn window(&self, op: &Op, window: Option<usize>) -> Result<Option<u32>, CpuError> {
        let narrow = |w: usize| {
            u32::try_from(w).map_err(|_| self.unsupported(op, format!("a window of {w} keys")))
        };
        window.map(narrow).transpose()
    }

    /// A rounded copy; widening a value changes nothing, because all are kept as f32.
    fn round(&mut self, dtype: DType, x: ValueId, out: ValueId) -> Result<(), CpuError> {
        if dtype != DType::F32 {
            return self.compute(Kernel::Round(dtype), &[x], out);
        }
        let buffer = self.buffer_of(x)?;
        self.set(out, Value::Buffer(buffer));
        Ok(())
    }

    /// A packed product where the right side is a constant matrix, else the general one. Other packed
    /// products of the same value follow it at once.
    fn matmul(&mut self, a: ValueId, b: ValueId, out: ValueId) -> Result<(), CpuError> {
        let matrix = self.dims(b)?.len() == 2;
        if !matrix || !self.is_constant(b) || self.is_constant(a) {
            return self.compute(Kernel::Matmul, &[a, b], out);
        }
        self.packed_product(a, b, out)?;
        for (b, out) in self.products_of(a) {
            self.packed_product(a, b, out)?;
        }
        Ok(())
    }

    fn packed_product(&mut self, a: ValueId, b: ValueId, out: ValueId) -> Result<(), CpuError> {
        let graph = self.graph;
        let transposed = graph.producer(b).filter(
            |(_, node)| matches!(&node.op, Op::Transpose(perm) if perm.as_slice() == [1, 0]),
        );
        let weight = match transposed {
            Some((_, node)) => self.constant(node.operands[0], Form::Rows)?,
            None => self.constant(b, Form::Columns)?,
        };
        self.compute(Kernel::Linear { weight }, &[a], out)
    }

    fn gather(&mut self, table: ValueId, ids: ValueId, out: ValueId) -> Result<(), CpuError> {
        if !self.is_constant(table) {
            return self.compute(Kernel::GatherPlain, &[table, ids], out);
        }
        let weight = self.constant(table, Form::Rows)?;
        self.compute(Kernel::Gather { weight }, &[ids], out)
    }

    fn transpose(&mut self, perm: &[usize], x: ValueId, out: ValueId) -> Result<(), CpuError> {
        let strides = strides(&self.dims(x)?);
        let dims = self.dims(out)?;
        let from = perm.iter().map(|&axis| strides[axis].clone()).collect::<Vec<_>>();
        let copy = strided(&dims, &Dim::from(0), &from, &Dim::from(0), &self::strides(&dims));
        self.compute(copy, &[x], out)
    }

    /// A range of the first axis is a view; of another, a copy.
    fn slice(
        &mut self,
        axis: usize,
        start: &Dim,
        x: ValueId,
        out: ValueId,
    ) -> Result<(), CpuError> {
        let from = strides(&self.dims(x)?);
        let dims = self.dims(out)?;
        let offset = start * &from[axis];
        if axis == 0 {
            let buffer = self.buffer_of(x)?;
            let view = self.view(buffer, &offset, dims);
            self.set(out, Value::Buffer(view));
            return Ok(());
        }
        let copy = strided(&dims, &offset, &from, &Dim::from(0), &strides(&dims));
        self.compute(copy, &[x], out)
    }

    fn concat(&mut self, axis: usize, parts: &[ValueId], out: ValueId) -> Result<(), CpuError> {
        let to = strides(&self.dims(out)?);
        let operands: Vec<_> = parts.iter().map(|&v| self.operand(v)).collect::<Result<_, _>>()?;
        let buffer = self.define(out)?;
        let mut start = Dim::from(0);
        for (operand, &part) in operands.into_iter().zip(parts) {
            let dims = self.dims(part)?;
            let copy = strided(&dims, &Dim::from(0), &strides(&dims), &(&start * &to[axis]), &to);
            self.emit(copy, vec![operand], buffer);
            start = &start + &dims[axis];
        }
        Ok(())
    }

    fn broadcast(&mut self, dims: &[Dim], x: ValueId, out: ValueId) -> Result<(), CpuError> {
        let x_dims = self.dims(x)?;
        let one = Dim::from(1);
        let from = strides(&x_dims).into_iter().zip(x_dims.iter().zip(dims));
        let from: Vec<Dim> = from
            .map(
                |(stride, (had, has))| {
                    if *had == one && had != has { Dim::from(0) } else { stride }
                },
            )
            .collect();
        let copy = strided(dims, &Dim::from(0), &from, &Dim::from(0), &strides(dims));
        self.compute(copy, &[x], out)
    }

    /// Keys and values are read where the cache holds them.
    fn attention(
        &mut self,
        scale: f32,
        window: Option<u32>,
        x: &[ValueId],
        out: ValueId,
    ) -> Result<(), CpuError> {
        // A cache is laid out for keys or for values: one that is both is copied as keys.
        let both = matches!((self.value(x[1]), self.value(x[2])),
            (Value::CacheView(a), Value::CacheView(b)) if a == b);
        let mut operands = Vec::new();
        for (i, &value) in x.iter().enumerate() {
            operands.push(match self.value(value) {
                Value::CacheView(cache) if i == 2 || !both => Operand::Cache(*cache),
                _ => self.operand(value)?,
            });
        }
        let buffer = self.define(out)?;
        self.emit(Kernel::Attention { scale, window }, operands, buffer);
        Ok(())
    }

    /// The program's number of a rotary embedding.
    fn rope(&mut self, op: &Op, spec: &RopeSpec) -> Result<u32, CpuError> {
        if let Some(i) = self.shared.ropes.iter().position(|(known, _)| known == spec) {
            return Ok(i as u32);
        }
        let dynamic = match spec.scaling {
            RopeScaling::Dynamic { factor, original } => {
                let narrow = u32::try_from(original);
                let original = narrow.map_err(|_| {
                    self.unsupported(op, format!("a trained context of {original}"))
                })?;
                Some(DynamicRope { theta: spec.theta.get(), factor: factor.get(), original })
            }
            _ => None,
        };
        let rope = Rope {
            inverse_frequencies: spec.inverse_frequencies(0),
            attention_factor: spec.attention_factor(),
            dynamic,
        };
        self.shared.ropes.push((spec.clone(), rope));
        Ok(self.shared.ropes.len() as u32 - 1)
    }
}

/// Elements from neighbour to neighbour along each axis of a row-major tensor.
fn strides(dims: &[Dim]) -> Vec<Dim> {
    let mut strides = vec![Dim::from(1); dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = &strides[i] * &dims[i];
    }
    strides
}

fn strided(dims: &[Dim], src: &Dim, from: &[Dim], dst: &Dim, to: &[Dim]) -> Kernel {
    let all = |dims: &[Dim]| dims.iter().map(size).collect();
    Kernel::Copy(Box::new(StridedCopy {
        dims: all(dims),
        src_offset: size(src),
        src_strides: all(from),
        dst_offset: size(dst),
        dst_strides: all(to),
    }))
}

/// A copy of all elements in order.
pub(super) fn whole_copy(dims: &[Dim]) -> Kernel {
    let elements = dims.iter().fold(Dim::from(1), |n, d| &n * d);
    let one = [Dim::from(1)];
    strided(&[elements], &Dim::from(0), &one, &Dim::from(0), &one)
}

fn unary(op: UnaryOp) -> Unary {
    match op {
        UnaryOp::Neg => Unary::Neg,
        UnaryOp::Exp => Unary::Exp,
        UnaryOp::Sqrt => Unary::Sqrt,
        UnaryOp::Rsqrt => Unary::Rsqrt,
        UnaryOp::Recip => Unary::Recip,
        UnaryOp::Square => Unary::Square,
        UnaryOp::Tanh => Unary::Tanh,
        UnaryOp::Sigmoid => Unary::Sigmoid,
        UnaryOp::Act(act) => activation(act),
    }
}

fn activation(act: Activation) -> Unary {
    match act {
        Activation::Silu => Unary::Silu,
        Activation::Gelu => Unary::Gelu,
        Activation::GeluTanh => Unary::GeluTanh,
        Activation::Relu => Unary::Relu,
    }
}

fn binary(op: BinaryOp) -> Binary {
    match op {
        BinaryOp::Add => Binary::Add,
        BinaryOp::Sub => Binary::Sub,
        BinaryOp::Mul => Binary::Mul,
        BinaryOp::Div => Binary::Div,
        BinaryOp::Max => Binary::Max,
        BinaryOp::Min => Binary::Min,
    }
}

fn reduce(op: ReduceOp) -> Reduce {
    match op {
        ReduceOp::Sum => Reduce::Sum,
        ReduceOp::Max => Reduce::Max,
        ReduceOp::Mean => Reduce::Mean,
    }
}
