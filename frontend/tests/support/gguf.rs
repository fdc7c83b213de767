//! GGUF files, written byte by byte: a well-formed tiny Llama that tests damage.

use tensor::Rng;

/// A value of the metadata.
#[derive(Clone, Debug)]
pub(crate) enum Meta {
    U32(u32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    U32s(Vec<u32>),
    F32s(Vec<f32>),
    /// Type id and bytes, whatever they say.
    Raw(u32, Vec<u8>),
}

/// A tensor: extents as the file has them, innermost first.
#[derive(Clone, Debug)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    pub(crate) extents: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
    /// Offset instead of the next free one.
    pub(crate) offset: Option<u64>,
}

/// A file to be written.
#[derive(Clone, Debug)]
pub(crate) struct GgufFile {
    pub(crate) version: u32,
    pub(crate) metadata: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<GgufTensor>,
    /// Counts instead of the right ones.
    pub(crate) tensor_count: Option<u64>,
    pub(crate) pair_count: Option<u64>,
}

/// GGML's ids of encodings.
pub(crate) const F32: u32 = 0;
pub(crate) const Q4_0: u32 = 2;
pub(crate) const Q4_1: u32 = 3;
pub(crate) const Q5_1: u32 = 7;
pub(crate) const Q8_0: u32 = 8;

/// Bytes of `elements` of an encoding: small scales, any codes.
pub(crate) fn blocks(kind: u32, elements: u64, rng: &mut Rng) -> Vec<u8> {
    let scale = || half::f16::from_f32(0.01).to_le_bytes().to_vec();
    let block = |rng: &mut Rng, halves: usize, codes: usize| {
        let mut out: Vec<u8> = (0..halves).flat_map(|_| scale()).collect();
        out.extend((0..codes).map(|_| (rng.next_u64() % 255) as u8 ^ 0x80));
        out
    };
    match kind {
        F32 => (0..elements).flat_map(|_| (rng.normal() * 0.1).to_le_bytes()).collect(),
        Q4_0 => (0..elements / 32).flat_map(|_| block(rng, 1, 16)).collect(),
        Q4_1 => (0..elements / 32).flat_map(|_| block(rng, 2, 16)).collect(),
        Q5_1 => (0..elements / 32).flat_map(|_| block(rng, 2, 20)).collect(),
        Q8_0 => (0..elements / 32).flat_map(|_| block(rng, 1, 32)).collect(),
        other => panic!("no blocks of {other}"),
    }
}

/// A Llama of two layers, 32 wide, four heads of eight, two for keys; matrices in `kind`.
pub(crate) fn llama(kind: u32) -> GgufFile {
    let mut rng = Rng::new(1);
    let text = |t: &str| Meta::Text(t.to_string());
    let metadata = [
        ("general.architecture", text("llama")),
        ("general.name", text("a test")),
        ("llama.block_count", Meta::U32(2)),
        ("llama.context_length", Meta::U32(64)),
        ("llama.embedding_length", Meta::U32(32)),
        ("llama.feed_forward_length", Meta::U32(64)),
        ("llama.attention.head_count", Meta::U32(4)),
        ("llama.attention.head_count_kv", Meta::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.rope.freq_base", Meta::F32(10_000.0)),
        ("llama.rope.dimension_count", Meta::U32(8)),
        ("llama.vocab_size", Meta::U32(48)),
    ];
    let mut tensors = vec![("token_embd.weight".to_string(), vec![32, 48], kind)];
    tensors.push(("output_norm.weight".to_string(), vec![32], F32));
    for layer in 0..2 {
        let per_layer: [(&str, &[u64]); 9] = [
            ("attn_norm", &[32]),
            ("attn_q", &[32, 32]),
            ("attn_k", &[32, 16]),
            ("attn_v", &[32, 16]),
            ("attn_output", &[32, 32]),
            ("ffn_norm", &[32]),
            ("ffn_gate", &[32, 64]),
            ("ffn_up", &[32, 64]),
            ("ffn_down", &[64, 32]),
        ];
        for (part, extents) in per_layer {
            let kind = if extents.len() == 1 { F32 } else { kind };
            tensors.push((format!("blk.{layer}.{part}.weight"), extents.to_vec(), kind));
        }
    }
    let tensors = tensors.into_iter().map(|(name, extents, kind)| {
        let data = blocks(kind, extents.iter().product(), &mut rng);
        GgufTensor { name, extents, kind, data, offset: None }
    });
    GgufFile {
        version: 3,
        metadata: metadata.map(|(k, v)| (k.to_string(), v)).to_vec(),
        tensors: tensors.collect(),
        tensor_count: None,
        pair_count: None,
    }
}

impl GgufFile {
    /// Sets or adds a metadata entry.
    pub(crate) fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        self.remove(key);
        self.metadata.push((key.to_string(), value));
        self
    }

    /// Takes a metadata entry out.
    pub(crate) fn remove(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(k, _)| k != key);
        self
    }

    /// The tensor of this name.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut GgufTensor {
        self.tensors.iter_mut().find(|t| t.name == name).expect("is there")
    }

    /// The bytes of the file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.unwrap_or(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            push_text(&mut out, key);
            push_value(&mut out, value);
        }
        let (mut data, mut free) = (Vec::new(), 0u64);
        for tensor in &self.tensors {
            push_text(&mut out, &tensor.name);
            out.extend((tensor.extents.len() as u32).to_le_bytes());
            tensor.extents.iter().for_each(|e| out.extend(e.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(free).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
            free = data.len() as u64;
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn push_value(out: &mut Vec<u8>, value: &Meta) {
    let list = |out: &mut Vec<u8>, kind: u32, len: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Meta::U32(n) => [4u32, *n].iter().for_each(|w| out.extend(w.to_le_bytes())),
        Meta::U64(n) => {
            out.extend(10u32.to_le_bytes());
            out.extend(n.to_le_bytes());
        }
        Meta::F32(n) => {
            out.extend(6u32.to_le_bytes());
            out.extend(n.to_le_bytes());
        }
        Meta::Bool(b) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*b));
        }
        Meta::Text(text) => {
            out.extend(8u32.to_le_bytes());
            push_text(out, text);
        }
        Meta::Texts(texts) => {
            list(out, 8, texts.len());
            texts.iter().for_each(|t| push_text(out, t));
        }
        Meta::U32s(numbers) => {
            list(out, 4, numbers.len());
            numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Meta::F32s(numbers) => {
            list(out, 6, numbers.len());
            numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Meta::Raw(kind, bytes) => {
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        }
    }
}
