//! Reads modules and graphs from text: one token of lookahead, no recursion.

use std::collections::BTreeMap;

use super::attribute::{self, Attribute, Attributes};
use super::lex::{Label, Lexer, Token};
use super::{ParseError, ParseErrorKind};
use crate::builder::repeat_types;
use crate::{
    BlockId, CacheType, Dim, Graph, MAX_RANK, Module, Op, ParamKind, Real, Symbol, TensorType,
    Type, ValueId, infer,
};

/// Most terms of a dim, and most factors of a term.
const MAX_TERMS: usize = 8;

/// The whole text as a module.
pub(super) fn module(text: &str) -> Result<Module, ParseError> {
    let mut parser = Parser::new(text)?;
    parser.keyword("module")?;
    let name = parser.text()?;
    parser.keyword("context")?;
    let context = parser.integer()?;
    parser.mark('{')?;
    let mut module = Module::new(name, context, Graph::new(""));
    while parser.at_keyword("meta") {
        parser.advance()?;
        let place = parser.place;
        let key = parser.text()?;
        parser.mark('=')?;
        let value = parser.text()?;
        if module.meta.insert(key.clone(), value).is_some() {
            return fail(place, ParseErrorKind::Duplicate(format!("meta {key:?}")));
        }
    }
    while parser.at_keyword("block") {
        parser.advance()?;
        let place = parser.place;
        // A block sees no block: blocks never repeat others.
        let block = parser.graph(&[])?;
        if module.blocks.iter().any(|b| b.name == block.name) {
            return fail(place, ParseErrorKind::Duplicate(format!("@{}", block.name)));
        }
        module.blocks.push(block);
    }
    parser.keyword("graph")?;
    module.main = parser.graph(&module.blocks)?;
    parser.mark('}')?;
    parser.end()?;
    Ok(module)
}

/// The whole text as one graph.
pub(super) fn lone_graph(text: &str) -> Result<Graph, ParseError> {
    let mut parser = Parser::new(text)?;
    if parser.at_keyword("block") {
        parser.advance()?;
    } else {
        parser.keyword("graph")?;
    }
    let graph = parser.graph(&[])?;
    parser.end()?;
    Ok(graph)
}

type Place = (usize, usize);

fn fail<T>((line, column): Place, kind: ParseErrorKind) -> Result<T, ParseError> {
    Err(ParseError { line, column, kind })
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The next token, and where it starts.
    token: Token,
    place: Place,
}

