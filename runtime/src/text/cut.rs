//! Cutting text into words, as the regular expressions of the common byte-level tokenizers do it,
//! without an engine: one scan, no allocation.
//!
//! A [`Pattern`] stands for one exact expression (`source`); the compiler chooses it by comparing
//! texts, so an expression that is not here is left to the library. Alternatives are tried in the
//! order of the expression. Every character belongs to exactly one word.

use serde::{Deserialize, Serialize};

/// An expression that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pattern {
    /// Text is one word.
    Whole,
    /// GPT-2's.
    Gpt2,
    /// Llama 3's: numbers of up to three digits, words with one sign in front.
    Llama3,
    /// Qwen 2's: as Llama 3's, numbers of one digit.
    Qwen2,
}

impl Pattern {
    /// All with an expression.
    pub const KNOWN: [Pattern; 3] = [Pattern::Gpt2, Pattern::Llama3, Pattern::Qwen2];

    /// The expression as tokenizer.json has it.
    pub fn source(self) -> &'static str {
        match self {
            Pattern::Whole => "",
            Pattern::Gpt2 => {
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
            }
            Pattern::Llama3 => {
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            }
            Pattern::Qwen2 => {
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            }
        }
    }
}

/// Sorted ranges of characters: pairs of little-endian u32, first and last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Classes<'a> {
    /// `\p{L}`.
    pub(super) letters: &'a [u8],
    /// `\p{N}`.
    pub(super) numbers: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

impl Classes<'_> {
    fn of(&self, c: char) -> Class {
        match c {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            _ if c.is_whitespace() => Class::Space,
            _ if c.is_ascii() => Class::Other,
            _ if contains(self.letters, c) => Class::Letter,
            _ if contains(self.numbers, c) => Class::Number,
            _ => Class::Other,
        }
    }

    /// Bytes of the characters of a class that `text` begins with, at most `most` of them.
    fn run(&self, text: &str, class: Class, most: usize) -> usize {
        let rest = text.chars().take(most).take_while(|&c| self.of(c) == class);
        rest.map(char::len_utf8).sum()
    }
}

fn contains(ranges: &[u8], c: char) -> bool {
    let pairs = ranges.as_chunks::<8>().0;
    let bound = |pair: &[u8; 8], at: usize| {
        u32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]])
    };
    let behind = pairs.partition_point(|pair| bound(pair, 0) <= c as u32);
    behind.checked_sub(1).is_some_and(|i| c as u32 <= bound(&pairs[i], 4))
}

/// Cuts off every digit, if so wanted.
pub(super) fn digits<'a>(text: &'a str, wanted: bool, sink: &mut dyn FnMut(&'a str)) {
    let mut rest = text;
    while wanted && let Some(at) = rest.find(char::is_numeric) {
        let (before, from) = rest.split_at(at);
        let (digit, behind) = from.split_at(from.chars().next().map_or(0, char::len_utf8));
        if !before.is_empty() {
            sink(before);
        }
        sink(digit);
        rest = behind;
    }
    if !rest.is_empty() {
        sink(rest);
    }
}

/// Cuts text into words.
pub(super) fn words<'a>(
    text: &'a str,
    pattern: Pattern,
    classes: &Classes<'_>,
    sink: &mut dyn FnMut(&'a str),
) {
    let mut rest = text;
    while !rest.is_empty() {
        let len = match pattern {
            Pattern::Whole => rest.len(),
            Pattern::Gpt2 => gpt2(rest, classes),
            Pattern::Llama3 => modern(rest, classes, 3),
            Pattern::Qwen2 => modern(rest, classes, 1),
        };
        let (word, behind) = rest.split_at(len);
        sink(word);
        rest = behind;
    }
}

/// Length of the first word of a text that is not empty.
fn gpt2(text: &str, classes: &Classes<'_>) -> usize {
    if let Some(len) = contraction(text, false) {
        return len;
    }
    let space = usize::from(text.starts_with(' '));
    let body = &text[space..];
    match body.chars().next().map(|c| classes.of(c)) {
        Some(class @ (Class::Letter | Class::Number | Class::Other)) => {
            space + classes.run(body, class, usize::MAX)
        }
        _ => spaces(text, classes),
    }
}

