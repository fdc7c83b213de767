//! The SRAM of a region's tiles as one array per buffer, and the pinned weights in it.
//!
//! Structure of arrays: element `i` of a buffer on tile `t` is `array[t * elements + i]`. Weights and
//! caches keep the width of their storage (quantised weights are kept widened); everything else is
//! f32. Each buffer has its own array even where the plan lets buffers share bytes; instead, a buffer
//! is filled with NaN when its live range begins, so a program that reads what it should not shows.

use std::collections::BTreeMap;
use std::rc::Rc;

use half::{bf16, f16};
use plan::SpanMap;
use plan::expand::Mask;
use plan::{Buffer, BufferRole, Pin, Plan, Slice, Storage, Template, WeightData};
use tensor::{DType, Tensor};

use crate::error::SimError;

/// Where a simulation gets the model's weights. Regions are pinned on several threads.
pub trait WeightSource: Sync {
    /// The weight called `name`, rank 1 or 2, any float or quantised dtype; `None` when there is none.
    fn weight(&self, name: &str) -> Option<Tensor>;
}

impl WeightSource for BTreeMap<String, Tensor> {
    fn weight(&self, name: &str) -> Option<Tensor> {
        self.get(name).cloned()
    }
}

/// The values of one buffer on all tiles of a region.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// 4 bytes a value.
    F32(Vec<f32>),
    /// IEEE binary16.
    F16(Vec<f16>),
    /// bfloat16.
    BF16(Vec<bf16>),
}

impl Array {
    /// `n` zeros in the width of `storage`; quantised storage is kept as f32.
    pub fn zeros(storage: Storage, n: usize) -> Self {
        match storage {
            Storage::F16 => Array::F16(vec![f16::ZERO; n]),
            Storage::BF16 => Array::BF16(vec![bf16::ZERO; n]),
            Storage::F32 | Storage::Q8 | Storage::Q4 => Array::F32(vec![0.0; n]),
        }
    }

    /// Rounds `values` to the width of `storage`.
    fn narrowed(storage: Storage, values: Vec<f32>) -> Self {
        match storage {
            Storage::F16 => Array::F16(values.into_iter().map(f16::from_f32).collect()),
            Storage::BF16 => Array::BF16(values.into_iter().map(bf16::from_f32).collect()),
            Storage::F32 | Storage::Q8 | Storage::Q4 => Array::F32(values),
        }
    }

    /// The values of a range as f32; `spare` holds them when they are stored narrower.
    pub fn read<'a>(&'a self, range: std::ops::Range<usize>, spare: &'a mut Vec<f32>) -> &'a [f32] {
        spare.clear();
        match self {
            Array::F32(values) => return &values[range],
            Array::F16(values) => spare.extend(values[range].iter().map(|v| v.to_f32())),
            Array::BF16(values) => spare.extend(values[range].iter().map(|v| v.to_f32())),
        }
        spare
    }

    /// Stores values from index `at` on, rounded to the array's width.
    pub fn write(&mut self, at: usize, values: &[f32]) {
        let end = at + values.len();
        match self {
            Array::F32(out) => out[at..end].copy_from_slice(values),
            Array::F16(out) => {
                out[at..end].iter_mut().zip(values).for_each(|(o, &v)| *o = f16::from_f32(v));
            }
            Array::BF16(out) => {
                out[at..end].iter_mut().zip(values).for_each(|(o, &v)| *o = bf16::from_f32(v));
            }
        }
    }
}

/// Facts about a buffer.
#[derive(Clone, Copy, Debug)]
pub struct BufferLayout {
    /// Values per tile; of a cache those of one request.
    pub elements: usize,
    /// Values in a row.
    pub cols: usize,
    /// How a program's results are rounded.
    pub storage: Storage,
    /// What it is for.
    pub role: BufferRole,
}

/// The buffers of a template.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Per buffer.
    pub buffers: Vec<BufferLayout>,
    /// Per phase: buffers whose live range begins; weights and caches never do.
    pub begins: Vec<Vec<usize>>,
    /// Positions of the template.
    pub tiles: usize,
}

impl Layout {
    /// One entry per buffer, in the template's order.
    pub fn new(template: &Template) -> Self {
        let buffer = |b: &Buffer| BufferLayout {
            elements: match template.kv {
                // One sequence: whoever runs several has the arrays of each.
                Some(kv) if b.role == BufferRole::KvCache => kv.slots as usize * b.cols as usize,
                _ => b.elements() as usize,
            },
            cols: b.cols as usize,
            storage: b.storage,
            role: b.role,
        };
        let mut begins = vec![Vec::new(); template.phases.len()];
        for (i, b) in template.buffers.iter().enumerate() {
            if !matches!(b.role, BufferRole::Weights | BufferRole::KvCache)
                && let Some(phase) = begins.get_mut(b.live.0 as usize)
            {
                phase.push(i);
            }
        }
        let tiles = template.width as usize * template.height as usize;
        Layout { buffers: template.buffers.iter().map(buffer).collect(), begins, tiles }
    }

