//! Patterns without operators but the dot, as PEFT writes them for single modules: found by hash, however many there are.

use super::pattern::{Compiler, Pattern};
use crate::Result;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Patterns in the order of their file, of which the first that fits a path counts.
#[derive(Debug)]
pub(super) struct Patterns {
    extent: Extent,
    /// By length in characters.
    plain: BTreeMap<usize, Vec<Shaped>>,
    /// Place in the order, pattern.
    others: Vec<(usize, Arc<Pattern>)>,
}

/// Which part of a path a pattern must cover, and what stands around it in a regular expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// From the start or after a dot, to the end.
    ToTheEnd,
    /// From the start or after a dot, to the end or before a dot.
    Components,
}

impl Extent {
    fn around(self) -> (&'static str, &'static str) {
        match self {
            Extent::ToTheEnd => (r"\A(?:.*\.)?(?:", ")$"),
            Extent::Components => (r"\A(?:^|.*\.)(?:", r")(?:$|\..*)"),
        }
    }
}

/// Plain patterns that have the same length, anchors and places where any character may stand.
#[derive(Debug)]
struct Shaped {
    shape: Shape,
    /// With a dot at those places; the first place in the order.
    names: HashMap<String, usize>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Shape {
    at_start: bool,
    at_end: bool,
    any: Vec<usize>,
}

impl Patterns {
    /// Compiles patterns, those that need it.
    pub fn new<'a>(
        key: &'static str,
        extent: Extent,
        texts: impl IntoIterator<Item = &'a String>,
        compiler: &mut Compiler,
    ) -> Result<Self> {
        let mut plain: HashMap<(usize, Shape), HashMap<String, usize>> = HashMap::new();
        let mut others = Vec::new();
        for (place, text) in texts.into_iter().enumerate() {
            match parse(text) {
                Some((name, length, shape)) => {
                    plain.entry((length, shape)).or_default().entry(name).or_insert(place);
                }
                None => {
                    let (before, after) = extent.around();
                    others.push((place, compiler.compile(key, before, text, after)?));
                }
            }
        }
        let mut patterns = Patterns { extent, plain: BTreeMap::new(), others };
        for ((length, shape), names) in plain {
            patterns.plain.entry(length).or_default().push(Shaped { shape, names });
        }
        Ok(patterns)
    }

    /// The place of the first pattern that fits.
    pub fn first(&self, path: &str) -> Result<Option<usize>> {
        let plain = self.first_plain(path);
        let earlier = self.others.iter().take_while(|(place, _)| plain.is_none_or(|plain| *place < plain));
        for (place, pattern) in earlier {
            if pattern.is_match(path)? {
                return Ok(Some(*place));
            }
        }
        Ok(plain)
    }

    fn first_plain(&self, path: &str) -> Option<usize> {
        if self.plain.is_empty() {
            return None;
        }
        let path: Vec<char> = path.chars().collect();
        // The dot of `.*\.` stands for no line break.
        let line = path.iter().position(|&c| c == '\n').unwrap_or(path.len());
        let dots = path[..line].iter().enumerate().filter(|(_, c)| **c == '.');
        let starts = std::iter::once(0).chain(dots.map(|(dot, _)| dot + 1));
        starts.filter_map(|start| self.first_from(&path, start)).min()
    }

    fn first_from(&self, path: &[char], start: usize) -> Option<usize> {
        let rest = &path[start..];
        let shortest = if self.extent == Extent::ToTheEnd { rest.len() } else { 0 };
        let mut first: Option<usize> = None;
        for (&length, shapes) in self.plain.range(shortest..=rest.len()) {
            if length < rest.len() && rest[length] != '.' {
                continue;
            }
            for Shaped { shape, names } in shapes {
                let anchored = (shape.at_start && start > 0) || (shape.at_end && length < rest.len());
                let found = if anchored { None } else { shape.masked(&rest[..length]) };
                let place = found.and_then(|name| names.get(&name).copied());
                first = first.into_iter().chain(place).min();
            }
        }
        first
    }
}

impl Shape {
    /// The part of a path with a dot wherever any character may stand; but a line break may not.
    fn masked(&self, part: &[char]) -> Option<String> {
        let mut any = self.any.iter().copied().peekable();
        part.iter()
            .enumerate()
            .map(|(index, &c)| match any.next_if_eq(&index) {
                Some(_) if c == '\n' => None,
                Some(_) => Some('.'),
                None => Some(c),
            })
            .collect()
    }
}

/// What a pattern stands for if it has no operators but dots and anchors at its ends: the characters, how many they
/// are, and where the dots are operators.
fn parse(text: &str) -> Option<(String, usize, Shape)> {
    let (at_start, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
    let (at_end, text) = text.strip_suffix('$').map_or((false, text), |rest| (true, rest));
    let (mut name, mut length, mut any) = (String::with_capacity(text.len()), 0, Vec::new());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '.' => any.push(length),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' | '/' | ':' => {}
            '\\' if characters.as_str().starts_with(['.', '-']) => {
                characters.next().into_iter().for_each(|escaped| name.push(escaped));
                length += 1;
                continue;
            }
            _ => return None,
        }
        name.push(character);
        length += 1;
    }
    Some((name, length, Shape { at_start, at_end, any }))
}

#[cfg(test)]
mod tests {
    use super::super::pattern::TIME_LIMIT;
    use super::*;

    #[test]
    fn names_are_not_compiled() {
        let texts =
            ["model.layers.0.q_proj", r"^model\.layers\.10\.mlp", "q-proj$", "", "^", "q+", r"layers\.\d+"]
                .map(str::to_owned);
        let mut compiler = Compiler::new(TIME_LIMIT);
        let patterns = Patterns::new("rank_pattern", Extent::ToTheEnd, &texts, &mut compiler).unwrap();
        let compiled: Vec<usize> = patterns.others.iter().map(|(place, _)| *place).collect();
        assert_eq!(compiled, [5, 6]);
    }
}
