//! Text in and out: tokenizer, chat template, streaming.
//!
//! An executable carries its tokenizer as [`tables`](crate::tokenizer) that are ready when mapped;
//! a kind that the tables do not know is the model's own `tokenizer.json`, run by the `tokenizers`
//! crate. The template is the model's own Jinja text. Nothing here knows the network.

mod bpe;
mod chat;
mod cut;
mod library;
mod stream;
mod tables;

use tokenizers::{NormalizedString, Normalizer as _};

use crate::generate::StopReason;
use crate::payload::{Assets, Payload};
pub use chat::ChatMessage;
use library::Library;
pub use stream::TextStream;

/// The tokenizer as tables, for those who make them.
pub mod tokenizer {
    pub use super::cut::Pattern;
    pub use super::library::{Library, in_library};
    pub use super::tables::{
        AddedToken, Normalizer, SECTIONS, Spelling, TableHead, TableSections, Tables, flags,
    };
}

/// Why text cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The executable carries no tokenizer.
    #[error("this model has no tokenizer: give the prompt as token ids with --tokens")]
    NoTokenizer,
    /// The tokenizer does not load or refuses the text.
    #[error("tokenizer: {why}")]
    Tokenizer {
        /// What the `tokenizers` crate says.
        why: String,
    },
    /// The library that runs the tokenizer panics.
    #[error("tokenizer: the tokenizers library fails on this text")]
    Library,
    /// The executable carries no chat template.
    #[error("this model has no chat template: run it without --chat")]
    NoTemplate,
    /// The template fails, or refuses the conversation.
    #[error("chat template: {why}")]
    Template {
        /// What the template or its engine says.
        why: String,
    },
}

/// The tokenizer and template of a model.
#[derive(Debug)]
pub struct Text {
    engine: Engine,
    template: Option<String>,
    special_tokens: Vec<(String, String)>,
}

#[derive(Debug)]
enum Engine {
    Tables(Box<tables::Tables>),
    Library(Box<Library>),
}

impl Text {
    /// The text side of assets that carry a tokenizer.json.
    ///
    /// # Errors
    /// When there is no tokenizer, or one that does not load.
    pub fn new(assets: &Assets) -> Result<Self, TextError> {
        let json = assets.tokenizer.as_deref().ok_or(TextError::NoTokenizer)?;
        Ok(Text::with(Engine::Library(Box::new(Library::new(json)?)), assets))
    }

    /// The text side of an executable.
    ///
    /// # Errors
    /// As [`Text::new`].
    pub fn of(payload: &Payload) -> Result<Self, TextError> {
        let assets = payload.assets();
        let Some(head) = &assets.tables else { return Text::new(assets) };
        let tables = tables::Tables::new(head, payload.table_bytes()).ok_or_else(damaged)?;
        Ok(Text::with(Engine::Tables(Box::new(tables)), assets))
    }

    fn with(engine: Engine, assets: &Assets) -> Self {
        let (template, special_tokens) =
            (assets.chat_template.clone(), assets.special_tokens.clone());
        Text { engine, template, special_tokens }
    }

    /// The tokens of `text`, with those that the model puts around every text.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_as(text, true)
    }

    fn encode_as(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        match &self.engine {
            Engine::Tables(tables) => tables.encode(text, add_special_tokens).ok_or_else(damaged),
            Engine::Library(library) => library.encode(text, add_special_tokens),
        }
    }

    /// The text of `tokens`, special tokens left out.
    ///
    /// # Errors
    /// When the tokenizer refuses the tokens.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TextError> {
        match &self.engine {
            Engine::Tables(tables) => Ok(tables.decode(tokens)),
            Engine::Library(library) => library.decode(tokens),
        }
    }

    /// What `tokens` say behind `prompt`, but for a token that stopped them.
    ///
    /// # Errors
    /// When the tokenizer refuses a token.
    pub fn continuation(
        &self,
        prompt: &[u32],
        tokens: &[u32],
        stop: StopReason,
    ) -> Result<String, TextError> {
        let mut stream = self.stream(prompt);
        let stopped = usize::from(stop == StopReason::StopToken);
        let mut all = String::new();
        for &token in &tokens[..tokens.len() - stopped] {
            all.push_str(&stream.push(token)?);
        }
        all.push_str(&stream.finish()?);
        Ok(all)
    }

    /// The tokens of a conversation, up to where the model answers.
    ///
    /// # Errors
    /// When there is no template, or it fails or refuses.
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, TextError> {
        let template = self.template.as_deref().ok_or(TextError::NoTemplate)?;
        let text = chat::render(template, messages, &self.special_tokens)?;
        // The template writes the special tokens itself.
        self.encode_as(&text, false)
    }

    /// Whether there is a chat template.
    pub fn can_chat(&self) -> bool {
        self.template.is_some()
    }

    /// A stream of the text that follows `prompt`.
    pub fn stream(&self, prompt: &[u32]) -> TextStream<'_> {
        TextStream::new(self, prompt)
    }
}

