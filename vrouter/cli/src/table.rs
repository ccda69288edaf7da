//! Aligned columns on a terminal.

use std::fmt::Write as _;

/// Which side a column is flush with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table: a heading, rows of as many cells, columns two blanks apart.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len(), "a cell for each column");
        self.rows.push(cells.iter().map(|cell| cell_text(cell)).collect());
    }

    /// The lines, each with its line break; no blanks at line ends.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max();
            let heading = self.columns.get(column).map_or(0, |(heading, _)| heading.len());
            widest.unwrap_or(0).max(heading)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        self.line(&mut text, &widths, self.columns.iter().map(|(heading, _)| *heading));
        for row in &self.rows {
            self.line(&mut text, &widths, row.iter().map(String::as_str));
        }
        text
    }

    fn line<'a>(&self, text: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.zip(widths).zip(&self.columns) {
            // Writing to a String cannot fail.
            let _ = match align {
                Align::Left => write!(line, "{cell:<width$}  "),
                Align::Right => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// What is not there is a dash, so that columns can be cut by a script.
fn cell_text(cell: &str) -> String {
    if cell.is_empty() { "-".to_owned() } else { plain(cell) }
}

/// Text from elsewhere (pods' names, reasons) on one line, unable to move the cursor or colour the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::{Align, Table, plain};

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("PACKETS", Align::Right),
            ("REASON", Align::Left),
        ]);
        table.row(["a".into(), "12345678".into(), "gone".into()]);
        table.row(["Überlänge".into(), "7".into(), String::new()]);
        assert_eq!(
            table.render(),
            "NAME        PACKETS  REASON\n\
             a          12345678  gone\n\
             Überlänge         7  -\n"
        );
    }

    #[test]
    fn an_empty_table_is_its_heading() {
        assert_eq!(Table::new(&[("A", Align::Left), ("B", Align::Right)]).render(), "A  B\n");
    }

    #[test]
    fn hostile_text_cannot_touch_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n\r\u{9b}c"), "a\\u{1b}[2Jb\\n\\r\\u{9b}c");
        let mut table = Table::new(&[("A", Align::Left)]);
        table.row(["x\ny".into()]);
        assert_eq!(table.render().lines().count(), 2);
    }
}
