//! Where an endpoint is: `tcp:HOST:PORT`, `unix:PATH`, `shm:NAME`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Longest path of a Unix socket: `sun_path` has 108 bytes, one of them the NUL at its end (unix(7)).
pub const UNIX_PATH_BYTES_MAX: usize = 107;
/// Longest name under which an app serves over shared memory (docs/spec/shm-v1.md §6).
pub const SHM_NAME_BYTES_MAX: usize = 64;
/// Longest host name (RFC 1035 §2.3.4).
pub const HOST_BYTES_MAX: usize = 253;

/// Where an endpoint is. Displays in the form in which it is parsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A host name, to be resolved, and a port.
    Host { host: Arc<str>, port: u16 },
    /// A Unix stream socket.
    Unix(Arc<Path>),
    /// An app that serves under this name through its shim.
    Shm(Arc<str>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp:{address}"),
            Address::Host { host, port } => write!(f, "tcp:{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Shm(name) => write!(f, "shm:{name}"),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("tcp:") {
            parse_tcp(rest)
        } else if let Some(path) = text.strip_prefix("unix:") {
            check_unix_path(Path::new(path))?;
            Ok(Address::Unix(Path::new(path).into()))
        } else if let Some(name) = text.strip_prefix("shm:") {
            check_shm_name(name)?;
            Ok(Address::Shm(name.into()))
        } else {
            Err(AddressError::NoScheme { text: text.into(), suggestion: suggest(text) })
        }
    }
}

/// Why a text is not an [`Address`], and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// None of the three schemes is in front.
    #[error("`{text}` does not say how it is reached; write {suggestion}")]
    NoScheme { text: String, suggestion: String },
    /// A TCP address without a port.
    #[error("`tcp:{rest}` has no port; write `tcp:HOST:PORT`, for example `tcp:{rest}:8080`")]
    NoPort { rest: String },
    /// A port that is no number from 1 to 65535.
    #[error("`{port}` is not a port; write a number from 1 to 65535")]
    BadPort { port: String },
    /// An IPv6 address must stand in brackets (RFC 3986 §3.2.2).
    #[error("`tcp:{rest}` is ambiguous; write an IPv6 address in brackets, for example `tcp:[::1]:8080`")]
    BareIpv6 { rest: String },
    /// The brackets hold no IPv6 address.
    #[error("`{text}` is not an IPv6 address; write for example `tcp:[::1]:8080`")]
    BadIpv6 { text: String },
    /// A host that is neither an IP address nor a name (RFC 1123 §2.1).
    #[error(
        "`{host}` is neither an IP address nor a host name; write an address such as 127.0.0.1, \
         or a name of letters, digits, `-` and `.`"
    )]
    BadHost { host: String },
    /// A path that is empty, too long, or no file's.
    #[error("`{path}` cannot be the path of a Unix socket: {reason}")]
    BadPath { path: String, reason: &'static str },
    /// A name that no app can serve under.
    #[error(
        "`{name}` cannot be the name of an app; write 1 to {SHM_NAME_BYTES_MAX} letters, digits, `-`, `_`, `.` or `:`"
    )]
    BadName { name: String },
}

/// Whether `path` can be bound or connected to.
pub fn check_unix_path(path: &Path) -> Result<(), AddressError> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let reason = if bytes.is_empty() {
        "it is empty; write one, for example /run/app.sock"
    } else if bytes.len() > UNIX_PATH_BYTES_MAX {
        "it is longer than the 107 bytes that the kernel takes; write a shorter one"
    } else if bytes.contains(&0) {
        "it contains a NUL byte; leave that out"
    } else if bytes.ends_with(b"/") {
        "it ends with a slash, as a directory does; write the path of the socket itself"
    } else {
        return Ok(());
    };
    Err(AddressError::BadPath { path: path.display().to_string(), reason })
}

/// Whether an app may serve under `name`.
pub fn check_shm_name(name: &str) -> Result<(), AddressError> {
    let fits = (1..=SHM_NAME_BYTES_MAX).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)) {
        Ok(())
    } else {
        Err(AddressError::BadName { name: name.into() })
    }
}

/// `HOST:PORT`, where HOST is an IPv4 address, an IPv6 address in brackets, or a name.
fn parse_tcp(rest: &str) -> Result<Address, AddressError> {
    let (host, port) = match rest.strip_prefix('[') {
        Some(bracketed) => {
            let bad = || AddressError::BadIpv6 { text: rest.into() };
            let (inside, behind) = bracketed.split_once(']').ok_or_else(bad)?;
            let ip: std::net::Ipv6Addr = inside.parse().map_err(|_| bad())?;
            let port = behind.strip_prefix(':').ok_or_else(|| AddressError::NoPort { rest: rest.into() })?;
            return Ok(Address::Tcp(SocketAddr::new(IpAddr::V6(ip), parse_port(port)?)));
        }
        None => match rest.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err(AddressError::BareIpv6 { rest: rest.into() });
            }
            Some(parts) => parts,
            None => return Err(AddressError::NoPort { rest: rest.into() }),
        },
    };
    let port = parse_port(port)?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(Address::Tcp(SocketAddr::new(ip, port)));
    }
    if !is_host_name(host) {
        return Err(AddressError::BadHost { host: host.into() });
    }
    Ok(Address::Host { host: host.to_ascii_lowercase().into(), port })
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(AddressError::BadPort { port: text.into() }),
    }
}

