//! RoPE in all its spellings: `rope_theta` and `rope_scaling` of old, `rope_parameters` of
//! transformers 5, `type` or `rope_type`.
//!
//! Follows `convert_rope_params_to_dict` and `_compute_*_parameters` of transformers'
//! `modeling_rope_utils.py`, defaults included. Where two spellings are both given and disagree,
//! transformers picks one; here that is an error.

use std::collections::BTreeMap;

use ir::{Real, RopeScaling, RopeSpec};
use serde_json::Value;

use super::POSITIONS_MAX;
use super::fields::Fields;
use crate::error::FrontendError;
use crate::json::Object;

/// Base of the wavelengths where none is given (`default_theta` of transformers).
const THETA_DEFAULT: f64 = 10_000.0;
/// YaRN's rotations above which a frequency is kept, where not given (arXiv 2309.00071, section 3.2).
const BETA_FAST_DEFAULT: f64 = 32.0;
/// YaRN's rotations below which a frequency is interpolated, where not given.
const BETA_SLOW_DEFAULT: f64 = 1.0;
/// A flag of the first YaRN checkpoints that says how they were trained; transformers ignores it.
const WITHOUT_EFFECT: [&str; 1] = ["finetuned"];
const KINDS: &str = "default, linear, dynamic, llama3, yarn";

/// RoPE and how far it reaches.
pub(super) struct Rope {
    /// What `rope` computes.
    pub(super) spec: RopeSpec,
    /// How many times `max_position_embeddings` the model can use: above 1 where the scaling says
    /// that `max_position_embeddings` is the context *before* stretching.
    pub(super) stretch: f64,
}

/// Takes every RoPE field of the config.
///
/// # Errors
/// Fields of the wrong type or range, missing or unknown parameters, unknown kinds of scaling.
pub(super) fn read(
    fields: &mut Fields<'_>,
    family: &str,
    head_dim: usize,
    max_positions: usize,
) -> Result<Rope, FrontendError> {
    let theta_outside = theta(fields)?;
    let original_outside = positions(fields, "original_max_position_embeddings")?;
    partial_rotary_factor(fields)?;
    let (name, object) = parameters(fields)?;
    let mut inner = Fields::nested(fields.path(), name, object);
    let theta_inside = theta(&mut inner)?;
    let theta = match (theta_inside, theta_outside) {
        (Some(inside), Some(outside)) if inside != outside => {
            let why = format!("{} is {inside}, rope_theta is {outside}", inner.name("rope_theta"));
            return Err(fields.conflict("rope_theta", why));
        }
        (inside, outside) => inside.or(outside).unwrap_or(THETA_DEFAULT),
    };
    partial_rotary_factor(&mut inner)?;
    let kind = kind(&mut inner)?;
    let mut reader = Reader { fields: &mut inner, head_dim, max_positions, original_outside };
    let (scaling, stretch) = match kind.as_str() {
        "default" => (RopeScaling::None, 1.0),
        "linear" => (RopeScaling::Linear { factor: Real::new(reader.factor()?) }, 1.0),
        "dynamic" => reader.dynamic()?,
        "llama3" => reader.llama3()?,
        "yarn" => reader.yarn()?,
        other => {
            let key = if name == "rope_parameters" { "rope_type" } else { "type" };
            return Err(inner.unsupported(key, other, KINDS));
        }
    };
    if reader.original_outside.is_some() {
        let why = format!("RoPE of type {kind} has no original context");
        return Err(fields.conflict("original_max_position_embeddings", why));
    }
    inner.finish(&format!("{family} (RoPE of type {kind})"), &WITHOUT_EFFECT)?;
    Ok(Rope { spec: RopeSpec { dim: head_dim, theta: Real::new(theta), scaling }, stretch })
}

/// The object with the parameters, from either spelling, and the name it had.
fn parameters(fields: &mut Fields<'_>) -> Result<(&'static str, Object), FrontendError> {
    let older = fields.object("rope_scaling")?.unwrap_or_default();
    let newer = fields.object("rope_parameters")?.unwrap_or_default();
    let sorted = |o: &Object| o.clone().into_iter().collect::<BTreeMap<String, Value>>();
    if !older.is_empty() && !newer.is_empty() && sorted(&older) != sorted(&newer) {
        let why = "rope_parameters is given too, and says something else".to_string();
        return Err(fields.conflict("rope_scaling", why));
    }
    Ok(if older.is_empty() { ("rope_parameters", newer) } else { ("rope_scaling", older) })
}

fn kind(inner: &mut Fields<'_>) -> Result<String, FrontendError> {
    let (newer, older) = (inner.text("rope_type")?, inner.text("type")?);
    match (newer, older) {
        (Some(a), Some(b)) if a != b => {
            Err(inner.conflict("rope_type", format!("it is \"{a}\", \"type\" is \"{b}\"")))
        }
        (Some(kind), _) | (None, Some(kind)) => Ok(kind),
        // Parameters without a type would be taken for "default" and ignored by transformers.
        (None, None) => Ok("default".to_string()),
    }
}

fn theta(fields: &mut Fields<'_>) -> Result<Option<f64>, FrontendError> {
    fields.number("rope_theta", "a number above 1", |v| v > 1.0)
}

