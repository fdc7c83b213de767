//! Tokens, with the line and column where they start.

use super::{ParseError, ParseErrorKind};

/// A lexical unit.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A keyword, an op, a dtype, an attribute.
    Name(String),
    /// Digits, perhaps with a fraction and an exponent; without sign.
    Number(String),
    /// A string literal, unescaped.
    Text(String),
    /// `%name`, `%"name"`, `%12`, `%name#12`.
    Value(Label),
    /// `@name`.
    At(String),
    /// One of `(){}[],:=+-*`.
    Mark(char),
    /// `..`
    DotDot,
    /// After the last character.
    End,
}

/// How a value is spelled: by name, by number, or by both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Label {
    pub(super) name: Option<String>,
    pub(super) number: Option<u64>,
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.name, self.number) {
            (Some(name), Some(number)) => write!(f, "%{name}#{number}"),
            (Some(name), None) => write!(f, "%{name}"),
            (None, number) => write!(f, "%{}", number.unwrap_or(0)),
        }
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Name(text) | Token::Number(text) => write!(f, "`{text}`"),
            Token::Text(text) => write!(f, "{text:?}"),
            Token::Value(label) => write!(f, "{label}"),
            Token::At(name) => write!(f, "@{name}"),
            Token::Mark(c) => write!(f, "`{c}`"),
            Token::DotDot => write!(f, "`..`"),
            Token::End => write!(f, "the end of the text"),
        }
    }
}

/// Reads tokens one after the other.
pub(super) struct Lexer<'a> {
    rest: std::str::Chars<'a>,
    line: usize,
    column: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Lexer { rest: text.chars(), line: 1, column: 1 }
    }

    /// Where the next character stands.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.line, self.column)
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn second(&self) -> Option<char> {
        self.rest.clone().nth(1)
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            (self.line, self.column) = (self.line + 1, 1);
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn error<T>(&self, why: impl Into<String>) -> Result<T, ParseError> {
        let kind = ParseErrorKind::Token(why.into());
        Err(ParseError { line: self.line, column: self.column, kind })
    }

    /// Passes white space and comments.
    pub(super) fn skip(&mut self) {
        loop {
            match (self.peek(), self.second()) {
                (Some('/'), Some('/')) => while self.bump().is_some_and(|c| c != '\n') {},
                (Some(c), _) if c.is_whitespace() => {
                    self.bump();
                }
                _ => return,
            }
        }
    }

    /// The token at the current place; call [`Lexer::skip`] first.
    pub(super) fn token(&mut self) -> Result<Token, ParseError> {
        let Some(c) = self.peek() else { return Ok(Token::End) };
        match c {
            'a'..='z' | 'A'..='Z' | '_' => Ok(Token::Name(self.name())),
            '0'..='9' => Ok(Token::Number(self.number())),
            '"' => self.text().map(Token::Text),
            '%' => {
                self.bump();
                self.label().map(Token::Value)
            }
            '@' => {
                self.bump();
                match self.peek() {
                    Some('a'..='z' | 'A'..='Z' | '_') => Ok(Token::At(self.name())),
                    _ => self.error("a name is due after `@`"),
                }
            }
            '.' if self.second() == Some('.') => {
                self.bump();
                self.bump();
                Ok(Token::DotDot)
            }
            '(' | ')' | '{' | '}' | '[' | ']' | ',' | ':' | '=' | '+' | '-' | '*' => {
                self.bump();
                Ok(Token::Mark(c))
            }
            c => self.error(format!("unexpected character {c:?}")),
        }
    }

    fn run(&mut self, out: &mut String, wanted: impl Fn(char) -> bool) {
        while let Some(c) = self.peek().filter(|&c| wanted(c)) {
            out.push(c);
            self.bump();
        }
    }

    fn name(&mut self) -> String {
        let mut out = String::new();
        self.run(&mut out, |c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        out
    }

    fn number(&mut self) -> String {
        let mut out = String::new();
        self.run(&mut out, |c| c.is_ascii_digit());
        if self.peek() == Some('.') && self.second().is_some_and(|c| c.is_ascii_digit()) {
            out.push('.');
            self.bump();
            self.run(&mut out, |c| c.is_ascii_digit());
        }
        if self.peek() == Some('e') {
            out.push('e');
            self.bump();
            if let Some(sign) = self.peek().filter(|&c| c == '-' || c == '+') {
                out.push(sign);
                self.bump();
            }
            self.run(&mut out, |c| c.is_ascii_digit());
        }
        out
    }

    fn label(&mut self) -> Result<Label, ParseError> {
        let name = match self.peek() {
            Some('"') => Some(self.text()?),
            Some('a'..='z' | 'A'..='Z' | '_') => Some(self.name()),
            Some('0'..='9') => return Ok(Label { name: None, number: Some(self.digits()?) }),
            _ => return self.error("a name or a number is due after `%`"),
        };
        let mut number = None;
        if self.peek() == Some('#') {
            self.bump();
            number = Some(self.digits()?);
        }
        Ok(Label { name, number })
    }

    fn digits(&mut self) -> Result<u64, ParseError> {
        let mut out = String::new();
        self.run(&mut out, |c| c.is_ascii_digit());
        match out.parse() {
            Ok(number) => Ok(number),
            Err(_) => self.error(format!("{out:?} does not number a value")),
        }
    }

    fn text(&mut self) -> Result<String, ParseError> {
        self.bump();
        let mut out = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => return self.error("a string without its closing quote"),
                Some('"') => {
                    self.bump();
                    return Ok(out);
                }
                Some('\\') => {
                    self.bump();
                    out.push(self.escape()?);
                }
                Some(c) => {
                    out.push(c);
                    self.bump();
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, ParseError> {
        match self.bump() {
            Some('n') => Ok('\n'),
            Some(c @ ('"' | '\\')) => Ok(c),
            Some('u') if self.peek() == Some('{') => {
                self.bump();
                let mut hex = String::new();
                self.run(&mut hex, |c| c.is_ascii_hexdigit());
                let c = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                match (c, self.bump()) {
                    (Some(c), Some('}')) => Ok(c),
                    _ => self.error("an escape is `\\u{hex}`"),
                }
            }
            _ => self.error("the escapes are `\\\"`, `\\\\`, `\\n` and `\\u{hex}`"),
        }
    }
}
