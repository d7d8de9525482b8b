//! Calls whose bodies are streamed, when the sidecar dies under them or is gone already.

mod fake;
mod service;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use fake::{FakeSidecar, Settings, pattern};
use service::Service;
use shmesh_client::{CallError, Client, DubboKey, Exchange, Ran, Request};
use shmesh_shm::handshake::Policy;
use tempfile::TempDir;

/// A sidecar that said this of `reviews`.
fn beside(policy: Policy) -> (TempDir, FakeSidecar, Client) {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { policy: Some(policy), ..Settings::default() };
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let client = Client::builder().socket(sidecar.path()).lanes(2).connect().unwrap();
    assert_eq!(client.call(Request::http("GET", "reviews", "/learn")).unwrap().status, 200);
    sidecar.wait_for_lookups(1);
    (dir, sidecar, client)
}

/// One that died then.
fn after(policy: Policy) -> (TempDir, Client) {
    let (dir, sidecar, client) = beside(policy);
    sidecar.kill();
    // The client notices with this call, which nobody knows a way for.
    client.call(Request::raw("nobody", b"")).unwrap_err();
    (dir, client)
}

fn to(addresses: &[&str]) -> Policy {
    Policy { endpoints: addresses.iter().map(|address| (*address).to_owned()).collect(), ..Policy::default() }
}

fn begin(client: &Client, method: &str, path: &str) -> Exchange {
    client.exchange(&Request::http(method, "reviews", path), None).unwrap()
}

/// Writes the body and reads the answer: status and body.
fn run(exchange: &mut Exchange, body: &[u8]) -> Result<(u16, Vec<u8>), CallError> {
    for piece in body.chunks(7_001) {
        let mut rest = piece;
        while !rest.is_empty() {
            match exchange.write_body(rest)? {
                0 => break,
                len => rest = &rest[len..],
            }
        }
    }
    exchange.finish()?;
    let (status, _) = exchange.head()?;
    let (mut answer, mut piece) = (Vec::new(), [0; 9_000]);
    loop {
        match exchange.read_body(&mut piece)? {
            0 => return Ok((status, answer)),
            len => answer.extend_from_slice(&piece[..len]),
        }
    }
}

#[test]
fn one_that_was_forwarded_is_made_again_if_it_is_idempotent() {
    let service = Service::tcp();
    let body = pattern(1, 50_000);
    for (method, asked, runs) in [("PUT", None, 1), ("POST", None, 0), ("POST", Some(true), 1), ("PUT", Some(false), 0)]
    {
        let (_dir, _sidecar, client) = beside(to(&[&service.address]));
        let before = service.requests();
        let mut request = Request::http(method, "reviews", "/die");
        if let Some(asked) = asked {
            request = request.idempotent(asked);
        }
        let mut exchange = client.exchange(&request, None).unwrap();
        match run(&mut exchange, &body) {
            Ok(answer) => assert!(answer == (202, body.clone()) && exchange.is_direct()),
            Err(error) => assert!(matches!(error, CallError::MaybeExecuted(_)), "{error:?}"),
        }
        assert_eq!(service.requests() - before, runs, "{method} {asked:?}");
    }
}

#[test]
fn one_that_was_not_forwarded_is_made_again_whatever_its_method() {
    let service = Service::tcp();
    let (_dir, _sidecar, client) = beside(to(&["tcp:127.0.0.1:1", &service.address]));
    let mut exchange = begin(&client, "POST", "/die-early");
    assert_eq!(run(&mut exchange, b"once").unwrap(), (202, b"once".to_vec()));
    assert_eq!(service.requests(), 1);
}

#[test]
fn one_with_more_body_than_is_kept_stays_where_it_is() {
    let service = Service::tcp();
    let (_dir, _sidecar, client) = beside(to(&[&service.address]));
    let mut exchange = begin(&client, "PUT", "/die");
    let error = run(&mut exchange, &pattern(2, 70_000)).unwrap_err();
    assert!(matches!(error, CallError::MaybeExecuted(_)), "{error:?}");
    assert_eq!(service.requests(), 0);
}

