//! The kinds of values: the text as it stands in the file, what the schema says of it, and how it is read.
//!
//! The errors here are sentences: what is wrong, and what to write instead.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use shmesh_policy::address::check_unix_path;
use shmesh_policy::{Address, Priority, Protocol};

use crate::nearest::nearest;

/// Longest name of a listener or cluster. 255: it is a label of metrics and a part of messages.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Longest timeout. A day: more is a mistyped unit.
pub(crate) const INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

macro_rules! scalar {
    ($(#[$doc:meta])* $name:ident, $schema:tt) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        pub(crate) struct $name(pub String);

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

scalar!(
    /// A whole number.
    Count,
    { "type": "integer", "minimum": 0 }
);
scalar!(
    /// A number of bytes.
    Size,
    { "type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9]+(KiB|MiB)?$" }
);
scalar!(
    /// A length of time.
    Interval,
    { "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "examples": ["500ms", "30s", "2m"] }
);
scalar!(
    /// The name of a listener or cluster.
    Name,
    { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^\\S+$" }
);
scalar!(
    /// What is spoken on a listener.
    ProtocolName,
    { "type": "string", "enum": ["http", "dubbo", "raw"] }
);
scalar!(
    /// Which calls go round the sidecar first.
    PriorityName,
    { "type": "string", "enum": ["low", "default", "high"] }
);
scalar!(
    /// A flaw of HTTP heads that can be mended.
    Flaw,
    { "type": "string", "enum": ["obs_fold", "bare_lf", "repeated_content_length", "space_before_colon"] }
);
scalar!(
    /// An IP address with a port.
    SocketText,
    { "type": "string", "examples": ["127.0.0.1:15001", "[::1]:15001"] }
);
scalar!(
    /// An absolute path.
    PathText,
    { "type": "string", "pattern": "^/" }
);
scalar!(
    /// The address of an endpoint.
    Target,
    { "type": "string", "pattern": "^(tcp|unix|shm):", "examples": ["tcp:reviews:9080", "unix:/run/reviews.sock", "shm:my-app"] }
);
mod matching;

pub(crate) use matching::{Expression, Host, HttpPath, Method, PathPrefix, TextPattern, ValueName, ValueText};

impl Count {
    /// A number from `least` to `most`.
    pub fn read(&self, least: u32, most: u32) -> Result<u32, String> {
        match read_digits(&self.0) {
            Some(number) if (u64::from(least)..=u64::from(most)).contains(&number) => Ok(number as u32),
            Some(number) => Err(format!("{number} is out of range; write a number from {least} to {most}")),
            None => Err(format!("`{}` is not a whole number; write one from {least} to {most}", self.0)),
        }
    }
}

impl Size {
    /// A number of bytes from `least` to `most`.
    pub fn read(&self, least: u32, most: u32) -> Result<u32, String> {
        self.read_long(u64::from(least), u64::from(most)).map(|bytes| bytes as u32)
    }

    /// As [`Size::read`], for what may be larger than 4 GiB.
    pub fn read_long(&self, least: u64, most: u64) -> Result<u64, String> {
        let text = self.0.as_str();
        let (digits, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
            (Some(digits), _) => (digits, 1024),
            (_, Some(digits)) => (digits, 1024 * 1024),
            _ => (text, 1),
        };
        match read_digits(digits.trim_end()).and_then(|number| number.checked_mul(unit)) {
            Some(bytes) if (least..=most).contains(&bytes) => Ok(bytes),
            Some(_) => Err(format!("{text} is out of range; write from {} to {}", bytes(least), bytes(most))),
            None => Err(format!("`{text}` is not a size; write a number of bytes, or one with KiB or MiB: 64KiB")),
        }
    }
}

/// The longest time to spin that may be asked for: a core is not to be burnt for what a wake-up of 10 µs gives.
const SPIN_MAX: Duration = Duration::from_millis(10);

impl Interval {
    /// A length of time that is not zero.
    pub fn read(&self) -> Result<Duration, String> {
        match self.read_with_zero()? {
            Duration::ZERO => Err(format!("`{}` leaves no time at all; write 1ms or more", self.0)),
            interval => Ok(interval),
        }
    }

    /// A length of time; zero is none.
    pub fn read_optional(&self) -> Result<Option<Duration>, String> {
        self.read_with_zero().map(|interval| (!interval.is_zero()).then_some(interval))
    }

    /// A short length of time, or zero.
    pub fn read_spin(&self) -> Result<Duration, String> {
        let text = self.0.as_str();
        let bad =
            || format!("`{text}` is not a time to spin; write a whole number and us or ms, to 10ms, or 0s: 100us");
        let spin = match text.strip_suffix("us").map(|number| read_digits(number.trim_end())) {
            Some(number) => Duration::from_micros(number.ok_or_else(bad)?),
            None => self.read_with_zero().map_err(|_| bad())?,
        };
        if spin > SPIN_MAX { Err(bad()) } else { Ok(spin) }
    }

    /// A length of time, or zero.
    pub fn read_with_zero(&self) -> Result<Duration, String> {
        let text = self.0.as_str();
        let bad =
            || format!("`{text}` is not a length of time; write a whole number and ms, s, m or h: 500ms, 30s, 2m");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number = read_digits(&text[..digits]).ok_or_else(bad)?;
        let milliseconds = match text[digits..].trim_start() {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60 * 1000),
            "h" => number.checked_mul(60 * 60 * 1000),
            "" => {
                return Err(format!("`{text}` has no unit; write `{text}s` for seconds, or ms, m or h"));
            }
            _ => return Err(bad()),
        };
        match milliseconds.map(Duration::from_millis) {
            Some(interval) if interval <= INTERVAL_MAX => Ok(interval),
            _ => Err(format!("`{text}` is longer than a day; write 24h or less")),
        }
    }
}

impl Name {
    pub fn read(&self) -> Result<&str, String> {
        let name = self.0.as_str();
        if name.is_empty() {
            Err("the name is empty; write one".into())
        } else if name.len() > NAME_BYTES_MAX {
            Err(format!("the name has {} bytes; write one of at most {NAME_BYTES_MAX}", name.len()))
        } else if name.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
            Err(format!("the name {name:?} contains white space; write it without"))
        } else {
            Ok(name)
        }
    }
}

impl ProtocolName {
    pub fn read(&self) -> Result<Protocol, String> {
        let known = [Protocol::Http, Protocol::Dubbo, Protocol::Raw];
        if let Some(protocol) = known.into_iter().find(|protocol| protocol.as_str() == self.0) {
            return Ok(protocol);
        }
        Err(match self.0.to_ascii_lowercase().as_str() {
            "http2" | "h2" | "grpc" | "triple" | "tri" => {
                format!("`{}` is not served yet; write `http` for HTTP/1.1, or `raw` to pass the bytes through", self.0)
            }
            "tcp" => "`tcp` is no protocol here; write `raw` to pass the bytes through".into(),
            _ => match nearest(&self.0, known.iter().map(|protocol| protocol.as_str())) {
                Some(meant) => format!("`{}` is no protocol; did you mean `{meant}`?", self.0),
                None => format!("`{}` is no protocol; write `http`, `dubbo` or `raw`", self.0),
            },
        })
    }
}

impl PriorityName {
    pub fn read(&self) -> Result<Priority, String> {
        let known = Priority::ALL.into_iter().find(|priority| priority.as_str() == self.0);
        known.ok_or_else(|| format!("`{}` is no priority; write `low`, `default` or `high`", self.0))
    }
}

impl SocketText {
    /// An IP address with a fixed port.
    pub fn read(&self) -> Result<SocketAddr, String> {
        let text = self.0.as_str();
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                Err(format!("`{text}` has no fixed port; write `{}:PORT` with a port from 1 to 65535", host_of(text)))
            }
            Ok(address) => Ok(address),
            Err(_) => Err(format!("`{text}` is not an IP address with a port; write {}", self.suggestion())),
        }
    }

    fn suggestion(&self) -> String {
        let text = self.0.as_str();
        if let Some(address) = text.strip_prefix("tcp:").filter(|rest| rest.parse::<SocketAddr>().is_ok()) {
            return format!("`{address}`");
        }
        if text.parse::<Ipv4Addr>().is_ok() {
            return format!("`{text}:PORT` with a port from 1 to 65535");
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
            return format!("`\"[{ip}]:PORT\"` with a port from 1 to 65535");
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
        let ip = match host {
            "" | "*" => "0.0.0.0",
            "localhost" => "127.0.0.1",
            _ => return "for example `127.0.0.1:15001`".into(),
        };
        match port.parse::<u16>() {
            Ok(port) if port != 0 => format!("`{ip}:{port}`"),
            _ => format!("`{ip}:PORT` with a port from 1 to 65535"),
        }
    }
}

impl PathText {
    /// An absolute path to which a Unix socket can be bound.
    pub fn read_socket(&self) -> Result<PathBuf, String> {
        let path = self.read_file()?;
        check_unix_path(&path).map_err(|error| error.to_string())?;
        Ok(path)
    }

    /// An absolute path.
    pub fn read_file(&self) -> Result<PathBuf, String> {
        let text = self.0.as_str();
        if text.starts_with('/') {
            return Ok(PathBuf::from(text));
        }
        let bare = ["unix:", "shm:", "file:"].iter().find_map(|scheme| text.strip_prefix(scheme));
        Err(match bare {
            Some(path) if path.starts_with('/') => {
                format!("`{text}` has a scheme in front; write `{path}`")
            }
            _ => format!("`{text}` is not an absolute path; write one that begins with `/`"),
        })
    }
}

impl Target {
    pub fn read(&self) -> Result<Address, String> {
        let address = Address::from_str(&self.0).map_err(|error| error.to_string())?;
        match &address {
            Address::Unix(path) if !Path::is_absolute(path) => {
                Err(format!("`{}` is not an absolute path; write one that begins with `/`", path.display()))
            }
            _ => Ok(address),
        }
    }
}

/// As it can be read again: in the largest unit that divides it.
pub(crate) fn bytes(number: impl Into<u64>) -> String {
    match number.into() {
        0 => "0".into(),
        number if number.is_multiple_of(1024 * 1024) => format!("{}MiB", number / (1024 * 1024)),
        number if number.is_multiple_of(1024) => format!("{}KiB", number / 1024),
        number => number.to_string(),
    }
}

/// As it can be read again.
pub(crate) fn interval(interval: Duration) -> String {
    let milliseconds = interval.as_millis();
    if milliseconds.is_multiple_of(1000) { format!("{}s", milliseconds / 1000) } else { format!("{milliseconds}ms") }
}

/// Digits and nothing else.
fn read_digits(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// What stands before the port.
fn host_of(text: &str) -> &str {
    let end = if text.starts_with('[') { text.find(']').map(|at| at + 1) } else { text.rfind(':') };
    &text[..end.unwrap_or(text.len())]
}
