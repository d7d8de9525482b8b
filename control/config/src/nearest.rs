//! "Did you mean …?"

/// The word that was most likely meant: one with a few letters changed, or one that contains what was written as a
/// part (`path` for `path_prefix`).
pub(crate) fn nearest<'w>(written: &str, words: impl Iterator<Item = &'w str> + Clone) -> Option<&'w str> {
    let written = written.to_lowercase().replace('-', "_");
    let allowed = (written.chars().count() / 3).clamp(1, 3);
    let by_letters = words
        .clone()
        .map(|word| (distance(&written, &word.to_lowercase()), word))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word);
    by_letters.or_else(|| words.clone().find(|word| word.split('_').any(|part| part == written)))
}

/// How many letters must be inserted, left out, replaced, or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    // Rows of the table of prefixes: the one before the last, the last, the present.
    let mut before = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for row in 1..=from.len() {
        let mut present = vec![row; to.len() + 1];
        for column in 1..=to.len() {
            let same = from[row - 1] == to[column - 1];
            let mut best = (last[column] + 1).min(present[column - 1] + 1).min(last[column - 1] + usize::from(!same));
            let swapped = row > 1 && column > 1 && from[row - 1] == to[column - 2] && from[row - 2] == to[column - 1];
            if swapped {
                best = best.min(before[column - 2] + 1);
            }
            present[column] = best;
        }
        before = std::mem::replace(&mut last, present);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let table = [("", "", 0), ("a", "", 1), ("tpc", "tcp", 1), ("listners", "listeners", 1), ("abc", "xyz", 3)];
        for (from, to, expected) in table {
            assert_eq!(distance(from, to), expected, "{from} {to}");
            assert_eq!(distance(to, from), expected, "{to} {from}");
        }
    }

    #[test]
    fn finds_what_was_meant() {
        let words = ["host", "path_prefix", "service", "tcp"];
        let table = [
            ("tpc", Some("tcp")),
            ("Host", Some("host")),
            ("path", Some("path_prefix")),
            ("path-prefix", Some("path_prefix")),
            ("servcie", Some("service")),
            ("weight", None),
            ("", None),
        ];
        for (written, expected) in table {
            assert_eq!(nearest(written, words.iter().copied()), expected, "{written}");
        }
    }
}