#[test]
fn one_in_the_middle_of_its_request_takes_what_was_written_along() {
    let service = Service::tcp();
    let body = pattern(3, 60_000);
    for total in [None, Some(body.len() as u64)] {
        let (_dir, sidecar, client) = beside(to(&[&service.address]));
        let request = Request::http("POST", "reviews", "/x").body(&body[..10]);
        let mut exchange = client.exchange(&request, total).unwrap();
        exchange.write_all(&body[10..40_000]).unwrap();
        assert!(!exchange.is_direct());
        sidecar.kill();
        assert!(run(&mut exchange, &body[40_000..]).unwrap() == (202, body.clone()));
        assert!(exchange.is_direct());
    }
    assert_eq!(service.requests(), 2);
}

#[test]
fn while_the_sidecar_is_away_they_go_direct_at_once() {
    let service = Service::tcp();
    let (_dir, client) = after(to(&["tcp:127.0.0.1:1", &service.address]));
    for (method, len, total) in [
        ("GET", 0, None),
        ("POST", 0, None),
        ("POST", 0, Some(0)),
        ("PUT", 3_000, None),
        ("PUT", 200_000, None),
        ("PUT", 200_000, Some(200_000)),
    ] {
        let body = pattern(4, len);
        let request = Request::http(method, "reviews", "/x").header("x", "y");
        let mut exchange = client.exchange(&request, total).unwrap();
        assert!(run(&mut exchange, &body).unwrap() == (202, body), "{method} {len} {total:?}");
        assert!(exchange.is_direct());
    }
    assert_eq!(service.requests(), 6);
}

/// A provider that has more to say than the answer, and says it when it likes.
fn provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                stream.write_all(&frame(0xe2, 0, 9, b"N")).unwrap();
                let mut asked = vec![0; 16];
                if stream.read_exact(&mut asked).is_err() {
                    return;
                }
                let len = u32::from_be_bytes(asked[12..].try_into().unwrap()) as usize;
                let mut body = vec![0; len];
                if stream.read_exact(&mut body).is_err() || asked[2] & 0x40 == 0 {
                    return;
                }
                // The heartbeat is answered behind the request, and never in the middle of it.
                let mut reply = [0; 17];
                stream.read_exact(&mut reply).unwrap();
                assert_eq!((&reply[..4], reply[11]), (&b"\xda\xbb\x22\x14"[..], 9));
                stream.write_all(&frame(0x02, 20, asked[11] + 1, b"for somebody else")).unwrap();
                for piece in frame(0x02, 30, asked[11], &body).chunks(30_001) {
                    stream.write_all(piece).unwrap();
                }
            });
        }
    });
    address
}

fn frame(flags: u8, status: u8, id: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xda, 0xbb, flags, status, 0, 0, 0, 0, 0, 0, 0, id];
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// A client of a sidecar that said this of everything, and died.
fn after_dubbo_and_raw(policy: Policy) -> (TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { policy: Some(policy), ..Settings::default() };
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let client = Client::builder().socket(sidecar.path()).lanes(2).connect().unwrap();
    client.call(Request::dubbo(KEY, &frame(0xc2, 0, 1, b"learn"))).unwrap();
    client.call(Request::raw("bytes", b"learn")).unwrap();
    sidecar.wait_for_lookups(2);
    sidecar.kill();
    (dir, client)
}

const KEY: DubboKey<'static> = DubboKey { service: "s", method: "m", group: None, version: None, tag: None };

