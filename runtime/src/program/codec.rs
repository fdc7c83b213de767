//! The bytes of a program: postcard (varint, little-endian, no self-description) of its types.
//!
//! Decoding hostile bytes gives an error, never a panic; [`Program::check`] judges the meaning.

use super::{Program, ProgramError};

/// The bytes of a program; equal programs have equal bytes.
pub fn encode(program: &Program) -> Vec<u8> {
    postcard::to_allocvec(program).expect("a vector takes any bytes and every type has a length")
}

/// The program in `bytes`, checked against a weight segment of `weight_bytes`.
///
/// # Errors
/// When the bytes are no program, have a tail, or describe an impossible one.
pub fn decode(bytes: &[u8], weight_bytes: u64) -> Result<Program, ProgramError> {
    let (program, tail): (Program, &[u8]) =
        postcard::take_from_bytes(bytes).map_err(|e| ProgramError::Codec { why: e.to_string() })?;
    if !tail.is_empty() {
        return Err(ProgramError::Codec { why: format!("{} bytes too many", tail.len()) });
    }
    program.check(weight_bytes)?;
    Ok(program)
}

/// A dtype as the index into [`tensor::DType::ALL`].
pub(super) mod dtype_code {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use tensor::DType;

    pub(in super::super) fn serialize<S: Serializer>(
        dtype: &DType,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        let code = DType::ALL.iter().position(|d| d == dtype).unwrap_or(usize::MAX);
        s.serialize_u8(code as u8)
    }

    pub(in super::super) fn deserialize<'d, D: Deserializer<'d>>(d: D) -> Result<DType, D::Error> {
        let code = u8::deserialize(d)?;
        let dtype = DType::ALL.get(usize::from(code)).copied();
        dtype.ok_or_else(|| D::Error::custom(format!("dtype code {code}")))
    }
}
