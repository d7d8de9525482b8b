//! The configuration that a sidecar without a file runs with.

use nix::unistd::Uid;
use shmesh_policy::{SessionSpec, Snapshot};

const TEXT: &str = include_str!("default.yaml");
/// Stands in the text for the path, which is known only at start.
const SOCKET_WORD: &str = "shm: SESSION_SOCKET";

/// The snapshot of [`default_yaml`].
pub fn default_config() -> Snapshot {
    let text = default_yaml();
    crate::parse(&text, "(default)").unwrap_or_else(|error| {
        // The text is fixed and tested; only the path in it comes from outside, and `default_socket` checked that.
        panic!("the embedded default configuration is refused: {error}")
    })
}

/// The embedded default as YAML, with the session socket of this user: `$XDG_RUNTIME_DIR/shmesh.sock`, or
/// `/tmp/shmesh-UID.sock` where there is no such directory.
pub fn default_yaml() -> String {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR");
    let socket = SessionSpec::default_socket(runtime_dir.as_deref(), Uid::effective().as_raw());
    with_socket(&socket.to_string_lossy())
}

fn with_socket(path: &str) -> String {
    // A JSON string is a YAML string, whatever the path contains.
    TEXT.replace(SOCKET_WORD, &format!("shm: {}", serde_json::Value::from(path)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use shmesh_policy::{AllowUids, Attached, Bind, ClusterId, DubboKey, DubboRoute, HttpKey, Protocol, Way};

    use super::*;

    #[test]
    fn the_default_serves_without_a_file() {
        let snapshot = crate::parse(&with_socket("/run/user/1000/shmesh.sock"), "(default)").unwrap();
        assert_eq!(snapshot.admin.address.to_string(), "127.0.0.1:15000");
        assert_eq!(snapshot.listeners[0].bind, Bind::Shm("/run/user/1000/shmesh.sock".into()));
        assert_eq!(*snapshot.allow_uids(&snapshot.listeners[0]), AllowUids::OwnAndRoot);
        assert_eq!(snapshot.listeners[1].bind, Bind::Tcp("127.0.0.1:15001".parse().unwrap()));
        assert_eq!(snapshot.listeners[1].protocol, Protocol::Http);
        let http = HttpKey {
            authority: b"anything:80",
            path_and_query: b"/x",
            method: b"GET",
            headers: &&[("accept", "*/*")][..],
        };
        assert_eq!(snapshot.route_http(&http), Some(Way::to(ClusterId(0))));
        assert!(snapshot.clusters[0].dynamic_forward_proxy);
        let dubbo = DubboKey {
            service: b"S",
            method: b"m",
            version: None,
            group: Attached::None,
            tag: Attached::None,
            attachments: None,
        };
        assert_eq!(snapshot.route_dubbo(&dubbo), DubboRoute::NoRoute, "a Dubbo call names no host");
        assert_eq!(snapshot.access_log, None);
    }

    #[test]
    fn any_path_can_be_put_into_the_text() {
        for path in ["/a b/s", "/a: b # c/s", "/\"quoted\"/s", "/back\\slash/s", "/ä/s"] {
            let snapshot = crate::parse(&with_socket(path), "(default)").unwrap();
            assert_eq!(snapshot.listeners[0].bind, Bind::Shm(path.into()));
        }
    }

    #[test]
    fn the_default_of_this_user_is_accepted() {
        let Bind::Shm(socket) = &default_config().listeners[0].bind else { panic!("no session socket") };
        assert!(socket.ends_with("shmesh.sock") || socket.starts_with(Path::new("/tmp")), "{}", socket.display());
    }
}
