//! Addresses as the command line writes them: `tcp:HOST:PORT`, `unix:PATH`, `shm:SOCKET`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path that fits in a `sockaddr_un`, in bytes (108 with the final NUL; unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Where a client connects to, or a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or an IP address (an IPv6 one without its brackets) and a port.
    Tcp { host: String, port: u16 },
    /// A Unix stream socket.
    Unix(PathBuf),
    /// Shared memory, negotiated over a sidecar's session socket.
    Shm(PathBuf),
}

/// The doc comments are the messages.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("`{0}` has no scheme: write tcp:HOST:PORT, unix:PATH or shm:SOCKET")]
    NoScheme(String),
    #[error("`{0}` is not a scheme shmesh knows: write tcp:HOST:PORT, unix:PATH or shm:SOCKET")]
    UnknownScheme(String),
    #[error("`{0}` has no port: write tcp:HOST:PORT, for instance tcp:127.0.0.1:8080")]
    NoPort(String),
    #[error("`{0}` has no host: write tcp:HOST:PORT, for instance tcp:127.0.0.1:8080")]
    NoHost(String),
    #[error("`{port}` in `{text}` is not a port: write a number from 0 to 65535")]
    BadPort { port: String, text: String },
    #[error("`{0}`: an IPv6 address is written in brackets, for instance tcp:[::1]:8080")]
    BareIpv6(String),
    #[error("`{0}` has no path: write the path of a socket after the colon")]
    NoPath(String),
    #[error("`{path}` is {len} bytes long, and the path of a socket has at most {UNIX_PATH_BYTES_MAX}")]
    PathTooLong { path: String, len: usize },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('/') || text.starts_with("./") {
            return Err(AddressError::NoScheme(text.into()));
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(AddressError::NoScheme(text.into()));
        };
        match scheme {
            "tcp" => parse_tcp(text, rest),
            "unix" => Ok(Self::Unix(parse_path(text, rest)?)),
            "shm" => Ok(Self::Shm(parse_path(text, rest)?)),
            // `localhost:80` and `127.0.0.1:80`: a scheme is what is lacking, not a wrong one.
            _ if rest.parse::<u16>().is_ok() => Err(AddressError::NoScheme(text.into())),
            _ => Err(AddressError::UnknownScheme(scheme.into())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Shm(path) => write!(f, "shm:{}", path.display()),
        }
    }
}

fn parse_tcp(text: &str, rest: &str) -> Result<Address, AddressError> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']').ok_or_else(|| AddressError::BareIpv6(text.into()))?;
        let port = after.strip_prefix(':').ok_or_else(|| AddressError::NoPort(text.into()))?;
        (host, port)
    } else {
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| AddressError::NoPort(text.into()))?;
        if host.contains(':') {
            return Err(AddressError::BareIpv6(text.into()));
        }
        (host, port)
    };
    if host.is_empty() {
        return Err(AddressError::NoHost(text.into()));
    }
    // `u16::from_str` takes "+5" too.
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AddressError::BadPort { port: port.into(), text: text.into() });
    }
    let port = port.parse().map_err(|_| AddressError::BadPort { port: port.into(), text: text.into() })?;
    Ok(Address::Tcp { host: host.into(), port })
}

fn parse_path(text: &str, path: &str) -> Result<PathBuf, AddressError> {
    if path.is_empty() {
        return Err(AddressError::NoPath(text.into()));
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(AddressError::PathTooLong { path: path.into(), len: path.len() });
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn good_addresses_parse_and_print_as_they_were_written() {
        for (text, address) in [
            ("tcp:127.0.0.1:8080", tcp("127.0.0.1", 8080)),
            ("tcp:localhost:0", tcp("localhost", 0)),
            ("tcp:[::1]:65535", tcp("::1", 65535)),
            ("unix:/run/a.sock", Address::Unix("/run/a.sock".into())),
            ("unix:a:b", Address::Unix("a:b".into())),
            ("shm:/tmp/s.sock", Address::Shm("/tmp/s.sock".into())),
        ] {
            assert_eq!(text.parse::<Address>(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        for (text, message) in [
            ("127.0.0.1:80", "`127.0.0.1:80` has no scheme: write tcp:HOST:PORT, unix:PATH or shm:SOCKET"),
            ("/run/a.sock", "`/run/a.sock` has no scheme: write tcp:HOST:PORT, unix:PATH or shm:SOCKET"),
            ("http://a/", "`http` is not a scheme shmesh knows: write tcp:HOST:PORT, unix:PATH or shm:SOCKET"),
            ("tcp:localhost", "`tcp:localhost` has no port: write tcp:HOST:PORT, for instance tcp:127.0.0.1:8080"),
            ("tcp::80", "`tcp::80` has no host: write tcp:HOST:PORT, for instance tcp:127.0.0.1:8080"),
            ("tcp:a:65536", "`65536` in `tcp:a:65536` is not a port: write a number from 0 to 65535"),
            ("tcp:a:+5", "`+5` in `tcp:a:+5` is not a port: write a number from 0 to 65535"),
            ("tcp:::1:80", "`tcp:::1:80`: an IPv6 address is written in brackets, for instance tcp:[::1]:8080"),
            ("unix:", "`unix:` has no path: write the path of a socket after the colon"),
        ] {
            let error = text.parse::<Address>().expect_err(text);
            assert_eq!(error.to_string(), message);
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(matches!(long.parse::<Address>(), Err(AddressError::PathTooLong { len: 108, .. })));
    }
}
