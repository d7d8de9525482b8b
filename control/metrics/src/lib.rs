//! Prometheus text of everything that the workers count.
//!
//! The numbers are gathered elsewhere, on a scrape; this crate knows how they are written. Two
//! formats: the text format 0.0.4, which everything that scrapes reads, and OpenMetrics 1.0 for who
//! asks for it.
//!
//! ```
//! use shmesh_metrics::{Family, Format, Sample, Values, encode};
//!
//! let requests = Family {
//!     name: "shmesh_requests_total",
//!     help: "Requests that were answered.",
//!     values: Values::Counter(vec![Sample {
//!         labels: vec![("code", "200".to_owned())],
//!         value: 3,
//!     }]),
//! };
//! let text = encode(vec![requests], Format::Text);
//! assert!(text.ends_with("shmesh_requests_total{code=\"200\"} 3\n"));
//! ```

#![forbid(unsafe_code)]

mod format;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

pub use format::Format;

/// Names and values; the names are constants, the values may hold anything and are escaped.
pub type Labels = Vec<(&'static str, String)>;

/// One metric with all its label sets.
#[derive(Clone, Debug)]
pub struct Family {
    /// Full name; a counter's ends in `_total`.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    pub values: Values,
}

/// The kind of a metric, and its numbers.
#[derive(Clone, Debug)]
pub enum Values {
    /// Only grows.
    Counter(Vec<Sample>),
    /// Goes up and down.
    Gauge(Vec<Sample>),
    Histogram(Vec<Distribution>),
}

/// One number.
#[derive(Clone, Debug)]
pub struct Sample {
    pub labels: Labels,
    pub value: u64,
}

/// How many observations fell where.
#[derive(Clone, Debug)]
pub struct Distribution {
    pub labels: Labels,
    /// Upper bounds (inclusive) of all buckets but the last, ascending, in the unit of the name.
    pub bounds: Vec<f64>,
    /// Observations of each bucket by itself, not summed up; one more than there are bounds.
    pub counts: Vec<u64>,
    /// Sum of all observations, in the unit of the name.
    pub sum: f64,
}

/// The text of all families, in their order; families of the same name are one family.
pub fn encode(families: Vec<Family>, format: Format) -> String {
    let families = Families(merge(families));
    let counters = families.counters();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(families));
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut out, &registry);
    match format {
        Format::OpenMetrics => out,
        Format::Text => format::to_text(&out, &counters),
    }
}

