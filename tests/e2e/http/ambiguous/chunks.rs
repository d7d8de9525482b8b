//! Chunked bodies: RFC 9112 §7.1, RFC 9110 §6.5.

use super::Case;
use super::Expect::{One, Refused, Status};

/// Lines that are no chunk size.
pub const NO_SIZES: [&str; 30] = [
    "",
    " ",
    "+5",
    "-5",
    "0x5",
    "5h",
    "h5",
    " 5",
    "\t5",
    "5,",
    "5.",
    "5:",
    "5=a",
    "5 a",
    "5\t5",
    "five",
    "\u{665}",
    "'5'",
    "5\r",
    "\r5",
    "5\0",
    "\u{1}5",
    "5\u{b}",
    "5\u{c}",
    "5\u{7f}",
    "10000000000000005",
    "FFFFFFFFFFFFFFFFF",
    "fffffffffffffffffffff5",
    "5-",
    "5/5",
];

/// Extensions with a line end that only some see.
pub const NO_EXTENSIONS: [&str; 8] =
    ["5;\n", "5;a\nb", "5;a\rb", "5;a=\"\n\"", "5;a=\"\r\"", "5;\0", "5;a=\"\r\n\"", "5 \n"];

/// What comes instead of the line end behind a chunk of five bytes, the next chunk, and the end.
pub const NO_ENDS: [&str; 16] = [
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhello\r\r\n0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5\r\nhello \r\n0\r\n\r\n",
    "5\r\nhello\r\n\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\n\r\n",
    "5\r\nhello\r\n0\r\r\n\r\n",
    "5\r\nhello\r\n0\r\n\n",
    "4\r\nhello\r\n0\r\n\r\n",
    "6\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n-0\r\n\r\n",
    "5\r\nhello\r\n0x0\r\n\r\n",
];

/// Trailers that are none.
pub const NO_TRAILERS: [&str; 12] = [
    "X",
    "X y",
    ": y",
    "X : y",
    " X: y",
    "\tX: y",
    "X: a\r\n b",
    "X: a\nY: b",
    "X: a\rY: b",
    "X: a\0b",
    "X(: y",
    "GET /x HTTP/1.1",
];

/// Trailers that forge what a head says; they are dropped (RFC 9110 §6.5.1).
pub const FORGED: [&str; 7] = [
    "Content-Length: 6",
    "Transfer-Encoding: chunked",
    "Host: other",
    "Connection: close",
    "Content-Length: 6\r\nTransfer-Encoding: chunked",
    "host: other\r\nX: y",
    "TE: trailers",
];

pub fn cases() -> Vec<Case> {
    let head = "POST /case HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut cases = Vec::new();
    let mut case = |expect, body: String| cases.push(Case { bytes: format!("{head}{body}").into_bytes(), expect });
    for size in NO_SIZES.into_iter().chain(NO_EXTENSIONS) {
        case(Refused, format!("{size}\r\nhello\r\n0\r\n\r\n"));
        // The same behind a chunk that was in order.
        case(Refused, format!("2\r\nhe\r\n{size}\r\nhello\r\n0\r\n\r\n"));
    }
    for body in NO_ENDS {
        case(Refused, body.into());
    }
    for trailer in NO_TRAILERS {
        case(Refused, format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"));
    }
    let hello = One("POST", "/case", "hello");
    for trailer in FORGED {
        case(hello, format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"));
    }
    // What is not looked into is bounded all the same.
    case(Refused, format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(4_096)));
    case(Refused, format!("5{}\r\nhello\r\n0\r\n\r\n", " ".repeat(4_096)));
    case(hello, format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(4_000)));
    case(Status(431), format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "a".repeat(8_192)));
    for body in [
        "5\r\nhello\r\n0\r\n\r\n",
        "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n",
        "5;a=b\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b;c\"\r\nhello\r\n0;d\r\n\r\n",
        "00000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n00000\r\n\r\n",
        "5 ;a=b\r\nhello\r\n0\r\n\r\n",
        "5; a = b\r\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
    ] {
        case(hello, body.into());
    }
    // White space behind the size without an extension; digits beyond any size, if only zeros.
    case(Refused, "5 \r\nhello\r\n0\r\n\r\n".into());
    case(Refused, "0000000000000000000000000000005\r\nhello\r\n0\r\n\r\n".into());
    // Upper and lower case.
    case(One("POST", "/case", "hello, you"), "A\r\nhello, you\r\n0\r\n\r\n".into());
    case(One("POST", "/case", "hello, you"), "a\r\nhello, you\r\n0\r\n\r\n".into());
    // What looks like the end, and another request, inside a chunk.
    let inner = "0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    case(One("POST", "/case", inner), format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()));
    cases
}
