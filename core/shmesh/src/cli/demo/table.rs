//! The table that the demo ends with.

use crate::cli::bench::time;

/// One way of reaching a service, measured.
#[derive(Clone, Debug)]
pub struct Row {
    pub way: &'static str,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub rps: f64,
}

/// A table of one protocol; the first row is what the others are compared with.
pub fn table(title: &str, rows: &[Row]) -> String {
    let mut text = format!("{title:<12} {:>9} {:>9} {:>12} {:>20}\n", "p50", "p99", "calls/s", "p50 beside direct");
    for row in rows {
        let ratio = match rows.first() {
            Some(direct) if direct.p50_ns > 0 => row.p50_ns as f64 / direct.p50_ns as f64,
            _ => f64::NAN,
        };
        text.push_str(&format!(
            "  {:<10} {:>9} {:>9} {:>12.0} {:>19.2}x\n",
            row.way,
            time(row.p50_ns),
            time(row.p99_ns),
            row.rps,
            ratio
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_with_the_first() {
        let row = |way, p50_ns| Row { way, p50_ns, p99_ns: p50_ns * 2, rps: 1e9 / p50_ns as f64 };
        let rows = [row("direct TCP", 20_000), row("via shm", 5_000)];
        let expected = "\
HTTP               p50       p99      calls/s    p50 beside direct
  direct TCP   20.0 µs   40.0 µs        50000                1.00x
  via shm       5.0 µs   10.0 µs       200000                0.25x
";
        assert_eq!(table("HTTP", &rows), expected);
    }
}
