//! The routing key of calls over shared memory: defined once a lane, or carried by a record.

use shmesh_io::Slice;
use shmesh_policy::{Attached, DubboKey, DubboRoute, Fields, HttpKey, Snapshot, Way};
use shmesh_proto::http1::{BodyKind, HeadLimits, RequestHead, RequestOut, Status, TargetForm, write_request};
use shmesh_shm::Protocol;

use crate::call::Failure;
use crate::worker::head_limits;

/// A validated key with what was found out about it.
#[derive(Clone)]
pub struct RouteKey {
    pub protocol: Protocol,
    /// HTTP: the head as it leaves, without framing, with the CRLF that ends it.
    pub head: Slice,
    pub head_only: bool,
    /// Its calls may be relayed from lane to lane: HTTP, valid, and not HEAD.
    pub relayable: bool,
    /// HTTP: by its method, if its route says nothing of that.
    pub idempotent: bool,
    /// HTTP: what the head says of its body's length; it must be the record's.
    pub declared: Option<u64>,
    /// The key is not valid: calls with it are answered so.
    pub flaw: Option<Failure>,
    /// Bytes of the DEFINE, as they count for its lane.
    pub bytes: u32,
    key: KeyText,
    /// Snapshot version for which `way` holds.
    version: u64,
    way: Option<Way>,
    /// Dubbo: routes ask for attachments that the key does not say, so each frame is asked.
    asks_frame: bool,
}

/// What routing looks at.
#[derive(Clone)]
enum KeyText {
    /// The head as it came: a later snapshot may look at other fields.
    Http {
        head: Box<[u8]>,
    },
    Dubbo {
        service: Box<[u8]>,
        method: Box<[u8]>,
        group: Option<Box<[u8]>>,
        version: Option<Box<[u8]>>,
        /// `None`: the key does not say; empty: there is none.
        tag: Option<Box<[u8]>>,
    },
    Raw {
        cluster: Box<str>,
    },
}

impl RouteKey {
    /// Reads and checks the key of a DEFINE, or of an OPEN that carries its own.
    pub fn read(
        protocol: Protocol,
        bytes: &[u8],
        snapshot: &Snapshot,
        head: &mut RequestHead,
        scratch: &mut Vec<u8>,
    ) -> Result<RouteKey, Failure> {
        match protocol {
            Protocol::Http => Self::http(bytes, snapshot, head, scratch),
            Protocol::Dubbo2 => Self::dubbo(bytes),
            Protocol::Raw => Self::raw(bytes),
        }
    }

    /// The cluster that takes calls with this key, if that was looked up for this snapshot.
    #[inline]
    pub fn known_cluster(&self, snapshot: &Snapshot) -> Option<u32> {
        self.way.filter(|_| self.version == snapshot.version).map(|way| way.cluster.0)
    }

    /// Where calls with this key go.
    pub fn way(&mut self, snapshot: &Snapshot) -> Option<Way> {
        if self.version != snapshot.version {
            self.version = snapshot.version;
            self.way = self.key.route(snapshot);
            self.asks_frame =
                self.key.dubbo().is_some_and(|key| snapshot.route_dubbo(&key) == DubboRoute::NeedsAttachments);
        }
        self.way
    }

