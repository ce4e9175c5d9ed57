//! Times as a table and as JSON.

use super::problem::{Pass, Problem, System};
use crate::table::Table;
use lora_kernels::DType;
use serde_json::{Value, json};

/// One system's times of one pass.
#[derive(Debug)]
pub struct Record {
    pub problem: Problem,
    pub pass: Pass,
    pub system: System,
    /// Median time of one run.
    pub milliseconds: f64,
    /// Lower quartile, median and upper quartile of the ratios to the pass's first system in the same round.
    pub ratios: [f64; 3],
    pub rounds: usize,
}

/// The rows of one problem.
pub fn table(problem: Problem, dtype: DType, records: &[Record]) -> String {
    let Problem { m, k, n, r } = problem;
    let mut table = Table::new(&["pass", "system", "ms", "ratio", "quartiles"]);
    for record in records.iter().filter(|record| record.problem == problem) {
        table.row(vec![
            record.pass.name().into(),
            record.system.name().into(),
            format!("{:.3}", record.milliseconds),
            format!("{:.3}", record.ratios[1]),
            format!("{:.3}–{:.3}", record.ratios[0], record.ratios[2]),
        ]);
    }
    format!("tokens {m}, inputs {k}, outputs {n}, rank {r}, {dtype}\n{}\n", table.text())
}

/// The machine and the records, with the field names of this repository's benches.
pub fn document(gpu: Option<usize>, device: &str, dtype: DType, records: &[Record]) -> Value {
    let record = |record: &Record| {
        let Problem { m, k, n, r } = record.problem;
        json!({
            "m": m, "k": k, "n": n, "r": r,
            "dtype": dtype.to_string(),
            "p": 0.0,
            "pass": record.pass.name(),
            "system": record.system.name(),
            "milliseconds": rounded(record.milliseconds),
            "ratio": rounded(record.ratios[1]),
            "ratio_quartiles": [rounded(record.ratios[0]), rounded(record.ratios[2])],
            "rounds": record.rounds,
        })
    };
    json!({
        "backend": if gpu.is_some() { "cuda" } else { "cpu" },
        "device": device,
        "threads": rayon::current_num_threads(),
        "version": env!("CARGO_PKG_VERSION"),
        "records": records.iter().map(record).collect::<Vec<_>>(),
    })
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Lower quartile, median and upper quartile.
pub fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}
