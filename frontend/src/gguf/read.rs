//! The container: header, metadata and tensor descriptions of a GGUF file, all checked.
//!
//! Layout (GGUF specification, versions 2 and 3, little-endian): magic, version, two counts, that
//! many key-value pairs, that many tensor descriptions, padding to the alignment, data. Invariant of
//! a [`Gguf`]: every list lies in the file, every tensor lies in the data, aligned, in whole blocks,
//! and no two share a byte. Nothing is allocated by a declared size: counts and lengths are compared
//! with what is left of the file first. The format has no references, so nothing can be cyclic; lists
//! of lists, which could nest without end, are refused.

use std::collections::BTreeMap;
use std::ops::Range;

use tensor::Bytes;

use super::block::BlockType;
use crate::error::ErrorKind;

/// Alignment of the data where the file does not say (`general.alignment`).
const ALIGNMENT_DEFAULT: u64 = 32;
/// Largest alignment that is believed: a huge page.
const ALIGNMENT_MAX: u64 = 2 << 20;
/// Longest key (the specification's limit).
const KEY_BYTES_MAX: usize = 65_535;
/// Most axes of a tensor.
const AXES_MAX: u32 = 4;
/// Fewest bytes of a key-value pair: key length, type, a value of one byte.
const PAIR_BYTES_MIN: u64 = 13;
/// Fewest bytes of a tensor description: name length, axes, one extent, kind, offset.
const TENSOR_BYTES_MIN: u64 = 32;

/// A checked file.
#[derive(Debug)]
pub(super) struct Gguf {
    bytes: Bytes,
    /// Metadata by key.
    pub(super) metadata: BTreeMap<String, Value>,
    /// Tensors by name.
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Any float.
    Float(f64),
    /// true or false.
    Flag(bool),
    /// A text.
    Text(String),
    /// A list.
    List(List),
}

/// A list of the metadata, left in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List {
    kind: Kind,
    /// Number of elements.
    pub(super) len: usize,
    range: Range<usize>,
}

/// A tensor, placed in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorInfo {
    /// Extents, outermost first (the file has them innermost first).
    pub(super) shape: Vec<usize>,
    /// Encoding.
    pub(super) block: BlockType,
    /// Bytes of the file.
    pub(super) range: Range<usize>,
}

/// The types of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unsigned(usize),
    Signed(usize),
    Float(usize),
    Flag,
    Text,
    List,
}

impl Kind {
    fn by_id(id: u32) -> Option<Kind> {
        Some(match id {
            0 => Kind::Unsigned(1),
            1 => Kind::Signed(1),
            2 => Kind::Unsigned(2),
            3 => Kind::Signed(2),
            4 => Kind::Unsigned(4),
            5 => Kind::Signed(4),
            6 => Kind::Float(4),
            7 => Kind::Flag,
            8 => Kind::Text,
            9 => Kind::List,
            10 => Kind::Unsigned(8),
            11 => Kind::Signed(8),
            12 => Kind::Float(8),
            _ => return None,
        })
    }

    /// Bytes of a value, where all have the same.
    fn width(self) -> Option<usize> {
        match self {
            Kind::Unsigned(n) | Kind::Signed(n) | Kind::Float(n) => Some(n),
            Kind::Flag => Some(1),
            Kind::Text | Kind::List => None,
        }
    }
}

impl Gguf {
    /// Reads and checks everything but the data.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn read(bytes: Bytes) -> Result<Self, ErrorKind> {
        let mut cursor = Cursor { bytes: &bytes, at: 0 };
        cursor.take(4, "the magic")?;
        check_version(cursor.u32("the version")?)?;
        let tensor_count = cursor.u64("the number of tensors")?;
        let pair_count = cursor.u64("the number of metadata entries")?;
        cursor.plausible("metadata entries", pair_count, PAIR_BYTES_MIN)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..pair_count {
            let key = cursor.key()?;
            let value = cursor.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(ErrorKind::GgufTwice { what: "metadata key", name: key });
            }
        }
        cursor.plausible("tensors", tensor_count, TENSOR_BYTES_MIN)?;
        let mut described = Vec::new();
        for _ in 0..tensor_count {
            described.push(cursor.tensor()?);
        }
        let alignment = alignment(&metadata)?;
        let data_start = (cursor.at as u64).next_multiple_of(alignment);
        let tensors = place(described, data_start, bytes.len() as u64, alignment)?;
        Ok(Gguf { bytes, metadata, tensors })
    }

    /// All of the file.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The texts of a list, as bytes; `None` when it is a list of something else.
    pub(super) fn texts(&self, list: &List) -> Option<Vec<&[u8]>> {
        if list.kind != Kind::Text {
            return None;
        }
        let mut cursor = Cursor { bytes: self.bytes.get(..list.range.end)?, at: list.range.start };
        (0..list.len).map(|_| cursor.text("an element").ok()).collect()
    }

    /// The numbers of a list; `None` when it is a list of something else.
    pub(super) fn numbers(&self, list: &List) -> Option<Vec<f64>> {
        let width = list.kind.width()?;
        let bytes = self.bytes.get(list.range.clone())?;
        bytes.chunks_exact(width).map(|b| scalar(list.kind, b)?.number()).collect()
    }
}

