//! Tensors of midpoints and radii.

use std::sync::Arc;

use tensor::{DType, Tensor};

use super::Rounding;

/// A dense row-major tensor of values, each no further than its radius from the real one.
#[derive(Clone, Debug)]
pub(super) struct Balls {
    pub(super) shape: Vec<usize>,
    pub(super) mid: Arc<Vec<f64>>,
    /// `None` when every value is exact.
    pub(super) rad: Option<Arc<Vec<f64>>>,
}

impl Balls {
    /// Values that are what they are.
    pub(super) fn exact(shape: &[usize], mid: Vec<f64>) -> Self {
        Balls { shape: shape.to_vec(), mid: Arc::new(mid), rad: None }
    }

    /// Values with radii; a radius that is no number means that nothing is known.
    pub(super) fn new(shape: &[usize], balls: impl Iterator<Item = (f64, f64)>) -> Self {
        let known = |(mid, rad): (f64, f64)| (mid, if rad.is_nan() { f64::INFINITY } else { rad });
        let (mid, rad): (Vec<f64>, Vec<f64>) = balls.map(known).unzip();
        let rad = rad.iter().any(|&r| r > 0.0).then(|| Arc::new(rad));
        Balls { shape: shape.to_vec(), mid: Arc::new(mid), rad }
    }

    /// A tensor of any dtype.
    pub(super) fn of(tensor: &Tensor) -> Self {
        let mid = match tensor.to_i32() {
            Some(ids) => ids.into_iter().map(f64::from).collect(),
            None => tensor.to_f32().into_iter().map(f64::from).collect(),
        };
        Balls::exact(tensor.shape(), mid)
    }

    /// The values rounded to f32, which is what they mean.
    pub(super) fn as_f32(&self) -> Self {
        let mid = self.mid.iter().map(|&x| f64::from(x as f32)).collect();
        Balls::exact(&self.shape, mid)
    }

    pub(super) fn radius(&self, i: usize) -> f64 {
        self.rad.as_ref().map_or(0.0, |r| r[i])
    }

    pub(super) fn at(&self, i: usize) -> (f64, f64) {
        (self.mid[i], self.radius(i))
    }

    /// Every value by itself.
    pub(super) fn map(&self, f: impl Fn(f64, f64) -> (f64, f64)) -> Self {
        let balls = (0..self.mid.len()).map(|i| f(self.mid[i], self.radius(i)));
        Balls::new(&self.shape, balls)
    }

    /// Rounded to a float dtype, or quantised. Both are part of the function, not errors of it: a value
    /// whose whole ball rounds to one number is exact afterwards.
    pub(super) fn cast(&self, dtype: DType, rounding: Rounding) -> Result<Self, String> {
        if dtype == DType::F32 {
            return Ok(self.map(|x, r| (rounding.round(x), r + error(rounding, x))));
        }
        let to = |f: &dyn Fn(usize) -> f64| -> Result<Vec<f32>, String> {
            let values: Vec<f32> = (0..self.mid.len()).map(|i| f(i) as f32).collect();
            let wide = Tensor::from_f32(self.shape.clone(), &values);
            wide.cast(dtype).map(|t| t.to_f32()).map_err(|e| e.to_string())
        };
        let mid = to(&|i| self.mid[i])?;
        let exact: Vec<f64> = mid.iter().copied().map(f64::from).collect();
        if self.rad.is_none() {
            return Ok(Balls::exact(&self.shape, exact));
        }
        let ends = [to(&|i| self.mid[i] - self.radius(i))?, to(&|i| self.mid[i] + self.radius(i))?];
        let group = dtype.block_len();
        let step = |i: usize| -> f64 {
            // Of a group as a whole: its step follows its largest element. At most 1/7 of it, as `q4`.
            let of = i / group * group..(i / group * group + group).min(self.mid.len());
            if of.clone().all(|j| self.radius(j) == 0.0) {
                return 0.0;
            }
            let largest = of.map(|j| self.mid[j].abs() + self.radius(j)).fold(0.0, f64::max);
            self.radius(i) + 2.0 * largest / 7.0
        };
        let balls = exact.iter().enumerate().map(|(i, &x)| {
            let rad = match dtype.is_quantized() {
                true => step(i),
                false => ends.iter().map(|e| (f64::from(e[i]) - x).abs()).fold(0.0, f64::max),
            };
            // Equal infinities differ by no number.
            (x, if self.mid[i].is_infinite() && self.radius(i) == 0.0 { 0.0 } else { rad })
        });
        Ok(Balls::new(&self.shape, balls))
    }
}

/// The most that rounding a result to its store moves it.
pub(super) fn error(rounding: Rounding, value: f64) -> f64 {
    if rounding == Rounding::Wide {
        // Functions of the platform are within two units of the last place.
        return value.abs() * 4.0 * rounding.stored();
    }
    if !value.is_finite() || rounding.round(value) == value {
        return 0.0;
    }
    // Half a unit; below the normal numbers half the smallest one, 2^-150.
    value.abs() * rounding.stored() + 2f64.powi(-150)
}
