//! The spelling of ops and their attributes, for the printer and the parser alike.
//!
//! To give an op an attribute: a line in [`print`] and a line in [`Attributes::op`].

use std::collections::BTreeMap;

use tensor::DType;

use crate::{
    Activation, BinaryOp, Dim, Op, OpKind, Real, ReduceOp, RopeScaling, RopeSpec, TensorType,
    UnaryOp, op_table,
};

/// How an op is spelled: functions and reductions by their own name.
pub(super) fn spelling(op: &Op) -> &'static str {
    match op {
        Op::Unary(f) => f.name(),
        Op::Binary(f) => f.name(),
        Op::Reduce { op, .. } => op.name(),
        op => op.info().name,
    }
}

/// Name and value of every attribute that the result type does not say.
pub(super) fn print(op: &Op) -> Vec<(&'static str, String)> {
    let window = |w: &Option<usize>| w.iter().map(|w| ("window", w.to_string())).collect();
    match op {
        Op::CausalMask { window: w } => window(w),
        Op::Attention { scale, window: w } => {
            let mut list = vec![("scale", scale.to_string())];
            list.extend::<Vec<_>>(window(w));
            list
        }
        Op::Reduce { axis, .. } | Op::Concat { axis } => vec![("axis", axis.to_string())],
        Op::RmsNorm { eps } => vec![("eps", eps.to_string())],
        Op::Transpose(perm) => vec![("perm", format!("{perm:?}"))],
        Op::Slice { axis, start, end } => {
            vec![("axis", axis.to_string()), ("start", start.to_string()), ("end", end.to_string())]
        }
        Op::Rope(spec) => rope(spec),
        Op::Glu(act) => vec![("act", act.name().to_string())],
        Op::Weight { .. } | Op::Const(_) | Op::Repeat { .. } => vec![],
        Op::Positions | Op::Unary(_) | Op::Binary(_) | Op::Cast(_) | Op::Quantize(_) => vec![],
        Op::Matmul | Op::Softmax | Op::Reshape(_) | Op::Broadcast(_) | Op::Gather => vec![],
        Op::CacheAppend | Op::CacheRead => vec![],
    }
}

fn rope(spec: &RopeSpec) -> Vec<(&'static str, String)> {
    let mut list = vec![("dim", spec.dim.to_string()), ("theta", spec.theta.to_string())];
    let mut scaled = |name: &str, attributes: &[(&'static str, String)]| {
        list.push(("scaling", name.to_string()));
        list.extend_from_slice(attributes);
    };
    match &spec.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => scaled("linear", &[("factor", factor.to_string())]),
        RopeScaling::Dynamic { factor, original } => {
            scaled(
                "dynamic",
                &[("factor", factor.to_string()), ("original", original.to_string())],
            );
        }
        RopeScaling::Llama3 { factor, low, high, original } => scaled(
            "llama3",
            &[
                ("factor", factor.to_string()),
                ("low", low.to_string()),
                ("high", high.to_string()),
                ("original", original.to_string()),
            ],
        ),
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            attention_factor,
            original,
            truncate,
        } => scaled(
            "yarn",
            &[
                ("factor", factor.to_string()),
                ("beta_fast", beta_fast.to_string()),
                ("beta_slow", beta_slow.to_string()),
                ("attention_factor", attention_factor.to_string()),
                ("original", original.to_string()),
                ("truncate", truncate.to_string()),
            ],
        ),
    }
    list
}

/// The value of an attribute as it was read.
#[derive(Clone, Debug)]
pub(super) enum Attribute {
    /// A number that is not a non-negative integer, or `inf`.
    Real(Real),
    /// An integer or an expression over T, C and R.
    Dim(Dim),
    /// A word.
    Word(String),
    /// `[1, 0]`
    List(Vec<usize>),
}

/// The attributes of one op as they were read, each taken at most once.
pub(super) struct Attributes(pub(super) BTreeMap<String, Attribute>);

impl Attributes {
    fn take(&mut self, name: &str) -> Result<Attribute, String> {
        self.0.remove(name).ok_or_else(|| format!("the attribute `{name}` is missing"))
    }

    fn dim(&mut self, name: &str) -> Result<Dim, String> {
        match self.take(name)? {
            Attribute::Dim(dim) => Ok(dim),
            _ => Err(format!("`{name}` is an extent")),
        }
    }

    fn integer(&mut self, name: &str) -> Result<usize, String> {
        self.dim(name)?.as_const().ok_or_else(|| format!("`{name}` is a non-negative integer"))
    }

    fn real(&mut self, name: &str) -> Result<Real, String> {
        match self.take(name)? {
            Attribute::Real(real) => Ok(real),
            Attribute::Dim(dim) => match dim.terms() {
                [] => Ok(Real::new(0.0)),
                [([0, 0, 0], n)] => Ok(Real::new(*n as f64)),
                _ => Err(format!("`{name}` is a number, not {dim}")),
            },
            _ => Err(format!("`{name}` is a number")),
        }
    }

    fn word(&mut self, name: &str) -> Result<String, String> {
        match self.take(name)? {
            Attribute::Word(word) => Ok(word),
            _ => Err(format!("`{name}` is a word")),
        }
    }

