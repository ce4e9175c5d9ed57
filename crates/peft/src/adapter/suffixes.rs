//! Lists of names that paths are compared with by their ends.

use hashbrown::HashTable;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// Names, found by hash; their lengths say which ends of a path are worth looking up.
#[derive(Debug, Default)]
pub(super) struct Suffixes {
    /// All names, one after the other: there may be millions, of which each would be an allocation.
    text: String,
    places: HashTable<Range<usize>>,
    hasher: RandomState,
    lengths: BTreeSet<usize>,
}

impl Suffixes {
    pub fn new(names: &[String]) -> Self {
        let mut suffixes = Suffixes {
            text: String::with_capacity(names.iter().map(String::len).sum()),
            places: HashTable::with_capacity(names.len()),
            ..Self::default()
        };
        for name in names {
            let start = suffixes.text.len();
            suffixes.text.push_str(name);
            let place = start..suffixes.text.len();
            // A name that is there twice is found once, whichever that is.
            let Suffixes { text, hasher, places, lengths } = &mut suffixes;
            places.insert_unique(hasher.hash_one(name.as_str()), place, |place| {
                hasher.hash_one(&text[place.clone()])
            });
            lengths.insert(name.len());
        }
        suffixes
    }

    /// Whether the whole path is one of the names.
    pub fn contain(&self, path: &str) -> bool {
        let hash = self.hasher.hash_one(path);
        self.places.find(hash, |place| self.text[place.clone()] == *path).is_some()
    }

    /// Whether the path has one of the names after a dot.
    pub fn follow_a_dot(&self, path: &str) -> bool {
        let after = path.match_indices('.').map(|(dot, _)| &path[dot + 1..]);
        after.into_iter().any(|end| self.lengths.contains(&end.len()) && self.contain(end))
    }

    /// Whether the path ends with one of the names, wherever that begins.
    pub fn end(&self, path: &str) -> bool {
        self.lengths
            .range(..=path.len())
            .filter_map(|length| path.get(path.len() - length..))
            .any(|end| self.contain(end))
    }
}
