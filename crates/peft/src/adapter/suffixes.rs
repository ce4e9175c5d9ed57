//! Lists of names that paths are compared with by their ends.

use std::collections::{BTreeSet, HashSet};

/// Names, found by hash; their lengths say which ends of a path are worth looking up.
#[derive(Debug, Default)]
pub(super) struct Suffixes {
    names: HashSet<String>,
    lengths: BTreeSet<usize>,
}

impl Suffixes {
    pub fn new(names: &[String]) -> Self {
        Suffixes { names: names.iter().cloned().collect(), lengths: names.iter().map(String::len).collect() }
    }

    /// Whether the whole path is one of the names.
    pub fn contain(&self, path: &str) -> bool {
        self.names.contains(path)
    }

    /// Whether the path has one of the names after a dot.
    pub fn follow_a_dot(&self, path: &str) -> bool {
        let after = path.match_indices('.').map(|(dot, _)| &path[dot + 1..]);
        after.into_iter().any(|end| self.lengths.contains(&end.len()) && self.names.contains(end))
    }

    /// Whether the path ends with one of the names, wherever that begins.
    pub fn end(&self, path: &str) -> bool {
        self.lengths
            .range(..=path.len())
            .filter_map(|length| path.get(path.len() - length..))
            .any(|end| self.names.contains(end))
    }
}