    /// What the key says of a Dubbo call, if that is not enough to say where it goes; after [`RouteKey::way`].
    pub fn asks_frame(&self) -> Option<DubboKey<'_>> {
        self.said_of_dubbo().filter(|_| self.asks_frame)
    }

    /// What the key says of a Dubbo call.
    pub fn said_of_dubbo(&self) -> Option<DubboKey<'_>> {
        self.key.dubbo()
    }

    /// Where all calls go that an app takes for alike (spec/shm-v1.md §6, LOOKUP): of HTTP those with this
    /// authority, path and method, if routes that look at more lead all of them to one cluster.
    pub fn way_of_alike(&self, snapshot: &Snapshot) -> Option<Way> {
        self.key.route_with(snapshot, Snapshot::route_all_http)
    }

    /// Whether a frame's own strings say what the key says.
    pub fn agrees(&self, service: &[u8], method: &[u8], version: Option<&[u8]>) -> bool {
        match &self.key {
            KeyText::Dubbo { service: s, method: m, version: v, .. } => {
                &**s == service && &**m == method && v.as_deref() == version
            }
            KeyText::Http { .. } | KeyText::Raw { .. } => false,
        }
    }

    fn http(
        bytes: &[u8],
        snapshot: &Snapshot,
        head: &mut RequestHead,
        scratch: &mut Vec<u8>,
    ) -> Result<RouteKey, Failure> {
        match head.parse(bytes, &head_limits(snapshot)) {
            Ok(Status::Complete) if head.len as usize == bytes.len() => {}
            Ok(_) | Err(_) => return Err(Failure::MalformedRequest),
        }
        let declared = match head.body {
            BodyKind::None => None,
            BodyKind::Length(length) => Some(length),
            BodyKind::Chunked | BodyKind::UntilClose => return Err(Failure::MalformedRequest),
        };
        // Where nothing is to be forwarded, no call comes of it (RFC 9110 §7.6.2).
        if head.form != TargetForm::Origin || head.authority.is_empty() || head.max_forwards == Some(0) {
            return Err(Failure::MalformedRequest);
        }
        scratch.clear();
        write_request(scratch, head, bytes, &RequestOut::default());
        Ok(RouteKey {
            protocol: Protocol::Http,
            head: Slice::from_vec(scratch.clone()),
            head_only: head.is_head(bytes),
            relayable: !head.is_head(bytes),
            idempotent: head.is_idempotent(bytes),
            declared,
            flaw: None,
            bytes: 0,
            key: KeyText::Http { head: bytes.into() },
            // Now, as it is parsed: a key that travels in a record is routed once.
            version: snapshot.version,
            way: snapshot.route_http(&HeadFields { head, bytes }.key()),
            asks_frame: false,
        })
    }

    fn dubbo(bytes: &[u8]) -> Result<RouteKey, Failure> {
        let fields = shmesh_shm::key::DubboKey::decode(bytes).map_err(|_| Failure::MalformedRequest)?;
        let key = KeyText::Dubbo {
            service: fields.service.as_bytes().into(),
            method: fields.method.as_bytes().into(),
            group: fields.group.map(|group| group.as_bytes().into()),
            version: fields.version.map(str::as_bytes).filter(|version| !is_no_version(version)).map(Into::into),
            tag: fields.tag.map(|tag| tag.as_bytes().into()),
        };
        Ok(Self::plain(Protocol::Dubbo2, key))
    }

    fn raw(bytes: &[u8]) -> Result<RouteKey, Failure> {
        let cluster = std::str::from_utf8(bytes).map_err(|_| Failure::MalformedRequest)?;
        Ok(Self::plain(Protocol::Raw, KeyText::Raw { cluster: cluster.into() }))
    }

    /// The key as it was defined, or so that it would be read the same.
    pub fn defined(&self) -> Vec<u8> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match &self.key {
            KeyText::Http { head } => head.to_vec(),
            KeyText::Raw { cluster } => cluster.as_bytes().to_vec(),
            KeyText::Dubbo { service, method, group, version, tag } => {
                let (service, method) = (text(service), text(method));
                let [group, version, tag] = [group, version, tag].map(|field| field.as_deref().map(text));
                let (group, version, tag) = (group.as_deref(), version.as_deref(), tag.as_deref());
                let mut key = Vec::new();
                shmesh_shm::key::DubboKey { service: &service, method: &method, group, version, tag }.encode(&mut key);
                key
            }
        }
    }

    /// Stands for a key that is not valid.
    pub fn unusable(protocol: Protocol, flaw: Failure) -> RouteKey {
        RouteKey { flaw: Some(flaw), ..Self::plain(protocol, KeyText::Raw { cluster: "".into() }) }
    }

    /// Stands for a route id that was refused, and counts for nobody.
    pub fn is_uncounted(&self) -> bool {
        matches!(self.flaw, Some(Failure::OverQuota(quota)) if quota.is_of_route_ids())
    }

    fn plain(protocol: Protocol, key: KeyText) -> RouteKey {
        RouteKey {
            protocol,
            head: Slice::empty(),
            head_only: false,
            relayable: false,
            idempotent: false,
            declared: None,
            flaw: None,
            bytes: 0,
            key,
            version: 0,
            way: None,
            asks_frame: false,
        }
    }
}

impl KeyText {
    fn route(&self, snapshot: &Snapshot) -> Option<Way> {
        self.route_with(snapshot, Snapshot::route_http)
    }

    fn route_with(&self, snapshot: &Snapshot, http: HttpRouting) -> Option<Way> {
        match self {
            KeyText::Http { head: bytes } => {
                let mut head = RequestHead::default();
                // It was valid under the limits that were in force then.
                let limits = HeadLimits { head_bytes: u32::MAX, start_line_bytes: u32::MAX, headers: u16::MAX };
                match head.parse(bytes, &limits) {
                    Ok(Status::Complete) => http(snapshot, &HeadFields { head: &head, bytes }.key()),
                    Ok(Status::Partial) | Err(_) => None,
                }
            }
            KeyText::Dubbo { .. } => match snapshot.route_dubbo(&self.dubbo()?) {
                DubboRoute::To(way) => Some(way),
                DubboRoute::NeedsAttachments | DubboRoute::NoRoute => None,
            },
            KeyText::Raw { cluster } => snapshot.cluster_named(cluster).map(Way::to),
        }
    }

    fn dubbo(&self) -> Option<DubboKey<'_>> {
        let KeyText::Dubbo { service, method, group, version, tag } = self else { return None };
        Some(DubboKey {
            service,
            method,
            version: version.as_deref(),
            group: group.as_deref().map_or(Attached::None, Attached::Is),
            tag: tag.as_deref().map_or(Attached::Unknown, Attached::of),
            attachments: None,
        })
    }
}

type HttpRouting = fn(&Snapshot, &HttpKey<'_>) -> Option<Way>;

/// The fields of a head that was parsed, for routes that ask for them.
pub struct HeadFields<'a> {
    pub head: &'a RequestHead,
    /// What it was parsed from.
    pub bytes: &'a [u8],
}

impl HeadFields<'_> {
    /// What a call with this head is routed by.
    pub fn key(&self) -> HttpKey<'_> {
        let HeadFields { head, bytes } = self;
        HttpKey {
            authority: head.authority.of(bytes),
            path_and_query: head.path.of(bytes),
            method: head.method.of(bytes),
            headers: self,
        }
    }
}

impl Fields for HeadFields<'_> {
    fn any(&self, name: &str, fits: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let mut headers = self.head.headers.iter();
        headers.any(|header| {
            header.name.of(self.bytes).eq_ignore_ascii_case(name.as_bytes()) && fits(header.value.of(self.bytes))
        })
    }
}

/// A head without the CRLF that ends it, so that framing lines can follow.
pub fn without_last_line(head: &[u8]) -> &[u8] {
    head.strip_suffix(b"\r\n").unwrap_or(head)
}

/// Dubbo writes "0.0.0" where no version is set.
pub fn is_no_version(version: &[u8]) -> bool {
    version.is_empty() || version == b"0.0.0"
}
