//! Time limits: what does not fit is named, never silently left out.

use std::time::{Duration, Instant};

/// How long problems may be begun.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    start: Instant,
    limit: Option<Duration>,
}

impl Budget {
    /// From now on for `LORA_BENCH_SECONDS`, or for ever.
    pub fn from_environment() -> Self {
        let seconds = std::env::var("LORA_BENCH_SECONDS").ok().map(|text| match text.parse::<f64>() {
            Ok(seconds) if seconds >= 0.0 && seconds.is_finite() => seconds,
            _ => panic!("LORA_BENCH_SECONDS: {text} is no number of seconds"),
        });
        Self::new(seconds)
    }

    /// From now on for so many seconds.
    pub fn new(seconds: Option<f64>) -> Self {
        Budget { start: Instant::now(), limit: seconds.map(Duration::from_secs_f64) }
    }

    pub fn is_spent(&self) -> bool {
        self.limit.is_some_and(|limit| self.start.elapsed() >= limit)
    }

    /// Calls `run` with each item and those after it, while there is time; returns those that were not begun.
    ///
    /// # Errors
    /// The first of `run`, after which nothing is begun.
    pub fn run<'a, T, E>(
        &self,
        items: &'a [T],
        mut run: impl FnMut(&T, &'a [T]) -> Result<(), E>,
    ) -> Result<&'a [T], E> {
        for (position, item) in items.iter().enumerate() {
            if self.is_spent() {
                return Ok(&items[position..]);
            }
            run(item, &items[position + 1..])?;
        }
        Ok(&[])
    }
}
