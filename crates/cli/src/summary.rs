//! What an edit did, in words and numbers.

use crate::table::Table;
use crate::units;
use lora_kernels::MergeReport;
use lora_peft::merge::{RequantizedWeight, Summary};
use lora_peft::printable::{self, NAME, line};
use std::path::Path;
use std::time::Duration;

/// Files that are named where there are many.
const NAMED: usize = 5;

/// Where the result is, and how long it took.
pub fn written(summary: &Summary, out: &Path, device: &str, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let mut changed = format!("{} weights changed", summary.weights.len());
    if !summary.replaced.is_empty() {
        changed += &format!(", {} tensors replaced", summary.replaced.len());
    }
    if !summary.new_tensors.is_empty() {
        changed += &format!(", {} tensors added", summary.new_tensors.len());
    }
    format!(
        "{changed}; {} written to {} in {seconds:.1} s ({}/s, computed on {device}).\n{}",
        units::bytes(summary.bytes),
        printable::path(out),
        units::bytes((summary.bytes as f64 / seconds.max(1e-9)) as u64),
        left(&summary.not_copied),
    )
}

/// What quantising again lost, in one line.
pub fn requantized(summary: &Summary) -> String {
    let weights = &summary.requantized;
    if weights.is_empty() {
        return String::new();
    }
    let largest = weights.iter().map(|weight| weight.max_error).fold(0.0, f32::max);
    let relative = |weight: &RequantizedWeight| {
        f64::from(weight.rms_error) / f64::from(weight.rms).max(f64::MIN_POSITIVE)
    };
    let mean = weights.iter().map(relative).sum::<f64>() / weights.len() as f64;
    format!(
        "Quantised {} changed weights again: largest error {largest:.3e}, RMS error {:.2} % of a weight's RMS on average.\n",
        weights.len(),
        100.0 * mean
    )
}

/// What was not copied, in one line.
fn left(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{}`", line(name, NAME))).collect();
    match names.len() {
        0 => String::new(),
        count if count <= NAMED => format!("Not copied, as of no known kind: {}.\n", shown.join(", ")),
        count => {
            format!("Not copied, as of no known kind: {} and {} more.\n", shown.join(", "), count - NAMED)
        }
    }
}

/// One row a weight, and one for all together.
pub fn report(summary: &Summary) -> String {
    let mut table = Table::new(&["weight", "elements", "unchanged", "max error", "RMS error"]);
    let mut row = |name: &str, report: &MergeReport| {
        table.row(vec![
            name.to_owned(),
            report.elements.to_string(),
            units::percent(report.unchanged, report.elements),
            format!("{:.3e}", report.max_error),
            format!("{:.3e}", report.rms_error),
        ]);
    };
    for weight in &summary.weights {
        if let Some(report) = &weight.report {
            row(&weight.weight, report);
        }
    }
    match summary.total() {
        Some(total) => row("all", &total),
        None => return "No report: all changed weights were restored from the record or replaced.\n".into(),
    }
    table.text()
}