/// A name may stand once only: what comes in again is added to where it stood first.
fn merge(families: Vec<Family>) -> Vec<Family> {
    let mut merged: Vec<Family> = Vec::with_capacity(families.len());
    for family in families {
        let known = merged.iter_mut().find(|known| known.name == family.name);
        match (known.map(|known| &mut known.values), family.values) {
            (Some(Values::Counter(known)), Values::Counter(more))
            | (Some(Values::Gauge(known)), Values::Gauge(more)) => known.extend(more),
            (Some(Values::Histogram(known)), Values::Histogram(more)) => known.extend(more),
            // Two kinds under one name: the first one stays, as a scrape would refuse both.
            (Some(_), _) => {}
            (None, values) => merged.push(Family { values, ..family }),
        }
    }
    merged
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Families {
    /// Names of counters without `_total`, as OpenMetrics calls them.
    fn counters(&self) -> Vec<&'static str> {
        let counters = self.0.iter().filter(|family| matches!(family.values, Values::Counter(_)));
        counters.map(Family::open_metrics_name).collect()
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        self.0.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Family {
    fn open_metrics_name(&self) -> &'static str {
        match self.values {
            Values::Counter(_) => self.name.strip_suffix("_total").unwrap_or(self.name),
            _ => self.name,
        }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let kind = match self.values {
            Values::Counter(_) => MetricType::Counter,
            Values::Gauge(_) => MetricType::Gauge,
            Values::Histogram(_) => MetricType::Histogram,
        };
        let name = self.open_metrics_name();
        let mut metric = encoder.encode_descriptor(name, self.help, None, kind)?;
        match &self.values {
            Values::Counter(samples) => samples.iter().try_for_each(|sample| {
                labelled(&mut metric, &sample.labels, |metric| {
                    metric.encode_counter::<NoLabelSet, u64, u64>(&sample.value, None)
                })
            }),
            Values::Gauge(samples) => samples.iter().try_for_each(|sample| {
                labelled(&mut metric, &sample.labels, |metric| metric.encode_gauge(&sample.value))
            }),
            Values::Histogram(distributions) => distributions.iter().try_for_each(|one| {
                labelled(&mut metric, &one.labels, |metric| {
                    metric.encode_histogram::<NoLabelSet>(one.sum, one.count(), &one.buckets(), None)
                })
            }),
        }
    }
}

/// Gives `encode` the metric with its labels; without labels there are no braces either.
fn labelled(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> Result<(), fmt::Error>,
) -> Result<(), fmt::Error> {
    match labels.is_empty() {
        true => encode(metric),
        false => encode(&mut metric.encode_family(labels)?),
    }
}

impl Distribution {
    fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Upper bounds with counts; the encoder sums up.
    fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let mut buckets: Vec<_> = bounds.zip(self.counts.iter().copied()).collect();
        // A scrape refuses a histogram without its last bucket.
        if buckets.last().is_none_or(|(bound, _)| bound.is_finite()) {
            let counted: u64 = buckets.iter().map(|(_, count)| count).sum();
            buckets.push((f64::INFINITY, self.count() - counted));
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(labels: &[(&'static str, &str)], value: u64) -> Sample {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned()));
        Sample { labels: labels.collect(), value }
    }

    fn all() -> Vec<Family> {
        vec![
            Family {
                name: "shmesh_requests_total",
                help: "Requests that were answered.",
                values: Values::Counter(vec![
                    sample(&[("listener", "apps"), ("code", "200")], 7),
                    sample(&[("listener", "a\"b\\c\nd"), ("code", "404")], u64::MAX),
                ]),
            },
            Family { name: "shmesh_sessions", help: "Attached apps.", values: Values::Gauge(vec![sample(&[], 2)]) },
            Family {
                name: "shmesh_request_duration_seconds",
                help: "Time from a request's head to the end of its answer.",
                values: Values::Histogram(vec![Distribution {
                    labels: vec![("cluster", "reviews".to_owned())],
                    bounds: vec![0.001, 0.5],
                    counts: vec![3, 0, 2],
                    sum: 4.25,
                }]),
            },
        ]
    }

    #[test]
    fn the_text_format() {
        assert_eq!(
            encode(all(), Format::Text),
            r#"# HELP shmesh_requests_total Requests that were answered.
# TYPE shmesh_requests_total counter
shmesh_requests_total{listener="apps",code="200"} 7
shmesh_requests_total{listener="a\"b\\c\nd",code="404"} 18446744073709551615
# HELP shmesh_sessions Attached apps.
# TYPE shmesh_sessions gauge
shmesh_sessions 2
# HELP shmesh_request_duration_seconds Time from a request's head to the end of its answer.
# TYPE shmesh_request_duration_seconds histogram
shmesh_request_duration_seconds_sum{cluster="reviews"} 4.25
shmesh_request_duration_seconds_count{cluster="reviews"} 5
shmesh_request_duration_seconds_bucket{le="0.001",cluster="reviews"} 3
shmesh_request_duration_seconds_bucket{le="0.5",cluster="reviews"} 3
shmesh_request_duration_seconds_bucket{le="+Inf",cluster="reviews"} 5
"#
        );
    }

    #[test]
    fn open_metrics_names_the_family_without_total_and_ends() {
        let text = encode(all(), Format::OpenMetrics);
        assert!(text.contains("# TYPE shmesh_requests counter\nshmesh_requests_total{"), "{text}");
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn a_family_stands_once() {
        let mut twice = all();
        twice.push(Family {
            name: "shmesh_sessions",
            help: "Attached apps.",
            values: Values::Gauge(vec![sample(&[("worker", "1")], 5)]),
        });
        let text = encode(twice, Format::Text);
        assert_eq!(text.matches("# TYPE shmesh_sessions ").count(), 1);
        assert!(text.contains("shmesh_sessions 2\nshmesh_sessions{worker=\"1\"} 5\n"), "{text}");
    }

    #[test]
    fn a_histogram_always_has_its_last_bucket() {
        let lacking = Distribution { labels: vec![], bounds: vec![], counts: vec![], sum: 0.0 };
        assert_eq!(lacking.buckets(), [(f64::INFINITY, 0)]);
    }

    #[test]
    fn no_families_are_no_lines() {
        assert_eq!(encode(vec![], Format::Text), "");
        assert_eq!(encode(vec![], Format::OpenMetrics), "# EOF\n");
    }
}
