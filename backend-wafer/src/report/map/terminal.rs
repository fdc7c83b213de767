//! The wafer in a terminal: one character per patch of PEs, rows of half-height patches.

use std::fmt::Write;

use plan::{Plan, Point};

use super::region_color;

/// Most rows of characters.
const MAX_ROWS: usize = 40;
/// Letters of layers without colour, repeated.
const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A picture `columns` characters wide, with ANSI colours when `color`, and a legend.
pub fn terminal(plan: &Plan, columns: usize, color: bool) -> String {
    let (w, h) = (plan.target.total_width() as usize, plan.target.height as usize);
    // A character is about twice as high as wide.
    let columns = columns.clamp(8, w.max(8)).min(2 * MAX_ROWS * w.max(1) / h.max(1) + 8).min(w.max(1));
    let rows = (columns * h).div_ceil(2 * w.max(1)).clamp(1, MAX_ROWS);
    let mut out = String::new();
    for row in 0..rows {
        for column in 0..columns {
            let at = |line: usize, lines: usize| {
                let x = (2 * column + 1) * w / (2 * columns);
                let y = (2 * line + 1) * h / (2 * lines);
                region_at(plan, Point { x: x as u32, y: y as u32 })
            };
            if color {
                half_blocks(&mut out, plan, at(2 * row, 2 * rows), at(2 * row + 1, 2 * rows));
            } else {
                out.push(at(row, rows).map_or('.', |i| letter(plan, i)));
            }
        }
        out.push_str(if color { "\u{1b}[0m\n" } else { "\n" });
    }
    legend(&mut out, plan, color);
    out
}

fn region_at(plan: &Plan, p: Point) -> Option<usize> {
    plan.regions.iter().position(|r| r.rect.contains(p))
}

fn letter(plan: &Plan, i: usize) -> char {
    match plan.regions[i].layer {
        Some(layer) => char::from(LETTERS[layer as usize % LETTERS.len()]),
        None if i == 0 => 'E',
        None => 'H',
    }
}

/// One character cell: the upper patch as foreground of an upper half block, the lower as background.
fn half_blocks(out: &mut String, plan: &Plan, upper: Option<usize>, lower: Option<usize>) {
    let rgb = |i: Option<usize>| i.map_or((40, 40, 40), |i| region_color(plan, i));
    let ((r, g, b), (s, t, u)) = (rgb(upper), rgb(lower));
    let _ = write!(out, "\u{1b}[38;2;{r};{g};{b};48;2;{s};{t};{u}m\u{2580}");
}

fn legend(out: &mut String, plan: &Plan, color: bool) {
    let used: u64 = plan.regions.iter().map(|r| r.rect.area()).sum();
    let all = u64::from(plan.target.total_width()) * u64::from(plan.target.height);
    let _ = writeln!(
        out,
        "{} on {}: {} regions, {used} of {all} PEs",
        plan.model.name,
        plan.target.name,
        plan.regions.len()
    );
    let last = plan.regions.len().saturating_sub(1);
    for (i, region) in plan.regions.iter().enumerate() {
        // Of many layers the first and the last two stand for all.
        if plan.regions.len() > 12 && (3..last - 2).contains(&i) {
            if i == 3 {
                out.push_str("  ...\n");
            }
            continue;
        }
        let (r, g, b) = region_color(plan, i);
        let mark = if color {
            format!("\u{1b}[38;2;{r};{g};{b}m\u{2588}\u{1b}[0m")
        } else {
            letter(plan, i).to_string()
        };
        let rect = region.rect;
        let template = plan.template_of(region).map_or("", |t| t.name.as_str());
        let _ = writeln!(
            out,
            "  {mark} {:<12} {:>4} x {:<4} at ({}, {})  {template}",
            region.name, rect.w, rect.h, rect.x, rect.y
        );
    }
}
