//! Clocks, power, temperature and what throttles a GPU, as `nvidia-smi` has them. What it does not say is null.

use serde_json::{Value, json};
use std::process::Command;

/// Reasons for lower clocks, by bit. NVIDIA renamed the field in 2023.
const REASONS_FIELDS: [&str; 2] = ["clocks_event_reasons.active", "clocks_throttle_reasons.active"];
const FIELDS: &str = "clocks.sm,clocks.mem,power.draw,temperature.gpu";
const REASONS: [&str; 9] = [
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clock_setting",
];

/// The state now of the GPU at a PCI address; null without `nvidia-smi`.
pub fn now(pci_address: &str) -> Value {
    let query = |reasons: &str| {
        let output = Command::new("nvidia-smi")
            .arg(format!("--id={pci_address}"))
            .arg(format!("--query-gpu={FIELDS},{reasons}"))
            .arg("--format=csv,noheader,nounits")
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    REASONS_FIELDS.into_iter().find_map(query).map_or(Value::Null, |line| parse(&line))
}

/// One line of numbers with commas.
pub fn parse(line: &str) -> Value {
    let words: Vec<&str> = line.trim().split(',').map(str::trim).collect();
    let number = |position: usize| -> Option<f64> { words.get(position)?.parse().ok() };
    let reasons = words.get(4).and_then(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    json!({
        "sm_mhz": number(0),
        "memory_mhz": number(1),
        "watts": number(2),
        "celsius": number(3),
        "lower_clocks_because": reasons.map(reasons_of),
    })
}

fn reasons_of(bits: u64) -> Vec<String> {
    let set = (0..u64::BITS).filter(|bit| bits >> bit & 1 == 1);
    set.map(|bit| REASONS.get(bit as usize).map_or(format!("bit {bit}"), ToString::to_string)).collect()
}
