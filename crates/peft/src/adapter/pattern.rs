//! Regular expressions, and how long they may take.

use crate::{Error, Result};
use fancy_regex::{Captures, Regex, RegexBuilder};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Steps a pattern may backtrack on one name before it is refused: enough for any sane pattern, little enough to return
/// at once.
const BACKTRACK_LIMIT: usize = 100_000;

/// What all patterns of a configuration may take together, with all names. Sane ones take milliseconds.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Characters of a pattern that an error quotes.
const QUOTED: usize = 100;

/// Compiles patterns, each one once, and watches the time that they take.
#[derive(Debug)]
pub(super) struct Compiler {
    compiled: HashMap<String, Arc<Pattern>>,
    time: Arc<Time>,
}

#[derive(Debug)]
struct Time {
    limit: Duration,
    /// By all patterns, in nanoseconds.
    taken: AtomicU64,
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    key: &'static str,
    text: String,
    regex: Regex,
    /// In nanoseconds.
    taken: AtomicU64,
    time: Arc<Time>,
}

impl Compiler {
    pub fn new(limit: Duration) -> Self {
        let time = Time { limit, taken: AtomicU64::new(0) };
        Compiler { compiled: HashMap::new(), time: Arc::new(time) }
    }

    /// Compiles `text` between two pieces of ours. It must be a pattern by itself, so that it cannot close their groups.
    pub fn compile(
        &mut self,
        key: &'static str,
        before: &str,
        text: &str,
        after: &str,
    ) -> Result<Arc<Pattern>> {
        let place = match self.compiled.entry(format!("{before}{text}{after}")) {
            Entry::Occupied(known) => return Ok(Arc::clone(known.get())),
            Entry::Vacant(place) => place,
        };
        let start = Instant::now();
        let compile = |pattern: &str| {
            RegexBuilder::new(pattern)
                .backtrack_limit(BACKTRACK_LIMIT)
                .build()
                .map_err(|error| Error::config(key, format!("invalid pattern `{}`: {error}", quoted(text))))
        };
        compile(text)?;
        let regex = compile(place.key())?;
        let time = Arc::clone(&self.time);
        let pattern = Pattern { key, text: text.to_owned(), regex, taken: AtomicU64::new(0), time };
        pattern.took(start.elapsed())?;
        Ok(Arc::clone(place.insert(Arc::new(pattern))))
    }
}

impl Pattern {
    pub fn is_match(&self, path: &str) -> Result<bool> {
        self.timed(|regex| regex.is_match(path))
    }

    pub fn captures<'t>(&self, path: &'t str) -> Result<Option<Captures<'t, str>>> {
        self.timed(|regex| regex.captures(path))
    }

    fn timed<'r, T>(&'r self, search: impl FnOnce(&'r Regex) -> fancy_regex::Result<T>) -> Result<T> {
        let start = Instant::now();
        let found = search(&self.regex).map_err(|error| {
            let text = quoted(&self.text);
            Error::config(self.key, format!("pattern `{text}` cannot be matched: {error}"))
        })?;
        self.took(start.elapsed())?;
        Ok(found)
    }

    fn took(&self, time: Duration) -> Result<()> {
        let nanoseconds = time.as_nanos() as u64;
        let own = self.taken.fetch_add(nanoseconds, Ordering::Relaxed) + nanoseconds;
        let all = self.time.taken.fetch_add(nanoseconds, Ordering::Relaxed) + nanoseconds;
        if Duration::from_nanos(all) <= self.time.limit {
            return Ok(());
        }
        Err(Error::config(
            self.key,
            format!(
                "matching takes too long: pattern `{}` has taken {:.1} s of the {:.0} s that all patterns together may take",
                quoted(&self.text),
                Duration::from_nanos(own).as_secs_f64(),
                self.time.limit.as_secs_f64(),
            ),
        ))
    }
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_patterns_are_compiled_once() {
        let mut compiler = Compiler::new(TIME_LIMIT);
        let one = compiler.compile("rank_pattern", "^", "a+", "$").unwrap();
        let two = compiler.compile("alpha_pattern", "^", "a+", "$").unwrap();
        assert!(Arc::ptr_eq(&one, &two));
    }

    #[test]
    fn a_pattern_that_takes_too_long_is_named() {
        let mut compiler = Compiler::new(TIME_LIMIT);
        let pattern = compiler.compile("rank_pattern", "", ".*q_proj", "").unwrap();
        assert!(pattern.is_match("model.q_proj").unwrap());
        pattern.took(TIME_LIMIT - Duration::from_secs(1)).unwrap();
        let error = pattern.took(TIME_LIMIT).unwrap_err().to_string();
        assert!(error.contains("rank_pattern") && error.contains("`.*q_proj`"), "{error}");
        // All patterns share the time.
        let other = compiler.compile("alpha_pattern", "", ".*k_proj", "").unwrap_err().to_string();
        assert!(other.contains("`.*k_proj`"), "{other}");
    }

    #[test]
    fn long_patterns_are_cut_in_errors() {
        let mut compiler = Compiler::new(TIME_LIMIT);
        let error = compiler.compile("rank_pattern", "", &"(".repeat(100_000), "").unwrap_err().to_string();
        assert!(error.len() < 1000, "{} bytes", error.len());
    }
}