    /// The values of a slice on a tile, in its buffer's array.
    pub fn range(&self, slice: Slice, tile: usize, tokens: u32) -> std::ops::Range<usize> {
        let start = tile * self.buffers[slice.buffer.0 as usize].elements + slice.offset as usize;
        start..start + slice.len.elements(tokens) as usize
    }

    /// Zeros for every buffer of `role`; empty arrays for the others.
    pub fn zeros(&self, role: BufferRole) -> Vec<Array> {
        let zeros = |b: &BufferLayout| {
            Array::zeros(b.storage, if b.role == role { b.elements * self.tiles } else { 0 })
        };
        self.buffers.iter().map(zeros).collect()
    }

    /// What one token needs besides weights and caches: undefined until a live range begins.
    pub fn arena(&self) -> Vec<Vec<f32>> {
        let len = |b: &BufferLayout| match b.role {
            BufferRole::Weights | BufferRole::KvCache => 0,
            _ => b.elements * self.tiles,
        };
        self.buffers.iter().map(|b| vec![f32::NAN; len(b)]).collect()
    }
}

/// Rounds a value to what `storage` can hold (quantised storage is handled when weights load).
pub fn round(storage: Storage, value: f32) -> f32 {
    match storage {
        Storage::F16 => f16::from_f32(value).to_f32(),
        Storage::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// Pins all weights of a region: one array per buffer, empty for buffers that hold none.
///
/// # Errors
/// Weights that are missing or have another shape; pins outside of their weight or buffer.
pub fn pin_region(
    plan: &Plan,
    region: usize,
    layout: &Layout,
    source: &dyn WeightSource,
) -> Result<Vec<Array>, SimError> {
    let region = &plan.regions[region];
    let template = plan.template_of(region).ok_or_else(|| SimError::Illegal {
        what: format!("region `{}` has no template", region.name),
    })?;
    let mut arrays = layout.zeros(BufferRole::Weights);
    let mut loader = Loader { plan, source, cache: BTreeMap::new() };
    for (i, pin) in template.pins.iter().enumerate() {
        let bad = |what: &str| SimError::Illegal {
            what: format!("pin {i} of template `{}`: {what}", template.name),
        };
        let buffer = template.buffers.get(pin.buffer.0 as usize);
        let buffer = buffer.ok_or_else(|| bad("no such buffer"))?;
        let extent = pin.extent();
        let fits = |at: u32, n: u32, limit: u32| at.checked_add(n).is_some_and(|end| end <= limit);
        if !fits(pin.at.0, extent.0, buffer.rows) || !fits(pin.at.1, extent.1, buffer.cols) {
            return Err(bad("slice outside of its buffer"));
        }
        if buffer.role != BufferRole::Weights {
            return Err(bad("fills a buffer that is not of weights"));
        }
        let weight = loader.load(template, pin, buffer.storage, region.layer)?;
        let array = &mut arrays[pin.buffer.0 as usize];
        let place = Place { template, pin, shape: (weight.rows, weight.cols), buffer };
        let copied = match (array, &*weight.values) {
            (Array::F32(to), Array::F32(from)) => place.copy(from, to),
            (Array::F16(to), Array::F16(from)) => place.copy(from, to),
            (Array::BF16(to), Array::BF16(from)) => place.copy(from, to),
            _ => None,
        };
        copied.ok_or_else(|| bad("slice outside of its weight"))?;
    }
    Ok(arrays)
}

/// A pin with everything its copy depends on.
struct Place<'a> {
    template: &'a Template,
    pin: &'a Pin,
    /// Rows and columns of the weight.
    shape: (usize, usize),
    buffer: &'a Buffer,
}

impl Place<'_> {
    /// Copies the slice of every tile; `None` when one lies outside of the weight.
    fn copy<T: Copy>(&self, from: &[T], to: &mut [T]) -> Option<()> {
        let (t, pin) = (self.template, self.pin);
        let mask = Mask::new(&pin.predicate, t.width, t.height);
        let spans = [&pin.axis0, &pin.axis1].map(|s| SpanMap::new(s, t.width, t.height, t.cell));
        let [Some(axis0), Some(axis1)] = spans else { return None };
        let (stride, elements) = (self.buffer.cols as usize, self.buffer.elements() as usize);
        let inside = |r: (u64, u64), n: usize| r.1 <= n as u64 || r.0 == r.1;
        for y in 0..t.height {
            for x in (0..t.width).filter(|&x| mask.holds(x, y)) {
                let (rows, cols) = (axis0.at(x, y)?, axis1.at(x, y)?);
                if !inside(rows, self.shape.0) || !inside(cols, self.shape.1) {
                    return None;
                }
                let tile = (y * t.width + x) as usize;
                let at = tile * elements + pin.at.0 as usize * stride + pin.at.1 as usize;
                let n = (cols.1 - cols.0) as usize;
                if n == 0 {
                    // Padding: the slice may start beyond its weight.
                    continue;
                }
                for (i, row) in (rows.0..rows.1).enumerate() {
                    let first = row as usize * self.shape.1 + cols.0 as usize;
                    let values = &from[first..first + n];
                    if pin.transposed {
                        for (j, &v) in values.iter().enumerate() {
                            to[at + j * stride + i] = v;
                        }
                    } else {
                        to[at + i * stride..][..n].copy_from_slice(values);
                    }
                }
            }
        }
        Some(())
    }
}