/// As [`gpt2`], for the expressions of Llama 3 and Qwen 2.
fn modern(text: &str, classes: &Classes<'_>, digits_max: usize) -> usize {
    if let Some(len) = contraction(text, true) {
        return len;
    }
    let mut chars = text.chars();
    let (Some(first), second) = (chars.next(), chars.next()) else { return text.len() };
    let class = classes.of(first);
    let letter_next = second.is_some_and(|c| classes.of(c) == Class::Letter);
    match class {
        Class::Letter => return classes.run(text, Class::Letter, usize::MAX),
        Class::Number => return classes.run(text, Class::Number, digits_max),
        _ if !matches!(first, '\r' | '\n') && letter_next => {
            let len = first.len_utf8();
            return len + classes.run(&text[len..], Class::Letter, usize::MAX);
        }
        _ => {}
    }
    let space = usize::from(first == ' ');
    let signs = classes.run(&text[space..], Class::Other, usize::MAX);
    if signs > 0 {
        let end = space + signs;
        let newlines = text[end..].bytes().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        return end + newlines;
    }
    let run = &text[..classes.run(text, Class::Space, usize::MAX)];
    match run.rfind(['\r', '\n']) {
        Some(last) => last + 1,
        None => spaces(text, classes),
    }
}

/// `\s+(?!\S)|\s+`: white space, without the last of it where a word follows.
fn spaces(text: &str, classes: &Classes<'_>) -> usize {
    let run = &text[..classes.run(text, Class::Space, usize::MAX)];
    let last = run.chars().next_back().map_or(1, char::len_utf8);
    if run.len() == text.len() || run.len() == last { run.len() } else { run.len() - last }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`. The long s is an s where case does not count.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    let fold = |c: char| match c {
        '\u{17f}' if any_case => 's',
        _ if any_case => c.to_ascii_lowercase(),
        _ => c,
    };
    let mut chars = rest.chars();
    let (first, second) = (chars.next()?, chars.next());
    let one = first.len_utf8();
    match (fold(first), second.map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => Some(1 + one),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, pattern: Pattern) -> Vec<&str> {
        let ranges = |pairs: &[[u32; 2]]| -> Vec<u8> {
            pairs.as_flattened().iter().flat_map(|w| w.to_le_bytes()).collect()
        };
        let (letters, numbers) =
            (ranges(&[[0xc0, 0x24f], [0x4e00, 0x9fff]]), ranges(&[[0xb2, 0xb3]]));
        let classes = Classes { letters: &letters, numbers: &numbers };
        let mut out = Vec::new();
        words(text, pattern, &classes, &mut |word| out.push(word));
        out
    }

    #[test]
    fn words_are_cut_as_the_expressions_say() {
        let text = "I'll  say: 'x' 1234\n\n  é日!\t";
        let gpt2 =
            ["I", "'ll", " ", " say", ":", " '", "x", "'", " 1234", "\n\n ", " é日", "!", "\t"];
        assert_eq!(cut(text, Pattern::Gpt2), gpt2);
        let llama3 = [
            "I", "'ll", " ", " say", ":", " '", "x", "'", " ", "123", "4", "\n\n", " ", " é日",
            "!", "\t",
        ];
        assert_eq!(cut(text, Pattern::Llama3), llama3);
        assert_eq!(cut("12", Pattern::Qwen2), ["1", "2"]);
        assert_eq!(
            cut("it'S a\u{17f} x'\u{17f}", Pattern::Llama3),
            ["it", "'S", " a\u{17f}", " x", "'\u{17f}"]
        );
        assert_eq!(cut("a'S", Pattern::Gpt2), ["a", "'", "S"]);
        assert_eq!(cut("!!\r\nx", Pattern::Qwen2), ["!!\r\n", "x"]);
        assert_eq!(cut(" \u{a0}\u{a0}x", Pattern::Gpt2), [" \u{a0}", "\u{a0}", "x"]);
    }

    #[test]
    fn digits_stand_alone() {
        let mut out = Vec::new();
        digits("a12b³", true, &mut |part| out.push(part));
        assert_eq!(out, ["a", "1", "2", "b", "³"]);
    }
}
