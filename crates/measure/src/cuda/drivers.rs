//! What drivers can do, by the CUDA version that they report: 1000 · major + 10 · minor.

/// Whether a build for `built` finds its function for times between events in a driver for `driver`.
pub(super) fn has_event_times(built: u32, driver: i32) -> bool {
    built < 13000 || driver >= 12080
}

/// As people write it.
pub(super) fn readable(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_drivers_are_refused_where_their_event_times_would_panic() {
        assert!(has_event_times(13000, 12080));
        assert!(has_event_times(13040, 13000));
        assert!(!has_event_times(13000, 12070));
        assert!(has_event_times(12040, 12020));
        assert_eq!(readable(12080), "12.8");
    }
}
