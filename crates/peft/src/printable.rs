//! Text from files, made fit for a terminal and for one line: names of tensors, patterns, what a library says of them.
//!
//! Characters that a terminal would act on are written as JSON escapes them, so that JSON stays what it is.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;

/// Characters of a name, at most.
pub const NAME: usize = 200;
/// Characters of a path, at most.
pub const PATH: usize = 1000;
/// Characters of a paragraph, at most.
pub const PARAGRAPH: usize = 1000;

/// One line of at most about `limit` characters: the middle of a longer text is left out, as its end may say what is wrong
/// with it.
pub fn line(text: &str, limit: usize) -> String {
    escape(&shortened(text, limit), &[]).into_owned()
}

/// A path in one line.
pub fn path(path: &Path) -> String {
    line(&path.display().to_string(), PATH)
}

/// The text as it is, lines and tabs included, but without anything else that a terminal would act on.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, &['\n', '\t'])
}

fn shortened(text: &str, limit: usize) -> Cow<'_, str> {
    let characters = text.chars().count();
    if characters <= limit {
        return Cow::Borrowed(text);
    }
    let tail = limit / 3;
    let position = |character: usize| text.char_indices().nth(character).map_or(text.len(), |(at, _)| at);
    let (head, left_out) = (position(limit - tail), characters - limit);
    Cow::Owned(format!(
        "{} … ({left_out} characters) … {}",
        &text[..head],
        &text[position(characters - tail)..]
    ))
}

fn escape<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let acts = |c: &char| (c.is_control() || changes_layout(*c)) && !kept.contains(c);
    if !text.chars().any(|c| acts(&c)) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            c if !acts(&c) => escaped.push(c),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            // Writing to a string cannot fail.
            c => write!(escaped, "\\u{:04x}", u32::from(c)).unwrap_or_default(),
        }
    }
    Cow::Owned(escaped)
}

/// Line separators and marks that turn the direction of what follows.
fn changes_layout(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        assert_eq!(
            line("a\u{1b}[2Jb\n\r\t\u{9b}\u{7f}\u{202e}é", NAME),
            r"a\u001b[2Jb\n\r\t\u009b\u007f\u202eé"
        );
        assert_eq!(lines("a\tb\n\u{1b}c\r"), "a\tb\n\\u001bc\\r");
        let json = serde_json::json!({ "name": "\u{1b}\u{9b}\u{202e}" }).to_string();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&lines(&json)).unwrap()["name"],
            "\u{1b}\u{9b}\u{202e}"
        );
    }

    #[test]
    fn the_middle_of_long_text_is_left_out() {
        assert_eq!(line("abcdef", 6), "abcdef");
        assert_eq!(line("abcdefé", 6), "abcd … (1 characters) … fé");
        let long = line(&("(".repeat(200_000) + ": unclosed"), PARAGRAPH);
        assert!(long.len() < PARAGRAPH + 50 && long.ends_with(": unclosed"), "{long}");
    }

    proptest! {
        #[test]
        fn any_text_becomes_a_line(text in any::<String>(), limit in 0usize..20) {
            let line = line(&text, limit);
            prop_assert!(!line.chars().any(char::is_control));
            prop_assert!(line.chars().count() <= 6 * limit + 40);
        }
    }
}
