//! Text as it comes: each token's contribution, never half a character.

use super::{Text, TextError};

/// Tokens of the prompt that are decoded with the first new ones, because a token's text may depend
/// on what is before it (leading spaces, characters split over tokens).
const CONTEXT: usize = 8;

/// Decodes a growing sequence of tokens piece by piece.
#[derive(Debug)]
pub struct TextStream<'a> {
    text: &'a Text,
    tokens: Vec<u32>,
    /// Decoding starts here, so that a piece's beginning is decoded in context.
    prefix: usize,
    /// Tokens before this have been written.
    written: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(text: &'a Text, prompt: &[u32]) -> Self {
        let tokens = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        let written = tokens.len();
        TextStream { text, tokens, prefix: 0, written }
    }

    /// The text that `token` completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// When the tokenizer refuses the token.
    pub fn push(&mut self, token: u32) -> Result<String, TextError> {
        self.tokens.push(token);
        let piece = self.pending()?;
        if piece.is_empty() || piece.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.prefix = self.written;
        self.written = self.tokens.len();
        Ok(piece)
    }

    /// What is left, broken characters replaced.
    ///
    /// # Errors
    /// When the tokenizer refuses the tokens.
    pub fn finish(self) -> Result<String, TextError> {
        self.pending()
    }

    fn pending(&self) -> Result<String, TextError> {
        let before = self.text.decode(&self.tokens[self.prefix..self.written])?;
        let all = self.text.decode(&self.tokens[self.prefix..])?;
        Ok(all.get(before.len()..).unwrap_or("").to_string())
    }
}
