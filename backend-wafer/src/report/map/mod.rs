//! Maps of a wafer: an offline HTML page, an SVG picture, a picture for terminals.
//!
//! All three show the same: regions where they lie, coloured by layer in order of the activation's
//! visit, and the way from one to the next. One palette serves them ([`region_color`]).

mod html;
mod svg;
mod terminal;

pub use html::html;
pub use svg::svg;
pub use terminal::terminal;

use plan::Plan;

/// RGB of region `i`: layers run through the hues from blue to red, the ends are grey.
fn region_color(plan: &Plan, i: usize) -> (u8, u8, u8) {
    let layers = plan.regions.iter().filter(|r| r.layer.is_some()).count().max(1);
    let before = plan.regions[..i].iter().filter(|r| r.layer.is_some()).count();
    if plan.regions[i].layer.is_none() {
        return if i == 0 { (120, 128, 140) } else { (150, 140, 120) };
    }
    let hue = 230.0 * (1.0 - before as f64 / layers as f64);
    // Neighbours alternate in lightness, so that borders show without lines.
    from_hsl(hue, 0.55, if before.is_multiple_of(2) { 0.52 } else { 0.60 })
}

/// RGB of a hue in degrees, saturation and lightness in 0..=1.
fn from_hsl(hue: f64, saturation: f64, lightness: f64) -> (u8, u8, u8) {
    let chroma = (1.0 - (2.0 * lightness - 1.0).abs()) * saturation;
    let side = hue / 60.0;
    let second = chroma * (1.0 - (side % 2.0 - 1.0).abs());
    let (r, g, b) = match side as u32 {
        0 => (chroma, second, 0.0),
        1 => (second, chroma, 0.0),
        2 => (0.0, chroma, second),
        3 => (0.0, second, chroma),
        4 => (second, 0.0, chroma),
        _ => (chroma, 0.0, second),
    };
    let base = lightness - chroma / 2.0;
    let byte = |v: f64| ((v + base) * 255.0).round().clamp(0.0, 255.0) as u8;
    (byte(r), byte(g), byte(b))
}

/// Text with the characters that HTML and SVG reserve replaced.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}

/// Where the activation leaves a region and where it enters the next, in PE coordinates.
fn hop(plan: &Plan, i: usize) -> Option<((f64, f64), (f64, f64))> {
    let (a, b) = (plan.regions.get(i)?, plan.regions.get(i + 1)?);
    let middle = |r: &plan::Rect| {
        (f64::from(r.x) + f64::from(r.w) / 2.0, f64::from(r.y) + f64::from(r.h) / 2.0)
    };
    Some((middle(&a.rect), middle(&b.rect)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let target = plan::Target::preset("tiny").expect("preset");
        plan::samples::line(plan::samples::Collective::Chain, plan::Axis::X, 6, 4, target)
    }

    #[test]
    fn hues_become_rgb() {
        assert_eq!(from_hsl(0.0, 1.0, 0.5), (255, 0, 0));
        assert_eq!(from_hsl(120.0, 1.0, 0.5), (0, 255, 0));
        assert_eq!(from_hsl(240.0, 1.0, 0.5), (0, 0, 255));
    }

    #[test]
    fn maps_are_self_contained_and_name_the_regions() {
        let mut plan = plan();
        plan.regions[0].name = "a<b>".into();
        let page = html(&plan);
        for outside in ["http://", "https://", "src=", "@import", "a<b>"] {
            let allowed = page.matches("http://www.w3.org").count();
            let found = page.matches(outside).count();
            assert!(found <= if outside == "http://" { allowed } else { 0 }, "{outside}");
        }
        let picture = svg(&plan);
        assert!(picture.contains("a&lt;b&gt;") && picture.ends_with("</svg>\n"));
        let text = terminal(&plan, 40, false);
        assert!(text.contains("a<b>") && !text.contains('\u{1b}'));
        assert!(terminal(&plan, 40, true).contains('\u{1b}'));
    }
}
