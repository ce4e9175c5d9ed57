//! Columns of text.

use lora_peft::printable::{NAME, line};

/// Rows under a heading, padded to the widest cell; numbers to the right.
#[derive(Debug)]
pub struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(heading: &[&'static str]) -> Self {
        Table { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Cells may be names from files: they are shown in one line.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| line(cell, NAME)).collect());
    }

    /// The first column starts at the left margin; the others hold numbers or short words.
    pub fn text(&self) -> String {
        let heading: Vec<String> = self.heading.iter().map(|&cell| cell.to_owned()).collect();
        let lines = || std::iter::once(&heading).chain(&self.rows);
        let width = |column: usize| {
            lines().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.heading.len()).map(width).collect();
        let mut text = String::new();
        for row in lines() {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                match column {
                    0 => line.extend([cell.as_str(), &padding]),
                    _ => line.extend(["  ", &padding, cell]),
                }
            }
            text.extend([line.trim_end(), "\n"]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["module", "r"]);
        table.row(vec!["layers.0.q_proj".into(), "16".into()]);
        table.row(vec!["é".into(), "8".into()]);
        assert_eq!(table.text(), "module            r\nlayers.0.q_proj  16\né                 8\n");
    }

    #[test]
    fn names_are_cells_whatever_is_in_them() {
        let mut table = Table::new(&["module", "r"]);
        table.row(vec!["a\nb\u{1b}".into(), "8".into()]);
        table.row(vec!["x".repeat(1000), "8".into()]);
        let text = table.text();
        assert_eq!(
            text.lines().nth(1).unwrap().trim_end(),
            format!(
                "{:<width$}  8",
                "a\\nb\\u001b",
                width = text.lines().nth(2).unwrap().chars().count() - 3
            )
        );
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.chars().count() < 300), "{text}");
    }
}
