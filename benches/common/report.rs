//! The JSON file of a benchmark: whole after every problem, so that a kill loses nothing.

use anyhow::{Context, Result};
use lora_measure::Problem;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Where results go, if anywhere.
#[derive(Clone, Debug)]
pub struct Report {
    path: Option<PathBuf>,
}

impl Report {
    /// To `LORA_BENCH_JSON`.
    pub fn from_environment() -> Self {
        Report { path: std::env::var_os("LORA_BENCH_JSON").map(PathBuf::from) }
    }

    /// To this file.
    #[allow(dead_code, reason = "for tests")]
    pub fn to(path: impl Into<PathBuf>) -> Self {
        Report { path: Some(path.into()) }
    }

    /// Replaces the file by this document and the problems that are not run yet. Whoever reads meanwhile finds the old
    /// or the new one, whole.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, mut document: Value, not_run: &[Problem]) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        document["not_run"] = json!(not_run.iter().map(Problem::to_string).collect::<Vec<_>>());
        let mut aside = path.clone().into_os_string();
        aside.push(".partial");
        let text = serde_json::to_string_pretty(&document)? + "\n";
        std::fs::write(&aside, text).with_context(|| format!("LORA_BENCH_JSON: {}", path.display()))?;
        std::fs::rename(&aside, path).with_context(|| format!("LORA_BENCH_JSON: {}", path.display()))
    }
}

/// Says on the screen what did not fit into the time.
pub fn print_not_run(not_run: &[Problem]) {
    if !not_run.is_empty() {
        let names: Vec<_> = not_run.iter().map(Problem::to_string).collect();
        println!("\nNOT RUN, for lack of time (LORA_BENCH_SECONDS): {}", names.join(", "));
    }
}
