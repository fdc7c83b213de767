//! The wafer in a terminal: regions as boxes to scale, a legend and the use of SRAM.
//!
//! A character is taken as twice as high as wide. Names are cut to their box and cleaned of control
//! characters, so that a plan cannot drive the terminal.

use std::collections::BTreeMap;
use std::fmt::Write;

use plan::{Plan, Rect};

use super::figures;
use super::palette::{Rgb, contributor_color, contributor_word, ink_on, region_colors};

/// Most lines of the picture.
const ROWS_MAX: usize = 44;
/// Least and most columns drawn.
const COLUMNS: (usize, usize) = (20, 400);
/// Columns of an SRAM bar.
const BAR: usize = 30;
/// Places marked for their dead PEs: those with most.
const DEAD_MAX: usize = 40;
/// Regions listed before some are left out.
const LISTED_MAX: usize = 12;

/// A picture at most `columns` wide, with ANSI colours when `color`, and a legend.
pub fn terminal(plan: &Plan, columns: usize, color: bool) -> String {
    let shown = figures::focus(plan);
    let picture = Picture::new(plan, shown, columns.clamp(COLUMNS.0, COLUMNS.1));
    let mut out = String::new();
    let _ = writeln!(out, "{} on {}", clean(&plan.model.name), clean(&plan.target.name));
    let _ = writeln!(out, "{}\n", figures::summary(plan));
    picture.write(&mut out, plan, color);
    if let Some(repair) = figures::repair(plan) {
        let _ = writeln!(out, "{repair} (× where most are dead)");
    }
    let whole = figures::machine(plan);
    if shown == whole {
        let _ = writeln!(out, "the whole wafer: {} x {} PEs", whole.w, whole.h);
    } else {
        let last = |start: u32, n: u32| u64::from(start) + u64::from(n) - 1;
        let _ = writeln!(
            out,
            "columns {} to {}, rows {} to {} of {} x {} PEs",
            shown.x,
            last(shown.x, shown.w),
            shown.y,
            last(shown.y, shown.h),
            whole.w,
            whole.h
        );
    }
    regions(&mut out, plan, color);
    sram(&mut out, plan, color);
    out
}

struct Picture {
    /// Which region every character stands for.
    owner: Vec<Vec<Option<usize>>>,
    characters: Vec<Vec<char>>,
}

impl Picture {
    fn new(plan: &Plan, shown: Rect, columns: usize) -> Self {
        let (w, h) = (f64::from(shown.w), f64::from(shown.h));
        // PEs per column; a line is two columns high.
        let per_column = (w / columns as f64).max(h / (2.0 * ROWS_MAX as f64)).max(0.05);
        let count = |length: f64, per: f64| ((length / per).round() as usize).max(1);
        let (columns, rows) = (count(w, per_column), count(h, 2.0 * per_column));
        let mut owner = vec![vec![None; columns]; rows];
        let mut order: Vec<usize> = (0..plan.regions.len()).collect();
        // Thin regions last: they take at least a column, from a larger neighbour.
        order.sort_by_key(|&i| (std::cmp::Reverse(plan.regions[i].rect.area()), i));
        for i in order {
            let r = plan.regions[i].rect;
            let cut = |start: u32, origin: u32, length: u32, per: f64, end: usize| {
                let from = f64::from(start.saturating_sub(origin)) / per;
                let to = from + f64::from(length) / per;
                let from = (from.round() as usize).min(end - 1);
                from..(to.round() as usize).clamp(from + 1, end)
            };
            let xs = cut(r.x, shown.x, r.w, per_column, columns);
            for row in &mut owner[cut(r.y, shown.y, r.h, 2.0 * per_column, rows)] {
                row[xs.clone()].fill(Some(i));
            }
        }
        let characters = (0..rows).map(|y| (0..columns).map(|x| frame(&owner, x, y)).collect());
        let mut picture = Picture { characters: characters.collect(), owner };
        for i in 0..plan.regions.len() {
            picture.label(plan, i);
        }
        picture.arrows(plan);
        picture.dead(plan, shown, per_column);
        picture
    }

