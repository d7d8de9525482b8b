//! Heads that are mended, and those that are not.

use super::*;

const NONE: Lenient =
    Lenient { obs_fold: false, bare_lf: false, repeated_content_length: false, space_before_colon: false };
const ALL: Lenient = Lenient { obs_fold: true, bare_lf: true, repeated_content_length: true, space_before_colon: true };
const FOLD: Lenient = Lenient { obs_fold: true, ..NONE };
const LF: Lenient = Lenient { bare_lf: true, ..NONE };
const REPEATED: Lenient = Lenient { repeated_content_length: true, ..NONE };
const SPACE: Lenient = Lenient { space_before_colon: true, ..NONE };

/// What a request is parsed from in the end; `None` while it is not complete.
fn mended(text: &str, lenient: Lenient, limits: HeadLimits) -> Result<Option<Mended>, HeadError> {
    let mut head = RequestHead::default();
    Ok(match lenient.parse(text.as_bytes(), &limits, |buf, limits| head.parse(buf, limits))? {
        (Status::Complete, None) => panic!("nothing was to be mended in {text:?}"),
        (Status::Complete, Some(mended)) => {
            assert_eq!(head.len as usize, mended.bytes.len());
            Some(mended)
        }
        (Status::Partial, _) => None,
    })
}

fn head(lines: &str) -> String {
    format!("PUT / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

#[test]
fn each_leniency_mends_its_own_flaw() {
    for (lenient, flawed, canonical) in [
        (FOLD, "X: a\r\n b\r\n\t c \r\nY: d\r\n", "X: a b c\r\nY: d\r\n"),
        (FOLD, "X:\r\n a\r\n", "X: a\r\n"),
        (LF, "X: a\nY: b\r\n", "X: a\r\nY: b\r\n"),
        (REPEATED, "Content-Length: 3\r\nX: a\r\ncontent-length:3\r\n", "Content-Length: 3\r\nX: a\r\n"),
        (REPEATED, "Content-Length: 3, 3 ,3\r\n", "Content-Length: 3\r\n"),
        (SPACE, "X : a\r\nY\t : b\r\n", "X: a\r\nY: b\r\n"),
    ] {
        let whole = mended(&head(flawed), lenient, HeadLimits::default()).unwrap().expect("the whole head");
        assert_eq!(String::from_utf8(whole.bytes).unwrap(), head(canonical));
        assert_eq!(whole.taken, head(flawed).len());
        // Nobody else mends it.
        for other in [NONE, FOLD, LF, REPEATED, SPACE].into_iter().filter(|other| *other != lenient) {
            mended(&head(flawed), other, HeadLimits::default()).unwrap_err();
        }
        assert!(mended(&head(flawed), ALL, HeadLimits::default()).unwrap().is_some());
    }
    let bare = "\nGET / HTTP/1.1\nHost: a\n\nbody\n";
    let whole = mended(bare, LF, HeadLimits::default()).unwrap().expect("the whole head");
    assert_eq!(whole.bytes, b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(&bare[whole.taken..], "body\n");
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_by_all_of_them() {
    use HeadError::*;
    for (lines, error) in [
        ("Content-Length: 3\r\nContent-Length: 4\r\n", DuplicateContentLength),
        ("Content-Length: 3\r\nContent-Length: 03\r\n", DuplicateContentLength),
        ("Content-Length: 3, 4\r\n", BadContentLength),
        ("Content-Length: 3,\r\n", BadContentLength),
        ("Content-Length: +3, +3\r\n", BadContentLength),
        ("Content-Length: 3\r\n 3\r\n", ObsFold),
        ("Content-Length:\r\n 3\r\n", BadContentLength),
        ("Content-Length: 3\nContent-Length: 3\nTransfer-Encoding: chunked\n", LengthAndTransferEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3, 3\r\n", LengthAndTransferEncoding),
        ("Transfer-Encoding:\r\n chunked\r\n", ObsFold),
        ("Transfer-Encoding : chunked\r\nContent-Length: 3\r\n", LengthAndTransferEncoding),
        ("Connection: close\r\n , x\r\n", ObsFold),
        (" X: a\r\n", ObsFold),
        ("Host : b\r\n", DuplicateHost),
        ("X: a\rY: b\n", BareCr),
        ("X: a\r\r\n b\r\n", BareCr),
        (" : a\r\n", ObsFold),
        ("X y : a\r\n", SpaceBeforeColon),
        ("X: a\n\0: b\n", BadHeaderName),
    ] {
        let told = mended(&head(lines), ALL, HeadLimits::default());
        assert_eq!(told, Err(error), "{lines:?}");
    }
}

/// A line end that is not tolerated is not mended along with what is: the line behind it would be taken for its continuation.
#[test]
fn a_line_end_that_is_none_is_refused_whatever_else_is_mended() {
    let all_but_lf = Lenient { bare_lf: false, ..ALL };
    for lenient in [FOLD, all_but_lf] {
        for lines in [
            "X: a\r\n b\r\nContent-Length: 50\n \r\n",
            "X: a\r\n b\r\nTransfer-Encoding: chunkedX\n \r\n",
            "X: a\r\n b\r\nY: c\n d\r\n",
            "X: a\r\n b\r\nY: c\nZ: d\r\n",
        ] {
            assert_eq!(mended(&head(lines), lenient, HeadLimits::default()), Err(HeadError::BareLf), "{lines:?}");
        }
    }
}

#[test]
fn a_head_that_goes_on_is_waited_for_and_bounded() {
    let text = "PUT / HTTP/1.1\nHost: a\nContent-Length: 3\nContent-Length: 3\nX: a\n b\n\n";
    for cut in 0..text.len() {
        assert_eq!(mended(&text[..cut], ALL, HeadLimits::default()), Ok(None), "{:?}", &text[..cut]);
    }
    assert!(mended(text, ALL, HeadLimits::default()).unwrap().is_some());
    let limits = HeadLimits { head_bytes: text.len() as u32, ..HeadLimits::default() };
    assert!(mended(text, ALL, limits).unwrap().is_some());
    let limits = HeadLimits { head_bytes: text.len() as u32 - 1, ..HeadLimits::default() };
    assert_eq!(mended(text, ALL, limits), Err(HeadError::HeadTooLarge));
    let endless = format!("GET / HTTP/1.1\nHost: a\nX: {}", "a".repeat(70_000));
    assert_eq!(mended(&endless, ALL, HeadLimits::default()), Err(HeadError::HeadTooLarge));
    let many = format!("GET / HTTP/1.1\nHost: a\n{}\n", "X: a\n".repeat(128));
    assert_eq!(mended(&many, ALL, HeadLimits::default()), Err(HeadError::TooManyHeaders));
}
