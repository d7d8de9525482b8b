//! Flaws of HTTP heads that are to be mended.

use shmesh_policy::Lenient;

use super::Faults;
use crate::located::At;
use crate::nearest::nearest;
use crate::scalar::Flaw;

/// Of which messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Requests,
    Answers,
}

const SPACE_BEFORE_COLON: &str = "space_before_colon";
const KNOWN: [&str; 4] = ["obs_fold", "bare_lf", "repeated_content_length", SPACE_BEFORE_COLON];

pub(super) fn lenient(key: Option<At<Vec<At<Flaw>>>>, of: Of, faults: &mut Faults) -> Lenient {
    let mut lenient = Lenient::default();
    for At { value: Flaw(flaw), place } in key.map(|at| at.value).unwrap_or_default() {
        match flaw.as_str() {
            "obs_fold" => lenient.obs_fold = true,
            "bare_lf" => lenient.bare_lf = true,
            "repeated_content_length" => lenient.repeated_content_length = true,
            SPACE_BEFORE_COLON if of == Of::Requests => faults.add(
                place,
                "a request with white space before a colon has to be refused (RFC 9112 §5.1); leave \
                 `space_before_colon` out, or write it at a cluster, for answers",
            ),
            SPACE_BEFORE_COLON => lenient.space_before_colon = true,
            other => faults.add(
                place,
                match nearest(other, KNOWN.into_iter()) {
                    Some(meant) => format!("`{other}` cannot be mended; did you mean `{meant}`?"),
                    None => format!("`{other}` cannot be mended; write one of `{}`", KNOWN.join("`, `")),
                },
            ),
        }
    }
    lenient
}

/// As it is written.
pub(crate) fn names(lenient: Lenient) -> Vec<&'static str> {
    // Named one by one, so that a new one cannot be forgotten.
    let Lenient { obs_fold, bare_lf, repeated_content_length, space_before_colon } = lenient;
    let there = [obs_fold, bare_lf, repeated_content_length, space_before_colon];
    KNOWN.into_iter().zip(there).filter(|(_, there)| *there).map(|(name, _)| name).collect()
}
