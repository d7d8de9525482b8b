//! Host names: looked up, kept as long as their TTL says, and what happens when name servers say something else, or nothing.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::dns::{NameServer, Says, at};
use crate::process::until;
use crate::service::{Service, saying_at};
use crate::sidecar::{Driver, Sidecar, free_port};
use crate::wire::Answer;

on_each_driver!(
    a_name_is_asked_for_again_when_its_time_is_over_and_not_before,
    a_time_of_zero_is_a_second,
    addresses_change_under_traffic,
    a_name_that_does_not_exist_is_503_until_it_does,
    old_addresses_serve_while_the_name_server_is_silent,
    a_name_server_that_never_answers_is_503,
    an_answer_that_was_cut_is_asked_for_over_tcp,
    an_alias_counts_with_its_own_time,
    both_families_are_asked_for_and_the_one_that_refuses_gives_way,
    other_name_servers_are_taken_while_running,
    raw_connections_and_forwarded_requests_use_the_same_names,
);

/// How much earlier than its time a name may be asked for again: what counting from the answer, not from the question, makes out.
const EARLY: Duration = Duration::from_millis(100);

const CONFIG: &str = "
listeners:
  - { name: http, tcp: 127.0.0.1:$in, protocol: http }
  - { name: raw, tcp: 127.0.0.1:$raw, protocol: raw, cluster: named }
routes:
  - { match: { host: in.test }, cluster: named }
  - { match: { path_prefix: / }, cluster: any }
