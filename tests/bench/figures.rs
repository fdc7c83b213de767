//! Figures with the reach each is held against.

use std::fmt;

use serde_json::{Value, json};

/// What a figure should reach.
#[derive(Clone, Copy, Debug)]
enum Reach {
    AtMost(f64),
    AtLeast(f64),
    /// Shown only.
    Free,
}

/// One measured value.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    bench: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    reach: Reach,
}

/// Everything measured so far.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    bench: &'static str,
    list: Vec<Figure>,
}

impl Figures {
    /// Figures that follow belong to `bench`.
    pub(crate) fn begin(&mut self, bench: &'static str) {
        self.bench = bench;
    }

    /// Figures of the current bench.
    pub(crate) fn since_begin(&self) -> impl Iterator<Item = &Figure> {
        self.list.iter().filter(|f| f.bench == self.bench)
    }

    /// A value that should not exceed `limit`.
    pub(crate) fn at_most(&mut self, name: &str, value: f64, unit: &'static str, limit: f64) {
        self.add(name, value, unit, Reach::AtMost(limit));
    }

    /// A value that should be `limit` or more.
    pub(crate) fn at_least(&mut self, name: &str, value: f64, unit: &'static str, limit: f64) {
        self.add(name, value, unit, Reach::AtLeast(limit));
    }

    /// A value without a reach.
    pub(crate) fn free(&mut self, name: &str, value: f64, unit: &'static str) {
        self.add(name, value, unit, Reach::Free);
    }

    fn add(&mut self, name: &str, value: f64, unit: &'static str, reach: Reach) {
        self.list.push(Figure { bench: self.bench, name: name.to_owned(), value, unit, reach });
    }

    /// All figures as a JSON array.
    pub(crate) fn json(&self) -> String {
        let figure = |f: &Figure| {
            let (rule, limit) = match f.reach {
                Reach::AtMost(limit) => (Some("at_most"), Some(limit)),
                Reach::AtLeast(limit) => (Some("at_least"), Some(limit)),
                Reach::Free => (None, None),
            };
            json!({
                "bench": f.bench, "name": f.name, "value": f.value, "unit": f.unit,
                "rule": rule, "limit": limit, "met": f.met(),
            })
        };
        Value::Array(self.list.iter().map(figure).collect()).to_string()
    }
}

impl Figure {
    fn met(&self) -> Option<bool> {
        match self.reach {
            Reach::AtMost(limit) => Some(self.value <= limit),
            Reach::AtLeast(limit) => Some(self.value >= limit),
            Reach::Free => None,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figure { name, value, unit, .. } = self;
        write!(f, "{name:<34} {:>12} {unit:<12}", short(*value))?;
        let verdict = if self.met() == Some(true) { "met" } else { "missed" };
        match self.reach {
            Reach::AtMost(limit) => write!(f, " {verdict:<6} (at most {})", short(limit)),
            Reach::AtLeast(limit) => write!(f, " {verdict:<6} (at least {})", short(limit)),
            Reach::Free => Ok(()),
        }
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2}e6", value / 1e6),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}
