//! The Date of a message (RFC 9110 §6.6.1).

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [(&str, u64); 12] = [
    ("Jan", 31),
    ("Feb", 28),
    ("Mar", 31),
    ("Apr", 30),
    ("May", 31),
    ("Jun", 30),
    ("Jul", 31),
    ("Aug", 31),
    ("Sep", 30),
    ("Oct", 31),
    ("Nov", 30),
    ("Dec", 31),
];
/// 1970-01-01 was a Thursday.
const FIRST_WEEKDAY: u64 = 4;
/// Beyond this second a year has five digits, which the format has no room for.
const LAST_SECOND: u64 = 253_402_300_799;

/// A moment as text, to the second: the `IMF-fixdate` of RFC 9110 §5.6.7.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Date(String);

impl Date {
    /// `unix` seconds after the start of 1970.
    pub fn at(unix: u64) -> Date {
        let unix = unix.min(LAST_SECOND);
        let (days, second) = (unix / 86_400, unix % 86_400);
        let weekday = DAYS[((days + FIRST_WEEKDAY) % 7) as usize];
        let (mut year, mut left) = (1970, days);
        while left >= year_days(year) {
            left -= year_days(year);
            year += 1;
        }
        let (mut month, mut length) = (0, 31);
        while left >= length {
            left -= length;
            month += 1;
            length = MONTHS[month].1 + u64::from(month == 1 && is_leap(year));
        }
        let (day, month) = (left + 1, MONTHS[month].0);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        Date(format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT"))
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn year_days(year: u64) -> u64 {
    365 + u64::from(is_leap(year))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_imf_fixdates() {
        // Each from `date -u -d @SECONDS`.
        for (unix, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_767_225_599, "Wed, 31 Dec 2025 23:59:59 GMT"),
            (1_767_225_600, "Thu, 01 Jan 2026 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(Date::at(unix).as_bytes()), Ok(text));
        }
        assert_eq!(Date::at(u64::MAX), Date::at(LAST_SECOND));
    }
}
