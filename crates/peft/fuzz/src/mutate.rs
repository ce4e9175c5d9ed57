//! Changes that keep JSON texts well-formed: bytes changed at random seldom get past a parser.

use serde_json::{Map, Value, json};
use std::ops::Range;

/// Changes one node of one JSON text in the input: of the text that it is or begins with, or of the header of a
/// safetensors file. `None` if there is no such text.
pub fn mutate_json(input: &[u8], seed: u32) -> Option<Vec<u8>> {
    let mut random = Random(seed.into());
    let texts = json_texts(input);
    let text = texts.get(random.below(texts.len().max(1)))?;
    let mut value: Value = serde_json::from_slice(&input[text.range.clone()]).ok()?;
    let nodes = count(&value);
    let mut pick = |value: &mut Value| node(value, &mut random.below(nodes)).cloned();
    let (key, other) = (pick(&mut value)?, pick(&mut value)?);
    change(node(&mut value, &mut random.below(nodes))?, &key, other, &mut random);

    let new = value.to_string();
    let mut output = input[..text.range.start].to_vec();
    if text.is_header {
        let length = output.len() - 8;
        output[length..].copy_from_slice(&(new.len() as u64).to_le_bytes());
    }
    output.extend(new.into_bytes());
    output.extend(&input[text.range.end..]);
    Some(output)
}

struct Text {
    range: Range<usize>,
    /// Whether its length stands before it, as in safetensors files.
    is_header: bool,
}

fn json_texts(input: &[u8]) -> Vec<Text> {
    let mut texts = Vec::new();
    let mut start = 0;
    if input.first() == Some(&b'{') {
        let end = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
        texts.push(Text { range: 0..end, is_header: false });
        start = input.len().min(end + 1);
    }
    if let Some((length, rest)) = input[start..].split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length);
        if length <= rest.len() as u64 {
            texts.push(Text { range: start + 8..start + 8 + length as usize, is_header: true });
        }
    }
    texts
}

fn change(value: &mut Value, key: &Value, other: Value, random: &mut Random) {
    match (random.below(5), &mut *value) {
        (0, Value::Array(list)) => list.push(other),
        (0, Value::Object(map)) => {
            map.insert(key.as_str().unwrap_or("x").to_owned(), other);
        }
        (1, Value::Array(list)) if !list.is_empty() => {
            list.remove(random.below(list.len()));
        }
        (1, Value::Object(map)) => {
            let gone = random.below(map.len().max(1));
            let kept = std::mem::take(map).into_iter().enumerate().filter(|(index, _)| *index != gone);
            *map = kept.map(|(_, entry)| entry).collect();
        }
        (2, _) => *value = other,
        (3, Value::Number(number)) => {
            let step = 1 << random.below(64);
            *value = json!(number.as_u64().unwrap_or(0).wrapping_add(step));
        }
        _ => *value = extreme(random),
    }
}

fn extreme(random: &mut Random) -> Value {
    let values = [
        Value::Null,
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(0.5),
        json!(1e308),
        json!(u32::MAX),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(""),
        json!([]),
        Value::Object(Map::new()),
    ];
    values[random.below(values.len())].clone()
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// The node with this number, parents counting before their children.
fn node<'a>(value: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|value| node(value, number)),
        Value::Object(map) => map.values_mut().find_map(|value| node(value, number)),
        _ => None,
    }
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}