fn positions(fields: &mut Fields<'_>, key: &str) -> Result<Option<usize>, FrontendError> {
    fields.integer(key, 1..=POSITIONS_MAX)
}

/// Only 1 is what these families compute: they rotate whole heads.
fn partial_rotary_factor(fields: &mut Fields<'_>) -> Result<(), FrontendError> {
    let expected = "1 (these families rotate whole heads)";
    fields.number("partial_rotary_factor", expected, |v| v == 1.0).map(|_| ())
}

/// Reads the parameters of one kind of scaling.
struct Reader<'a, 'b> {
    fields: &'a mut Fields<'b>,
    head_dim: usize,
    max_positions: usize,
    /// `original_max_position_embeddings` beside, not inside, the parameters; there it wins.
    original_outside: Option<usize>,
}

impl Reader<'_, '_> {
    fn positive(&mut self, key: &str) -> Result<Option<f64>, FrontendError> {
        self.fields.number(key, "a number above 0", |v| v > 0.0)
    }

    fn required(&mut self, key: &str) -> Result<f64, FrontendError> {
        self.positive(key)?.ok_or_else(|| self.fields.missing(key))
    }

    fn factor(&mut self) -> Result<f64, FrontendError> {
        self.required("factor")
    }

    /// Positions of the trained context; `max_position_embeddings` where not given.
    fn original(&mut self) -> Result<usize, FrontendError> {
        let inside = positions(self.fields, "original_max_position_embeddings")?;
        Ok(self.original_outside.take().or(inside).unwrap_or(self.max_positions))
    }

    /// Above 1 where the trained context is all of `max_position_embeddings`.
    fn stretch(&self, factor: f64, original: usize) -> f64 {
        if original >= self.max_positions { factor.max(1.0) } else { 1.0 }
    }

    fn dynamic(&mut self) -> Result<(RopeScaling, f64), FrontendError> {
        let factor = self.factor()?;
        if self.head_dim <= 2 {
            // The exponent of the formula is dim / (dim - 2).
            let why =
                format!("dynamic scaling needs heads of more than 2, found {}", self.head_dim);
            return Err(self.fields.conflict("rope_type", why));
        }
        let original = self.max_positions;
        let scaling = RopeScaling::Dynamic { factor: Real::new(factor), original };
        Ok((scaling, self.stretch(factor, original)))
    }

    fn llama3(&mut self) -> Result<(RopeScaling, f64), FrontendError> {
        let factor = self.factor()?;
        let low = self.required("low_freq_factor")?;
        let high = self.required("high_freq_factor")?;
        let original = self.original()?;
        if high <= low {
            let why = format!("it is {high}, low_freq_factor is {low}, which must be smaller");
            return Err(self.fields.conflict("high_freq_factor", why));
        }
        let scaling = RopeScaling::Llama3 {
            factor: Real::new(factor),
            low: Real::new(low),
            high: Real::new(high),
            original,
        };
        Ok((scaling, self.stretch(factor, original)))
    }

    fn yarn(&mut self) -> Result<(RopeScaling, f64), FrontendError> {
        let given = self.fields.has("factor");
        let factor = self.positive("factor")?;
        let original = self.original()?;
        let factor = match factor {
            Some(factor) => factor,
            // An explicit null stands for the ratio of the contexts (DeepSeek's spelling).
            None if given => self.max_positions as f64 / original as f64,
            None => return Err(self.fields.missing("factor")),
        };
        let attention_factor = self.attention_factor(factor)?;
        let beta_fast = self.or_default("beta_fast", BETA_FAST_DEFAULT)?;
        let beta_slow = self.or_default("beta_slow", BETA_SLOW_DEFAULT)?;
        let truncate = self.fields.flag("truncate")?.unwrap_or(true);
        let scaling = RopeScaling::Yarn {
            factor: Real::new(factor),
            beta_fast: Real::new(beta_fast),
            beta_slow: Real::new(beta_slow),
            attention_factor: Real::new(attention_factor),
            original,
            truncate,
        };
        Ok((scaling, self.stretch(factor, original)))
    }

    /// A parameter where 0 means "not given", as `or` does in the reference.
    fn or_default(&mut self, key: &str, default: f64) -> Result<f64, FrontendError> {
        let value = self.fields.number(key, "a number, not negative", |v| v >= 0.0)?;
        Ok(value.filter(|v| *v != 0.0).unwrap_or(default))
    }

    /// `attention_factor`, or the paper's 0.1 ln(factor) + 1, or DeepSeek's ratio of two such.
    fn attention_factor(&mut self, factor: f64) -> Result<f64, FrontendError> {
        let explicit = self.positive("attention_factor")?;
        let mscale = self.or_default("mscale", 0.0)?;
        let mscale_all_dim = self.or_default("mscale_all_dim", 0.0)?;
        let temperature = |mscale: f64| {
            if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
        };
        Ok(match explicit {
            Some(value) => value,
            None if mscale != 0.0 && mscale_all_dim != 0.0 => {
                temperature(mscale) / temperature(mscale_all_dim)
            }
            None => temperature(1.0),
        })
    }
}