/// Values that are defined so far.
type Scope = BTreeMap<Label, ValueId>;

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, ParseError> {
        let mut parser = Parser { lexer: Lexer::new(text), token: Token::End, place: (1, 1) };
        parser.advance()?;
        Ok(parser)
    }

    /// Moves on by one token and returns the one that was next.
    fn advance(&mut self) -> Result<Token, ParseError> {
        self.lexer.skip();
        self.place = self.lexer.place();
        let next = self.lexer.token()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn expected<T>(&self, expected: impl Into<String>) -> Result<T, ParseError> {
        let (expected, found) = (expected.into(), self.token.to_string());
        fail(self.place, ParseErrorKind::Expected { expected, found })
    }

    fn at_keyword(&self, word: &str) -> bool {
        matches!(&self.token, Token::Name(name) if name == word)
    }

    fn keyword(&mut self, word: &str) -> Result<(), ParseError> {
        if !self.at_keyword(word) {
            return self.expected(format!("`{word}`"));
        }
        self.advance().map(drop)
    }

    fn at(&self, mark: char) -> bool {
        self.token == Token::Mark(mark)
    }

    fn mark(&mut self, mark: char) -> Result<(), ParseError> {
        if !self.at(mark) {
            return self.expected(format!("`{mark}`"));
        }
        self.advance().map(drop)
    }

    /// Passes `mark` if it is next.
    fn eat(&mut self, mark: char) -> Result<bool, ParseError> {
        let there = self.at(mark);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    fn end(&mut self) -> Result<(), ParseError> {
        if self.token == Token::End { Ok(()) } else { self.expected("the end of the text") }
    }

    fn text(&mut self) -> Result<String, ParseError> {
        match &self.token {
            Token::Text(_) => match self.advance()? {
                Token::Text(text) => Ok(text),
                _ => self.expected("a string"),
            },
            _ => self.expected("a string"),
        }
    }

    fn name(&mut self, what: &str) -> Result<String, ParseError> {
        match self.token.clone() {
            Token::Name(name) => self.advance().map(|_| name),
            _ => self.expected(what),
        }
    }

    fn at_name(&mut self) -> Result<String, ParseError> {
        match self.token.clone() {
            Token::At(name) => self.advance().map(|_| name),
            _ => self.expected("a graph's `@name`"),
        }
    }

    fn label(&mut self) -> Result<Label, ParseError> {
        match self.token.clone() {
            Token::Value(label) => self.advance().map(|_| label),
            _ => self.expected("a value"),
        }
    }

    /// A non-negative integer that fits in i64, so that extents do not saturate.
    fn integer(&mut self) -> Result<usize, ParseError> {
        let Token::Number(digits) = self.token.clone() else {
            return self.expected("an integer");
        };
        if digits.contains(['.', 'e']) {
            return self.expected("an integer");
        }
        let number = digits.parse::<i64>().ok().and_then(|n| usize::try_from(n).ok());
        match number {
            Some(n) => self.advance().map(|_| n),
            None => fail(self.place, ParseErrorKind::Limit(format!("{digits} is too large"))),
        }
    }

    /// A possibly negative finite number, or an infinity by name.
    fn real(&mut self) -> Result<Real, ParseError> {
        let place = self.place;
        let negative = self.eat('-')?;
        let magnitude = match self.token.clone() {
            Token::Name(name) if name == "inf" => f64::INFINITY,
            Token::Number(text) => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => value,
                Ok(_) => {
                    return fail(place, ParseErrorKind::Limit(format!("{text} is too large")));
                }
                Err(_) => {
                    return fail(place, ParseErrorKind::Token(format!("{text} is no number")));
                }
            },
            _ => return self.expected("a number"),
        };
        self.advance()?;
        Ok(Real::new(if negative { -magnitude } else { magnitude }))
    }

    /// `@name(params) { nodes return values }`; `repeat` may name one of `blocks`.
    fn graph(&mut self, blocks: &[Graph]) -> Result<Graph, ParseError> {
        let mut graph = Graph::new(self.at_name()?);
        let mut scope = Scope::new();
        self.mark('(')?;
        while !self.at(')') {
            let place = self.place;
            let kind = match self.name("`carry`, `input`, `state` or `)`")?.as_str() {
                "carry" => ParamKind::Carry,
                "input" => ParamKind::Input,
                "state" => ParamKind::State,
                other => {
                    let (kind, name) = ("parameter kind", other.to_string());
                    return fail(place, ParseErrorKind::Unknown { kind, name });
                }
            };
            let place = self.place;
            let label = self.label()?;
            self.mark(':')?;
            let ty = self.ty()?;
            let value = graph.add_param(kind, ty, label.name.clone());
            define(&mut scope, label, value, place)?;
            if !self.at(')') {
                self.mark(',')?;
            }
        }
        self.mark(')')?;
        self.mark('{')?;
        while !self.at_keyword("return") {
            self.node(&mut graph, &mut scope, blocks)?;
        }
        self.keyword("return")?;
        if !self.at('}') {
            graph.results = self.values(&scope)?;
        }
        self.mark('}')?;
        Ok(graph)
    }

    /// One or more defined values.
    fn values(&mut self, scope: &Scope) -> Result<Vec<ValueId>, ParseError> {
        let mut values = Vec::new();
        loop {
            let place = self.place;
            let label = self.label()?;
            match scope.get(&label) {
                Some(&value) => values.push(value),
                None => {
                    let name = label.to_string();
                    return fail(place, ParseErrorKind::Unknown { kind: "value", name });
                }
            }
            if !self.eat(',')? {
                return Ok(values);
            }
        }
    }

    fn node(
        &mut self,
        graph: &mut Graph,
        scope: &mut Scope,
        blocks: &[Graph],
    ) -> Result<(), ParseError> {
        let mut labels = Vec::new();
        loop {
            let place = self.place;
            match self.token {
                Token::Value(_) => labels.push((place, self.label()?)),
                _ => return self.expected("a value or `return`"),
            }
            if !self.eat(',')? {
                break;
            }
        }
        self.mark('=')?;
        let (place, name) = (self.place, self.name("an op")?);
        let written = self.written_op(&name, place, scope, blocks)?;
        let colon = self.place;
        self.mark(':')?;
        let mut types = vec![self.ty()?];
        while self.eat(',')? {
            types.push(self.ty()?);
        }
        let (op, operands) = self.finish(name, written, &types, place)?;
        let given: Vec<Type> = operands.iter().map(|&v| graph.ty(v).clone()).collect();
        let inferred = match &op {
            Op::Repeat { block, count, .. } => repeat_types(&blocks[block.index()], *count, &given),
            op => infer(op, &given).map(|ty| vec![ty]).map_err(|e| e.to_string()),
        };
        let inferred = inferred.or_else(|why| fail(place, ParseErrorKind::Type(why)))?;
        if types != inferred {
            let list = |types: &[Type]| {
                types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            let (stated, is) = (list(&types), list(&inferred));
            return fail(
                colon,
                ParseErrorKind::Type(format!("stated as {stated}, but it is {is}")),
            );
        }
        if labels.len() != types.len() {
            let why = format!("{} names for {} results", labels.len(), types.len());
            return fail(labels[0].0, ParseErrorKind::Type(why));
        }
        let id = graph.add_node(op, operands, types);
        for (i, (place, label)) in labels.into_iter().enumerate() {
            let value = graph.node(id).results[i];
            graph.value_mut(value).name.clone_from(&label.name);
            define(scope, label, value, place)?;
        }
        Ok(())
    }

    /// What stands between `=` and `:`.
    fn written_op(
        &mut self,
        name: &str,
        place: Place,
        scope: &Scope,
        blocks: &[Graph],
    ) -> Result<Written, ParseError> {
        match name {
            "weight" => self.text().map(Written::Weight),
            "const" => self.real().map(Written::Const),
            "repeat" => {
                let at = self.place;
                let name = self.at_name()?;
                let Some(block) = blocks.iter().position(|b| b.name == name) else {
                    let name = format!("@{name}");
                    return fail(at, ParseErrorKind::Unknown { kind: "block", name });
                };
                let (range, first) = (self.place, self.integer()?);
                if self.token != Token::DotDot {
                    return self.expected("`..`");
                }
                self.advance()?;
                let end = self.integer()?;
                let count = end.checked_sub(first).and_then(|n| u32::try_from(n).ok());
                let (Ok(first), Some(count)) = (u32::try_from(first), count) else {
                    let why = format!("{first}..{end} is no range of layers");
                    return fail(range, ParseErrorKind::Limit(why));
                };
                self.mark('(')?;
                let operands = if self.at(')') { vec![] } else { self.values(scope)? };
                self.mark(')')?;
                let op = Op::Repeat { block: BlockId::new(block), first, count };
                Ok(Written::Repeat(op, operands))
            }
            _ => {
                let operands = match self.token {
                    Token::Value(_) => self.values(scope)?,
                    _ => vec![],
                };
                let attributes = if self.at('{') { self.attributes()? } else { BTreeMap::new() };
                Ok(Written::Plain(Attributes(attributes), operands, place))
            }
        }
    }

    /// The op, now that the types of its results are known.
    fn finish(
        &self,
        name: String,
        written: Written,
        types: &[Type],
        place: Place,
    ) -> Result<(Op, Vec<ValueId>), ParseError> {
        let stated = types.first().and_then(Type::as_tensor);
        match written {
            Written::Const(value) => Ok((Op::Const(value), vec![])),
            Written::Repeat(op, operands) => Ok((op, operands)),
            Written::Weight(name) => match stated.and_then(|t| Some((t.dtype, t.const_shape()?))) {
                Some((dtype, shape)) => Ok((Op::Weight { name, dtype, shape }, vec![])),
                None => {
                    let why = format!("the weight {name:?} has no fixed shape");
                    fail(place, ParseErrorKind::Type(why))
                }
            },
            Written::Plain(mut attributes, operands, place) => match attributes.op(&name, stated) {
                Some(Ok(op)) => Ok((op, operands)),
                Some(Err(why)) => fail(place, ParseErrorKind::Attribute(why)),
                None => fail(place, ParseErrorKind::Unknown { kind: "op", name }),
            },
        }
    }

    /// `{name=value, ...}`
    fn attributes(&mut self) -> Result<BTreeMap<String, Attribute>, ParseError> {
        let mut list = BTreeMap::new();
        self.mark('{')?;
        loop {
            let place = self.place;
            let name = self.name("an attribute")?;
            self.mark('=')?;
            let value = self.attribute()?;
            if list.insert(name.clone(), value).is_some() {
                return fail(place, ParseErrorKind::Duplicate(format!("`{name}`")));
            }
            if !self.eat(',')? {
                break;
            }
        }
        self.mark('}')?;
        Ok(list)
    }

    fn attribute(&mut self) -> Result<Attribute, ParseError> {
        if self.at('[') {
            self.advance()?;
            let mut list = Vec::new();
            while !self.at(']') {
                if list.len() == MAX_RANK {
                    return self.too_many_axes();
                }
                list.push(self.integer()?);
                if !self.at(']') {
                    self.mark(',')?;
                }
            }
            self.mark(']')?;
            return Ok(Attribute::List(list));
        }
        match self.token.clone() {
            Token::Name(name) if name == "inf" => self.real().map(Attribute::Real),
            Token::Name(word) if symbol(&word).is_none() => {
                self.advance().map(|_| Attribute::Word(word))
            }
            Token::Number(digits) if digits.contains(['.', 'e']) => {
                self.real().map(Attribute::Real)
            }
            // A sign starts a negative number or a dim such as `-T + C`.
            Token::Mark('-') => {
                let place = self.place;
                self.advance()?;
                match self.token.clone() {
                    Token::Name(name) if symbol(&name).is_some() => {
                        self.dim_from(true, place).map(Attribute::Dim)
                    }
                    Token::Number(digits) if !digits.contains(['.', 'e']) => {
                        self.dim_from(true, place).map(Attribute::Dim)
                    }
                    _ => self.real().map(|r| Attribute::Real(Real::new(-r.get()))),
                }
            }
            _ => self.dim().map(Attribute::Dim),
        }
    }

    fn ty(&mut self) -> Result<Type, ParseError> {
        let place = self.place;
        if !self.at_keyword("cache") {
            return self.tensor_ty().map(Type::Tensor);
        }
        self.advance()?;
        let mut layers = None;
        if let Token::Name(name) = &self.token
            && let Some(digits) = name.strip_prefix('x')
        {
            layers = Some(match digits.parse::<u32>() {
                Ok(n) => n,
                Err(_) => return self.expected("a number of layers, `x4`"),
            });
            self.advance()?;
        }
        let ty = self.tensor_ty()?;
        let parts = match ty.dims.as_slice() {
            [len, heads, head_dim] => heads.as_const().zip(head_dim.as_const()).map(|p| (len, p)),
            _ => None,
        };
        let Some((len, (heads, head_dim))) = parts else {
            let why = format!("a cache is [length, heads, head extent], not {ty}");
            return fail(place, ParseErrorKind::Type(why));
        };
        Ok(Type::Cache(CacheType { layers, dtype: ty.dtype, len: len.clone(), heads, head_dim }))
    }

    fn tensor_ty(&mut self) -> Result<TensorType, ParseError> {
        let (place, name) = (self.place, self.name("a type")?);
        let Some(dtype) = attribute::dtype(&name) else {
            return fail(place, ParseErrorKind::Unknown { kind: "dtype", name });
        };
        self.mark('[')?;
        let mut dims = Vec::new();
        while !self.at(']') {
            if dims.len() == MAX_RANK {
                return self.too_many_axes();
            }
            dims.push(self.dim()?);
            if !self.at(']') {
                self.mark(',')?;
            }
        }
        self.mark(']')?;
        Ok(TensorType { dtype, dims })
    }

    fn too_many_axes<T>(&self) -> Result<T, ParseError> {
        fail(self.place, ParseErrorKind::Limit(format!("more than {MAX_RANK} axes")))
    }

    /// A dim, perhaps with a sign before it.
    fn dim(&mut self) -> Result<Dim, ParseError> {
        let place = self.place;
        let negative = self.eat('-')?;
        self.dim_from(negative, place)
    }

    /// A dim whose sign has been read.
    fn dim_from(&mut self, negative: bool, place: Place) -> Result<Dim, ParseError> {
        let first = self.term()?;
        let mut sum = if negative { &Dim::from(0) - &first } else { first };
        for terms in 1.. {
            let plus = self.at('+');
            if !plus && !self.at('-') {
                break;
            }
            if terms == MAX_TERMS {
                let why = format!("an extent of more than {MAX_TERMS} terms");
                return fail(place, ParseErrorKind::Limit(why));
            }
            self.advance()?;
            let term = self.term()?;
            sum = if plus { &sum + &term } else { &sum - &term };
        }
        Ok(sum)
    }

    fn term(&mut self) -> Result<Dim, ParseError> {
        let place = self.place;
        let mut product = self.factor()?;
        for factors in 1.. {
            if !self.at('*') {
                break;
            }
            if factors == MAX_TERMS {
                let why = format!("a term of more than {MAX_TERMS} factors");
                return fail(place, ParseErrorKind::Limit(why));
            }
            self.advance()?;
            product = &product * &self.factor()?;
        }
        Ok(product)
    }

    fn factor(&mut self) -> Result<Dim, ParseError> {
        if let Token::Name(name) = &self.token
            && let Some(symbol) = symbol(name)
        {
            self.advance()?;
            return Ok(symbol.into());
        }
        match self.token {
            Token::Number(_) => self.integer().map(Dim::from),
            _ => self.expected("an extent"),
        }
    }
}

/// An op before the types of its results are read.
enum Written {
    Weight(String),
    Const(Real),
    Repeat(Op, Vec<ValueId>),
    Plain(Attributes, Vec<ValueId>, Place),
}

fn symbol(name: &str) -> Option<Symbol> {
    Symbol::ALL.into_iter().find(|s| s.name() == name)
}

fn define(scope: &mut Scope, label: Label, value: ValueId, place: Place) -> Result<(), ParseError> {
    let name = label.to_string();
    match scope.insert(label, value) {
        None => Ok(()),
        Some(_) => fail(place, ParseErrorKind::Duplicate(name)),
    }
}
