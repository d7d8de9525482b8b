//! Regular expressions of routes: read and compiled here, so that a bad one is refused with its file.

use std::fmt::Display;
use std::sync::Arc;

use regex::bytes::RegexBuilder;
use shmesh_policy::Regex;

use crate::scalar::bytes;

/// Most bytes of a compiled expression. 256 KiB: a thousand times what usual ones take; repetitions of repetitions
/// have more.
pub(crate) const REGEX_BYTES_MAX: usize = 256 * 1024;
/// Most bytes that a worker keeps of what it found out about one expression while matching; beyond, it forgets.
pub(crate) const REGEX_CACHE_BYTES_MAX: usize = 256 * 1024;
/// Most expressions of a file: with the two above, what they may take altogether is bounded.
pub(crate) const REGEXES_MAX: usize = 1024;

/// An expression that describes whole values: bytes, of which only ASCII ones have a case or a class.
pub(crate) fn compile(text: &str) -> Result<Regex, String> {
    // On its own first: what closes a bracket of ours would pass otherwise, and the place in the text is right.
    let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
    parser.parse(text).map_err(|error| match &error {
        regex_syntax::Error::Parse(error) => refusal(text, error.kind(), error.span().start.column),
        regex_syntax::Error::Translate(error) => refusal(text, error.kind(), error.span().start.column),
        _ => format!("`{text}` is no regular expression: {error}"),
    })?;
    let whole = RegexBuilder::new(&format!(r"\A(?:{text})\z"))
        .unicode(false)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_CACHE_BYTES_MAX)
        .build();
    match whole {
        Ok(regex) => Ok(Regex::new(text, Arc::new(move |value: &[u8]| regex.is_match(value)))),
        Err(regex::Error::CompiledTooBig(_)) => Err(format!(
            "`{text}` takes more than {} when compiled; write a simpler one",
            bytes(REGEX_BYTES_MAX as u64)
        )),
        // In verbose mode, a comment at the end takes what follows.
        Err(_) => Err(format!("`{text}` ends in a comment; leave that out")),
    }
}

fn refusal(text: &str, why: &dyn Display, at: usize) -> String {
    format!("`{text}` is no regular expression: {why}, at its character {at}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_describes_whole_values() {
        let table = [
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "ba", false),
            ("a|ab", "ab", true),
            ("^a$", "a", true),
            ("(?m)^a$", "a\nb", false),
            ("a.c", "abc", true),
            ("a.c", "a\u{e9}c", false),
            ("a..c", "a\u{e9}c", true),
            ("(?i)gold", "GoLD", true),
            ("gold", "Gold", false),
            (r"/v\d+/.*", "/v12/x", true),
            (r"/v\d+/.*", "/v12", false),
            (r"\d", "\u{664}", false),
            ("(?x) a b", "ab", true),
        ];
        for (text, value, expected) in table {
            let regex = compile(text).unwrap();
            assert_eq!(regex.matches(value.as_bytes()), expected, "{text} on {value}");
            assert_eq!(regex.as_str(), text);
        }
    }

    #[test]
    fn what_is_refused_is_explained() {
        let table = [
            ("a(b", "`a(b` is no regular expression: unclosed group, at its character 2"),
            ("a)(?:b", "`a)(?:b` is no regular expression: unopened group, at its character 2"),
            (r"(a)\1", r"`(a)\1` is no regular expression: backreferences are not supported, at its character 4"),
            (r"\p{Greek}", r"`\p{Greek}` is no regular expression: Unicode not allowed here, at its character 1"),
            ("(?x)a # b", "`(?x)a # b` ends in a comment; leave that out"),
            (
                "((a{100}){100}){100}",
                "`((a{100}){100}){100}` takes more than 256KiB when compiled; write a simpler one",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(compile(text).unwrap_err(), expected);
        }
    }

    /// A search that goes back takes 2^100 steps here.
    #[test]
    fn an_expression_that_repeats_itself_takes_linear_time() {
        let regex = compile("(a*)*b").unwrap();
        assert!(!regex.matches("a".repeat(1_000_000).as_bytes()));
    }
}
