//! What a route asks of values that have names: header fields, and parameters of a query.

use std::fmt;
use std::sync::Arc;

/// What one name must, or must not, have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Of headers without regard to case, of query parameters with it.
    pub name: Arc<str>,
    /// It holds when no value fits; so also when there is none.
    pub not: bool,
    /// What a value is compared with. One that fits is enough, where a name comes several times.
    pub test: Test,
}

/// What one value is compared with, from its first byte to its last, with its case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// Any value fits, an empty one too.
    Present,
    /// This value.
    Exact(Arc<str>),
    /// Values that begin so.
    Prefix(Arc<str>),
    /// Values that the expression describes as a whole.
    Regex(Regex),
}

/// Values by name.
pub trait Fields {
    /// Whether `fits` says yes to any value of this name; a name that comes several times has several values.
    fn any(&self, name: &str, fits: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// A regular expression, compiled by whoever read it: this crate, which also apps link, brings no compiler of its own.
#[derive(Clone)]
pub struct Regex {
    text: Arc<str>,
    program: Arc<Program>,
}

/// Says whether a whole value is what an expression describes, in time linear in the value.
pub type Program = dyn Fn(&[u8]) -> bool + Send + Sync;

/// The query of a request target, without its `?`: parameters between `&`, each a name and, behind its first `=`, a
/// value; without a `=` the value is empty. Nothing is decoded.
#[derive(Copy, Clone, Debug)]
pub struct Query<'a>(pub &'a [u8]);

impl Condition {
    /// Whether it holds for these values.
    pub fn holds(&self, fields: &dyn Fields) -> bool {
        fields.any(&self.name, &mut |value| self.test.fits(value)) != self.not
    }
}

impl Test {
    /// Whether this value fits.
    pub fn fits(&self, value: &[u8]) -> bool {
        match self {
            Test::Present => true,
            Test::Exact(text) => value == text.as_bytes(),
            Test::Prefix(text) => value.starts_with(text.as_bytes()),
            Test::Regex(regex) => regex.matches(value),
        }
    }
}

impl Regex {
    /// An expression as it was written, and what decides for it.
    pub fn new(text: &str, program: Arc<Program>) -> Regex {
        Regex { text: text.into(), program }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it describes the whole of `bytes`.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        (self.program)(bytes)
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regex({:?})", self.text)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Regex) -> bool {
        self.text == other.text
    }
}

impl Eq for Regex {}

/// Header fields as a list; names without regard to case (RFC 9110 §5.1).
impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Fields for &[(N, V)] {
    fn any(&self, name: &str, fits: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.iter().any(|(other, value)| other.as_ref().eq_ignore_ascii_case(name.as_bytes()) && fits(value.as_ref()))
    }
}

impl Fields for Query<'_> {
    fn any(&self, name: &str, fits: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.split(|&byte| byte == b'&').any(|parameter| {
            parameter.strip_prefix(name.as_bytes()).is_some_and(|rest| match rest {
                [] => fits(b""),
                [b'=', value @ ..] => fits(value),
                _ => false,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(not: bool, test: Test) -> Condition {
        Condition { name: "x".into(), not, test }
    }

    #[test]
    fn one_value_that_fits_is_enough_and_not_asks_that_none_does() {
        let (exact, prefix) = (Test::Exact("gold".into()), Test::Prefix("go".into()));
        let regex = Test::Regex(Regex::new("g.*", Arc::new(|value: &[u8]| value.starts_with(b"g"))));
        type Headers = &'static [(&'static str, &'static str)];
        let table: [(Headers, [bool; 4]); 8] = [
            (&[], [false, false, false, false]),
            (&[("y", "gold")], [false, false, false, false]),
            (&[("x", "gold")], [true, true, true, true]),
            (&[("X", "gold")], [true, true, true, true]),
            (&[("x", "Gold")], [true, false, false, false]),
            (&[("x", "")], [true, false, false, false]),
            (&[("x", "goo")], [true, false, true, true]),
            (&[("x", "a"), ("x", "gold")], [true, true, true, true]),
        ];
        for (headers, expected) in table {
            let tests = [&Test::Present, &exact, &prefix, &regex];
            for (test, expected) in tests.into_iter().zip(expected) {
                assert_eq!(condition(false, test.clone()).holds(&headers), expected, "{test:?} of {headers:?}");
                assert_eq!(condition(true, test.clone()).holds(&headers), !expected, "not {test:?} of {headers:?}");
            }
        }
    }

    #[test]
    fn an_empty_value_is_a_value() {
        let empty = condition(false, Test::Exact("".into()));
        assert!(empty.holds(&&[("x", "")][..]));
        assert!(!empty.holds(&&[("y", "")][..]));
    }

    #[test]
    fn a_query_is_taken_as_it_was_sent() {
        let table: [(&str, &str, &[&str]); 12] = [
            ("a=1", "a", &["1"]),
            ("a=1&a=2&b=3", "a", &["1", "2"]),
            ("b=3&a=1", "a", &["1"]),
            ("a", "a", &[""]),
            ("a=", "a", &[""]),
            ("a==", "a", &["="]),
            ("A=1", "a", &[]),
            ("%61=1", "a", &[]),
            ("ab=1", "a", &[]),
            ("a=%31", "a", &["%31"]),
            ("", "a", &[]),
            ("&&", "a", &[]),
        ];
        for (query, name, expected) in table {
            let mut values = Vec::new();
            let found = Query(query.as_bytes()).any(name, &mut |value| {
                values.push(String::from_utf8(value.to_vec()).unwrap());
                false
            });
            assert!(!found);
            assert_eq!(values, expected, "{query}");
        }
    }
}
