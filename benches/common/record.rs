//! Results as JSON: one flat record for each problem, element type, probability, pass and system.

use super::grid::{Pass, Problem, System};
use lora_kernels::DType;
use serde_json::{Value, json};

/// What was timed, and against what it is compared.
pub struct Record {
    pub problem: Problem,
    pub dtype: DType,
    pub probability: f32,
    pub pass: Pass,
    pub system: System,
    /// Lower quartile, median and upper quartile of the time of one run.
    pub milliseconds: [f64; 3],
    /// Lower quartile, median and upper quartile of the ratios to the frozen layer in the same round.
    pub ratios: [f64; 3],
    pub rounds: usize,
}

impl Record {
    fn json(&self) -> Value {
        let Problem { m, k, n, r } = self.problem;
        json!({
            "m": m, "k": k, "n": n, "r": r,
            "dtype": self.dtype.to_string(),
            "p": f64::from((self.probability * 1000.0).round()) / 1000.0,
            "pass": self.pass.name(),
            "system": self.system.name(),
            "milliseconds": rounded(self.milliseconds[1], 4),
            "milliseconds_quartiles": [rounded(self.milliseconds[0], 4), rounded(self.milliseconds[2], 4)],
            "ratio": rounded(self.ratios[1], 4),
            "ratio_quartiles": [rounded(self.ratios[0], 4), rounded(self.ratios[2], 4)],
            "rounds": self.rounds,
        })
    }
}

pub fn rounded(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

/// The whole file: where the numbers come from, an object, with the records.
pub fn document(mut origin: Value, records: &[Record]) -> Value {
    origin["records"] = records.iter().map(Record::json).collect();
    origin
}

/// Lower quartile, median and upper quartile.
pub fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}
