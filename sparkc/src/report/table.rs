//! Tables in plain text: columns as wide as their widest cell, two blanks between them.
//!
//! Numbers are right-aligned. Colour is added after the width is known, so it never shifts a column.

use super::Style;

/// How the cells of a column are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    /// A table with these columns; a heading that starts with `>` makes a column of numbers.
    pub fn new(headings: &[&str]) -> Self {
        let columns = headings
            .iter()
            .map(|h| match h.strip_prefix('>') {
                Some(number) => (number.to_string(), Align::Right),
                None => ((*h).to_string(), Align::Left),
            })
            .collect();
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        self.styled(cells.into_iter().map(|c| (c.into(), Style::Plain)).collect())
    }

    /// Adds a row of styled cells.
    pub fn styled(&mut self, cells: Vec<(String, Style)>) -> &mut Self {
        self.rows.push(cells);
        self
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, every line indented by two blanks.
    pub fn render(&self, colored: bool) -> String {
        let width = |i: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(i)).map(|(c, _)| c.chars().count());
            cells.chain([self.columns[i].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        if self.columns.iter().any(|(heading, _)| !heading.is_empty()) {
            let headings: Vec<_> =
                self.columns.iter().map(|(h, _)| (h.clone(), Style::Dim)).collect();
            self.line(&headings, &widths, colored, &mut text);
        }
        for row in &self.rows {
            self.line(row, &widths, colored, &mut text);
        }
        text
    }

    fn line(&self, cells: &[(String, Style)], widths: &[usize], colored: bool, text: &mut String) {
        let mut line = String::new();
        for (i, ((_, align), &width)) in self.columns.iter().zip(widths).enumerate() {
            let empty = (String::new(), Style::Plain);
            let (cell, style) = cells.get(i).unwrap_or(&empty);
            let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
            let painted = style.paint(cell, colored);
            line.push_str("  ");
            match align {
                Align::Left => line.push_str(&format!("{painted}{fill}")),
                Align::Right => line.push_str(&format!("{fill}{painted}")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let mut table = Table::new(&["name", ">bytes"]);
        table.row(["embedding", "12"]);
        table.styled(vec![("head".to_string(), Style::Bold), ("3456".to_string(), Style::Plain)]);
        let plain = table.render(false);
        assert_eq!(plain, "  name       bytes\n  embedding     12\n  head        3456\n");
        let colored = table.render(true);
        let stripped = colored.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "");
        assert_eq!(stripped, plain);
        assert_ne!(colored, plain);
    }
}
