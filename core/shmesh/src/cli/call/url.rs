//! The part of a URL's grammar that a call over HTTP needs (RFC 9110 §4.2, RFC 3986 §3).

/// What a request says of its URL.
#[derive(Debug, PartialEq, Eq)]
pub struct Url {
    /// `host` or `host:port`, as written.
    pub authority: String,
    /// Path and query in origin form.
    pub target: String,
}

impl Url {
    /// Parses `http://host[:port][/path][?query][#fragment]`; the scheme may be left out.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err(format!("`{text}`: TLS is not spoken here; write http://"));
            }
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                return Err(format!("`{text}`: `{scheme}` is not a scheme shmesh calls; write http://"));
            }
            _ => text,
        };
        if let Some(bad) = rest.chars().find(|&c| c <= ' ' || c == '\x7f' || !c.is_ascii()) {
            return Err(format!("`{text}`: {bad:?} must be percent-encoded in a URL"));
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let authority_ends = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(authority_ends);
        if authority.is_empty() {
            return Err(format!("`{text}` names no host: write http://HOST/PATH"));
        }
        if authority.contains('@') {
            return Err(format!("`{text}`: leave user and password out of the URL; send them as a header"));
        }
        let target = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("/{target}"),
        };
        Ok(Self { authority: authority.to_owned(), target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, authority, target) in [
            ("http://reviews", "reviews", "/"),
            ("http://reviews/", "reviews", "/"),
            ("HTTP://Reviews:80/a/b?c=d#e", "Reviews:80", "/a/b?c=d"),
            ("reviews/a", "reviews", "/a"),
            ("http://reviews?q=a://b", "reviews", "/?q=a://b"),
            ("reviews/?u=http://x/", "reviews", "/?u=http://x/"),
            ("http://[::1]:8080/x", "[::1]:8080", "/x"),
        ] {
            let url = Url::parse(text).expect(text);
            assert_eq!((url.authority.as_str(), url.target.as_str()), (authority, target));
        }
    }

    #[test]
    fn bad_urls_say_why() {
        for (text, part) in [
            ("https://a/", "TLS"),
            ("ftp://a/", "`ftp`"),
            ("http:///a", "names no host"),
            ("http://a/b c", "' ' must be percent-encoded"),
            ("http://a/\r\nx: y", "'\\r' must be percent-encoded"),
            ("http://u:p@a/", "user and password"),
            ("", "names no host"),
        ] {
            let sentence = Url::parse(text).expect_err(text);
            assert!(sentence.contains(part), "{sentence}");
        }
    }
}