/// A weight with gain, scale and storage rounding applied.
#[derive(Clone)]
struct Loaded {
    rows: usize,
    cols: usize,
    values: Rc<Array>,
}

struct Loader<'a> {
    plan: &'a Plan,
    source: &'a dyn WeightSource,
    cache: BTreeMap<String, Loaded>,
}

impl Loader<'_> {
    fn load(
        &mut self,
        template: &Template,
        pin: &Pin,
        storage: Storage,
        layer: Option<u32>,
    ) -> Result<Loaded, SimError> {
        let name_of = |weight: u32| {
            let uses = template.weights.get(weight as usize).ok_or_else(|| SimError::Illegal {
                what: format!("a pin of template `{}` names no weight", template.name),
            })?;
            Ok(Plan::weight_name(&uses.name, layer))
        };
        let name = name_of(pin.weight)?;
        let gain = pin.gain.map(|g| name_of(g.weight)).transpose()?;
        let key = format!("{name}|{}|{}|{storage:?}", gain.as_deref().unwrap_or(""), pin.scale);
        if let Some(loaded) = self.cache.get(&key) {
            return Ok(loaded.clone());
        }
        let loaded = self.transform(&name, gain.as_deref(), pin.scale, storage)?;
        self.cache.insert(key, loaded.clone());
        Ok(loaded)
    }

    fn transform(
        &self,
        name: &str,
        gain: Option<&str>,
        scale: f32,
        storage: Storage,
    ) -> Result<Loaded, SimError> {
        let (rows, cols, tensor) = self.fetch(name)?;
        let as_stored = gain.is_none() && scale == 1.0 && tensor.dtype() == storage.dtype();
        if as_stored && let Some(values) = halves(&tensor) {
            return Ok(Loaded { rows, cols, values: Rc::new(values) });
        }
        let mut values = tensor.to_f32();
        if let Some(gain) = gain {
            let (_, len, factors) = self.fetch(gain)?;
            if len != cols {
                let problem =
                    format!("gain `{gain}` has {len} elements, the weight's last axis {cols}");
                return Err(SimError::Weight { name: name.to_owned(), problem });
            }
            let factors = factors.to_f32();
            for row in values.chunks_mut(cols.max(1)) {
                row.iter_mut().zip(&factors).for_each(|(v, f)| *v *= f);
            }
        }
        if scale != 1.0 {
            values.iter_mut().for_each(|v| *v *= scale);
        }
        if storage.is_quantized() && !as_stored {
            let dtype = storage.dtype();
            values = Tensor::from_f32(vec![rows, cols], &values)
                .cast(dtype)
                .map_err(|e| SimError::Weight { name: name.to_owned(), problem: e.to_string() })?
                .to_f32();
        }
        Ok(Loaded { rows, cols, values: Rc::new(Array::narrowed(storage, values)) })
    }

    /// Rows, columns and data of a weight.
    fn fetch(&self, name: &str) -> Result<(usize, usize, Tensor), SimError> {
        let weight_error = |problem: String| SimError::Weight { name: name.to_owned(), problem };
        let (_, decl) =
            self.plan.weight(name).ok_or_else(|| weight_error("not declared".into()))?;
        let shape: Vec<usize> = decl.shape.iter().map(|&d| d as usize).collect();
        let (rows, cols) = match shape[..] {
            [n] => (1, n),
            [n, k] => (n, k),
            _ => return Err(weight_error(format!("has rank {}", shape.len()))),
        };
        let tensor = match &decl.data {
            WeightData::Inline(values) if values.len() == rows * cols => {
                Tensor::from_f32(shape.clone(), values)
            }
            WeightData::Inline(values) => {
                return Err(weight_error(format!("{} inline values for {shape:?}", values.len())));
            }
            WeightData::Model => {
                self.source.weight(name).ok_or_else(|| weight_error("not in the model".into()))?
            }
        };
        if tensor.shape() != shape {
            return Err(weight_error(format!(
                "has shape {:?}, the plan expects {shape:?}",
                tensor.shape()
            )));
        }
        Ok((rows, cols, tensor))
    }
}

/// The values of a 16-bit tensor as they are.
fn halves(tensor: &Tensor) -> Option<Array> {
    let words = || tensor.bytes().as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
    match tensor.dtype() {
        DType::F16 => Some(Array::F16(words().map(f16::from_bits).collect())),
        DType::BF16 => Some(Array::BF16(words().map(bf16::from_bits).collect())),
        _ => None,
    }
}