#[test]
fn dubbo_goes_round_as_well() {
    let address = provider();
    let (_dir, client) = after_dubbo_and_raw(to(&["tcp:127.0.0.1:1", &address]));
    for len in [0, 5, 100_000] {
        let body = pattern(7, len);
        let whole = frame(0xc2, 0, 7, &body);
        let mut exchange = client.exchange(&Request::dubbo(KEY, &whole[..16]), None).unwrap();
        assert!(run(&mut exchange, &whole[16..]).unwrap() == (30, frame(0x02, 30, 7, &body)), "{len}");
        assert!(exchange.is_direct());
    }
    // Nothing is waited for where no answer is wanted.
    let one_way = frame(0x82, 0, 8, b"nobody waits");
    assert_eq!(run(&mut client.exchange(&Request::dubbo(KEY, &one_way), None).unwrap(), b"").unwrap(), (0, vec![]));
    // Whose header says something else than what follows.
    let whole = frame(0xc2, 0, 7, b"five5");
    for wrong in [&b"four"[..], b"sixsix"] {
        let mut exchange = client.exchange(&Request::dubbo(KEY, &whole[..16]), None).unwrap();
        let error = run(&mut exchange, wrong).unwrap_err();
        assert!(is_unfit(&error), "{error:?}");
    }
}

/// Bytes end with their connection, in both directions.
#[test]
fn raw_goes_round_as_well() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).unwrap();
            stream.write_all(&asked).unwrap();
        }
    });
    let (_dir, client) = after_dubbo_and_raw(to(&["tcp:127.0.0.1:1", &address]));
    for len in [0, 5, 300_000] {
        let body = pattern(8, len);
        let mut exchange = client.exchange(&Request::raw("bytes", b"and "), None).unwrap();
        assert!(run(&mut exchange, &body).unwrap() == (0, [b"and ", &body[..]].concat()), "{len}");
        assert!(exchange.is_direct());
    }
}

/// Which else would look like one that is whole.
#[test]
fn raw_that_is_given_up_in_its_middle_ends_in_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let (_dir, client) = after_dubbo_and_raw(to(&[&address]));
    // The client notices with this call, which nobody knows a way for.
    client.call(Request::raw("nobody", b"")).unwrap_err();
    let seen = || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind())
    };
    let begun = || client.exchange(&Request::raw("bytes", b"some"), None).unwrap();
    let given_up = begun();
    assert!(given_up.is_direct());
    drop(given_up);
    assert_eq!(seen(), Err(ErrorKind::ConnectionReset), "dropped");
    let mut whole = begun();
    whole.finish().unwrap();
    drop(whole);
    assert_eq!(seen(), Ok(4), "all of it was sent");
    // A call that nobody reads, until its time is over; whoever does not get his turn in so short a time has sent nothing.
    let endless = vec![0; 64 << 20];
    let mut tried = [300, 3_000, 30_000].map(Duration::from_millis).into_iter().map(|time| {
        let error = client.call(Request::raw("bytes", &endless).timeout(time)).unwrap_err();
        let CallError::Timeout { ran, .. } = error else { panic!("{error:?}") };
        ran
    });
    assert!(tried.any(|ran| ran == Ran::Maybe));
    assert_eq!(seen(), Err(ErrorKind::ConnectionReset), "late");
}

/// As with HTTP: what was not forwarded goes on elsewhere, with what was written so far.
#[test]
fn raw_in_the_middle_of_its_request_takes_what_was_written_along() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).unwrap();
        stream.write_all(b"heard").unwrap();
        asked
    });
    let (_dir, sidecar, client) = beside(to(&[&address]));
    client.call(Request::raw("bytes", b"learn")).unwrap();
    sidecar.wait_for_lookups(2);
    let mut exchange = client.exchange(&Request::raw("bytes", b"one "), None).unwrap();
    exchange.write_all(b"two ").unwrap();
    assert!(!exchange.is_direct());
    sidecar.kill();
    assert_eq!(run(&mut exchange, b"three").unwrap(), (0, b"heard".to_vec()));
    assert!(exchange.is_direct());
    assert_eq!(service.join().unwrap(), b"one two three");
}

#[test]
fn what_is_announced_is_what_is_written() {
    let service = Service::tcp();
    let (_dir, client) = after(to(&[&service.address]));
    for len in [99, 101] {
        let mut exchange = client.exchange(&Request::http("POST", "reviews", "/x"), Some(100)).unwrap();
        assert!(is_unfit(&run(&mut exchange, &pattern(5, len)).unwrap_err()));
    }
    assert_eq!(service.requests(), 0);
}

