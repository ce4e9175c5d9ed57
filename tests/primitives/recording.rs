//! The recorded outputs: a name a line, below it the words of its output in hexadecimal.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Outputs by the kernel's name.
pub type Recording = BTreeMap<String, Vec<u32>>;

const HEADER: &str = "\
# What the kernels of tests/primitives/kernels give, in 32-bit words. tests/primitives/main.rs tells how to record it.
";

/// What was recorded when this test was compiled.
pub fn recorded() -> Recording {
    parse(include_str!("recorded.txt")).unwrap_or_else(|error| panic!("recorded.txt: {error}"))
}

fn parse(text: &str) -> Result<Recording, String> {
    let mut recording = Recording::new();
    let mut current = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(words) = line.strip_prefix("  ") else {
            current = Some(recording.entry(line.to_owned()).or_default());
            continue;
        };
        let output = current.as_mut().ok_or("words without a name")?;
        for word in words.split(' ') {
            output.push(u32::from_str_radix(word, 16).map_err(|error| format!("{word}: {error}"))?);
        }
    }
    Ok(recording)
}

fn format(recording: &Recording) -> String {
    let mut text = String::from(HEADER);
    for (name, output) in recording {
        let _ = writeln!(text, "{name}");
        for words in output.chunks(12) {
            let words: Vec<_> = words.iter().map(|word| format!("{word:08x}")).collect();
            let _ = writeln!(text, "  {}", words.join(" "));
        }
    }
    text
}

/// Replaces the recording in the source tree.
pub fn record(recording: &Recording) {
    let path = super::sources::root().join("tests/primitives/recorded.txt");
    std::fs::write(&path, format(recording)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Panics at the first word that differs, with some of its neighbours.
pub fn compare(name: &str, found: &[u32], recording: &Recording, where_run: &dyn std::fmt::Display) {
    let Some(expected) = recording.get(name) else { panic!("{name} is not in recorded.txt") };
    assert_eq!(found.len(), expected.len(), "{name}: number of words");
    if let Some(first) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
        let shown = first..found.len().min(first + 8);
        panic!(
            "{name} ({where_run}) from word {first} of {} on: {:08x?} instead of {:08x?}",
            found.len(),
            &found[shown.clone()],
            &expected[shown]
        );
    }
}

#[test]
fn a_recording_is_read_as_it_was_written() {
    let recording = Recording::from([
        ("one".to_owned(), vec![0xffff_ffff]),
        ("many".to_owned(), (0..100).collect()),
        ("none".to_owned(), Vec::new()),
    ]);
    assert_eq!(parse(&format(&recording)).unwrap(), recording);
    assert!(parse("  00000001").is_err());
    assert!(parse("name\n  xyz").is_err());
}

#[test]
#[should_panic(expected = "from word 1 of 3 on")]
fn a_wrong_word_is_named() {
    let recording = Recording::from([("kernel".to_owned(), vec![1, 2, 3])]);
    compare("kernel", &[1, 4, 3], &recording, &"here");
}
