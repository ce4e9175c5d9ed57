//! Names that differ only in numbers, as one.

use lora_peft::printable::{NAME, line};
use std::collections::HashMap;
use std::hash::Hash;

/// `model.layers.17.mlp` becomes `model.layers.*.mlp`.
pub fn pattern(name: &str) -> String {
    let component = |part: &str| {
        if part.bytes().all(|byte| byte.is_ascii_digit()) { "*".into() } else { part.to_owned() }
    };
    name.split('.').map(component).collect::<Vec<_>>().join(".")
}

/// Items with equal keys together, in the order of their first appearance.
pub fn grouped<K: Clone + Eq + Hash, T>(items: impl IntoIterator<Item = (K, T)>) -> Vec<(K, Vec<T>)> {
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    let mut places = HashMap::new();
    for (key, item) in items {
        let place = *places.entry(key.clone()).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, members)) => members.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    groups
}

/// Names by pattern, with how many there are of each.
pub fn counted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let groups = grouped(names.into_iter().map(|name| (pattern(name), ())));
    let show = |(pattern, members): &(String, Vec<()>)| match members.len() {
        1 => line(pattern, NAME),
        count => format!("{} ({count})", line(pattern, NAME)),
    };
    groups.iter().map(show).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_components_are_numbers() {
        assert_eq!(pattern("model.layers.17.w2.0"), "model.layers.*.w2.*");
        assert_eq!(counted(["h.0.q", "h.1.q", "lm\nhead"]), r"h.*.q (2), lm\nhead");
    }
}
