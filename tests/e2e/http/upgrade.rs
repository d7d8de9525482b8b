//! Upgrade (RFC 9110 §7.8): a connection becomes a tunnel after 101 and not before, whatever the protocol is.

use super::{WAYS, Ways, before};
use crate::bytes::Noise;
use crate::service::{Service, http, saying};
use crate::sidecar::{Driver, requests_name};
use crate::wire::Wire;

on_each_driver!(
    bytes_pass_both_ways_after_101,
    each_direction_ends_by_itself,
    a_service_may_decline,
    what_was_not_offered_is_not_switched_to,
);

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: service\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A service that agrees, says something in the same breath, and then says everything back.
pub fn echo() -> Service {
    Service::tcp(|mut wire| {
        let Some(head) = wire.head() else { return };
        assert_eq!((head.get("connection"), head.get("upgrade")), (Some("upgrade"), Some("websocket")));
        assert_eq!(head.get("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!((head.get("content-length"), head.get("transfer-encoding")), (None, None));
        wire.send(format!("{AGREED}early"));
        let mut piece = [0; 16 * 1024];
        while let Ok(len @ 1..) = wire.read(&mut piece) {
            if wire.try_send(&piece[..len]).is_err() {
                return;
            }
        }
        let _ = wire.try_send(b"late");
        wire.end();
    })
}

/// Sends the request and reads the service's consent.
pub fn upgraded(wire: &mut Wire) {
    wire.send(ASK);
    let head = wire.head().expect("an answer");
    assert_eq!(head.status(), 101);
    assert_eq!((head.get("connection"), head.get("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(head.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!((head.get("content-length"), head.get("transfer-encoding")), (None, None));
    assert_eq!(wire.exactly(5).as_deref(), Some(&b"early"[..]));
}

fn bytes_pass_both_ways_after_101(driver: Driver) {
    let service = echo();
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        upgraded(&mut wire);
        // What would be a request is none any more.
        let request = "GET / HTTP/1.1\r\nHost: service\r\n\r\n";
        wire.send(request);
        assert_eq!(wire.exactly(request.len()).as_deref(), Some(request.as_bytes()));
        let mut noise = Noise::new(7);
        for len in [1, 1000, 100_000, 3, 1_000_000] {
            let bytes = noise.take(len);
            wire.send(&bytes);
            assert!(wire.exactly(len).as_deref() == Some(&bytes), "{way}: other bytes came back");
        }
    }
    assert_eq!(service.accepted(), WAYS.len());
}

fn each_direction_ends_by_itself(driver: Driver) {
    let service = echo();
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        upgraded(&mut wire);
        wire.send("the last");
        wire.end();
        let (rest, in_order) = wire.rest();
        assert_eq!((&*String::from_utf8_lossy(&rest), in_order), ("the lastlate", true), "{way}");
    }
    for listener in ["web", "web-uds", "apps"] {
        sidecar.expect_metric(&requests_name(listener, "service", 101), 1.0);
    }
}

fn a_service_may_decline(driver: Driver) {
    let service = saying("as you were");
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    for way in WAYS {
        let mut wire = ways.connect(way);
        for _ in 0..3 {
            let answer = wire.ask(ASK);
            assert_eq!((answer.status(), answer.text().as_str()), (200, "as you were"), "{way}");
        }
    }
    assert_eq!(service.accepted(), 1, "the connection is used again");
}

fn what_was_not_offered_is_not_switched_to(driver: Driver) {
    let service = http(|head, wire| {
        wire.body(head, false, |_| ());
        wire.send(AGREED);
    });
    let sidecar = before(driver, &[&service.endpoint]);
    let ways = Ways::into(&sidecar);
    let plain = "GET /chat HTTP/1.1\r\nHost: service\r\n\r\n".to_owned();
    // In 1.0 there is no Upgrade, Connection has to name it, h2c is not carried, a protocol must be one of those offered, and a body would have to come first.
    let old = ASK.replace("HTTP/1.1", "HTTP/1.0");
    let unnamed = ASK.replace("keep-alive, Upgrade", "keep-alive");
    let h2c = ASK.replace("websocket", "h2c");
    let other = ASK.replace("websocket", "other");
    let body = ASK.replace("Host:", "Content-Length: 2\r\nHost:") + "ab";
    for way in WAYS {
        for request in [&plain, &old, &unnamed, &h2c, &other, &body] {
            let answer = ways.connect(way).ask(request);
            assert_eq!((answer.status(), answer.reason()), (502, "upstream-malformed"), "{way}: {request}");
        }
    }
}
