//! Classes of octets, and how to run over many of one class (RFC 9110 §5.5, §5.6; RFC 3986 §2).

/// `tchar` of RFC 9110 §5.6.2: what methods, header names and options are made of.
const TOKEN: u8 = 1;
/// `field-vchar`, SP and HTAB of RFC 9110 §5.5: everything but the other control bytes.
const FIELD_VALUE: u8 = 2;
/// A byte of a request target: visible ASCII. `#` starts a fragment, which no form of
/// request target has (RFC 9112 §3.2); bytes above 0x7e must be percent-encoded (RFC 3986 §2).
const TARGET: u8 = 4;
/// A byte of a `reg-name` (RFC 3986 §3.2.2) apart from `%`. The comma is left out although
/// the grammar has it: nobody's host has one, and it is how a list would look.
const REG_NAME: u8 = 8;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut at = 0usize;
    while at < 256 {
        let byte = at as u8;
        let mut class = 0;
        if byte.is_ascii_alphanumeric() || contains(b"!#$%&'*+-.^_`|~", byte) {
            class |= TOKEN;
        }
        if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
            class |= FIELD_VALUE;
        }
        if byte.is_ascii_graphic() && byte != b'#' {
            class |= TARGET;
        }
        if byte.is_ascii_alphanumeric() || contains(b"-._~!$&'()*+;=", byte) {
            class |= REG_NAME;
        }
        table[at] = class;
        at += 1;
    }
    table
}

const fn contains(set: &[u8], byte: u8) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

#[inline]
pub(super) fn is_token(byte: u8) -> bool {
    CLASSES[byte as usize] & TOKEN != 0
}

#[inline]
pub(super) fn is_field_value(byte: u8) -> bool {
    CLASSES[byte as usize] & FIELD_VALUE != 0
}

#[inline]
pub(super) fn is_target(byte: u8) -> bool {
    CLASSES[byte as usize] & TARGET != 0
}

#[inline]
pub(super) fn is_reg_name(byte: u8) -> bool {
    CLASSES[byte as usize] & REG_NAME != 0
}

/// Optional white space, RFC 9110 §5.6.3.
#[inline]
pub(super) fn is_ows(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

pub(super) fn is_token_text(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token)
}

pub(super) fn trim_ows(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_ows(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_ows(*last)
    {
        text = rest;
    }
    text
}

/// The elements of a comma-separated list, trimmed; empty ones are left out (RFC 9110 §5.6.1.2).
/// Not for fields whose elements may hold a quoted comma.
pub(super) fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim_ows).filter(|element| !element.is_empty())
}

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// First position at or after `at` whose byte is no field value byte, or `buf.len()`.
#[inline]
pub(super) fn field_value_end(buf: &[u8], mut at: usize) -> usize {
    loop {
        // Eight bytes a step; a borrow can only raise false marks above the first true one.
        while let Some(word) = word_at(buf, at) {
            let stops = below(word, b' ') | equal(word, 0x7f);
            if stops != 0 {
                at += (stops.trailing_zeros() / 8) as usize;
                break;
            }
            at += 8;
        }
        // At a mark (which may be a tab, and that is legal), or among the last seven bytes.
        match buf.get(at) {
            Some(byte) if is_field_value(*byte) => at += 1,
            _ => return at,
        }
    }
}

/// First position at or after `at` whose byte is no request target byte, or `buf.len()`.
#[inline]
pub(super) fn target_end(buf: &[u8], mut at: usize) -> usize {
    while let Some(word) = word_at(buf, at) {
        let stops = below(word, b'!') | equal(word, 0x7f) | equal(word, b'#') | (word & TOPS);
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while buf.get(at).is_some_and(|byte| is_target(*byte)) {
        at += 1;
    }
    at
}

#[inline]
fn word_at(buf: &[u8], at: usize) -> Option<u64> {
    let bytes = buf.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*bytes))
}

/// The top bit of each byte of `word` that is less than `limit` (≤ 0x80).
#[inline]
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(limit)) & !word & TOPS
}

/// The top bit of each byte of `word` that equals `byte`.
#[inline]
fn equal(word: u64, byte: u8) -> u64 {
    let differences = word ^ (ONES * u64::from(byte));
    below(differences, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stop_where_the_table_says() {
        // Every byte value at every position of a text that spans several words.
        for length in 0..20 {
            for position in 0..length {
                for byte in 0..=255u8 {
                    let mut text = vec![b'a'; length];
                    text[position] = byte;
                    let expected = |legal: fn(u8) -> bool| text.iter().position(|b| !legal(*b)).unwrap_or(length);
                    assert_eq!(field_value_end(&text, 0), expected(is_field_value));
                    assert_eq!(target_end(&text, 0), expected(is_target));
                }
            }
        }
    }

    #[test]
    fn runs_stop_at_the_first_of_several() {
        assert_eq!(field_value_end(b"ab\tcd\x00e\x00fgh", 0), 5);
        assert_eq!(field_value_end(b"\t\t\t\t\t\t\t\t\t\r", 0), 9);
        assert_eq!(field_value_end(b"\x01\x20aaaaaa", 0), 0);
        assert_eq!(target_end(b"/\x21 \x00aaaaaaa", 1), 2);
    }

    #[test]
    fn token_class_is_rfc_9110_5_6_2() {
        let separators = b"\"(),/:;<=>?@[\\]{} \t";
        for byte in 0..=255u8 {
            let expected = byte.is_ascii_graphic() && !separators.contains(&byte);
            assert_eq!(is_token(byte), expected, "{byte:#04x}");
        }
    }

    #[test]
    fn lists_drop_empty_elements() {
        let elements: Vec<_> = list_elements(b" , a,\t ,b c ,").collect();
        assert_eq!(elements, [&b"a"[..], b"b c"]);
        assert_eq!(list_elements(b"").count(), 0);
    }
}
