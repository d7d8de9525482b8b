//! What a match of a route is made of.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use shmesh_policy::route::{GROUP_KEY, HOST_BYTES_MAX, TAG_KEY};
use shmesh_policy::{HostMatch, Pattern, Regex};

use super::{NAME_BYTES_MAX, host_of};
use crate::expression;

/// Longest text that a call is matched with. 1,024: more than any class or method name; the cost of a match grows
/// with it.
pub(crate) const PATTERN_BYTES_MAX: usize = 1024;

scalar!(
    /// A host, or a glob of its first labels.
    Host,
    { "type": "string", "minLength": 1, "maxLength": 261, "examples": ["reviews", "*.example.com", "[::1]"] }
);
scalar!(
    /// A whole path.
    HttpPath,
    { "type": "string", "maxLength": 1024, "pattern": "^/[^?#*\\s]*$" }
);
scalar!(
    /// Whole segments of a path.
    PathPrefix,
    { "type": "string", "maxLength": 1024, "pattern": "^/[^?#*\\s]*$" }
);
scalar!(
    /// A text in which `*` stands for any bytes.
    TextPattern,
    { "type": "string", "maxLength": 1024, "pattern": "^\\S*$" }
);
scalar!(
    /// A method, in which `*` stands for any bytes.
    Method,
    { "type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^\\S+$" }
);
scalar!(
    /// A regular expression for a whole value.
    Expression,
    { "type": "string", "minLength": 1, "maxLength": 1024, "format": "regex" }
);
scalar!(
    /// Name of a header, of a parameter or of an attachment.
    ValueName,
    { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^\\S+$" }
);
scalar!(
    /// Text of a header's, parameter's or attachment's value, or of its begin.
    ValueText,
    { "type": "string", "maxLength": 1024 }
);

impl Host {
    /// A host, with a port that is ignored, as it is in requests.
    pub fn read(&self) -> Result<HostMatch, String> {
        let text = self.0.as_str();
        if text.is_empty() {
            return Err("the host is empty; write one, or leave the key out to take any host".into());
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or_default();
            return Err(format!("`{text}` is a URL; write the host alone: `{host}`"));
        }
        if let Some((host, path)) = text.split_once('/') {
            return Err(format!("`{text}` has a path; write `host: {host}` and `path_prefix: /{path}`"));
        }
        let (star, labels) = match text.strip_prefix("*.") {
            Some(labels) => (true, labels),
            None => (false, text),
        };
        if labels.contains('*') {
            return Err(format!(
                "`{text}` has a `*` where none can be; write `*.` and the labels that follow, as in `*.example.com`, or \
                 leave the key out to take any host"
            ));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("`{text}` is an IPv6 address; write it in brackets and quotes: `\"[{text}]\"`"));
        }
        let host = host_of(labels);
        let port_fits = match labels[host.len()..].strip_prefix(':') {
            Some(port) => port.parse::<u16>().is_ok(),
            None => host.len() == labels.len(),
        };
        let host_fits = match host.strip_prefix('[') {
            Some(rest) if !star => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
            _ => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
        };
        if host_fits && port_fits && host.len() <= HOST_BYTES_MAX {
            Ok(HostMatch::from(text))
        } else {
            Err(format!("`{text}` is not a host; write a name of letters, digits, `-`, `_` and `.`, or an IP address"))
        }
    }
}

impl HttpPath {
    pub fn read(&self) -> Result<Arc<str>, String> {
        let text = self.0.as_str();
        if let Some((path, _)) = text.split_once('*') {
            let prefix =
                path.rsplit_once('/').map_or("/", |(segments, _)| if segments.is_empty() { "/" } else { segments });
            return Err(format!(
                "`{text}` has a glob, and a path is compared as a whole; write `path_prefix: {prefix}`, or a `path_regex`"
            ));
        }
        read_path(text, "path")
    }
}

impl PathPrefix {
    pub fn read(&self) -> Result<Arc<str>, String> {
        let text = self.0.as_str();
        if let Some((segments, _)) = text.split_once('*') {
            let segments = segments.trim_end_matches('/');
            let prefix = if segments.is_empty() { "/" } else { segments };
            return Err(format!("`{text}` has a glob, and a prefix takes whatever comes behind it; write `{prefix}`"));
        }
        read_path(text, "prefix")
    }
}

fn read_path(text: &str, what: &str) -> Result<Arc<str>, String> {
    if !text.starts_with('/') {
        Err(format!("`{text}` does not begin with a slash; write `/{text}`"))
    } else if let Some((path, _)) = text.split_once(['?', '#']) {
        Err(format!("`{text}` goes beyond the path, and only that is compared; write `{path}`"))
    } else if text.len() > PATTERN_BYTES_MAX {
        Err(format!("the {what} has {} bytes; write one of at most {PATTERN_BYTES_MAX}", text.len()))
    } else if text.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        Err(format!("{text:?} has characters that no path has; write them as percent and two hex digits"))
    } else {
        Ok(text.into())
    }
}

