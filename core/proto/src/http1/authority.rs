//! `host[:port]`, as in Host and in request targets (RFC 3986 §3.2, RFC 9110 §4.2, §7.2).

use std::net::Ipv6Addr;

use super::octets::is_reg_name;

/// Splits `host[:port]`; an IPv6 address keeps its brackets. An empty port (`host:`) is none.
///
/// `None` if it is no such thing: an empty host, user information, a list, white space, a bad
/// percent-encoding, a zone id, a port above 65535.
pub fn authority_parts(authority: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let host_len = if authority.first() == Some(&b'[') {
        let close = authority.iter().position(|byte| *byte == b']')?;
        let address = std::str::from_utf8(&authority[1..close]).ok()?;
        address.parse::<Ipv6Addr>().ok()?;
        close + 1
    } else {
        let colon = authority.iter().position(|byte| *byte == b':');
        let len = colon.unwrap_or(authority.len());
        if len == 0 || !is_host_name(&authority[..len]) {
            return None;
        }
        len
    };
    let (host, rest) = authority.split_at(host_len);
    match rest {
        [] | [b':'] => Some((host, None)),
        [b':', digits @ ..] => Some((host, Some(port(digits)?))),
        _ => None,
    }
}

/// Whether `authority` can still become valid when more bytes follow: a cheap test that
/// finds what can never be part of one.
pub(super) fn may_become_authority(authority: &[u8]) -> bool {
    authority.iter().all(|byte| is_reg_name(*byte) || b"%:[]".contains(byte))
}

/// `reg-name` of RFC 3986 §3.2.2; an IPv4 address is one too.
fn is_host_name(mut name: &[u8]) -> bool {
    loop {
        name = match name {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if is_reg_name(*byte) => rest,
            _ => return false,
        }
    }
}

fn port(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0u16, |port, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        port.checked_mul(10)?.checked_add(digit as u16)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_what_rfc_3986_allows() {
        let table: &[(&str, &str, Option<u16>)] = &[
            ("reviews", "reviews", None),
            ("reviews:9080", "reviews", Some(9080)),
            ("reviews:", "reviews", None),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[::ffff:1.2.3.4]:80", "[::ffff:1.2.3.4]", Some(80)),
            ("com.demo.Greet$Inner_v1~", "com.demo.Greet$Inner_v1~", None),
            ("a%2Fb:00080", "a%2Fb", Some(80)),
        ];
        for (text, host, port) in table {
            let parts = authority_parts(text.as_bytes());
            assert_eq!(parts, Some((host.as_bytes(), *port)), "{text}");
            assert!(may_become_authority(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        let table = [
            "",
            ":80",
            "a b",
            "a,b",
            "u@a",
            "u:p@a",
            "a/",
            "a?b",
            "a#b",
            "a:80:80",
            "a:8x",
            "a:-1",
            "a:+1",
            "a:65536",
            "a:99999999999",
            "a%",
            "a%4",
            "a%zz",
            "a\\b",
            "a\u{e9}",
            "[::1",
            "::1",
            "[]",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "[1.2.3.4]",
            "a[::1]",
            "a:\t80",
        ];
        for text in table {
            assert_eq!(authority_parts(text.as_bytes()), None, "{text}");
        }
    }
}
