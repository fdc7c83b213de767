//! The wafer as one SVG picture.

use std::fmt::Write;

use plan::Plan;

use super::{escape, hop, region_color};

/// Width of the picture in pixels.
const WIDTH: f64 = 900.0;

/// An SVG document: regions, their names, the way of the activation.
pub fn svg(plan: &Plan) -> String {
    let (w, h) = (f64::from(plan.target.total_width()), f64::from(plan.target.height));
    let scale = WIDTH / w.max(1.0);
    let height = h * scale;
    let mut out = String::new();
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {:.1}" font-family="sans-serif">"#,
        height + 30.0
    );
    out.push_str(concat!(
        r##"<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" "##,
        r##"orient="auto"><path d="M0 0L8 4L0 8z" fill="#222"/></marker></defs>"##,
        "\n"
    ));
    let _ = writeln!(
        out,
        r##"<rect width="{WIDTH}" height="{height:.1}" fill="#f2f2ef" stroke="#888"/>"##
    );
    for (i, region) in plan.regions.iter().enumerate() {
        let (r, g, b) = region_color(plan, i);
        let rect = region.rect;
        let [x, y, w, h] = [rect.x, rect.y, rect.w, rect.h].map(|v| f64::from(v) * scale);
        let name = escape(&region.name);
        let _ = writeln!(
            out,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}" fill="rgb({r},{g},{b})"><title>{name}: {} x {} PEs</title></rect>"#,
            rect.w, rect.h
        );
        let size = (w / (name.len() as f64 * 0.62)).min(h * 0.3).min(18.0);
        if size >= 5.0 {
            let _ = writeln!(
                out,
                r##"<text x="{:.1}" y="{:.1}" font-size="{size:.1}" text-anchor="middle" fill="#111">{name}</text>"##,
                x + w / 2.0,
                y + h * 0.3
            );
        }
    }
    for i in 0..plan.regions.len().saturating_sub(1) {
        let Some(((ax, ay), (bx, by))) = hop(plan, i) else { continue };
        let [ax, ay, bx, by] = [ax, ay, bx, by].map(|v| v * scale);
        let _ = writeln!(
            out,
            r##"<line x1="{ax:.1}" y1="{ay:.1}" x2="{bx:.1}" y2="{by:.1}" stroke="#222" stroke-width="1.2" marker-end="url(#tip)"/>"##
        );
    }
    let used: u64 = plan.regions.iter().map(|r| r.rect.area()).sum();
    let _ = writeln!(
        out,
        r##"<text x="4" y="{:.1}" font-size="13" fill="#333">{} on {}: {} regions, {used} PEs</text>"##,
        height + 20.0,
        escape(&plan.model.name),
        escape(&plan.target.name),
        plan.regions.len()
    );
    out.push_str("</svg>\n");
    out
}
