//! Maps of a wafer: an offline HTML page (of one plan, or of two side by side), an SVG
//! picture, a PNG picture of one pixel per PE, a picture for terminals.
//!
//! All show where the model lives: regions to scale, coloured by layer in the order of the
//! activation's visit, the way from one to the next, and what fills the SRAM. One palette serves
//! them (`palette`), and one choice of what part of the wafer to show (`figures`).
//!
//! Invariants: a map is a function of the plan alone and never longer than it (tiles are expanded by
//! whoever looks, see `data`); names of the plan are text and can be nothing else. Does not judge:
//! an illegal plan is drawn as far as it makes sense, without a panic.

mod compare;
mod data;
mod figures;
mod html;
mod instruction;
mod palette;
mod png;
mod svg;
mod terminal;
#[cfg(test)]
mod tests;

pub use compare::compare;
pub use html::html;
pub use png::png;
pub use svg::svg;
pub use terminal::terminal;

/// A page with its marks replaced, in the order in which they stand in it.
fn fill(page: &str, parts: &[(&str, String)]) -> String {
    let mut out = String::new();
    let mut rest = page;
    for (mark, text) in parts {
        // Marks are looked for in the page only, never in what was put in.
        let Some((before, after)) = rest.split_once(mark) else { continue };
        out.push_str(before);
        out.push_str(text);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Text with the characters that HTML and SVG reserve replaced, and control characters dropped
/// (XML has no spelling for them).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
