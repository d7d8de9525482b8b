//! YAML to the keys of [`File`]; what the parser refuses, in words for somebody who writes the file.

use serde_saphyr::Error;

use crate::error::Fault;
use crate::file::File;
use crate::located::{NOTHING_HERE, Place};
use crate::nearest::nearest;

/// Reads a text. The first thing that is not YAML, or not a key of the file, ends it.
pub(crate) fn read(text: &str) -> Result<File, Fault> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| explain(&error, text))
}

/// `at` is the number of bytes in front of the first one that is wrong.
pub(crate) fn not_utf8(bytes: &[u8], at: usize) -> Fault {
    let before = String::from_utf8_lossy(&bytes[..at]);
    let line = 1 + before.matches('\n').count() as u64;
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count() as u64;
    Fault::new(
        Place { line, column },
        format!("byte 0x{:02x} is not UTF-8; save the file in the encoding UTF-8", bytes[at]),
    )
}

fn explain(error: &Error, text: &str) -> Fault {
    let place = error.location().map_or(Place::START, Place::from);
    Fault::new(place, explain_at(error, place, text))
}

fn explain_at(error: &Error, place: Place, text: &str) -> String {
    match error {
        Error::AliasError { error, .. } => explain_at(error, place, text),
        Error::SerdeUnknownField { field, expected, .. } => unknown_key(field, expected),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{key}` is written twice in one place; keep one of them")
        }
        Error::DuplicateMappingKey { key: None, .. } => "a key is written twice in one place; keep one of them".into(),
        Error::NullIntoString { .. } => NOTHING_HERE.into(),
        Error::TaggedScalarCannotDeserializeIntoString { .. } => {
            "a value has a YAML tag here; leave out the word that begins with `!`".into()
        }
        Error::InvalidBooleanStrict { .. } => "this is neither true nor false; write one of them".into(),
        Error::Unexpected { expected: "string scalar", .. } => format!(
            "{} stands where one value is expected; write a text or a number, and put a text that begins with \
             `[`, `{{` or `*` in quotes",
            what_stands_at(place, text)
        ),
        Error::Unexpected { expected: "sequence start", .. } => format!(
            "{} stands where a list is expected; write `[ … ]`, or each entry on a line of its own behind `- `",
            what_stands_at(place, text)
        ),
        Error::Unexpected { expected: "mapping start", .. } => format!(
            "{} stands where keys are expected; write `{{ key: value }}`, or each key on a line of its own",
            what_stands_at(place, text)
        ),
        Error::UnknownAnchor { .. } => {
            "`*` begins a YAML alias, and there is none of that name; put a text that begins with `*` in quotes".into()
        }
        Error::Message { msg, .. } if msg == NOTHING_HERE => msg.clone(),
        Error::MultipleDocuments { .. } => {
            "a second document begins here; keep one, and leave out the line `---` in front of the other".into()
        }
        Error::ExternalMessage { msg, .. } if msg.contains("anchor or alias") => {
            "`*` or `&` begins a YAML alias or anchor; put a text that begins with one of them in quotes".into()
        }
        Error::ExternalMessage { msg, .. } if msg.contains("unclosed bracket") => {
            format!("this is not YAML: {msg}; write the bracket that closes it")
        }
        Error::ExternalMessage { msg, .. } => {
            format!("this is not YAML: {msg}; look at the indentation (spaces, no tabs), the brackets and the quotes")
        }
        other => format!("this cannot be read: {}; write it in plain YAML", without_place(&other.to_string())),
    }
}

/// What people write for a key whose name is nothing like it.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("authority", "host"),
    ("bind", "tcp"),
    ("address", "tcp"),
    ("domain", "host"),
    ("domains", "host"),
    ("hosts", "endpoints"),
    ("exists", "present"),
    ("interface", "service"),
    ("key", "name"),
    ("params", "query"),
    ("value", "exact"),
    ("targets", "endpoints"),
    ("upstreams", "clusters"),
];

fn unknown_key(key: &str, known: &[&'static str]) -> String {
    if key == "drain" && known.contains(&"head_read") {
        return "unknown key `drain`; write `drain_timeout` at the top of the file".into();
    }
    let other_word = OTHER_WORDS.iter().find(|(word, key_for_it)| *word == key && known.contains(key_for_it));
    match other_word.map(|(_, key_for_it)| *key_for_it).or_else(|| nearest(key, known.iter().copied())) {
        Some(meant) => format!("unknown key `{key}`; did you mean `{meant}`?"),
        None => {
            let known: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
            format!("unknown key `{key}`; write one of {}", known.join(", "))
        }
    }
}

/// Names the value at a place by its first characters.
fn what_stands_at(place: Place, text: &str) -> &'static str {
    let line = text.lines().nth(place.line as usize - 1).unwrap_or_default();
    let column = line.char_indices().nth(place.column as usize - 1).map_or(line.len(), |(at, _)| at);
    let (before, value) = line.split_at(column);
    let begins_line = before.chars().all(|letter| letter == ' ' || letter == '-');
    if value.starts_with('[') || value.starts_with("- ") || value == "-" {
        "a list"
    } else if value.starts_with('{') || (begins_line && (value.contains(": ") || value.trim_end().ends_with(':'))) {
        "a map"
    } else {
        "a plain value"
    }
}

/// The parser ends its messages with the place, which is said already.
fn without_place(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(message, _)| message)
}
