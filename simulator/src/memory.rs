//! The SRAM of every tile as f32 values, and the pinned weights in it.
//!
//! Each buffer has its own array per tile even where the plan lets buffers share bytes; instead,
//! a buffer is filled with NaN when its live range begins, so a program that reads what it should
//! not shows. Values of 16-bit and quantised storage are kept widened.

use std::collections::BTreeMap;
use std::rc::Rc;

use half::{bf16, f16};
use plan::{BufferRole, Pin, Plan, Slice, Storage, Template, WeightData};
use tensor::Tensor;

use crate::error::SimError;
use crate::fabric::Fabric;

/// Where a simulation gets the model's weights.
pub trait WeightSource {
    /// The weight called `name`, rank 1 or 2, any float or quantised dtype; `None` when there is none.
    fn weight(&self, name: &str) -> Option<Tensor>;
}

impl WeightSource for BTreeMap<String, Tensor> {
    fn weight(&self, name: &str) -> Option<Tensor> {
        self.get(name).cloned()
    }
}

/// The SRAM of all tiles.
pub struct Memory {
    values: Vec<f32>,
    /// Per tile: its first value.
    bases: Vec<usize>,
    /// Per template.
    layouts: Vec<Layout>,
}

/// Where a template's buffers lie in a tile's values.
pub struct Layout {
    /// Per buffer: first value.
    starts: Vec<usize>,
    /// Per buffer: elements in a row.
    cols: Vec<usize>,
    /// Per buffer.
    storages: Vec<Storage>,
    total: usize,
    /// Per phase: buffers whose live range begins, as value ranges.
    pub begins: Vec<Vec<(usize, usize)>>,
}

impl Layout {
    /// One array per buffer, in the template's order.
    pub fn new(template: &Template) -> Self {
        let mut starts = Vec::new();
        let mut total = 0;
        let mut begins = vec![Vec::new(); template.phases.len()];
        for b in &template.buffers {
            let len = b.elements() as usize;
            starts.push(total);
            if !matches!(b.role, BufferRole::Weights | BufferRole::KvCache)
                && let Some(phase) = begins.get_mut(b.live.0 as usize)
            {
                phase.push((total, total + len));
            }
            total += len;
        }
        let storages = template.buffers.iter().map(|b| b.storage).collect();
        let cols = template.buffers.iter().map(|b| b.cols as usize).collect();
        Layout { starts, cols, storages, total, begins }
    }

    /// First value of a buffer in its tile.
    pub fn start(&self, buffer: plan::BufferId) -> usize {
        self.starts[buffer.0 as usize]
    }

    /// Elements in a row of a buffer.
    pub fn cols(&self, buffer: plan::BufferId) -> usize {
        self.cols[buffer.0 as usize]
    }

    /// Storage of a buffer.
    pub fn storage(&self, buffer: plan::BufferId) -> Storage {
        self.storages[buffer.0 as usize]
    }

    /// The values of a slice in its tile.
    pub fn range(&self, slice: Slice, kv_tokens: u32) -> std::ops::Range<usize> {
        let start = self.start(slice.buffer) + slice.offset as usize;
        start..start + slice.len.elements(kv_tokens) as usize
    }
}

impl Memory {
    /// Reserves all buffers and pins all weights.
    ///
    /// # Errors
    /// Weights that are missing or have another shape; pins outside of their weight or buffer.
    pub fn new(fabric: &Fabric<'_>, source: &dyn WeightSource) -> Result<Self, SimError> {
        let plan = fabric.plan;
        let layouts: Vec<Layout> = plan.templates.iter().map(Layout::new).collect();
        let mut bases = Vec::with_capacity(fabric.len());
        let mut total = 0usize;
        for tile in 0..fabric.len() {
            bases.push(total);
            if let Some(region) = plan.regions.get(fabric.regions[tile] as usize) {
                total += layouts[region.template.0 as usize].total;
            }
        }
        let mut memory = Memory { values: vec![0.0; total], bases, layouts };
        let mut loader = Loader { plan, source, cache: BTreeMap::new() };
        for region in 0..plan.regions.len() {
            memory.pin_region(fabric, region, &mut loader)?;
        }
        Ok(memory)
    }

    /// The layout of the template with index `template`.
    pub fn layout(&self, template: usize) -> &Layout {
        &self.layouts[template]
    }

    /// The values of a tile and its layout.
    pub fn tile(&mut self, tile: usize, template: usize) -> (&mut [f32], &Layout) {
        let layout = &self.layouts[template];
        let base = self.bases[tile];
        (&mut self.values[base..base + layout.total], layout)
    }

    fn pin_region(
        &mut self,
        fabric: &Fabric<'_>,
        region: usize,
        loader: &mut Loader<'_>,
    ) -> Result<(), SimError> {
        let plan = fabric.plan;
        let template_id = plan.regions[region].template.0 as usize;
        let template = &plan.templates[template_id];
        for (i, pin) in template.pins.iter().enumerate() {
            let bad = |what: &str| SimError::Illegal {
                what: format!("pin {i} of template `{}`: {what}", template.name),
            };
            let buffer = template.buffers.get(pin.buffer.0 as usize);
            let buffer = buffer.ok_or_else(|| bad("no such buffer"))?;
            let weight = loader.load(template, pin, buffer.storage, plan.regions[region].layer)?;
            let start = self.layouts[template_id].start(pin.buffer);
            let mask = plan::expand::Mask::new(&pin.predicate, template.width, template.height);
            for y in 0..template.height {
                for x in (0..template.width).filter(|&x| mask.holds(x, y)) {
                    let span = |s: &plan::Span, n: usize| {
                        s.at((x, y), template.cell).filter(|r| r.1 <= n as u64 || r.0 == r.1)
                    };
                    let outside = || bad("slice outside of its weight");
                    let rows = span(&pin.axis0, weight.rows).ok_or_else(outside)?;
                    let cols = span(&pin.axis1, weight.cols).ok_or_else(outside)?;
                    let extent = pin.extent();
                    if pin.at.0 + extent.0 > buffer.rows || pin.at.1 + extent.1 > buffer.cols {
                        return Err(bad("slice outside of its buffer"));
                    }
                    let base = self.bases[fabric.tile_in(region, (x, y))] + start;
                    let stride = buffer.cols as usize;
                    for i in rows.0..rows.1 {
                        for j in cols.0..cols.1 {
                            let (di, dj) = ((i - rows.0) as usize, (j - cols.0) as usize);
                            let (r, c) = if pin.transposed { (dj, di) } else { (di, dj) };
                            let at = (pin.at.0 as usize + r) * stride + pin.at.1 as usize + c;
                            self.values[base + at] =
                                weight.values[i as usize * weight.cols + j as usize];
                        }
                    }
                }
            }
        }
        Ok(())
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

/// A weight with gain, scale and storage rounding applied.
struct Loaded {
    rows: usize,
    cols: usize,
    values: Rc<Vec<f32>>,
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
        if !self.cache.contains_key(&key) {
            let loaded = self.transform(&name, gain.as_deref(), pin.scale, storage)?;
            self.cache.insert(key.clone(), loaded);
        }
        let l = &self.cache[&key];
        Ok(Loaded { rows: l.rows, cols: l.cols, values: Rc::clone(&l.values) })
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
        values.iter_mut().for_each(|v| *v = round(storage, *v));
        Ok(Loaded { rows, cols, values: Rc::new(values) })
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
