//! The wafer as one SVG picture with title, legend and, when only a part of the wafer is used, a small
//! picture of the whole.
//!
//! Static: no script, no external resource, the size of the plan's regions and streams.

use std::fmt::Write;

use plan::{Plan, Rect, Region};

use super::palette::{Rgb, contributor_color, contributor_word, ink_on, region_colors, viridis};
use super::{escape, figures};

/// Width of the picture in pixels.
const WIDTH: f64 = 1000.0;
/// Space on each side of it.
const MARGIN: f64 = 24.0;
/// Height of the heading.
const HEAD: f64 = 78.0;
/// Most pixels that the map is high.
const HEIGHT_MAX: f64 = 1100.0;
/// Height of a line of the legend.
const LINE: f64 = 24.0;

/// An SVG document: regions to scale, the way of the activation, SRAM by contributor.
pub fn svg(plan: &Plan) -> String {
    let shown = figures::focus(plan);
    let (w, h) = (f64::from(shown.w), f64::from(shown.h));
    let scale = ((WIDTH - 2.0 * MARGIN) / w).min(HEIGHT_MAX / h);
    let left = MARGIN + (WIDTH - 2.0 * MARGIN - w * scale) / 2.0;
    let view = View { shown, scale, left, top: HEAD };
    let below = HEAD + h * scale + 30.0;
    let cropped = shown != figures::machine(plan);
    let height = below + LINE * (plan.templates.len().max(4) as f64 + 2.0) + MARGIN;

    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" font-family=\"system-ui, 'Helvetica Neue', Arial, sans-serif\">"
    );
    let title = format!("{} on {}", plan.model.name, plan.target.name);
    let _ = writeln!(out, "<title>{}</title>", escape(&title));
    out.push_str(
        "<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"5\" \
         markerHeight=\"5\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#1e2328\" stroke=\"#ffffff\" stroke-width=\"0.7\"/></marker></defs>\n",
    );
    let _ = writeln!(out, "<rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#ffffff\"/>");
    text(&mut out, MARGIN, 34.0, 20.0, "font-weight=\"600\"", &title);
    text(&mut out, MARGIN, 58.0, 13.0, "fill-opacity=\"0.7\"", &figures::summary(plan));
    regions(&mut out, plan, &view);
    streams(&mut out, plan, &view);
    host(&mut out, plan, &view);
    let note =
        format!("{}; arrows: the activation; ring: the token leaves", shown_text(plan, shown));
    text(&mut out, left, HEAD + h * scale + 18.0, 11.5, "fill-opacity=\"0.7\"", &note);
    legend(&mut out, plan, below);
    if cropped {
        locator(&mut out, plan, shown, below + 4.0);
    }
    out.push_str("</svg>\n");
    out
}

/// Where a part of the wafer is drawn.
struct View {
    shown: Rect,
    scale: f64,
    left: f64,
    top: f64,
}

impl View {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let (x0, y0) = (f64::from(self.shown.x), f64::from(self.shown.y));
        (self.left + (x - x0) * self.scale, self.top + (y - y0) * self.scale)
    }
}

fn shown_text(plan: &Plan, r: Rect) -> String {
    let whole = figures::machine(plan);
    if r == whole {
        return format!("the whole wafer, {} x {} PEs", whole.w, whole.h);
    }
    format!(
        "columns {} to {}, rows {} to {} of {} x {} PEs",
        r.x,
        u64::from(r.x) + u64::from(r.w) - 1,
        r.y,
        u64::from(r.y) + u64::from(r.h) - 1,
        whole.w,
        whole.h
    )
}

fn hex((r, g, b): Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn text(out: &mut String, x: f64, y: f64, size: f64, attributes: &str, content: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size:.1}\" fill=\"#1e2328\" {attributes}>{}</text>",
        escape(content)
    );
}

fn rect(out: &mut String, (x, y): (f64, f64), (w, h): (f64, f64), fill: &str, more: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" fill=\"{fill}\"{more}/>"
    );
}