fn is_unfit(error: &CallError) -> bool {
    matches!(error, CallError::BadRequest(why) if why.contains("body than was announced"))
}

/// It would be the same elsewhere, and the proxy that it went to is as good as before.
#[test]
fn what_is_not_as_it_was_announced_is_nobody_elses_fault() {
    let (central, direct) = (Service::tcp(), Service::tcp());
    let (_dir, client) = after(Policy { central_proxy: Some(central.address.clone()), ..to(&[&direct.address]) });
    for (count, len) in [(1, 99), (2, 101)] {
        let mut exchange = client.exchange(&Request::http("PUT", "reviews", "/x"), Some(100)).unwrap();
        for _ in 0..2 {
            assert!(is_unfit(&run(&mut exchange, &pattern(5, len)).unwrap_err()), "{len}");
        }
        assert_eq!(run(&mut begin(&client, "PUT", "/x"), b"x").unwrap().0, 202);
        assert_eq!((central.requests(), direct.connections()), (count, 0));
    }
}

#[test]
fn one_that_breaks_off_on_its_way_round_is_sent_as_often_as_the_policy_allows() {
    let service = Service::tcp();
    for (attempts, method, sent) in [(1, "PUT", 1), (3, "PUT", 3), (3, "POST", 1)] {
        let policy =
            Policy { attempts: Some(attempts), endpoints: vec![service.address.clone(); 5], ..Policy::default() };
        let (_dir, client) = after(policy);
        let before = service.requests();
        let error = run(&mut begin(&client, method, "/break"), b"x").unwrap_err();
        assert!(matches!(error, CallError::Direct { ran: Ran::Maybe, .. }), "{error:?}");
        assert_eq!(service.requests() - before, sent);
    }
}

#[test]
fn an_answer_that_began_is_not_begun_again() {
    let service = Service::tcp();
    let (_dir, client) = after(to(&[&service.address, &service.address]));
    let mut exchange = begin(&client, "GET", "/half");
    exchange.finish().unwrap();
    assert_eq!(exchange.head().unwrap().0, 200);
    let mut got = Vec::new();
    let error = exchange.read_to_end(&mut got).unwrap_err();
    assert_eq!((got, service.requests()), (b"five5".to_vec(), 1), "{error}");
}

#[test]
fn a_server_that_answers_and_closes_before_it_has_read_everything_has_answered() {
    let service = Service::tcp();
    let (_dir, client) = after(to(&[&service.address]));
    // Also where more was announced than it takes, and is idempotent.
    for (count, (method, total)) in
        [("POST", None), ("POST", Some(u64::MAX)), ("PUT", Some(u64::MAX))].iter().enumerate()
    {
        let mut exchange = client.exchange(&Request::http(method, "reviews", "/refuse"), *total).unwrap();
        while exchange.write_body(&[7; 10_000]).unwrap() > 0 {}
        exchange.finish().unwrap();
        assert_eq!((exchange.head().unwrap().0, service.connections()), (413, count as u64 + 1));
    }
}

/// Whose answer is as long as its request, and comes while that is sent.
#[test]
fn both_bodies_flow_at_once_on_the_way_round() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let body = pattern(6, 4_000_000);
    let len = body.len();
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n").unwrap();
        std::io::copy(&mut stream.try_clone().unwrap().take(len as u64), &mut stream).unwrap();
    });
    let (_dir, client) = after(to(&[&address]));
    let mut exchange = client.exchange(&Request::http("PUT", "reviews", "/x"), Some(len as u64)).unwrap();
    let (mut sent, mut got, mut piece) = (0, Vec::new(), vec![0; 30_000]);
    while got.len() < len {
        if sent < len {
            sent += exchange.write_body(&body[sent..len.min(sent + 40_000)]).unwrap();
        }
        if got.len() < sent.saturating_sub(100_000) || sent == len {
            let read = exchange.read_body(&mut piece).unwrap();
            got.extend_from_slice(&piece[..read]);
        }
    }
    assert!(got == body);
    assert_eq!(exchange.read_body(&mut piece).unwrap(), 0);
    service.join().unwrap();
}
