//! A tokenizer as tables: byte-level or SentencePiece BPE without JSON, regular expressions or maps.
//!
//! The compiler makes them from the model's tokenizer.json and compares what they do with the
//! `tokenizers` library (`backend_cpu`); an executable maps them and reads what a text needs. Merges
//! are rows by left token, sorted by right token; texts are sorted for binary search; classes of
//! characters are sorted ranges. Numbers are little-endian u32.
//! Every access is checked, so damaged tables give an error or odd tokens, never a panic.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tensor::Bytes;

use super::bpe::{self, Merge};
use super::cut::{self, Classes, Pattern};

/// Sections, in the order they are stored.
pub const SECTIONS: usize = 9;

/// What of a tokenizer is not in the sections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableHead {
    /// Bytes of each section; see [`TableSections`].
    pub lengths: [u64; SECTIONS],
    /// How characters become the first symbols, and tokens text.
    pub spelling: Spelling,
    /// What happens to a text before it is cut.
    pub normalizer: Normalizer,
    /// Every digit is cut off first.
    pub digits: bool,
    /// How text is cut into words.
    pub pattern: Pattern,
    /// A word that is a token is taken whole.
    pub whole_words: bool,
    /// Tokens found in text before anything else.
    pub added: Vec<AddedToken>,
    /// Tokens in front of every text.
    pub before: Vec<u32>,
    /// Tokens behind every text.
    pub after: Vec<u32>,
}

/// The sections of tables, as they are made.
#[derive(Clone, Debug, Default)]
pub struct TableSections {
    /// Where the text of token i starts and (i + 1) ends.
    pub offsets: Vec<u32>,
    /// Texts of tokens as they are written out, one after another.
    pub texts: Vec<u8>,
    /// Per token: see [`flags`].
    pub flags: Vec<u8>,
    /// Tokens that words are made of, sorted by text.
    pub by_text: Vec<u32>,
    /// Per byte the token that is this byte; `u32::MAX` for none.
    pub bytes: Vec<u32>,
    /// Where the merges of left token i start in `merges`, in merges.
    pub rows: Vec<u32>,
    /// Right token, rank, result; sorted by right token within a row.
    pub merges: Vec<[u32; 3]>,
    /// Letters: first and last character of each range.
    pub letters: Vec<[u32; 2]>,
    /// Numbers, likewise.
    pub numbers: Vec<[u32; 2]>,
}

/// How characters become symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spelling {
    /// Every byte is a symbol.
    Bytes,
    /// Every character is a symbol; one without a token is its bytes, or else unknown.
    Pieces {
        /// The token for what has none.
        unknown: Option<u32>,
        /// Several unknown characters are one token.
        fuse: bool,
        /// Characters without a token are spelled in bytes.
        byte_fallback: bool,
        /// A space at the beginning of a text that is written out is left out.
        strip: bool,
    },
}

/// What happens to a text before it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Normalizer {
    /// Nothing.
    None,
    /// Unicode's composition (NFC).
    Compose,
    /// Spaces become `▁`, after one is put in front if so wanted.
    Spaces {
        /// Whether one is put in front.
        prepend: bool,
    },
}

/// A token that is found in text as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedToken {
    /// Its text; not empty.
    pub text: String,
    /// Its id.
    pub id: u32,
    /// White space before it belongs to it.
    pub strip_left: bool,
    /// White space behind it belongs to it.
    pub strip_right: bool,
}

/// Bits of [`TableSections::flags`].
pub mod flags {
    /// There is such a token.
    pub const EXISTS: u8 = 1;
    /// It is not written out.
    pub const SPECIAL: u8 = 2;
    /// Its text is one byte of a character.
    pub const RAW_BYTE: u8 = 4;
}

const SPACE_MARK: &str = "\u{2581}";

impl TableSections {
    /// The bytes of all sections and their lengths.
    pub fn encode(&self) -> (Vec<u8>, [u64; SECTIONS]) {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let sections = [
            words(&self.offsets),
            self.texts.clone(),
            self.flags.clone(),
            words(&self.by_text),
            words(&self.bytes),
            words(&self.rows),
            words(self.merges.as_flattened()),
            words(self.letters.as_flattened()),
            words(self.numbers.as_flattened()),
        ];
        (sections.concat(), sections.map(|s| s.len() as u64))
    }
}

