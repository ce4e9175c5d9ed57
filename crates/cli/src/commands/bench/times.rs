//! Times as a table.

use crate::table::Table;
use lora_kernels::DType;
use lora_measure::{Problem, Record};

/// The rows of one problem.
pub fn table(problem: Problem, dtype: DType, records: &[Record]) -> String {
    let Problem { m, k, n, r } = problem;
    let mut table = Table::new(&["pass", "system", "ms", "ratio", "quartiles"]);
    for record in records.iter().filter(|record| record.case.problem == problem) {
        table.row(vec![
            record.case.pass.name().into(),
            record.case.system.name().into(),
            format!("{:.3}", record.milliseconds[1]),
            format!("{:.3}", record.ratios[1]),
            format!("{:.3}–{:.3}", record.ratios[0], record.ratios[2]),
        ]);
    }
    format!("tokens {m}, inputs {k}, outputs {n}, rank {r}, {dtype}\n{}\n", table.text())
}
