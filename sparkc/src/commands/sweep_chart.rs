//! The chart of a sweep: tokens per second of one request against those of a full pipeline, one dot
//! per point, its area the wafers it takes. SVG, no scripts, the same bytes for the same points.

use std::fmt::Write;

use serde_json::Value;

use crate::report::grouped;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const MARGIN: f64 = 70.0;
/// Lines of the grid per axis.
const TICKS: u32 = 5;

/// The chart of the points that fit.
pub(super) fn chart(results: &[Value]) -> String {
    let figure = |p: &Value, key: &str| p[key].as_f64();
    let dots: Vec<(f64, f64, f64, String)> = results
        .iter()
        .filter_map(|p| {
            let x = figure(p, "tokens_per_second")?;
            let y = figure(p, "pipeline_tokens_per_second")?;
            let options = &p["options"];
            let text = |key: &str| options[key].to_string().replace('"', "");
            let label = format!("context {}, {}", text("context"), text("quant"));
            Some((x, y, figure(p, "wafers")?, label))
        })
        .collect();
    let most =
        |of: fn(&(f64, f64, f64, String)) -> f64| nice(dots.iter().map(of).fold(1.0, f64::max));
    let (x_max, y_max) = (most(|d| d.0), most(|d| d.1));
    let at = |x: f64, y: f64| {
        let across = WIDTH - 2.0 * MARGIN;
        let up = HEIGHT - 2.0 * MARGIN;
        (MARGIN + across * x / x_max, HEIGHT - MARGIN - up * y / y_max)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for i in 0..=TICKS {
        let (x, y) =
            (x_max * f64::from(i) / f64::from(TICKS), y_max * f64::from(i) / f64::from(TICKS));
        let ((left, level), (across, bottom)) = (at(0.0, y), at(x, 0.0));
        let (right, top) = at(x_max, y_max);
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<path d=\"M{left:.1} {level:.1}H{right:.1}M{across:.1} {bottom:.1}V{top:.1}\" \
             stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{level:.1}\" text-anchor=\"end\" dy=\"4\">{}</text>\
             <text x=\"{across:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            left - 6.0,
            grouped(y as u64),
            bottom + 18.0,
            grouped(x as u64)
        );
    }
    for (x, y, wafers, label) in &dots {
        let (cx, cy) = at(*x, *y);
        let radius = 4.0 + 3.0 * wafers.sqrt();
        let _ = writeln!(
            svg,
            "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{radius:.1}\" fill=\"#2a6fb0\" \
             fill-opacity=\"0.6\"><title>{label}: {wafers} wafers, {} tokens/s one request, {} full \
             pipeline</title></circle><text x=\"{:.1}\" y=\"{:.1}\">{wafers}</text>",
            grouped(*x as u64),
            grouped(*y as u64),
            cx + radius + 3.0,
            cy + 4.0
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">tokens/s of one request</text>\n\
         <text x=\"{MARGIN}\" y=\"{:.1}\">tokens/s of a full pipeline; beside each dot its wafers</text>\n</svg>\n",
        WIDTH / 2.0,
        HEIGHT - 22.0,
        MARGIN - 24.0
    );
    svg
}

/// The next 1, 2 or 5 times a power of ten.
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&n| n >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn points_that_fit_are_dots() {
        let fits = json!({ "options": { "context": 64, "quant": "none" }, "wafers": 2,
            "tokens_per_second": 900.0, "pipeline_tokens_per_second": 7000.0 });
        let refused = json!({ "options": {}, "refused": "too large" });
        let svg = chart(&[fits, refused]);
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("context 64, none: 2 wafers"), "{svg}");
        assert_eq!((nice(900.0), nice(7000.0), nice(0.2)), (1000.0, 10_000.0, 1.0));
    }
}
