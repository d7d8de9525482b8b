//! `x-request-id`: a name for a request, the same in every log that it leaves a trace in.

/// Bytes of an id that came with a request and is logged; more is left out.
pub const LOGGED_BYTES_MAX: usize = 128;

/// 128 random bits in the shape of a UUID: four digits are its version and variant (RFC 9562 §5.4), as some readers want.
pub fn uuid(high: u64, low: u64) -> [u8; 36] {
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    let mut text = [b'-'; 36];
    let mut digit = 0;
    for (at, byte) in text.iter_mut().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            continue;
        }
        let half = if digit < 16 { high } else { low };
        *byte = b"0123456789abcdef"[(half >> (60 - 4 * (digit % 16)) & 0xf) as usize];
        digit += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_shape_of_a_uuid() {
        let text = |high, low| String::from_utf8(uuid(high, low).to_vec()).unwrap();
        assert_eq!(text(0, 0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(text(u64::MAX, u64::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(text(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef), "01234567-89ab-4def-8123-456789abcdef");
    }
}
