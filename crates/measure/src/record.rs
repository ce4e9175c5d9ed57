//! Results as JSON: one flat record for each problem, element type, probability, pass and system.

use crate::{Pass, Problem, System};
use lora_kernels::DType;
use serde_json::{Value, json};

/// What was timed, and against what it is compared.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was run.
    pub case: Case,
    /// Lower quartile, median and upper quartile of the time of one run.
    pub milliseconds: [f64; 3],
    /// Lower quartile, median and upper quartile of the ratios to the reference in the same round.
    pub ratios: [f64; 3],
    /// How many times there are.
    pub rounds: usize,
}

/// What was run.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The layer.
    pub problem: Problem,
    /// Its element type.
    pub dtype: DType,
    /// Of dropout.
    pub probability: f32,
    /// What was timed.
    pub pass: Pass,
    /// How it was computed.
    pub system: System,
}

impl Record {
    /// From times in milliseconds, and those of the reference in the same rounds.
    pub fn new(case: Case, times: &[f64], reference: &[f64]) -> Self {
        let ratios = times.iter().zip(reference).map(|(time, reference)| time / reference).collect();
        Record {
            case,
            milliseconds: quartiles(times.to_vec()),
            ratios: quartiles(ratios),
            rounds: times.len(),
        }
    }

    fn json(&self) -> Value {
        let Case { problem: Problem { m, k, n, r }, dtype, probability, pass, system } = self.case;
        json!({
            "m": m, "k": k, "n": n, "r": r,
            "dtype": dtype.to_string(),
            "p": f64::from((probability * 1000.0).round()) / 1000.0,
            "pass": pass.name(),
            "system": system.name(),
            "milliseconds": rounded(self.milliseconds[1], 4),
            "milliseconds_quartiles": [rounded(self.milliseconds[0], 4), rounded(self.milliseconds[2], 4)],
            "ratio": rounded(self.ratios[1], 4),
            "ratio_quartiles": [rounded(self.ratios[0], 4), rounded(self.ratios[2], 4)],
            "rounds": self.rounds,
        })
    }
}

/// A number with this many decimals.
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