fn damaged() -> TextError {
    TextError::Tokenizer { why: "its tables are damaged: compile the model again".to_string() }
}

/// Unicode's normal form C, by the library's tables.
fn compose(text: &str) -> String {
    let mut composed = NormalizedString::from(text);
    match tokenizers::normalizers::NFC.normalize(&mut composed) {
        Ok(()) => composed.get().to_string(),
        Err(_) => text.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A byte-level tokenizer without merges: token i is byte i of the GPT-2 alphabet; 256 is `<s>`,
    /// 257 `</s>`.
    pub(crate) fn byte_tokenizer() -> Vec<u8> {
        let mut vocab = serde_json::Map::new();
        let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let mut next = 256;
        for byte in 0u32..256 {
            let c = if printable(byte) {
                byte
            } else {
                next += 1;
                next - 1
            };
            let key = char::from_u32(c).map(String::from).unwrap_or_default();
            vocab.insert(key, byte.into());
        }
        vocab.insert("<s>".into(), 256.into());
        vocab.insert("</s>".into(), 257.into());
        let special = |id: u32, content: &str| {
            serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        };
        serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(256, "<s>"), special(257, "</s>")],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": true},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []}
        })
        .to_string()
        .into_bytes()
    }

    fn text() -> Text {
        let assets = Assets {
            tokenizer: Some(byte_tokenizer()),
            chat_template: Some(
                "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m['content'].strip() }}\n\
                 {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
                    .to_string(),
            ),
            special_tokens: vec![("bos_token".to_string(), "<s>".to_string())],
            ..Assets::default()
        };
        Text::new(&assets).unwrap()
    }

    #[test]
    fn text_survives_the_round_trip() {
        let text = text();
        for sample in ["def f():\n\treturn 'é'", "日本語 🙂 end", ""] {
            let tokens = text.encode(sample).unwrap();
            assert_eq!(tokens.len(), sample.len());
            assert_eq!(text.decode(&tokens).unwrap(), sample);
        }
    }

    #[test]
    fn conversations_follow_the_template() {
        let messages = [ChatMessage::new("system", "Be kind."), ChatMessage::new("user", " Hi ")];
        let tokens = text().encode_chat(&messages).unwrap();
        assert_eq!(tokens[0], 256, "the template's <s> is one token");
        let rendered = text().decode(&tokens[1..]).unwrap();
        assert_eq!(rendered, "[system] Be kind.\n[user] Hi\n[assistant]");
    }

    #[test]
    fn streams_hold_back_incomplete_characters() {
        let text = text();
        let prompt = text.encode("say: ").unwrap();
        let mut stream = text.stream(&prompt);
        let mut pieces = Vec::new();
        for token in text.encode("é🙂!").unwrap() {
            pieces.push(stream.push(token).unwrap());
        }
        assert_eq!(pieces, ["", "é", "", "", "", "🙂", "!"]);
        stream.push(0xf0).unwrap();
        assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    }

    #[test]
    fn broken_assets_are_errors() {
        assert!(matches!(Text::new(&Assets::default()), Err(TextError::NoTokenizer)));
        let assets = Assets { tokenizer: Some(b"{}".to_vec()), ..Assets::default() };
        assert!(matches!(Text::new(&assets), Err(TextError::Tokenizer { .. })));
    }
}