fn regions(out: &mut String, plan: &Plan, view: &View) {
    let size = (f64::from(view.shown.w) * view.scale, f64::from(view.shown.h) * view.scale);
    rect(out, (view.left, view.top), size, "#e9e7e1", "");
    for (region, color) in plan.regions.iter().zip(region_colors(plan)) {
        let r = region.rect;
        let (x, y) = view.at(f64::from(r.x), f64::from(r.y));
        let (w, h) = (f64::from(r.w) * view.scale, f64::from(r.h) * view.scale);
        let name = escape(&region.name);
        let _ = writeln!(
            out,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" fill=\"{}\" stroke=\"#ffffff\" \
             stroke-width=\"{:.2}\"><title>{name}: {} x {} PEs at {}, {}</title></rect>",
            hex(color),
            (w * 0.1).min(1.2),
            r.w,
            r.h,
            r.x,
            r.y
        );
        let letters = region.name.chars().count().max(1) as f64;
        let font = (w * 0.64 / (letters * 0.56)).min(h * 0.26).min(17.0);
        if font >= 6.0 {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"{font:.1}\" font-weight=\"600\" text-anchor=\"middle\" \
                 fill=\"{}\">{name}</text>",
                x + w / 2.0,
                y + h * 0.3 + font * 0.35,
                hex(ink_on(color))
            );
        }
    }
}

/// One arrow per pair of regions, straight through the border that they share.
fn streams(out: &mut String, plan: &Plan, view: &View) {
    let mut drawn = std::collections::BTreeSet::new();
    for stream in &plan.streams {
        let (from, to) = (stream.from.0 as usize, stream.to.0 as usize);
        let (Some(a), Some(b)) = (plan.regions.get(from), plan.regions.get(to)) else { continue };
        if !drawn.insert((from, to)) {
            continue;
        }
        let ((x1, y1), (x2, y2)) = between(a, b, 15.0 / view.scale);
        let ((x1, y1), (x2, y2)) = (view.at(x1, y1), view.at(x2, y2));
        if (x2 - x1).hypot(y2 - y1) < 5.0 {
            continue;
        }
        for (stroke, width, tip) in
            [("#ffffff", 4.5, ""), ("#1e2328", 2.2, " marker-end=\"url(#tip)\"")]
        {
            let _ = writeln!(
                out,
                "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{stroke}\" \
                 stroke-width=\"{width}\"{tip}/>"
            );
        }
    }
}

/// Where the token enters, an arrow into the first region, and where it leaves, a ring.
fn host(out: &mut String, plan: &Plan, view: &View) {
    if let Some(first) = plan.regions.first() {
        let (r, mirrored) = (first.rect, first.orientation.mirror_x);
        let edge = f64::from(r.x) + if mirrored { f64::from(r.w) } else { 0.0 };
        let (x, y) = view.at(edge, f64::from(r.y) + f64::from(r.h) * 0.5);
        let from = if mirrored { x + 22.0 } else { x - 22.0 };
        let _ = writeln!(
            out,
            "<line x1=\"{from:.1}\" y1=\"{y:.1}\" x2=\"{x:.1}\" y2=\"{y:.1}\" stroke=\"#1e2328\" \
             stroke-width=\"2.2\" marker-end=\"url(#tip)\"><title>the token enters</title></line>"
        );
    }
    let Some(token) = plan.outputs.token else { return };
    let Some(region) = plan.regions.get(token.region.0 as usize) else { return };
    let (w, h) = (region.rect.w, region.rect.h);
    if token.position.0 >= w || token.position.1 >= h {
        return;
    }
    let (x, y) = region.orientation.position(token.position, w, h);
    let at = |origin: u32, offset: u32| f64::from(origin) + f64::from(offset) + 0.5;
    let (x, y) = view.at(at(region.rect.x, x), at(region.rect.y, y));
    for (stroke, width) in [("#ffffff", 4.5), ("#1e2328", 2.0)] {
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"#1e2328\" fill-opacity=\"0\" \
             stroke=\"{stroke}\" stroke-width=\"{width}\"/>"
        );
    }
}

/// Ends of an arrow from `a` to `b` that reaches `reach` PEs into each; a turn is drawn on the side
/// to which `a` was heading.
fn between(a: &Region, b: &Region, reach: f64) -> ((f64, f64), (f64, f64)) {
    let (a_mirrored, a, b) = (a.orientation.mirror_x, a.rect, b.rect);
    let side = |start: u32, length: u32| (f64::from(start), f64::from(start) + f64::from(length));
    let ((ax0, ax1), (ay0, ay1)) = (side(a.x, a.w), side(a.y, a.h));
    let ((bx0, bx1), (by0, by1)) = (side(b.x, b.w), side(b.y, b.h));
    let deep = |length: u32| reach.min(f64::from(length) * 0.45);
    let (top, bottom) = (ay0.max(by0), ay1.min(by1));
    let (left, right) = (ax0.max(bx0), ax1.min(bx1));
    if bottom > top {
        let y = top + (bottom - top) * 0.74;
        if bx0 >= ax1 {
            return ((ax1 - deep(a.w), y), (bx0 + deep(b.w), y));
        }
        return ((ax0 + deep(a.w), y), (bx1 - deep(b.w), y));
    }
    if right > left {
        let x = left + (right - left) * if a_mirrored { 0.08 } else { 0.92 };
        if by0 >= ay1 {
            return ((x, ay1 - deep(a.h)), (x, by0 + deep(b.h)));
        }
        return ((x, ay0 + deep(a.h)), (x, by1 - deep(b.h)));
    }
    (((ax0 + ax1) / 2.0, (ay0 + ay1) / 2.0), ((bx0 + bx1) / 2.0, (by0 + by1) / 2.0))
}

