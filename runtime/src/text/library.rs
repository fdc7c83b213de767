//! The `tokenizers` library, with what it does to surprise its callers taken out.
//!
//! As in `transformers`: truncation and padding of a tokenizer.json are for training and are left
//! out. The library panics on some tokenizers and texts; here that is an error where panics unwind,
//! and [`in_library`] tells the hook of an executable, which aborts, whose fault it was.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::Tokenizer;

use super::TextError;

thread_local! {
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside the library: then a panic is a matter of tokenizer and text.
pub fn in_library() -> bool {
    CALLING.get()
}

/// A tokenizer of the library.
#[derive(Debug)]
pub struct Library(Tokenizer);

impl Library {
    /// The tokenizer of a tokenizer.json.
    ///
    /// # Errors
    /// When it does not load.
    pub fn new(json: &[u8]) -> Result<Self, TextError> {
        call(|| {
            let mut tokenizer = Tokenizer::from_bytes(json)?;
            tokenizer.with_truncation(None)?;
            tokenizer.with_padding(None);
            Ok(Library(tokenizer))
        })
    }

    /// The tokens of a text, with those around every text where asked for.
    ///
    /// # Errors
    /// When the library refuses the text or fails on it.
    pub fn encode(&self, text: &str, around: bool) -> Result<Vec<u32>, TextError> {
        call(|| Ok(self.0.encode_fast(text, around)?.get_ids().to_vec()))
    }

    /// The text of tokens, special tokens left out.
    ///
    /// # Errors
    /// When the library refuses the tokens or fails on them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TextError> {
        call(|| self.0.decode(tokens, true))
    }

    /// Tokens, those that were added to the vocabulary included.
    pub fn vocabulary(&self) -> usize {
        self.0.get_vocab_size(true)
    }
}

/// Calls the library. Nothing of ours is changed by a call, so none can be torn.
fn call<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TextError> {
    CALLING.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CALLING.set(false);
    match result {
        Ok(done) => done.map_err(|e| TextError::Tokenizer { why: e.to_string() }),
        Err(_) => Err(TextError::Library),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::byte_tokenizer;
    use super::*;

    fn with(key: &str, value: serde_json::Value) -> Library {
        let mut json: serde_json::Value = serde_json::from_slice(&byte_tokenizer()).unwrap();
        json[key] = value;
        Library::new(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn texts_are_neither_cut_nor_filled_up() {
        let cut = serde_json::json!({"max_length": 2, "strategy": "LongestFirst", "stride": 5,
            "direction": "Right"});
        let filled = serde_json::json!({"strategy": {"Fixed": 1_000_000_000}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
        for library in [with("truncation", cut), with("padding", filled)] {
            assert_eq!(library.encode("abcde", true).unwrap().len(), 5);
        }
    }

    #[test]
    fn what_the_library_panics_on_is_an_error() {
        let replace =
            serde_json::json!({"type": "Replace", "pattern": {"String": ""}, "content": "z"});
        let error = with("normalizer", replace).encode("abc", true).unwrap_err();
        assert_eq!(error, TextError::Library);
        assert!(!in_library());
    }
}