clusters:
  - { name: named, endpoints: [ \"tcp:svc.test:$port\" ] }
  - { name: any, dynamic_forward_proxy: true }
dns: { servers: [ \"$dns\" ] }
workers: 1
";

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: in.test\r\n\r\n";

fn start(driver: Driver, server: &NameServer, port: u16) -> Sidecar {
    let (server, port) = (server.address.to_string(), port.to_string());
    Sidecar::start(driver, CONFIG, &[("dns", &server), ("port", &port)])
}

/// Services that say their name on each of these addresses of the loopback interface, all on one port.
fn services<const N: usize>(said: [(&'static str, &str); N]) -> ([Service; N], u16) {
    let port = free_port();
    (said.map(|(text, ip)| saying_at(SocketAddr::new(ip.parse().expect("an address"), port), text)), port)
}

fn is_refused(answer: &Answer) -> bool {
    (answer.status(), answer.reason()) == (503, "host-unresolved")
}

fn a_name_is_asked_for_again_when_its_time_is_over_and_not_before(driver: Driver) {
    holds_for(driver, 2, Duration::from_secs(2));
}

fn a_time_of_zero_is_a_second(driver: Driver) {
    holds_for(driver, 0, Duration::from_secs(1));
}

/// An answer with this TTL is used for so long, and then another one. (How often the server is asked would tell less: questions over
/// UDP are repeated.)
fn holds_for(driver: Driver, ttl: u32, least: Duration) {
    let (_services, port) = services([("one", "127.0.0.1"), ("two", "127.0.0.2")]);
    let server = NameServer::start();
    server.say("svc.test", at("127.0.0.1", ttl));
    let sidecar = start(driver, &server, port);
    let mut wire = sidecar.connect("in");
    let begin = Instant::now();
    assert_eq!(wire.ask(REQUEST).text(), "one");
    server.say("svc.test", at("127.0.0.2", 600));
    until("the name is asked for again", || wire.ask(REQUEST).text() == "two");
    assert!(begin.elapsed() + EARLY >= least, "asked again after {:?}", begin.elapsed());
}

fn addresses_change_under_traffic(driver: Driver) {
    let ([one, two], port) = services([("one", "127.0.0.1"), ("two", "127.0.0.2")]);
    let server = NameServer::start();
    server.say("svc.test", at("127.0.0.1", 1));
    let sidecar = start(driver, &server, port);
    let mut wire = sidecar.connect("in");
    assert_eq!(wire.ask(REQUEST).text(), "one");
    server.say("svc.test", at("127.0.0.2", 1));
    until("calls go to the new address", || {
        let answer = wire.ask(REQUEST);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.text() == "two"
    });
    drop(one);
    for _ in 0..100 {
        assert_eq!(wire.ask(REQUEST).text(), "two");
    }
    assert!(two.accepted() > 0);
}

fn a_name_that_does_not_exist_is_503_until_it_does(driver: Driver) {
    let (_services, port) = services([("one", "127.0.0.1")]);
    let server = NameServer::start();
    server.say("svc.test", Says::NoSuchName(2));
    let sidecar = start(driver, &server, port);
    let mut wire = sidecar.connect("in");
    let begin = Instant::now();
    assert!(is_refused(&wire.ask(REQUEST)));
    server.say("svc.test", at("127.0.0.1", 1));
    until("the name is found", || wire.ask(REQUEST).status() == 200);
    let believed = begin.elapsed() + EARLY;
    assert!(believed >= Duration::from_secs(2), "that there is no such name was believed for {believed:?} only");
    // And it may cease to exist.
    server.say("svc.test", Says::NoSuchName(1));
    until("the name is gone", || is_refused(&wire.ask(REQUEST)));
}

fn old_addresses_serve_while_the_name_server_is_silent(driver: Driver) {
    let (_services, port) = services([("one", "127.0.0.1")]);
    let server = NameServer::start();
    server.say("svc.test", at("127.0.0.1", 1));
    let sidecar = start(driver, &server, port);
    let mut wire = sidecar.connect("in");
    assert_eq!(wire.ask(REQUEST).text(), "one");
    for says in [Says::Silence, Says::Failure] {
        server.say("svc.test", says);
        // A name in use: calls go on while it is asked for in vain.
        let asked = server.asked("svc.test");
        until("the name is asked for", || {
            assert_eq!(wire.ask(REQUEST).text(), "one");
            server.asked("svc.test") > asked
        });
        // One that rested: its next call waits for a moment, and then goes where it went before.
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(wire.ask(REQUEST).text(), "one");
    }
}

fn a_name_server_that_never_answers_is_503(driver: Driver) {
    let server = NameServer::start();
    server.say("svc.test", Says::Silence);
    server.say("other.test", Says::Failure);
    let sidecar = start(driver, &server, free_port());
    assert!(is_refused(&sidecar.connect("in").ask(REQUEST)));
    let answer = sidecar.connect("in").ask("GET http://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n");
    assert!(is_refused(&answer));
    // It is the name server that has recovered: this is no negative answer that is believed.
    let (_services, port) = services([("one", "127.0.0.1")]);
    server.say("other.test", at("127.0.0.1", 1));
    let request = format!("GET http://other.test:{port}/ HTTP/1.1\r\nHost: other.test\r\n\r\n");
    until("the name is found", || sidecar.connect("in").ask(&request).status() == 200);
}

fn an_answer_that_was_cut_is_asked_for_over_tcp(driver: Driver) {
    let (_services, port) = services([("one", "0.0.0.0")]);
    let server = NameServer::start();
    let many = (1..=60).map(|last| [127, 0, 0, last].into()).collect();
    server.say("svc.test", Says::Addresses(many, 60));
    let sidecar = start(driver, &server, port);
    assert_eq!(sidecar.connect("in").ask(REQUEST).text(), "one");
    assert!(server.asked_over_tcp() > 0);
}

fn an_alias_counts_with_its_own_time(driver: Driver) {
    let (_services, port) = services([("one", "127.0.0.1"), ("two", "127.0.0.2")]);
    let server = NameServer::start();
    server.say("svc.test", Says::Alias("b.test", 1));
    server.say("b.test", Says::Alias("c.test", 600));
    server.say("c.test", at("127.0.0.1", 600));
    server.say("d.test", at("127.0.0.2", 600));
    let sidecar = start(driver, &server, port);
    let mut wire = sidecar.connect("in");
    assert_eq!(wire.ask(REQUEST).text(), "one");
    server.say("svc.test", Says::Alias("d.test", 1));
    until("calls follow the alias", || wire.ask(REQUEST).text() == "two");
}

fn both_families_are_asked_for_and_the_one_that_refuses_gives_way(driver: Driver) {
    if let Err(error) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        eprintln!("skipped: there is no IPv6 here: {error}");
        return;
    }
    let server = NameServer::start();
    let both = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    for (text, ip, known) in [("six", "::1", &both[1..]), ("six", "::1", &both[..]), ("four", "127.0.0.1", &both[..])] {
        server.say("svc.test", Says::Addresses(known.to_vec(), 600));
        let (_services, port) = services([(text, ip)]);
        let sidecar = start(driver, &server, port);
        for _ in 0..3 {
            // On a connection of its own each time, and so on both sides.
            let answer = sidecar.connect("in").ask(REQUEST);
            assert_eq!(answer.text(), text, "{ip} of {known:?}");
        }
    }
}

fn other_name_servers_are_taken_while_running(driver: Driver) {
    let (_services, port) = services([("one", "127.0.0.1"), ("two", "127.0.0.2")]);
    let (first, second) = (NameServer::start(), NameServer::start());
    first.say("svc.test", at("127.0.0.1", 1));
    second.say("svc.test", at("127.0.0.2", 1));
    let mut sidecar = start(driver, &first, port);
    let mut wire = sidecar.connect("in");
    assert_eq!(wire.ask(REQUEST).text(), "one");
    sidecar.write_config(&CONFIG.replace("$dns", &second.address.to_string()));
    until("the other server is asked", || wire.ask(REQUEST).text() == "two");
}

fn raw_connections_and_forwarded_requests_use_the_same_names(driver: Driver) {
    let (_services, port) = services([("one", "127.0.0.1")]);
    let server = NameServer::start();
    server.say("svc.test", at("127.0.0.1", 600));
    let sidecar = start(driver, &server, port);
    assert_eq!(sidecar.connect("raw").ask(REQUEST).text(), "one");
    let request = format!("GET http://SVC.test:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(sidecar.connect("in").ask(request).text(), "one");
}