    /// A cross inside the regions where most PEs are dead.
    fn dead(&mut self, plan: &Plan, shown: Rect, per_column: f64) {
        let mut counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (x, y) in figures::dead(plan) {
            let (Some(x), Some(y)) = (x.checked_sub(shown.x), y.checked_sub(shown.y)) else {
                continue;
            };
            let column = (f64::from(x) / per_column) as usize;
            *counts.entry(((f64::from(y) / (2.0 * per_column)) as usize, column)).or_default() += 1;
        }
        let mut places: Vec<((usize, usize), usize)> = counts.into_iter().collect();
        places.sort_by_key(|&(place, count)| (std::cmp::Reverse(count), place));
        for ((row, column), _) in places.into_iter().take(DEAD_MAX) {
            let at = self.characters.get_mut(row).and_then(|line| line.get_mut(column));
            if let Some(character) = at.filter(|c| matches!(**c, ' ' | '·')) {
                *character = '×';
            }
        }
    }

    /// First and last column and row of a region's characters; `None` when it has none.
    fn extent(&self, i: usize) -> Option<(usize, usize, usize, usize)> {
        let is = |cell: &Option<usize>| *cell == Some(i);
        let y0 = self.owner.iter().position(|row| row.iter().any(is))?;
        let y1 = self.owner.iter().rposition(|row| row.iter().any(is))?;
        let (x0, x1) = (self.owner[y0].iter().position(is)?, self.owner[y0].iter().rposition(is)?);
        Some((x0, x1, y0, y1))
    }

    /// Writes the region's label into the middle line of its box.
    fn label(&mut self, plan: &Plan, i: usize) {
        let Some((x0, x1, y0, y1)) = self.extent(i) else { return };
        let width = x1 + 1 - x0;
        let letters: Vec<char> = label(plan, i, width).chars().collect();
        let (row, start) = (y0 + (y1 - y0) / 2, x0 + (width - letters.len().min(width)) / 2);
        for (k, &character) in letters.iter().enumerate() {
            self.characters[row][start + k] = character;
        }
    }

    /// An arrow on the border of every region that a stream enters, when it is wide enough.
    fn arrows(&mut self, plan: &Plan) {
        for stream in &plan.streams {
            let (from, to) = (stream.from.0 as usize, stream.to.0 as usize);
            let (Some(a), Some(b)) = (self.extent(from), self.extent(to)) else { continue };
            if b.1 - b.0 < 4 {
                continue;
            }
            let (middle, row) = (b.0 + (b.1 - b.0) / 2, b.2 + (b.3 - b.2) / 2);
            let (x, y, arrow) = match () {
                () if b.0 > a.1 => (b.0, row, '→'),
                () if b.1 < a.0 => (b.1, row, '←'),
                () if b.2 > a.3 => (middle, b.2, '↓'),
                () if b.3 < a.2 => (middle, b.3, '↑'),
                () => continue,
            };
            self.characters[y][x] = arrow;
        }
    }

    fn write(&self, out: &mut String, plan: &Plan, color: bool) {
        let colors = region_colors(plan);
        for (owners, characters) in self.owner.iter().zip(&self.characters) {
            let mut current = None;
            for (owner, character) in owners.iter().zip(characters) {
                if color && current != Some(*owner) {
                    match *owner {
                        Some(i) => paint(out, ink_on(colors[i]), colors[i]),
                        None => out.push_str("\u{1b}[0;2m"),
                    }
                    current = Some(*owner);
                }
                out.push(*character);
            }
            out.push_str(if color { "\u{1b}[0m\n" } else { "\n" });
        }
    }
}

