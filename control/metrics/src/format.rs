//! The two text formats and the choice between them.

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What a request's `Accept` asks for: OpenMetrics if it is named, the text format otherwise.
    pub fn accepted(accept: Option<&str>) -> Self {
        let named = accept.is_some_and(|accept| {
            accept.split(',').any(|range| {
                let media = range.split(';').next().unwrap_or_default().trim();
                media.eq_ignore_ascii_case("application/openmetrics-text")
            })
        });
        match named {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    /// Value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// OpenMetrics text as text format 0.0.4. They differ, for what is written here, in two things: a
/// counter's family is called as its samples are, with `_total`, and nothing marks the end.
pub fn to_text(open_metrics: &str, counters: &[&str]) -> String {
    let mut out = String::with_capacity(open_metrics.len() + open_metrics.len() / 8);
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let described = ["# HELP ", "# TYPE "]
            .iter()
            .find_map(|keyword| Some((keyword, line.strip_prefix(keyword)?.split_once(' ')?)));
        match described {
            Some((keyword, (name, rest))) if counters.contains(&name) => {
                out.extend([keyword, name, "_total ", rest]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_is_given_what_it_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::accepted(Some("*/*")), Format::Text);
        assert_eq!(Format::accepted(None), Format::Text);
    }
}
