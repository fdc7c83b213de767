//! Recognises the decoder in an optimised module: one function per part, from results to operands.
//!
//! Tolerant of what passes may or may not have done: merged or separate projections, folded or
//! separate gains, `glu` or `act(gate) * up`, reshapes and casts that change no value. Attention
//! must have been recognised: as primitives it would need the whole score matrix on the wafer.

use ir::{Activation, BinaryOp, Dim, Graph, Module, Node, Op, ParamKind, Symbol, UnaryOp, ValueId};
use tensor::DType;

use super::trace::{scalar, trace};
use super::{LayerRun, LayerSpec, Linear, Matrix, Norm, Partition, Unsupported, unsupported};

/// Analyses a module whose sequences have at most `context` positions.
///
/// # Errors
/// Names the value that has no program on a wafer.
pub fn partition(module: &Module, context: usize) -> Result<Partition, Unsupported> {
    let view = View::new(&module.main);
    let logits = *module.main.results.first().ok_or_else(|| no_results(&module.main))?;
    let (head, x) = view.linear(view.skip_rows(logits))?;
    let (mut final_norm, source) = view.norm(view.skip_rows(x))?;
    let head = match fold_gain(&mut final_norm, vec![head]).pop() {
        Some(head) => head,
        None => return Err(unsupported(view.graph, logits, "has no head")),
    };
    let (specs, runs, embedded) = view.repeats(module, view.skip_rows(source))?;
    let (table, embedding_scale) = view.embedding(embedded)?;
    if table.cols != head.matrix.cols {
        return Err(unsupported(view.graph, logits, "reads another width than is embedded"));
    }
    Ok(Partition {
        name: module.name.clone(),
        hidden: table.cols,
        vocab: head.matrix.rows,
        context,
        table,
        embedding_scale,
        layers: specs,
        runs,
        final_norm,
        head,
    })
}

fn no_results(graph: &Graph) -> Unsupported {
    Unsupported {
        graph: graph.name.clone(),
        value: "-".into(),
        op: "return",
        why: "returns nothing",
    }
}

/// A graph and which of its values are constants.
struct View<'a> {
    graph: &'a Graph,
    constant: Vec<bool>,
}

type Found<T> = Result<T, Unsupported>;

impl<'a> View<'a> {
    fn new(graph: &'a Graph) -> Self {
        View { graph, constant: graph.compile_time_constants() }
    }

    fn fail<T>(&self, value: ValueId, why: &'static str) -> Found<T> {
        Err(unsupported(self.graph, value, why))
    }