/// Labels of letters, digits, `-` and `_` (which Docker and Kubernetes hosts have), split by dots. A last label of
/// digits alone is a mistyped IPv4 address (WHATWG URL, "ends in a number").
fn is_host_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let labels_fit = name.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    });
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= HOST_BYTES_MAX && labels_fit && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// What somebody who left out the scheme most likely meant.
fn suggest(text: &str) -> String {
    if let Some((scheme, rest)) = text.split_once("://") {
        let authority = rest.split('/').next().unwrap_or_default();
        let known_port = match scheme.to_ascii_lowercase().as_str() {
            "http" => ":80",
            "https" => ":443",
            "dubbo" => ":20880",
            _ => ":PORT",
        };
        let port =
            if authority.rsplit_once(':').is_some_and(|(_, port)| parse_port(port).is_ok()) { "" } else { known_port };
        if !authority.is_empty() && !scheme.eq_ignore_ascii_case("unix") {
            return format!("`tcp:{authority}{port}`");
        }
        if let Some(at) = rest.find('/') {
            return format!("`unix:{}`", &rest[at..]);
        }
    }
    if text.starts_with('/') {
        return format!("`unix:{text}`");
    }
    match parse_tcp(text) {
        Ok(_) => format!("`tcp:{text}`"),
        Err(_) => "`tcp:HOST:PORT`, `unix:PATH` or `shm:NAME`".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_as_parsed() {
        for text in [
            "tcp:127.0.0.1:9080",
            "tcp:[::1]:9080",
            "tcp:reviews.default.svc.cluster.local:80",
            "tcp:my_service:80",
            "tcp:example.com.:80",
            "unix:/run/reviews.sock",
            "unix:beside.sock",
            "shm:my-app",
        ] {
            let address: Address = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("tcp:Reviews:80".parse::<Address>().unwrap().to_string(), "tcp:reviews:80");
        assert_eq!("tcp:127.0.0.1:1".parse::<Address>().unwrap(), Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 1))));
    }

    #[test]
    fn says_what_to_write_instead() {
        let table = [
            ("127.0.0.1:9080", "`127.0.0.1:9080` does not say how it is reached; write `tcp:127.0.0.1:9080`"),
            ("reviews:9080", "`reviews:9080` does not say how it is reached; write `tcp:reviews:9080`"),
            ("/run/a.sock", "`/run/a.sock` does not say how it is reached; write `unix:/run/a.sock`"),
            ("http://reviews/x", "`http://reviews/x` does not say how it is reached; write `tcp:reviews:80`"),
            ("dubbo://h:1/x", "`dubbo://h:1/x` does not say how it is reached; write `tcp:h:1`"),
            ("reviews", "`reviews` does not say how it is reached; write `tcp:HOST:PORT`, `unix:PATH` or `shm:NAME`"),
            ("tcp:reviews", "`tcp:reviews` has no port; write `tcp:HOST:PORT`, for example `tcp:reviews:8080`"),
            ("tcp:[::1]", "`tcp:[::1]` has no port; write `tcp:HOST:PORT`, for example `tcp:[::1]:8080`"),
            ("tcp:reviews:", "`` is not a port; write a number from 1 to 65535"),
            ("tcp:reviews:0", "`0` is not a port; write a number from 1 to 65535"),
            ("tcp:reviews:65536", "`65536` is not a port; write a number from 1 to 65535"),
            ("tcp:reviews:+80", "`+80` is not a port; write a number from 1 to 65535"),
            (
                "tcp:::1:80",
                "`tcp:::1:80` is ambiguous; write an IPv6 address in brackets, for example `tcp:[::1]:8080`",
            ),
            ("tcp:[::g]:80", "`[::g]:80` is not an IPv6 address; write for example `tcp:[::1]:8080`"),
            ("tcp:1.2.3.400:80", "`1.2.3.400` is neither an IP address nor a host name"),
            ("tcp:a b:80", "`a b` is neither an IP address nor a host name"),
            ("tcp::80", "`` is neither an IP address nor a host name"),
            ("tcp://a:80", "`//a` is neither an IP address nor a host name"),
            ("unix:", "`` cannot be the path of a Unix socket: it is empty"),
            ("unix:/run/", "`/run/` cannot be the path of a Unix socket: it ends with a slash"),
            ("shm:", "`` cannot be the name of an app; write 1 to 64 letters"),
            ("shm:a/b", "`a/b` cannot be the name of an app; write 1 to 64 letters"),
        ];
        for (text, message) in table {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
        assert!(format!("unix:/{}", "a".repeat(107)).parse::<Address>().is_err());
        assert!(format!("unix:/{}", "a".repeat(106)).parse::<Address>().is_ok());
        assert!(format!("shm:{}", "a".repeat(65)).parse::<Address>().is_err());
    }
}
