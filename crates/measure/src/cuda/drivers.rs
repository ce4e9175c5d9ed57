//! What drivers can do, by the CUDA version that they report: 1000 · major + 10 · minor.

/// Whether a build for `built` finds its function for times between events in a driver for `driver`.
pub fn has_event_times(built: u32, driver: i32) -> bool {
    built < 13000 || driver >= 12080
}

/// As people write it.
pub fn readable(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}