    fn node(&self, value: ValueId) -> Option<&'a Node> {
        self.graph.producer(value).map(|(_, node)| node)
    }

    fn is_constant(&self, value: ValueId) -> bool {
        self.constant[value.index()]
    }

    /// Through reshapes and widening casts, which change no value.
    fn skip_views(&self, mut value: ValueId) -> ValueId {
        while let Some(node) = self.node(value) {
            match node.op {
                Op::Reshape(_) | Op::Cast(DType::F32) => value = node.operands[0],
                _ => break,
            }
        }
        value
    }

    /// Through views and slices of trailing rows.
    fn skip_rows(&self, value: ValueId) -> ValueId {
        let inner = self.skip_views(value);
        match self.node(inner).map(|n| (&n.op, n.operands.as_slice())) {
            Some((Op::Slice { axis: 0, .. }, &[x])) => self.skip_rows(x),
            _ => inner,
        }
    }

    /// (constant operand, other operand) of a binary op with exactly one constant operand.
    fn constant_operand(&self, node: &Node) -> Option<(ValueId, ValueId)> {
        match *node.operands.as_slice() {
            [a, b] if self.is_constant(b) && !self.is_constant(a) => Some((b, a)),
            [a, b] if self.is_constant(a) && !self.is_constant(b) => Some((a, b)),
            _ => None,
        }
    }

    /// A vector constant as one row.
    fn row(&self, value: ValueId) -> Found<Matrix> {
        let matrix = trace(self.graph, value)?;
        let matrix = if matrix.rows == 1 { matrix } else { matrix.transpose() };
        if matrix.rows != 1 {
            return self.fail(value, "is not a vector");
        }
        Ok(matrix)
    }

    /// `scale * (W x + b)`, restricted to the results that `value` takes, and x.
    fn linear(&self, value: ValueId) -> Found<(Linear, ValueId)> {
        let Some(node) = self.node(value) else {
            return self.fail(value, "is not the result of a mat-vec");
        };
        let x = node.operands.first().copied().unwrap_or(value);
        match &node.op {
            Op::Matmul if self.is_constant(node.operands[1]) => {
                let matrix = trace(self.graph, node.operands[1])?.transpose();
                Ok((Linear { matrix, bias: None, scale: 1.0 }, x))
            }
            Op::Reshape(dims) if dims.first() == Some(&Dim::symbol(Symbol::T)) => self.linear(x),
            Op::Cast(DType::F32) => self.linear(x),
            Op::Slice { axis, start, end } if *axis > 0 => {
                let (start, end) = self.feature_range(x, *axis, start, end)?;
                let (linear, x) = self.linear(x)?;
                let bias = linear.bias.map(|b| b.slice_cols(start, end));
                Ok((Linear { matrix: linear.matrix.slice_rows(start, end), bias, ..linear }, x))
            }
            Op::Binary(BinaryOp::Add) => match self.constant_operand(node) {
                Some((bias, inner)) => {
                    let (linear, x) = self.linear(inner)?;
                    let bias = self.row(bias)?;
                    let fits = bias.cols == linear.outputs() && linear.scale == 1.0;
                    if linear.bias.is_some() || !fits {
                        return self.fail(value, "adds a second or scaled bias");
                    }
                    Ok((Linear { bias: Some(bias), ..linear }, x))
                }
                None => self.fail(value, "is not the result of a mat-vec"),
            },
            Op::Binary(BinaryOp::Mul) => match self.factor(node) {
                Some((factor, inner)) => {
                    let (linear, x) = self.linear(inner)?;
                    Ok((Linear { scale: linear.scale * factor, ..linear }, x))
                }
                None => self.fail(value, "is not the result of a mat-vec"),
            },
            _ => self.fail(value, "is not the result of a mat-vec"),
        }
    }

    /// (constant factor, what it multiplies).
    fn factor(&self, node: &Node) -> Option<(f64, ValueId)> {
        let (constant, other) = self.constant_operand(node)?;
        Some((scalar(self.graph, constant)?, other))
    }

    /// A slice of axis `axis` as a range of the flattened features of a token.
    fn feature_range(
        &self,
        x: ValueId,
        axis: usize,
        start: &Dim,
        end: &Dim,
    ) -> Found<(usize, usize)> {
        let dims = self.graph.ty(x).as_tensor().map(|t| t.dims.clone()).unwrap_or_default();
        let before = dims.get(1..axis).unwrap_or_default().iter().all(|d| *d == Dim::from(1));
        let inner: Option<usize> =
            dims.get(axis + 1..).unwrap_or_default().iter().map(Dim::as_const).product();
        match (start.as_const(), end.as_const(), inner) {
            (Some(start), Some(end), Some(inner)) if before => Ok((start * inner, end * inner)),
            _ => self.fail(x, "is sliced in a way no mat-vec expresses"),
        }
    }

    /// A norm of the last axis, with its gain where it is separate, and what it normalises.
    fn norm(&self, value: ValueId) -> Found<(Norm, ValueId)> {
        let value = self.skip_views(value);
        let Some(node) = self.node(value) else { return self.fail(value, "is not normalised") };
        match &node.op {
            Op::RmsNorm { eps } => {
                let gain = node.operands.get(1).map(|&g| self.row(g)).transpose()?;
                Ok((Norm { eps: eps.get() as f32, gain }, node.operands[0]))
            }
            Op::Binary(BinaryOp::Mul) => match self.constant_operand(node) {
                Some((gain, inner)) => {
                    let (norm, source) = self.norm(inner)?;
                    if norm.gain.is_some() {
                        return self.fail(value, "multiplies a second gain");
                    }
                    Ok((Norm { gain: Some(self.row(gain)?), ..norm }, source))
                }
                None => self.fail(value, "is not a norm"),
            },
            _ => self.fail(value, "is not a norm"),
        }
    }

    /// The distinct layers, their order, and the value that enters the first.
    fn repeats(
        &self,
        module: &Module,
        mut value: ValueId,
    ) -> Found<(Vec<LayerSpec>, Vec<LayerRun>, ValueId)> {
        let mut found = Vec::new();
        while let Some(Node { op: Op::Repeat { block, first, count }, operands, results }) =
            self.node(value)
        {
            if results.first() != Some(&value) {
                return self.fail(value, "reads another result of a repeat than its carry");
            }
            found.push((*block, *first, *count));
            value = self.skip_views(operands[0]);
        }
        found.reverse();
        let mut blocks = Vec::new();
        let mut specs = Vec::new();
        let mut runs = Vec::new();
        for (block, first, count) in found {
            let spec = match blocks.iter().position(|b| *b == block) {
                Some(known) => known,
                None => {
                    blocks.push(block);
                    specs.push(View::new(module.block(block)).layer()?);
                    specs.len() - 1
                }
            };
            runs.push(LayerRun { spec, first, count });
        }
        if specs.is_empty() {
            return self.fail(value, "is not the result of repeated layers");
        }
        Ok((specs, runs, value))
    }

    /// Table and factor of `scale * gather(table, tokens)`.
    fn embedding(&self, value: ValueId) -> Found<(Matrix, f64)> {
        let value = self.skip_views(value);
        let Some(node) = self.node(value) else { return self.fail(value, "is not an embedding") };
        match node.op {
            Op::Gather => {
                let tokens = self.skip_views(node.operands[1]);
                if self.graph.params().first().map(|p| p.value) != Some(tokens) {
                    return self.fail(value, "gathers by other ids than the tokens");
                }
                Ok((trace(self.graph, node.operands[0])?, 1.0))
            }
            Op::Binary(BinaryOp::Mul) => match self.factor(node) {
                Some((factor, inner)) => {
                    let (table, scale) = self.embedding(inner)?;
                    Ok((table, scale * factor))
                }
                None => self.fail(value, "is not an embedding"),
            },
            _ => self.fail(value, "is not an embedding"),
        }
    }

    /// The decoder layer that a block is.
    fn layer(&self) -> Found<LayerSpec> {
        let carries = self.graph.params().iter().filter(|p| p.kind == ParamKind::Carry).count();
        let (Some(input), Some(&output)) =
            (self.graph.params().first(), self.graph.results.first())
        else {
            return Err(no_results(self.graph));
        };
        if carries != 1 {
            return self.fail(output, "is one of several carries");
        }
        let (down, glu, middle) = self.residual(output)?;
        let (gate, up, activation) = self.glu(glu)?;
        let (mut mlp_norm, gate, up) = self.gated(gate, up, middle)?;
        let (o, attention, start) = self.residual(middle)?;
        if start != input.value {
            return self.fail(start, "is not the carry of the layer");
        }
        let heads = self.attention(self.skip_views(attention))?;
        let (q, k, v, normed) = (heads.q.linear, heads.k.linear, heads.v.linear, heads.normed);
        let (mut attention_norm, source) = self.norm(normed)?;
        if source != start {
            return self.fail(normed, "normalises another value than the carry");
        }
        let [q, k, v] = three(fold_gain(&mut attention_norm, vec![q, k, v]));
        let [gate, up] = two(fold_gain(&mut mlp_norm, vec![gate, up]));
        let [o, down] = [o, down].map(unfold_scale);
        let hidden = down.outputs();
        let ffn = gate.outputs();
        Ok(LayerSpec {
            name: self.graph.name.clone(),
            hidden,
            heads: heads.heads,
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            ffn,
            attention_norm,
            q,
            k,
            v,
            q_norm: heads.q.norm,
            k_norm: heads.k.norm,
            rope: heads.rope,
            score_scale: heads.scale,
            window: heads.window,
            cache: heads.cache,
            o,
            mlp_norm,
            gate,
            up,
            activation,
            down,
        })
    }

    /// `value = residual + linear(x)`: the mat-vec, x and the residual.
    fn residual(&self, value: ValueId) -> Found<(Linear, ValueId, ValueId)> {
        let value = self.skip_views(value);
        let Some(Node { op: Op::Binary(BinaryOp::Add), operands, .. }) = self.node(value) else {
            return self.fail(value, "is not a residual sum");
        };
        for (branch, rest) in [(operands[1], operands[0]), (operands[0], operands[1])] {
            if let Ok((linear, x)) = self.linear(branch) {
                return Ok((linear, x, self.skip_views(rest)));
            }
        }
        // Neither side is a mat-vec: report the side that is not a parameter.
        let blamed = if self.node(operands[1]).is_some() { operands[1] } else { operands[0] };
        self.linear(blamed).and_then(|_| self.fail(value, "is not a residual sum"))
    }

    /// gate, up and the activation of `act(gate) * up`.
    fn glu(&self, value: ValueId) -> Found<(ValueId, ValueId, Activation)> {
        let value = self.skip_views(value);
        let Some(node) = self.node(value) else { return self.fail(value, "is not a gated MLP") };
        match (&node.op, node.operands.as_slice()) {
            (Op::Glu(activation), &[gate, up]) => Ok((gate, up, *activation)),
            (Op::Binary(BinaryOp::Mul), &[a, b]) => {
                for (gate, up) in [(a, b), (b, a)] {
                    if let Some(Node { op: Op::Unary(UnaryOp::Act(act)), operands, .. }) =
                        self.node(self.skip_views(gate))
                    {
                        return Ok((operands[0], up, *act));
                    }
                }
                self.fail(value, "is not a gated MLP")
            }
            _ => self.fail(value, "is not a gated MLP"),
        }
    }

    /// Gate and up projections of one normalised value, which normalises `middle`.
    fn gated(&self, gate: ValueId, up: ValueId, middle: ValueId) -> Found<(Norm, Linear, Linear)> {
        let (gate, x) = self.linear(gate)?;
        let (up, y) = self.linear(up)?;
        if self.skip_views(x) != self.skip_views(y) {
            return self.fail(y, "feeds only one of gate and up");
        }
        let (norm, source) = self.norm(x)?;
        if self.skip_views(source) != middle {
            return self.fail(x, "normalises another value than the residual");
        }
        Ok((norm, gate, up))
    }

    fn attention(&self, value: ValueId) -> Found<Heads> {
        let Some(Node { op: Op::Attention { scale, window }, operands, .. }) = self.node(value)
        else {
            return self.fail(value, "is not recognised attention: optimise the module first");
        };
        let shape = |v: ValueId| -> Option<(usize, usize)> {
            let dims = &self.graph.ty(v).as_tensor()?.dims;
            Some((dims.get(1)?.as_const()?, dims.get(2)?.as_const()?))
        };
        let (Some((heads, head_dim)), Some((kv_heads, _)), Some((_, v_dim))) =
            (shape(operands[0]), shape(operands[1]), shape(operands[2]))
        else {
            return self.fail(value, "has heads of symbolic size");
        };
        if head_dim != v_dim || head_dim % 2 != 0 {
            return self.fail(value, "has heads of odd or unequal size");
        }
        let q = self.projection(operands[0])?;
        let (k_rows, cache) = self.appended(operands[1])?;
        let (v_rows, v_cache) = self.appended(operands[2])?;
        if cache != v_cache {
            return self.fail(value, "caches keys and values in different types");
        }
        let (k, v) = (self.projection(k_rows)?, self.projection(v_rows)?);
        let normed = self.skip_views(q.x);
        if self.skip_views(k.x) != normed || self.skip_views(v.x) != normed {
            return self.fail(value, "reads q, k and v from different values");
        }
        if v.norm.is_some() || v.rope.is_some() || q.rope != k.rope || k.factor != 1.0 {
            return self.fail(value, "rotates or normalises q, k and v in an unknown way");
        }
        if q.rope.as_ref().is_some_and(|r| r.dim != head_dim) {
            return self.fail(value, "rotates a part of each head only");
        }
        let scale = f64::from(scale.get() as f32) * q.factor;
        let window = *window;
        let rope = q.rope.clone();
        Ok(Heads { q, k, v, normed, heads, kv_heads, head_dim, rope, scale, window, cache })
    }

    /// The rows that `cache_read(cache_append(cache, rows))` appended, and the cache's element type.
    fn appended(&self, value: ValueId) -> Found<(ValueId, DType)> {
        let read = self.skip_views(value);
        let append = match self.node(read) {
            Some(Node { op: Op::CacheRead, operands, .. }) => self.node(operands[0]),
            _ => None,
        };
        match append {
            Some(Node { op: Op::CacheAppend, operands, .. }) => {
                match self.graph.ty(operands[0]).as_cache() {
                    Some(cache) => Ok((operands[1], cache.dtype)),
                    None => self.fail(value, "is not read from the KV cache"),
                }
            }
            _ => self.fail(value, "is not read from the KV cache"),
        }
    }

    /// Undoes factor, rotation and norm down to the mat-vec.
    fn projection(&self, value: ValueId) -> Found<Projection> {
        let mut value = self.skip_views(value);
        let mut factor = 1.0;
        let mut rope = None;
        let mut norm = None;
        while let Some(node) = self.node(value) {
            match &node.op {
                Op::Rope(spec) if rope.is_none() && norm.is_none() => {
                    rope = Some((**spec).clone());
                    value = node.operands[0];
                }
                Op::Binary(BinaryOp::Mul) if norm.is_none() && self.factor(node).is_some() => {
                    if let Some((f, inner)) = self.factor(node) {
                        factor *= f;
                        value = inner;
                    }
                }
                _ => match self.norm(value) {
                    Ok((n, inner)) if norm.is_none() && self.per_head(inner) => {
                        norm = Some(n);
                        value = inner;
                    }
                    _ => break,
                },
            }
            value = self.skip_views(value);
        }
        let (linear, x) = self.linear(value)?;
        Ok(Projection { linear, x, norm, rope, factor })
    }

    /// Whether a value has the shape [T, heads, head_dim].
    fn per_head(&self, value: ValueId) -> bool {
        self.graph.ty(value).as_tensor().is_some_and(|t| t.rank() == 3)
    }
}

