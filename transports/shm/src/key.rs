//! Routing keys of Dubbo2 calls: docs/spec/shm-v1.md §3.1. (An HTTP key is a request head, a raw key a cluster's name.)

const SERVICE: u8 = 1;
const METHOD: u8 = 2;
const GROUP: u8 = 3;
const VERSION: u8 = 4;
const TAG: u8 = 5;

/// What a Dubbo2 call is routed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DubboKey<'a> {
    pub service: &'a str,
    pub method: &'a str,
    pub group: Option<&'a str>,
    pub version: Option<&'a str>,
    /// `None` does not say: should a route ask, the sidecar looks into the frame. Empty says that there is none.
    pub tag: Option<&'a str>,
}

/// Why bytes are not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a field of the routing key runs past its end")]
    Short,
    #[error("a field of the routing key is not UTF-8")]
    Text,
    #[error("a field of the routing key is there twice")]
    Twice,
    #[error("the routing key names no service or no method")]
    Missing,
}

impl<'a> DubboKey<'a> {
    /// Appends the key. A field longer than 65,535 bytes is cut off there, and then no route will take it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let fields = [
            (SERVICE, Some(self.service)),
            (METHOD, Some(self.method)),
            (GROUP, self.group),
            (VERSION, self.version),
            (TAG, self.tag),
        ];
        for (tag, value) in fields {
            let Some(value) = value else { continue };
            let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
            out.push(tag);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&value.as_bytes()[..usize::from(len)]);
        }
    }

    /// Takes a key apart. Unknown tags are skipped; an empty group or version is none.
    pub fn decode(mut bytes: &'a [u8]) -> Result<DubboKey<'a>, KeyError> {
        let mut fields = [None; 5];
        while let [tag, low, high, rest @ ..] = bytes {
            let len = usize::from(u16::from_le_bytes([*low, *high]));
            let (value, rest) = rest.split_at_checked(len).ok_or(KeyError::Short)?;
            bytes = rest;
            if !(SERVICE..=TAG).contains(tag) {
                continue;
            }
            let text = std::str::from_utf8(value).map_err(|_| KeyError::Text)?;
            if fields[usize::from(tag - 1)].replace(text).is_some() {
                return Err(KeyError::Twice);
            }
        }
        if !bytes.is_empty() {
            return Err(KeyError::Short);
        }
        let [service, method, group, version, tag] = fields;
        let filled = |field: Option<&'a str>| field.filter(|text| !text.is_empty());
        Ok(DubboKey {
            service: filled(service).ok_or(KeyError::Missing)?,
            method: filled(method).ok_or(KeyError::Missing)?,
            group: filled(group),
            version: filled(version),
            tag,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: DubboKey<'_> = DubboKey {
        service: "com.demo.GreetService",
        method: "sayHello",
        group: Some("g1"),
        version: Some("1.0.0"),
        tag: Some("gray"),
    };

    #[test]
    fn keys_come_back_as_they_went() {
        let without = DubboKey { group: None, version: None, tag: None, ..KEY };
        for key in [KEY, DubboKey { group: None, ..KEY }, DubboKey { tag: Some(""), ..KEY }, without] {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            assert_eq!(DubboKey::decode(&bytes), Ok(key));
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_page() {
        let mut bytes = Vec::new();
        DubboKey { service: "s", method: "mm", group: None, version: Some("1"), tag: Some("t") }.encode(&mut bytes);
        assert_eq!(bytes, b"\x01\x01\x00s\x02\x02\x00mm\x04\x01\x001\x05\x01\x00t");
    }

    #[test]
    fn unknown_tags_are_skipped_and_empty_ones_are_none() {
        let bytes = b"\x09\x02\x00??\x01\x01\x00s\x02\x01\x00m\x03\x00\x00";
        let key = DubboKey { service: "s", method: "m", group: None, version: None, tag: None };
        assert_eq!(DubboKey::decode(bytes), Ok(key));
    }

    #[test]
    fn every_truncation_is_refused() {
        let mut bytes = Vec::new();
        DubboKey { group: None, version: None, tag: None, ..KEY }.encode(&mut bytes);
        for len in 0..bytes.len() {
            assert!(DubboKey::decode(&bytes[..len]).is_err(), "{len}");
        }
        assert_eq!(DubboKey::decode(b"\x01\x01\x00\xff"), Err(KeyError::Text));
        assert_eq!(DubboKey::decode(b"\x01\x01\x00a\x01\x01\x00a"), Err(KeyError::Twice));
    }
}
