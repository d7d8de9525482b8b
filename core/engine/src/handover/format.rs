//! The format of the state does not change by accident: what a release has written, the next one reads.

/// Every field of format 1. Lines are added, as fields are; none is changed or taken away while `FORMAT_MIN` is 1.
const FORMAT_1: &str = include_str!("format-1.txt");

const SOURCES: [&str; 2] = [include_str!("state.rs"), include_str!("messages.rs")];

/// `Message.field: type, prost's attribute`, one a line.
fn fields(source: &str) -> Vec<String> {
    let (mut message, mut attribute) = (String::new(), None);
    let mut fields = Vec::new();
    for line in source.lines().map(str::trim) {
        let declared = ["pub struct ", "pub enum "].iter().find_map(|kind| line.strip_prefix(kind));
        if let Some(rest) = declared {
            message = rest.split([' ', '{']).next().unwrap_or_default().to_owned();
        } else if let Some(rest) = line.strip_prefix("#[prost(") {
            attribute = Some(rest.trim_end_matches(")]").to_owned());
        } else if let Some(attribute) = attribute.take() {
            let field = line.trim_start_matches("pub ").trim_end_matches(',');
            fields.push(format!("{message}.{field}; {attribute}"));
        }
    }
    fields
}

#[test]
fn fields_keep_their_numbers_and_types() {
    let now: Vec<String> = SOURCES.iter().flat_map(|source| fields(source)).collect();
    assert!(now.len() > 150, "the sources are not read any more");
    let written: Vec<&str> = FORMAT_1.lines().collect();
    let gone: Vec<_> = written.iter().filter(|line| !now.iter().any(|field| field == *line)).collect();
    assert!(gone.is_empty(), "an old process writes these, and this one does not read them: {gone:#?}");
    let new: Vec<_> = now.iter().filter(|field| !written.contains(&field.as_str())).collect();
    assert!(
        new.is_empty(),
        "fields that are not in handover/format-1.txt; add them there, if their absence means what was so before: {new:#?}"
    );
}

#[test]
fn a_number_is_given_once_in_a_message() {
    let numbers = FORMAT_1.lines().filter_map(|line| {
        let (field, attribute) = line.split_once("; ")?;
        Some((field.split('.').next()?, attribute.split("tag = ").nth(1)?))
    });
    let mut seen = std::collections::HashSet::new();
    for number in numbers {
        assert!(seen.insert(number), "{number:?} twice");
    }
}
