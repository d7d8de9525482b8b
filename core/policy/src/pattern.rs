//! Texts in which `*` stands for any bytes.

use std::sync::Arc;

/// A text to compare with, in which each `*` stands for any number of bytes, none included. Nothing else is special.
///
/// Built once, matched without allocation, in time linear in the text that is looked at.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    shape: Shape,
}

/// How closely a pattern says what it matches: nothing said < glob (with more literal bytes, more closely) < exact.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// The key is absent.
    Absent,
    /// A text with `*`, and the number of its other bytes.
    Glob(usize),
    /// A text without `*`.
    Exact,
}

#[derive(Clone, Debug)]
enum Shape {
    /// Nothing but `*`.
    Everything,
    /// No `*`.
    Exact,
    /// What stands before the first `*`, after the last one, and between.
    Glob { prefix_bytes: usize, suffix_bytes: usize, middle: Box<[Needle]> },
}

impl Pattern {
    /// Any text is a pattern.
    pub fn new(text: &str) -> Pattern {
        let shape = match (text.split_once('*'), text.rsplit_once('*')) {
            (Some((prefix, _)), Some((_, suffix))) => {
                if text.bytes().all(|byte| byte == b'*') {
                    Shape::Everything
                } else {
                    let between = &text[prefix.len()..text.len() - suffix.len()];
                    let middle = between.split('*').filter(|part| !part.is_empty()).map(Needle::new).collect();
                    Shape::Glob { prefix_bytes: prefix.len(), suffix_bytes: suffix.len(), middle }
                }
            }
            _ => Shape::Exact,
        };
        Pattern { text: text.into(), shape }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `bytes` is what the pattern describes, from its first byte to its last.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let text = self.text.as_bytes();
        match &self.shape {
            Shape::Everything => true,
            Shape::Exact => text == bytes,
            Shape::Glob { prefix_bytes, suffix_bytes, middle } => {
                let prefix = &text[..*prefix_bytes];
                let suffix = &text[text.len() - suffix_bytes..];
                let Some(rest) = bytes.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix)) else {
                    return false;
                };
                // The leftmost place of each part leaves the most room for those behind it.
                let mut rest = rest;
                middle.iter().all(|needle| match needle.end_in(rest) {
                    Some(end) => {
                        rest = &rest[end..];
                        true
                    }
                    None => false,
                })
            }
        }
    }

    /// Whether it matches whatever it is compared with, so that there is no need to look.
    pub fn is_everything(&self) -> bool {
        matches!(self.shape, Shape::Everything)
    }

    /// The text, if it is one without `*`.
    pub fn exact(&self) -> Option<&str> {
        matches!(self.shape, Shape::Exact).then_some(&*self.text)
    }

    /// How closely it says what it matches.
    pub fn precision(&self) -> Precision {
        match self.shape {
            Shape::Exact => Precision::Exact,
            _ => Precision::Glob(self.text.bytes().filter(|byte| *byte != b'*').count()),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// A literal part to search for, with its table of Knuth, Morris and Pratt: however it repeats itself, a search looks
/// at each byte a constant number of times.
#[derive(Clone, Debug)]
struct Needle {
    bytes: Box<[u8]>,
    /// For each place, how many bytes of the front are also the bytes that end there.
    fallback: Box<[u32]>,
}

impl Needle {
    fn new(text: &str) -> Needle {
        let bytes = text.as_bytes();
        let mut fallback = vec![0u32; bytes.len()];
        let mut matched = 0;
        for at in 1..bytes.len() {
            while matched > 0 && bytes[at] != bytes[matched] {
                matched = fallback[matched - 1] as usize;
            }
            if bytes[at] == bytes[matched] {
                matched += 1;
            }
            fallback[at] = matched as u32;
        }
        Needle { bytes: bytes.into(), fallback: fallback.into() }
    }

    /// Where the leftmost occurrence ends.
    fn end_in(&self, haystack: &[u8]) -> Option<usize> {
        let mut matched = 0;
        for (at, &byte) in haystack.iter().enumerate() {
            while matched > 0 && byte != self.bytes[matched] {
                matched = self.fallback[matched - 1] as usize;
            }
            if byte == self.bytes[matched] {
                matched += 1;
            }
            if matched == self.bytes.len() {
                return Some(at + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, in exponential time.
    fn naive(pattern: &[u8], bytes: &[u8]) -> bool {
        match pattern.split_first() {
            None => bytes.is_empty(),
            Some((b'*', rest)) => (0..=bytes.len()).any(|skipped| naive(rest, &bytes[skipped..])),
            Some((first, rest)) => bytes.first() == Some(first) && naive(rest, &bytes[1..]),
        }
    }

    #[test]
    fn stars_stand_for_any_bytes() {
        let table = [
            ("say*", "sayHello", true),
            ("say*", "say", true),
            ("say*", "Say", false),
            ("*Hello", "sayHello", true),
            ("*Hello", "sayHello!", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*", "", true),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
            ("a.b", "axb", false),
            ("a?b", "axb", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(Pattern::new(pattern).matches(text.as_bytes()), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn precision_orders_patterns() {
        let ordered = ["*", "a*", "a*b", "abc*", "abc"];
        for pair in ordered.windows(2) {
            assert!(Pattern::new(pair[0]).precision() < Pattern::new(pair[1]).precision(), "{pair:?}");
        }
        assert!(Precision::Absent < Pattern::new("*").precision());
        assert!(Precision::Glob(usize::MAX) < Precision::Exact);
    }

    #[test]
    fn a_pattern_that_repeats_itself_takes_linear_time() {
        // Backtracking needs about 10^11 steps here; this needs 10^6.
        let pattern = Pattern::new(&format!("*{}b*", "a".repeat(100_000)));
        assert!(!pattern.matches("a".repeat(1_000_000).as_bytes()));
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,12}") {
            prop_assert_eq!(
                Pattern::new(&pattern).matches(text.as_bytes()),
                naive(pattern.as_bytes(), text.as_bytes())
            );
        }
    }
}
