//! Who may change something: not a web page that a browser on this machine shows.
//!
//! A page of another site can make a browser send requests here, and read the answers once its name resolves to this address. What
//! such requests cannot do is look like those of a command line: they carry `Origin` or `Sec-Fetch-Site`, they have the page's name
//! as Host, and a content type that is not a form's needs a permission that is never given here.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};

/// Why a request may not change anything; a sentence.
pub fn refusal(headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if text("origin").is_some() || text("sec-fetch-site").is_some_and(|site| site != "none") {
        return Some("a web page may not change anything here");
    }
    if !text("host").is_some_and(names_this_machine) {
        return Some("the Host of what changes something has to be an IP address or localhost");
    }
    if text(header::CONTENT_TYPE.as_str()) != Some("application/json") {
        return Some("write what is to be changed as application/json");
    }
    None
}

/// A name that no name server answers for.
fn names_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}