impl Expression {
    pub fn read(&self) -> Result<Regex, String> {
        let text = self.0.as_str();
        if text.is_empty() {
            Err("this expression is empty; write one, or `exact: \"\"` for an empty value".into())
        } else if text.len() > PATTERN_BYTES_MAX {
            Err(format!("this has {} bytes; write at most {PATTERN_BYTES_MAX}", text.len()))
        } else {
            expression::compile(text)
        }
    }
}

impl ValueName {
    /// The name of a header field, in lower case.
    pub fn read_header(&self) -> Result<Arc<str>, String> {
        let text = self.0.as_str();
        let name = text.to_ascii_lowercase();
        let key = match name.as_str() {
            "host" | ":authority" => Some("host"),
            ":method" => Some("method"),
            ":path" => Some("path"),
            _ => None,
        };
        if let Some(key) = key {
            return Err(format!("`{text}` has a key of its own; write `{key}: …` in the match"));
        }
        // RFC 9110 §5.6.2
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        self.read_name("header", "letters, digits, `-` and `_`", is_token).map(|()| name.into())
    }

    /// The name of a parameter of a query.
    pub fn read_parameter(&self) -> Result<Arc<str>, String> {
        self.read_name("parameter", "what stands in a query in front of `=`", |byte| {
            is_of_query(byte) && byte != b'='
        })?;
        Ok(self.0.as_str().into())
    }

    /// The name of an attachment.
    pub fn read_attachment(&self) -> Result<Arc<str>, String> {
        let text = self.0.as_str();
        let key = match text {
            GROUP_KEY => Some("group"),
            TAG_KEY => Some("tag"),
            _ => None,
        };
        if let Some(key) = key {
            return Err(format!("`{text}` has a key of its own; write `{key}: …` in the match"));
        }
        self.read_name("attachment", "visible ASCII characters", |byte| byte.is_ascii_graphic())?;
        Ok(text.into())
    }

    fn read_name(&self, of: &str, made_of: &str, fits: impl Fn(u8) -> bool) -> Result<(), String> {
        let (text, a) = (self.0.as_str(), article(of));
        if text.is_empty() {
            Err(format!("the name of the {of} is empty; write one"))
        } else if text.len() > NAME_BYTES_MAX {
            Err(format!("the name has {} bytes; write one of at most {NAME_BYTES_MAX}", text.len()))
        } else if text.bytes().all(fits) {
            Ok(())
        } else {
            Err(format!("{text:?} is not the name of {a} {of}; write one of {made_of}"))
        }
    }
}

impl ValueText {
    /// What a header field can have.
    pub fn read_header(&self, whole: bool) -> Result<Arc<str>, String> {
        let text = self.0.as_str();
        if text.starts_with([' ', '\t']) || whole && text.ends_with([' ', '\t']) {
            return Err(format!("{text:?} has white space around it, which no value has; leave that out"));
        }
        self.read_value("header", |byte| byte >= b' ' && byte != 0x7f || byte == b'\t')
    }

    /// What a parameter of a query can have.
    pub fn read_parameter(&self) -> Result<Arc<str>, String> {
        self.read_value("parameter", is_of_query)
    }

    /// What an attachment can have.
    pub fn read_attachment(&self) -> Result<Arc<str>, String> {
        self.read_value("attachment", |_| true)
    }

    fn read_value(&self, of: &str, fits: impl Fn(u8) -> bool) -> Result<Arc<str>, String> {
        let (text, a) = (self.0.as_str(), article(of));
        if text.len() > PATTERN_BYTES_MAX {
            Err(format!("this has {} bytes; write at most {PATTERN_BYTES_MAX}", text.len()))
        } else if text.bytes().all(fits) {
            Ok(text.into())
        } else {
            Err(format!("{text:?} has characters that the value of {a} {of} does not have; write it as it is sent"))
        }
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with('a') { "an" } else { "a" }
}

/// What stands between the `&` of a query as it is sent; everything else comes as percent and two hex digits.
fn is_of_query(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"&#".contains(&byte)
}

impl TextPattern {
    /// A pattern that may be empty.
    pub fn read(&self) -> Result<Pattern, String> {
        read_pattern(&self.0)
    }

    /// A pattern that is not empty.
    pub fn read_filled(&self) -> Result<Pattern, String> {
        read_filled_pattern(&self.0)
    }
}

impl Method {
    pub fn read(&self) -> Result<Pattern, String> {
        read_filled_pattern(&self.0)
    }
}

fn read_filled_pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("this is empty; write a text, or leave the key out to take any".into());
    }
    read_pattern(text)
}

fn read_pattern(text: &str) -> Result<Pattern, String> {
    if text.len() > PATTERN_BYTES_MAX {
        Err(format!("this has {} bytes; write at most {PATTERN_BYTES_MAX}", text.len()))
    } else if text.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        Err(format!("{text:?} contains white space; write it without"))
    } else {
        Ok(Pattern::new(text))
    }
}
