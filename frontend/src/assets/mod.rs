//! What comes with the weights: tokenizer, its settings, chat template, generation defaults.
//!
//! All of it is optional, and none of it changes the logits; so what is merely odd becomes a
//! [`Warning`], and only what is broken is an error. The runtime uses `tokenizer_json` as it is.

mod generation;
mod tokenizer;

use std::path::Path;

use crate::config::ModelConfig;
use crate::error::{FrontendError, Warning};
use crate::file;
use crate::json::{self, Object};

pub use generation::GenerationDefaults;
pub use tokenizer::{TokenizerSettings, load_tokenizer};

/// Files beside the weights, read and checked.
#[derive(Clone, Debug, Default)]
pub struct Assets {
    /// tokenizer.json, byte for byte; known to be readable by the `tokenizers` crate.
    pub tokenizer_json: Option<Vec<u8>>,
    /// What tokenizer_config.json says.
    pub tokenizer: TokenizerSettings,
    /// The chat template, a Jinja text: chat_template.jinja, or the one in tokenizer_config.json.
    pub chat_template: Option<String>,
    /// generation_config.json, or the same fields of config.json.
    pub generation: GenerationDefaults,
}

impl Assets {
    /// Reads the assets of a model directory.
    ///
    /// # Errors
    /// When a file is there and is broken.
    pub(crate) fn read(
        directory: &Path,
        config: &ModelConfig,
        config_object: &Object,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, FrontendError> {
        let generation = generation::read(directory, config, config_object, warnings)?;
        let assets = Self::read_texts(directory, Some(config.vocab_size), warnings)?;
        Ok(Assets { generation, ..assets })
    }

    /// Reads the assets that do not need config.json.
    ///
    /// # Errors
    /// As [`Assets::read`].
    pub(crate) fn read_texts(
        directory: &Path,
        vocab_size: Option<usize>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, FrontendError> {
        let tokenizer_json = tokenizer::read(directory, vocab_size, warnings)?;
        let path = directory.join("tokenizer_config.json");
        let (tokenizer, inline_template) = match file::exists(&path) {
            true => tokenizer::read_settings(&path, json::read_object(&path)?, warnings)?,
            false => (TokenizerSettings::default(), None),
        };
        let path = directory.join("chat_template.jinja");
        let chat_template = match file::exists(&path) {
            true => Some(file::read_text(&path)?),
            false => inline_template,
        };
        Ok(Assets { tokenizer_json, tokenizer, chat_template, ..Assets::default() })
    }
}
