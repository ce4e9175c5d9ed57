//! Tables for people.

use std::fmt::Write;
use std::time::Duration;

/// A table whose first column is text and whose other columns are aligned to the right.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts with the column heads.
    pub fn new<const N: usize>(heads: [&str; N]) -> Self {
        Table { rows: vec![heads.map(String::from).into()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| {
            let cells = self.rows.iter().filter_map(|row: &Vec<String>| row.get(column));
            cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                if column == 0 {
                    write!(line, "{cell:<width$}")?;
                } else {
                    write!(line, "   {cell:>width$}")?;
                }
            }
            writeln!(f, "  {}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A share as a percentage.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// A number with commas between thousands.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in KiB.
pub fn kibibytes(bytes: usize) -> String {
    format!("{:.1} KiB", bytes as f64 / 1024.0)
}

/// A difference of two numbers, with two digits that count.
pub fn difference(number: f64) -> String {
    if number >= 0.01 { format!("{number:.3}") } else { format!("{number:.1e}") }
}

/// A short time.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", 1000.0 * time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["", "base", "adapter 1"]);
        table.row(["turned by 90°".into(), percent(0.123), percent(1.0)]);
        table.row(["digits".into(), percent(0.0)]);
        let expected = concat!(
            "                   base   adapter 1\n",
            "  turned by 90°   12.3%      100.0%\n",
            "  digits           0.0%\n",
        );
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0, 999, 1000, 85002, 1234567].map(thousands),
            ["0", "999", "1,000", "85,002", "1,234,567"]
        );
        assert_eq!(kibibytes(1536), "1.5 KiB");
        assert_eq!(percent(0.0334), "3.3%");
        assert_eq!([0.25, 0.0000314].map(difference), ["0.250", "3.1e-5"]);
        assert_eq!(milliseconds(Duration::from_micros(1234)), "1.23 ms");
    }
}