/// Layers' ramp, and per template a bar of its SRAM.
fn legend(out: &mut String, plan: &Plan, top: f64) {
    let layers: Vec<u32> = plan.regions.iter().filter_map(|r| r.layer).collect();
    let mut y = top + 12.0;
    let mut x = MARGIN;
    if let (Some(first), Some(last)) = (layers.first(), layers.last()) {
        text(out, x, y, 12.0, "", &format!("layer {first}"));
        for i in 0..24u32 {
            let color = hex(viridis(f64::from(i) / 23.0));
            rect(out, (x + 56.0 + 5.0 * f64::from(i), y - 10.0), (5.2, 12.0), &color, "");
        }
        text(out, x + 182.0, y, 12.0, "", &format!("layer {last}"));
        x += 262.0;
    }
    for role in [
        plan::BufferRole::Weights,
        plan::BufferRole::KvCache,
        plan::BufferRole::Activation,
        plan::BufferRole::Receive,
        plan::BufferRole::Scratch,
    ] {
        let used = |t| figures::contributors(t).iter().any(|(r, bytes)| *r == role && *bytes > 0);
        if !plan.templates.iter().any(used) {
            continue;
        }
        rect(out, (x, y - 10.0), (12.0, 12.0), &hex(contributor_color(role)), " rx=\"2\"");
        text(out, x + 18.0, y, 12.0, "", contributor_word(role));
        x += 34.0 + 7.0 * contributor_word(role).len() as f64;
    }
    y += LINE;
    text(out, MARGIN, y, 12.0, "font-weight=\"600\"", "SRAM per PE, by template");
    for template in &plan.templates {
        y += LINE;
        let used: u64 = figures::contributors(template).iter().map(|(_, bytes)| bytes).sum();
        let usable = plan.target.sram.bytes.saturating_sub(plan.target.sram.reserved_bytes).max(1);
        text(out, MARGIN, y, 12.0, "", &template.name);
        let mut x = MARGIN + 130.0;
        rect(out, (x, y - 10.0), (420.0, 12.0), "#e4e1da", " rx=\"2\"");
        for (role, bytes) in figures::contributors(template) {
            let width = (bytes as f64 / f64::from(usable)).min(1.0) * 420.0;
            rect(out, (x, y - 10.0), (width, 12.0), &hex(contributor_color(role)), "");
            x += width;
        }
        let share = 100.0 * used as f64 / f64::from(usable);
        let words = format!(
            "{} of {} ({share:.0} %)",
            figures::bytes(used),
            figures::bytes(u64::from(usable))
        );
        text(out, MARGIN + 560.0, y, 12.0, "", &words);
    }
}

/// The whole wafer small, with the part shown framed.
fn locator(out: &mut String, plan: &Plan, shown: Rect, top: f64) {
    let whole = figures::machine(plan);
    let scale = (150.0 / f64::from(whole.w)).min(90.0 / f64::from(whole.h));
    let (w, h) = (f64::from(whole.w) * scale, f64::from(whole.h) * scale);
    let left = WIDTH - MARGIN - w;
    let view = View { shown: whole, scale, left, top };
    rect(out, (left, top), (w, h), "#e9e7e1", "");
    for (region, color) in plan.regions.iter().zip(region_colors(plan)) {
        let r = region.rect;
        let size = (f64::from(r.w) * scale, f64::from(r.h) * scale);
        rect(out, view.at(f64::from(r.x), f64::from(r.y)), size, &hex(color), "");
    }
    let size = (f64::from(shown.w) * scale, f64::from(shown.h) * scale);
    let frame = " fill-opacity=\"0\" stroke=\"#c4470a\" stroke-width=\"1.5\"";
    rect(out, view.at(f64::from(shown.x), f64::from(shown.y)), size, "#ffffff", frame);
    let right = "text-anchor=\"end\" fill-opacity=\"0.7\"";
    text(out, left + w, top + h + 13.0, 11.0, right, "the whole wafer");
}
