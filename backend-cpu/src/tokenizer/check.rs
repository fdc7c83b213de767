//! Proves tables against the library: the same tokens for the same texts, and the same texts back.
//!
//! Texts are those that tokenizers get wrong, every token of the vocabulary by itself and in company
//! (a sample of large ones), and seeded mixtures of all kinds of characters. The first difference is
//! named, and the tables are not used.

use runtime::TextError;
use runtime::tokenizer::{Library, Tables};
use tensor::Rng;

/// Texts of every kind that has surprised a tokenizer.
const TRICKY: &[&str] = &[
    "",
    " ",
    "  ",
    "\n",
    "\r\n\r\n",
    "\t\t x",
    " leading and trailing ",
    "Hello, world! How're you? I'll we've they'd CAN'T DON'T it'S",
    "don\u{2019}t \u{2018}quote\u{2019} \u{201c}double\u{201d} \u{2014} dash\u{2026}",
    "a  b   c    d     e\n\n\nf \n g\u{a0}\u{a0}h\u{3000}i\u{2003}j",
    "1 12 123 1234 12345 3.14159 1,000,000 0x1F 1e-9 \u{b2}\u{bd}\u{2167} \u{661}\u{662}\u{663}",
    "def f(x):\n    return {'a': [x**2, -x], \"b\": x != 0}\n\n\tpass  # comment\n",
    "fn main() -> Result<(), Box<dyn Error>> { println!(\"{:?}\", v[..3]); }",
    "<html><body class='x'>&nbsp;&amp;</body></html>",
    "https://example.com/a?b=c&d=%20#frag user@example.org C:\\dir\\file.txt",
    "na\u{ef}ve caf\u{e9} cafe\u{301} \u{c5}ngstr\u{f6}m A\u{30a} \u{212b} \u{1e9b}\u{323} \u{fb01}",
    "\u{65e5}\u{672c}\u{8a9e}\u{306e}\u{6587}\u{7ae0}\u{3002}\u{4e2d}\u{6587}\u{ff0c}\u{d55c}\u{ad6d}\u{c5b4} \u{1112}\u{1161}\u{11ab}",
    "\u{420}\u{443}\u{441}\u{441}\u{43a}\u{438}\u{439} \u{395}\u{3bb}\u{3bb}\u{3b7}\u{3bd}\u{3b9}\u{3ba}\u{3ac} \u{5e2}\u{5d1}\u{5e8}\u{5d9}\u{5ea} \u{627}\u{644}\u{639}\u{631}\u{628}\u{64a}\u{629} \u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940} \u{e44}\u{e17}\u{e22}",
    "\u{1f642} \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{1f1e9}\u{1f1ea} \u{270a}\u{1f3fd} \u{2764}\u{fe0f} \u{1f642}\u{1f642}",
    "\u{0}\u{1}\u{7}\u{1b}[0m\u{7f}\u{80}\u{9f} \u{feff}\u{fffd}\u{fffe}\u{10ffff}\u{e000}",
    "\u{200b}\u{200e}\u{202e}abc\u{202c} \u{ad} \u{85} \u{2028}\u{2029}x",
    "'s 'S '\u{17f} 'll 'LL 'lL 're'RE've'VE'm'M'd'D't'T ''' 'x",
    "\u{2581}under\u{2581}score \u{2581} __init__ _a_ snake_case camelCase",
    "$\\int_0^\\infty e^{-x^2}dx$ \u{2200}x\u{2208}\u{211d}: \u{221a}x\u{b2}=|x| \u{1d54f}\u{1d7d9}",
    "<s></s><unk><pad><|endoftext|><|im_start|>user\nhi<|im_end|>\n[INST] x [/INST] <0x0A>",
    "!!!???...---___+++===~~~```###\n***bold*** !\n!\r\n?\n\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// Characters that mixtures are made of.
const MIXED: &[&str] = &[
    " ",
    " ",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "a",
    "b",
    "e",
    "s",
    "t",
    "The",
    "ing",
    "un",
    "'",
    "'s",
    "'re",
    "0",
    "1",
    "42",
    "999",
    ".",
    ",",
    "!",
    "?",
    "(",
    ")",
    "{",
    "\"",
    "-",
    "_",
    "=",
    "/",
    "\\",
    "#",
    "\u{e9}",
    "e\u{301}",
    "\u{df}",
    "\u{65e5}",
    "\u{672c}",
    "\u{3042}",
    "\u{ac00}",
    "\u{1f642}",
    "\u{200d}",
    "\u{fe0f}",
    "\u{a0}",
    "\u{3000}",
    "\u{2019}",
    "\u{2581}",
    "\u{b2}",
    "\u{661}",
    "\u{17f}",
    "\u{0}",
    "\u{7f}",
    "\u{feff}",
    "\u{10ffff}",
    "<|",
    "|>",
    "<s>",
    "\u{1112}",
    "\u{1161}",
    "\u{85}",
    "\u{2028}",
];

/// Mixtures, and tokens that are compared one by one.
const MIXTURES: usize = 2000;
const TOKENS: usize = 8000;

/// Whether the library survives ordinary texts: on some tokenizers it panics at every one.
///
/// # Errors
/// When it does not; a text that is refused is none.
pub(super) fn survives(json: &[u8]) -> Result<(), TextError> {
    let library = Library::new(json)?;
    for text in TRICKY.iter().filter(|text| text.is_ascii()) {
        if let Err(error @ TextError::Library) = library.encode(text, true) {
            return Err(error);
        }
    }
    Ok(())
}

/// Compares.
///
/// # Errors
/// The first difference.
pub(super) fn compare(json: &[u8], tables: &Tables) -> Result<(), String> {
    let library = Library::new(json).map_err(|e| e.to_string())?;
    for text in TRICKY {
        same(&library, tables, text)?;
    }
    let mut rng = Rng::new(1);
    for i in 0..MIXTURES {
        let parts = (0..1 + rng.below(24)).map(|_| MIXED[rng.below(MIXED.len())]);
        same(&library, tables, &parts.collect::<String>())?;
        same(&library, tables, &TRICKY[i % TRICKY.len()].chars().rev().collect::<String>())?;
    }
    let count = library.vocabulary();
    for i in 0..count.min(TOKENS) {
        let token = if count <= TOKENS { i } else { rng.below(count) } as u32;
        let text = decoded(&library, &[token])?;
        if text != tables.decode(&[token]) {
            return Err(format!("token {token} is written as {:?}", tables.decode(&[token])));
        }
        let spaced =
            format!("{text} {text}\n{}", decoded(&library, &[token ^ 1, token, token ^ 7])?);
        same(&library, tables, &spaced)?;
    }
    // Tokens that make no text: broken characters, unknown ids.
    for _ in 0..MIXTURES {
        let ids: Vec<u32> = (0..1 + rng.below(8)).map(|_| rng.below(count + 3) as u32).collect();
        let (expected, found) = (decoded(&library, &ids)?, tables.decode(&ids));
        if expected != found {
            return Err(format!("tokens {ids:?} are written as {found:?}, not {expected:?}"));
        }
    }
    Ok(())
}

fn decoded(library: &Library, ids: &[u32]) -> Result<String, String> {
    library.decode(ids).map_err(|e| e.to_string())
}

fn same(library: &Library, tables: &Tables, text: &str) -> Result<(), String> {
    for around in [true, false] {
        let expected = library.encode(text, around).map_err(|e| e.to_string())?;
        let found = tables.encode(text, around).ok_or("the tables are damaged")?;
        if expected != found {
            return Err(format!("{text:?} becomes {found:?}, not {expected:?}"));
        }
        if !around {
            let (expected, found) = (decoded(library, &found)?, tables.decode(&found));
            if expected != found {
                return Err(format!("{text:?} comes back as {found:?}, not {expected:?}"));
            }
        }
    }
    Ok(())
}