struct Projection {
    linear: Linear,
    x: ValueId,
    norm: Option<Norm>,
    rope: Option<ir::RopeSpec>,
    factor: f64,
}

struct Heads {
    q: Projection,
    k: Projection,
    v: Projection,
    normed: ValueId,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rope: Option<ir::RopeSpec>,
    scale: f64,
    window: Option<usize>,
    cache: DType,
}

/// Takes a gain that all `users` of a norm have folded into their weights out again: the weights can
/// then be stored as the model stores them. Where that is not possible they stay as they are.
fn fold_gain(norm: &mut Norm, users: Vec<Linear>) -> Vec<Linear> {
    let unfolded: Vec<_> = users.iter().map(|u| u.matrix.unfold()).collect();
    let gain = unfolded.first().and_then(|(_, gain, _)| gain.clone());
    let same = unfolded.iter().all(|(_, g, _)| *g == gain);
    if gain.is_none() || !same || norm.gain.is_some() {
        // No gain to move, or several different ones: scales may still move.
        return users.into_iter().map(unfold_scale).collect();
    }
    norm.gain = gain;
    let take = |(user, (matrix, _, scale)): (Linear, (Matrix, Option<Matrix>, f64))| {
        let matrix = if scale == 1.0 { matrix } else { matrix.scaled(scale) };
        unfold_scale(Linear { matrix, ..user })
    };
    users.into_iter().zip(unfolded).map(take).collect()
}

/// Takes a constant factor shared by matrix and bias out of both.
fn unfold_scale(linear: Linear) -> Linear {
    let (matrix, gain, scale) = linear.matrix.unfold();
    if gain.is_some() || scale == 1.0 {
        return linear;
    }
    let bias = match &linear.bias {
        None => None,
        Some(bias) => match bias.unfold() {
            (plain, None, s) if s == scale => Some(plain),
            _ => return linear,
        },
    };
    Linear { matrix, bias, scale: linear.scale * scale }
}

fn three(linears: Vec<Linear>) -> [Linear; 3] {
    linears.try_into().expect("fold_gain returns as many as it is given")
}

fn two(linears: Vec<Linear>) -> [Linear; 2] {
    linears.try_into().expect("fold_gain returns as many as it is given")
}