    fn list(&mut self, name: &str) -> Result<Vec<usize>, String> {
        match self.take(name)? {
            Attribute::List(list) => Ok(list),
            _ => Err(format!("`{name}` is a list of integers")),
        }
    }

    fn window(&mut self) -> Result<Option<usize>, String> {
        if self.0.contains_key("window") { self.integer("window").map(Some) } else { Ok(None) }
    }

    /// The op spelled `name` with these attributes; the rest comes from the stated type of its
    /// result. `None` for a name that is no op. `weight`, `const` and `repeat` have their own forms.
    pub(super) fn op(
        &mut self,
        name: &str,
        result: Option<&TensorType>,
    ) -> Option<Result<Op, String>> {
        let op = self.function(name).or_else(|| {
            let kind = op_table().iter().find(|row| row.name == name)?.kind;
            self.kind(kind, result).transpose()
        })?;
        Some(op.and_then(|op| match self.0.keys().next() {
            Some(extra) => Err(format!("{name} has no attribute `{extra}`")),
            None => Ok(op),
        }))
    }

    fn function(&mut self, name: &str) -> Option<Result<Op, String>> {
        let unary = UnaryOp::PLAIN.into_iter().chain(Activation::ALL.map(UnaryOp::Act));
        if let Some(f) = unary.into_iter().find(|f| f.name() == name) {
            return Some(Ok(Op::Unary(f)));
        }
        if let Some(f) = BinaryOp::ALL.into_iter().find(|f| f.name() == name) {
            return Some(Ok(Op::Binary(f)));
        }
        let op = ReduceOp::ALL.into_iter().find(|f| f.name() == name)?;
        Some(self.integer("axis").map(|axis| Op::Reduce { op, axis }))
    }

    fn kind(&mut self, kind: OpKind, result: Option<&TensorType>) -> Result<Option<Op>, String> {
        let stated = || result.ok_or_else(|| format!("{} yields a tensor", kind.info().name));
        Ok(Some(match kind {
            OpKind::Positions => Op::Positions,
            OpKind::CausalMask => Op::CausalMask { window: self.window()? },
            OpKind::Cast => Op::Cast(stated()?.dtype),
            OpKind::Quantize => Op::Quantize(stated()?.dtype),
            OpKind::Matmul => Op::Matmul,
            OpKind::Softmax => Op::Softmax,
            OpKind::RmsNorm => Op::RmsNorm { eps: self.real("eps")? },
            OpKind::Reshape => Op::Reshape(stated()?.dims.clone()),
            OpKind::Transpose => Op::Transpose(self.list("perm")?),
            OpKind::Slice => Op::Slice {
                axis: self.integer("axis")?,
                start: self.dim("start")?,
                end: self.dim("end")?,
            },
            OpKind::Concat => Op::Concat { axis: self.integer("axis")? },
            OpKind::Broadcast => Op::Broadcast(stated()?.dims.clone()),
            OpKind::Gather => Op::Gather,
            OpKind::Rope => Op::Rope(Box::new(self.rope()?)),
            OpKind::Attention => {
                Op::Attention { scale: self.real("scale")?, window: self.window()? }
            }
            OpKind::Glu => {
                let name = self.word("act")?;
                let act = Activation::ALL.into_iter().find(|a| a.name() == name);
                Op::Glu(act.ok_or_else(|| format!("{name:?} is no activation"))?)
            }
            OpKind::CacheAppend => Op::CacheAppend,
            OpKind::CacheRead => Op::CacheRead,
            // Written by their functions' names, or in forms of their own.
            OpKind::Unary | OpKind::Binary | OpKind::Reduce => return Ok(None),
            OpKind::Weight | OpKind::Const | OpKind::Repeat => return Ok(None),
        }))
    }

    fn rope(&mut self) -> Result<RopeSpec, String> {
        let (dim, theta) = (self.integer("dim")?, self.real("theta")?);
        if !self.0.contains_key("scaling") {
            return Ok(RopeSpec { dim, theta, scaling: RopeScaling::None });
        }
        let scaling = match self.word("scaling")?.as_str() {
            "linear" => RopeScaling::Linear { factor: self.real("factor")? },
            "dynamic" => RopeScaling::Dynamic {
                factor: self.real("factor")?,
                original: self.integer("original")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: self.real("factor")?,
                low: self.real("low")?,
                high: self.real("high")?,
                original: self.integer("original")?,
            },
            "yarn" => RopeScaling::Yarn {
                factor: self.real("factor")?,
                beta_fast: self.real("beta_fast")?,
                beta_slow: self.real("beta_slow")?,
                attention_factor: self.real("attention_factor")?,
                original: self.integer("original")?,
                truncate: match self.word("truncate")?.as_str() {
                    "true" => true,
                    "false" => false,
                    other => return Err(format!("`truncate` is true or false, not {other:?}")),
                },
            },
            other => return Err(format!("{other:?} is no rope scaling")),
        };
        Ok(RopeSpec { dim, theta, scaling })
    }
}

/// A dtype by its spelling.
pub(super) fn dtype(name: &str) -> Option<DType> {
    name.parse().ok()
}