/// The character at a place of the grid: a piece of a frame where the owner changes.
fn frame(owner: &[Vec<Option<usize>>], x: usize, y: usize) -> char {
    let here = owner[y][x];
    if here.is_none() {
        return '·';
    }
    let other = |x: Option<usize>, y: Option<usize>| {
        let cell = y.and_then(|y| owner.get(y)).zip(x).and_then(|(row, x)| row.get(x));
        cell.is_none_or(|cell| *cell != here)
    };
    let (west, east) = (other(x.checked_sub(1), Some(y)), other(Some(x + 1), Some(y)));
    let (north, south) = (other(Some(x), y.checked_sub(1)), other(Some(x), Some(y + 1)));
    match (north, east, south, west) {
        (_, true, _, true) | (true, _, true, _) => '▒',
        (true, false, _, true) => '┌',
        (true, true, _, false) => '┐',
        (_, false, true, true) => '└',
        (_, true, true, false) => '┘',
        (true, ..) | (_, _, true, _) => '─',
        (_, true, ..) | (.., true) => '│',
        _ => ' ',
    }
}

/// The region's name, its layer's number, or nothing: the longest that fits in a box `width` wide.
fn label(plan: &Plan, i: usize, width: usize) -> String {
    let name = clean(&plan.regions[i].name);
    let number = plan.regions[i].layer.map(|layer| layer.to_string());
    let initial: String = name.chars().take(1).collect();
    let fits = |text: &String| text.chars().count() + 2 <= width || (width < 3 && text.len() == 1);
    [Some(name), number, Some(initial)].into_iter().flatten().find(fits).unwrap_or_default()
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn paint(out: &mut String, (r, g, b): Rgb, (s, t, u): Rgb) {
    let _ = write!(out, "\u{1b}[0;38;2;{r};{g};{b};48;2;{s};{t};{u}m");
}

/// What lies where; of many layers the first and the last stand for all.
fn regions(out: &mut String, plan: &Plan, color: bool) {
    let colors = region_colors(plan);
    let n = plan.regions.len();
    let _ = writeln!(out, "\n{n} regions, in the order of the activation");
    for (i, region) in plan.regions.iter().enumerate() {
        if n > LISTED_MAX && (4..n - 3).contains(&i) {
            if i == 4 {
                let _ = writeln!(out, "    ... {} more", n - 7);
            }
            continue;
        }
        let r = region.rect;
        out.push_str("  ");
        if color {
            let (r, g, b) = colors[i];
            let _ = write!(out, "\u{1b}[38;2;{r};{g};{b}m■\u{1b}[0m ");
        }
        let template = plan.template_of(region).map_or("?", |t| t.name.as_str());
        let size = format!("{} x {}", r.w, r.h);
        let place = format!("{}, {}", r.x, r.y);
        let name = clean(&region.name);
        let _ = writeln!(out, "{name:<14} {size:>11} PEs at {place:<11} {}", clean(template));
    }
}

/// A bar per template: how full its PEs are, and with what.
fn sram(out: &mut String, plan: &Plan, color: bool) {
    let usable = plan.target.sram.bytes.saturating_sub(plan.target.sram.reserved_bytes).max(1);
    let _ = writeln!(out, "\nSRAM per PE, of {} usable", figures::bytes(u64::from(usable)));
    for template in &plan.templates {
        let parts = figures::contributors(template);
        let used: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
        let cells = |bytes: u64| {
            ((bytes as f64 / f64::from(usable) * BAR as f64).round() as usize).min(BAR)
        };
        let _ = write!(out, "  {:<14} ", clean(&template.name));
        let (mut sum, mut drawn) = (0, 0);
        for &(role, bytes) in &parts {
            sum += bytes;
            let width = cells(sum) - drawn;
            drawn += width;
            if color {
                let (r, g, b) = contributor_color(role);
                let _ = write!(out, "\u{1b}[38;2;{r};{g};{b}m");
            }
            out.extend(std::iter::repeat_n('█', width));
        }
        if color {
            out.push_str("\u{1b}[0;2m");
        }
        out.extend(std::iter::repeat_n('░', BAR - drawn));
        if color {
            out.push_str("\u{1b}[0m");
        }
        let share = 100.0 * used as f64 / f64::from(usable);
        let _ = write!(out, " {:>9} {share:>3.0} % ", figures::bytes(used));
        for (k, (role, bytes)) in parts.iter().enumerate() {
            let comma = if k > 0 { ", " } else { " " };
            let _ = write!(out, "{comma}{} {}", contributor_word(*role), figures::bytes(*bytes));
        }
        out.push('\n');
    }
}