impl Value {
    /// The value as a number.
    pub(super) fn number(&self) -> Option<f64> {
        match *self {
            Value::Unsigned(n) => Some(n as f64),
            Value::Signed(n) => Some(n as f64),
            Value::Float(n) => Some(n),
            _ => None,
        }
    }

    /// The value as an integer that is not negative.
    pub(super) fn unsigned(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(n) => Some(n),
            Value::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// The value as a text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a flag.
    pub(super) fn flag(&self) -> Option<bool> {
        match *self {
            Value::Flag(flag) => Some(flag),
            _ => None,
        }
    }
}

/// A value of fixed width from its bytes.
fn scalar(kind: Kind, bytes: &[u8]) -> Option<Value> {
    let mut wide = [0; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let bits = u64::from_le_bytes(wide);
    Some(match kind {
        Kind::Unsigned(_) => Value::Unsigned(bits),
        Kind::Signed(n) => {
            let unused = 64 - 8 * n as u32;
            Value::Signed((bits << unused) as i64 >> unused)
        }
        Kind::Float(4) => Value::Float(shortest(f32::from_bits(bits as u32))),
        Kind::Float(_) => Value::Float(f64::from_bits(bits)),
        Kind::Flag => Value::Flag(bits != 0),
        Kind::Text | Kind::List => return None,
    })
}

/// The f64 that people mean by an f32: 1e-5, which a config.json says, not 9.99999974738e-6.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| value.into())
}

/// Version 1 has other widths, and a big-endian file has its version at the wrong end.
fn check_version(version: u32) -> Result<(), ErrorKind> {
    match version {
        2 | 3 => Ok(()),
        found => {
            Err(ErrorKind::GgufVersion { found, big_endian: found & 0xffff == 0 && found > 0 })
        }
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, ErrorKind> {
    const KEY: &str = "general.alignment";
    let Some(value) = metadata.get(KEY) else { return Ok(ALIGNMENT_DEFAULT) };
    let good = |n: &u64| n.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(n);
    value.unsigned().filter(good).ok_or_else(|| ErrorKind::GgufKey {
        key: KEY.to_string(),
        why: format!("it is {value:?}, expected a power of two from 8 to {ALIGNMENT_MAX}"),
    })
}

/// A tensor as described: its offset counts from the start of the data.
struct Described {
    name: String,
    shape: Vec<usize>,
    block: BlockType,
    bytes: u64,
    offset: u64,
}

/// Puts tensors into the file: aligned, inside, apart from each other.
fn place(
    mut described: Vec<Described>,
    data_start: u64,
    file_len: u64,
    alignment: u64,
) -> Result<BTreeMap<String, TensorInfo>, ErrorKind> {
    described.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    let available = file_len.saturating_sub(data_start);
    let mut tensors = BTreeMap::new();
    let mut free_from = 0;
    for Described { name, shape, block, bytes, offset } in described {
        let wrong = |why: String| Err(ErrorKind::GgufTensor { tensor: name.clone(), why });
        if !offset.is_multiple_of(alignment) {
            return wrong(format!(
                "starts at byte {offset} of the data, no multiple of {alignment}"
            ));
        }
        let Some(end) = offset.checked_add(bytes).filter(|&end| end <= available) else {
            return wrong(format!(
                "occupies {bytes} bytes from {offset} of the data, which has {available}"
            ));
        };
        if offset < free_from {
            return wrong(format!(
                "starts at byte {offset} of the data, inside the one before, which ends at {free_from}"
            ));
        }
        free_from = end;
        // Within a file that is mapped, so offsets fit in usize.
        let range = (data_start + offset) as usize..(data_start + end) as usize;
        if tensors.insert(name.clone(), TensorInfo { shape, block, range }).is_some() {
            return Err(ErrorKind::GgufTwice { what: "tensor", name });
        }
    }
    Ok(tensors)
}

/// Reads from front to back.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], ErrorKind> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return Err(ErrorKind::GgufTruncated {
                what: what.to_string(),
                offset: self.at,
                wanted: len as u64,
                available: self.left() as u64,
            });
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ErrorKind> {
        let bytes = self.take(4, what)?;
        Ok(bytes.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b)))
    }

    fn u64(&mut self, what: &str) -> Result<u64, ErrorKind> {
        let bytes = self.take(8, what)?;
        Ok(bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    /// Checks a count against what is left, before anything is read by it.
    fn plausible(&self, what: &'static str, count: u64, bytes_each: u64) -> Result<(), ErrorKind> {
        let most = self.left() as u64 / bytes_each;
        if count <= most {
            return Ok(());
        }
        Err(ErrorKind::GgufCount { what, declared: count, most })
    }

    /// A length of the file, as far as it can be one.
    fn len(&mut self, what: &str) -> Result<usize, ErrorKind> {
        let declared = self.u64(what)?;
        usize::try_from(declared).map_err(|_| ErrorKind::GgufTruncated {
            what: what.to_string(),
            offset: self.at,
            wanted: declared,
            available: self.left() as u64,
        })
    }

    fn text(&mut self, what: &str) -> Result<&'a [u8], ErrorKind> {
        let len = self.len(what)?;
        self.take(len, what)
    }

    fn key(&mut self) -> Result<String, ErrorKind> {
        let offset = self.at;
        let bytes = self.text("a metadata key")?;
        if bytes.len() > KEY_BYTES_MAX {
            let key = format!("at byte {offset}");
            let why = format!("it has {} bytes, at most {KEY_BYTES_MAX} are allowed", bytes.len());
            return Err(ErrorKind::GgufKey { key, why });
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| ErrorKind::GgufKey {
            key: format!("at byte {offset}"),
            why: "it is not UTF-8".to_string(),
        })
    }

    fn value(&mut self, key: &str) -> Result<Value, ErrorKind> {
        let wrong = |why: String| ErrorKind::GgufKey { key: key.to_string(), why };
        let kind = self.kind(key)?;
        match kind {
            Kind::List => self.list(key).map(Value::List),
            Kind::Text => {
                let text = String::from_utf8(self.text(key)?.to_vec());
                text.map(Value::Text).map_err(|_| wrong("its text is not UTF-8".to_string()))
            }
            _ => {
                let bytes = self.take(kind.width().unwrap_or(0), key)?;
                scalar(kind, bytes).ok_or_else(|| wrong("it has no value".to_string()))
            }
        }
    }

    fn kind(&mut self, key: &str) -> Result<Kind, ErrorKind> {
        let id = self.u32(key)?;
        Kind::by_id(id).ok_or_else(|| ErrorKind::GgufKey {
            key: key.to_string(),
            why: format!("it has type {id}, known are 0 to 12"),
        })
    }

    fn list(&mut self, key: &str) -> Result<List, ErrorKind> {
        let kind = self.kind(key)?;
        let len = self.len(key)?;
        let start = self.at;
        match kind.width() {
            Some(width) => {
                // An overflow is as much more than the file has as a large count.
                self.take(len.saturating_mul(width), key)?;
            }
            None if kind == Kind::List => {
                let why = "lists of lists are not supported".to_string();
                return Err(ErrorKind::GgufKey { key: key.to_string(), why });
            }
            None => {
                self.plausible("elements of a list of texts", len as u64, 8)?;
                for _ in 0..len {
                    self.text(key)?;
                }
            }
        }
        Ok(List { kind, len, range: start..self.at })
    }

    fn tensor(&mut self) -> Result<Described, ErrorKind> {
        let offset = self.at;
        let name = self.text("a tensor's name")?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| ErrorKind::GgufTensor {
            tensor: format!("at byte {offset}"),
            why: "has a name that is not UTF-8".to_string(),
        })?;
        let wrong = |why: String| ErrorKind::GgufTensor { tensor: name.clone(), why };
        let axes = self.u32("a tensor's number of axes")?;
        if !(1..=AXES_MAX).contains(&axes) {
            return Err(wrong(format!("has {axes} axes, expected 1 to {AXES_MAX}")));
        }
        let extents = (0..axes).map(|_| self.u64("a tensor's extent"));
        let extents: Vec<u64> = extents.collect::<Result<_, _>>()?;
        let id = self.u32("a tensor's encoding")?;
        let offset = self.u64("a tensor's offset")?;
        let block = BlockType::by_id(id)
            .ok_or_else(|| ErrorKind::GgufEncoding { tensor: name.clone(), id })?;
        let innermost = extents.first().copied().unwrap_or(0);
        if !innermost.is_multiple_of(block.elements() as u64) {
            return Err(wrong(format!(
                "has rows of {innermost}, no multiple of the {} of a block of {}",
                block.elements(),
                block.name()
            )));
        }
        let elements = extents.iter().try_fold(1u64, |n, &e| n.checked_mul(e)).filter(|&n| n > 0);
        let blocks = elements.map(|n| n / block.elements() as u64);
        let bytes = blocks.and_then(|n| n.checked_mul(block.bytes() as u64));
        let shape = extents.iter().rev().map(|&e| usize::try_from(e).ok()).collect();
        match (bytes, shape) {
            (Some(bytes), Some(shape)) => Ok(Described { name, shape, block, bytes, offset }),
            _ => Err(wrong(format!("of extents {extents:?} has no size"))),
        }
    }
}