impl TableHead {
    /// Bytes of all sections; `None` on overflow.
    pub fn bytes(&self) -> Option<u64> {
        self.lengths.iter().try_fold(0u64, |sum, &len| sum.checked_add(len))
    }
}

/// Tables in use.
#[derive(Debug)]
pub struct Tables {
    head: TableHead,
    sections: [Bytes; SECTIONS],
    /// First bytes of added tokens.
    starts: [bool; 256],
}

fn word(section: &[u8], i: usize) -> Option<u32> {
    let bytes = section.get(i.checked_mul(4)?..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}

impl Tables {
    /// Tables over their bytes; `None` when the lengths do not fit.
    pub fn new(head: &TableHead, bytes: &Bytes) -> Option<Self> {
        let mut at = 0usize;
        let mut sections: [Bytes; SECTIONS] = std::array::from_fn(|_| Vec::new().into());
        for (section, &len) in sections.iter_mut().zip(&head.lengths) {
            let end = at.checked_add(usize::try_from(len).ok()?)?;
            *section = bytes.slice(at..end)?;
            at = end;
        }
        let mut head = head.clone();
        // The longest first, so that the first that fits is the longest.
        head.added.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then(a.text.cmp(&b.text)));
        let mut starts = [false; 256];
        for token in &head.added {
            starts[usize::from(*token.text.as_bytes().first()?)] = true;
        }
        Some(Tables { head, sections, starts })
    }

    /// The tokens of `text`; `None` when the tables are damaged.
    pub fn encode(&self, text: &str, around: bool) -> Option<Vec<u32>> {
        let mut out = Vec::with_capacity(text.len() / 3 + 8);
        if around {
            out.extend(&self.head.before);
        }
        let mut done = 0;
        for (start, end, id) in self.added_tokens(text) {
            self.encode_plain(text.get(done..start)?, &mut out)?;
            out.push(id);
            done = end;
        }
        self.encode_plain(text.get(done..)?, &mut out)?;
        if around {
            out.extend(&self.head.after);
        }
        Some(out)
    }

    /// Start, end and id of the added tokens of a text: leftmost, then longest.
    fn added_tokens(&self, text: &str) -> Vec<(usize, usize, u32)> {
        let mut found = Vec::new();
        let (mut at, mut done) = (0, 0);
        while let Some(&byte) = text.as_bytes().get(at) {
            let here = &text.as_bytes()[at..];
            let fits = |t: &&AddedToken| here.starts_with(t.text.as_bytes());
            let possible = self.starts[usize::from(byte)];
            let Some(token) = self.head.added.iter().find(|t| possible && fits(t)) else {
                at += 1;
                continue;
            };
            let (mut start, mut end) = (at, at + token.text.len());
            at = end;
            if token.strip_left {
                let before = text.get(done..start).unwrap_or("");
                start = done + before.trim_end().len();
            }
            if token.strip_right {
                let behind = text.get(end..).unwrap_or("");
                end += behind.len() - behind.trim_start().len();
            }
            found.push((start, end, token.id));
            done = end;
        }
        found
    }

    /// Text between added tokens.
    fn encode_plain(&self, text: &str, out: &mut Vec<u32>) -> Option<()> {
        if text.is_empty() {
            return Some(());
        }
        let text = &*match self.head.normalizer {
            Normalizer::Compose if !text.is_ascii() => super::compose(text).into(),
            Normalizer::None | Normalizer::Compose => Cow::Borrowed(text),
            Normalizer::Spaces { prepend } => {
                let spaced = text.replace(' ', SPACE_MARK);
                if prepend { format!("{SPACE_MARK}{spaced}").into() } else { spaced.into() }
            }
        };
        let classes = Classes { letters: &self.sections[7], numbers: &self.sections[8] };
        let mut whole = Some(());
        cut::digits(text, self.head.digits, &mut |part| {
            cut::words(part, self.head.pattern, &classes, &mut |piece| {
                whole = whole.and_then(|()| self.encode_word(piece, out));
            });
        });
        whole
    }

    fn encode_word(&self, text: &str, out: &mut Vec<u32>) -> Option<()> {
        if self.head.whole_words
            && let Some(id) = self.by_text(text.as_bytes())
        {
            out.push(id);
            return Some(());
        }
        let mut symbols = Vec::with_capacity(text.len());
        match self.head.spelling {
            Spelling::Bytes => {
                for byte in text.bytes() {
                    let id = word(&self.sections[4], usize::from(byte))?;
                    symbols.extend((id != u32::MAX).then_some(id));
                }
            }
            Spelling::Pieces { unknown, fuse, byte_fallback, .. } => {
                self.pieces(text, (unknown, fuse, byte_fallback), &mut symbols);
            }
        }
        bpe::merge(&symbols, |left, right| self.merge(left, right), out);
        Some(())
    }

    /// The symbols of a text in characters. As the library has it, unknown characters wait for the
    /// next known one, and characters spelled in bytes do not end the wait.
    fn pieces(
        &self,
        text: &str,
        (unknown, fuse, byte_fallback): (Option<u32>, bool, bool),
        symbols: &mut Vec<u32>,
    ) {
        let mut waiting: Option<u32> = None;
        let mut spelled = [0; 4];
        for c in text.chars() {
            let piece = c.encode_utf8(&mut spelled);
            let written = if *piece == *SPACE_MARK { " " } else { &*piece };
            if let Some(id) = self.by_text(written.as_bytes()) {
                symbols.extend(waiting.take());
                symbols.push(id);
                continue;
            }
            if byte_fallback {
                let ids = piece.bytes().map(|byte| {
                    word(&self.sections[4], usize::from(byte)).filter(|&id| id != u32::MAX)
                });
                if let Some(ids) = ids.collect::<Option<Vec<u32>>>() {
                    symbols.extend(ids);
                    continue;
                }
            }
            if let Some(unknown) = unknown {
                match (waiting, fuse) {
                    (Some(_), true) => {}
                    (Some(earlier), false) => symbols.push(earlier),
                    (None, _) => waiting = Some(unknown),
                }
            }
        }
        symbols.extend(waiting);
    }

    /// The text of a token.
    fn text(&self, id: u32) -> Option<&[u8]> {
        let i = id as usize;
        let (start, end) = (word(&self.sections[0], i)?, word(&self.sections[0], i + 1)?);
        self.sections[1].get(start as usize..end as usize)
    }

    /// The token of a text, as it is written out.
    fn by_text(&self, text: &[u8]) -> Option<u32> {
        let section = &self.sections[3];
        let (mut low, mut high) = (0, section.len() / 4);
        while low < high {
            let middle = low + (high - low) / 2;
            let id = word(section, middle)?;
            match self.text(id)?.cmp(text) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(id),
            }
        }
        None
    }

    fn merge(&self, left: u32, right: u32) -> Option<Merge> {
        let rows = &self.sections[5];
        let (mut low, mut high) = (word(rows, left as usize)?, word(rows, left as usize + 1)?);
        let merges = &self.sections[6];
        while low < high {
            let middle = low + (high - low) / 2;
            let at = middle as usize * 3;
            let found = word(merges, at)?;
            match found.cmp(&right) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    return Some(Merge {
                        rank: word(merges, at + 1)?,
                        token: word(merges, at + 2)?,
                    });
                }
            }
        }
        None
    }

    /// The text of `tokens`, special tokens left out. Unknown ids have none.
    pub fn decode(&self, tokens: &[u32]) -> String {
        use flags::{EXISTS, RAW_BYTE, SPECIAL};
        let bits = |id: u32| self.sections[2].get(id as usize).copied().unwrap_or(0);
        let written = tokens.iter().filter(|&&id| bits(id) & (EXISTS | SPECIAL) == EXISTS);
        let texts = written.map(|&id| (bits(id), self.text(id).unwrap_or_default()));
        match self.head.spelling {
            Spelling::Bytes => {
                let bytes: Vec<u8> = texts.flat_map(|(_, text)| text.iter().copied()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Spelling::Pieces { strip, .. } => {
                let (mut out, mut raw) = (String::new(), Vec::new());
                for (bits, text) in texts {
                    if bits & RAW_BYTE != 0 {
                        raw.extend_from_slice(text);
                    } else {
                        flush(&mut raw, &mut out);
                        out.push_str(&String::from_utf8_lossy(text));
                    }
                }
                flush(&mut raw, &mut out);
                if strip && out.starts_with(' ') { out.split_off(1) } else { out }
            }
        }
    }
}

/// Bytes that make no text become as many replacement characters, as the library has it.
fn flush(raw: &mut Vec<u8>, out: &mut String) {
    match std::str::from_utf8(raw) {
        Ok(text) => out.push_str(text),
        Err(_) => out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, raw.len())),
    }
    raw.clear();
}
