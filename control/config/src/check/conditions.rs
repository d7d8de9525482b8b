//! What a match asks of headers, of the query and of attachments.

use shmesh_policy::{Condition, Regex, Test};

use super::Faults;
use super::routes::Expressions;
use crate::file::{ConditionEntry, NotEntry};
use crate::located::{At, Key, Place};
use crate::scalar::{Expression, ValueText};

/// Most conditions on the headers of one route, on its query, and on its attachments. 16, as in the Gateway API: all routes of a path
/// may be looked at for a call.
pub(super) const CONDITIONS_MAX: usize = 16;

/// Of what.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum Of {
    Headers,
    Query,
    Attachments,
}

pub(super) fn read(
    key: Key<Vec<At<ConditionEntry>>>,
    of: Of,
    expressions: &mut Expressions,
    faults: &mut Faults,
) -> Vec<Condition> {
    let Some(At { value: entries, place }) = key.0 else { return Vec::new() };
    if entries.is_empty() {
        faults.add(place, "no condition stands here; write one, or leave the key out");
    }
    if let Some(beyond) = entries.get(CONDITIONS_MAX) {
        faults.add(
            beyond.place,
            format!(
                "a list has at most {CONDITIONS_MAX} conditions; write a `regex`, or leave the least important out"
            ),
        );
    }
    entries.into_iter().filter_map(|entry| condition(entry, of, expressions, faults)).collect()
}

fn condition(
    entry: At<ConditionEntry>,
    of: Of,
    expressions: &mut Expressions,
    faults: &mut Faults,
) -> Option<Condition> {
    let At { value: ConditionEntry { name, exact, prefix, regex, present, not }, place } = entry;
    let name = match name.0 {
        Some(At { value: name, place }) => {
            let name = match of {
                Of::Headers => name.read_header(),
                Of::Query => name.read_parameter(),
                Of::Attachments => name.read_attachment(),
            };
            faults.take(place, name)
        }
        None => {
            faults.add(place, "this condition has no name; write `name: …`");
            None
        }
    };
    let further = [("present", place_of(&present)), ("not", place_of(&not))];
    let asked = the_one(place, &[&tests(&exact, &prefix, &regex)[..], &further].concat(), "`present: true`", faults);
    let (not, test) = match (present.0, not.0) {
        (Some(present), _) => (!present.value, Some(Test::Present)),
        (None, Some(At { value: NotEntry { exact, prefix, regex }, place })) => {
            let asked = the_one(place, &tests(&exact, &prefix, &regex), "for example `{ prefix: a }`", faults);
            (true, test(exact, prefix, regex, of, expressions, faults).filter(|_| asked))
        }
        (None, None) => (false, test(exact, prefix, regex, of, expressions, faults)),
    };
    asked.then_some(())?;
    Some(Condition { name: name?, not, test: test? })
}

/// What one of these keys says; the first one's, if there are more.
fn test(
    exact: Key<ValueText>,
    prefix: Key<ValueText>,
    regex: Key<Expression>,
    of: Of,
    expressions: &mut Expressions,
    faults: &mut Faults,
) -> Option<Test> {
    let read = |text: &ValueText, whole| match of {
        Of::Headers => text.read_header(whole),
        Of::Query => text.read_parameter(),
        Of::Attachments => text.read_attachment(),
    };
    let read_prefix = |text: &ValueText| match text.0.as_str() {
        "" => Err("an empty prefix takes every value; write `present: true`".into()),
        _ => read(text, false),
    };
    let exact = faults.read(exact.0, |text| read(text, true)).map(Test::Exact);
    let prefix = faults.read(prefix.0, read_prefix).map(Test::Prefix);
    let regex: Option<Regex> = expressions.read(regex, faults);
    exact.or(prefix).or(regex.map(Test::Regex))
}

fn tests(
    exact: &Key<ValueText>,
    prefix: &Key<ValueText>,
    regex: &Key<Expression>,
) -> [(&'static str, Option<Place>); 3] {
    [("exact", place_of(exact)), ("prefix", place_of(prefix)), ("regex", place_of(regex))]
}

fn place_of<T>(key: &Key<T>) -> Option<Place> {
    key.0.as_ref().map(|at| at.place)
}

/// Whether exactly one of these keys is there.
fn the_one(entry: Place, keys: &[(&str, Option<Place>)], example: &str, faults: &mut Faults) -> bool {
    let mut there: Vec<(Place, &str)> = keys.iter().filter_map(|(key, place)| Some(((*place)?, *key))).collect();
    there.sort_unstable();
    match there[..] {
        [] => {
            let names: Vec<String> = keys.iter().map(|(key, _)| format!("`{key}`")).collect();
            faults.add(
                entry,
                format!("nothing is asked of the value; write {example}, or another of {}", names.join(", ")),
            );
            false
        }
        [_] => true,
        [(_, first), (place, second), ..] => {
            faults.add(
                place,
                format!("`{first}` is there already, and one entry asks one thing; write another entry for `{second}`"),
            );
            false
        }
    }
}
