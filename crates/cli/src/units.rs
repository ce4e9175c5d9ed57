//! Numbers as people read them.

/// Bytes in binary units.
pub fn bytes(count: u64) -> String {
    scaled(count, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB"])
}

/// Counts in decimal units.
pub fn count(count: u64) -> String {
    scaled(count, 1000.0, ["", "K", "M", "B", "T"]).trim_end().to_owned()
}

fn scaled(count: u64, step: f64, units: [&str; 5]) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    while value >= step - step / 2000.0 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if unit == 0 { format!("{count} {}", units[0]) } else { format!("{value:.2} {}", units[unit]) }
}

/// A share of a whole in percent.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "–".into() } else { format!("{:.3} %", 100.0 * part as f64 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_change_at_their_size() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(3 << 29), "1.50 GiB");
        assert_eq!(bytes(u64::MAX), "16777216.00 TiB");
        assert_eq!(count(999), "999");
        assert_eq!(count(6_738_415_616), "6.74 B");
        assert_eq!(percent(1, 8), "12.500 %");
        assert_eq!(percent(0, 0), "–");
    }
}
