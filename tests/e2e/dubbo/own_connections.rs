//! `connection_pool_per_downstream_connection`: each consumer has connections of its own, and gets the callbacks that come on them.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use shmesh_client::{Client, DubboKey, Request, Stream};
use shmesh_proto::dubbo::{FrameHeader, HEADER_LEN, serialization};

use super::{Frame, ask, call, invocation, provider, read_frame, request};
use crate::process::{PATIENCE, until};
use crate::service::Service;
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

on_each_driver!(
    connections_are_made_and_closed_with_their_consumers,
    callbacks_reach_the_consumer_that_they_are_for,
    callbacks_of_two_providers_are_not_confused,
    callbacks_without_an_answer_are_bounded,
    callbacks_wait_for_a_slow_consumer,
    a_consumer_outlives_its_provider,
);

const CONFIG: &str = "
listeners:
  - { name: apps, shm: $dir/apps.sock }
  - { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo }
routes: [ { match: { service: com.demo.GreetService, method: \"*\" }, cluster: greeter } ]
clusters: [ { name: greeter, endpoints: [ $up ], connection_pool_per_downstream_connection: true } ]
limits: { calls_per_connection: 10, dubbo_body_bytes: 256KiB }
";

/// The id of each callback of each provider.
const CALLBACK: u64 = 77;

fn before(driver: Driver, endpoints: &[&Service]) -> Sidecar {
    let endpoints: Vec<String> = endpoints.iter().map(|service| format!("\"{}\"", service.endpoint)).collect();
    Sidecar::start_with(driver, CONFIG, &[("up", &endpoints.join(", "))], &["--workers", "1"])
}

/// Waits for the answer, and answers what the provider asks meanwhile with its argument.
fn ask_and_serve(wire: &mut Wire, id: u64, argument: &str) -> (Frame, Vec<Frame>) {
    wire.send(call(id, argument));
    let mut callbacks = Vec::new();
    loop {
        let frame = read_frame(wire).expect("a frame");
        if !frame.header.request {
            assert_eq!(frame.header.id, id, "the caller's own id");
            return (frame, callbacks);
        }
        if frame.header.two_way {
            wire.send(frame.echo());
        }
        callbacks.push(frame);
    }
}

/// A provider that asks before it answers, and answers with what it heard.
fn asking_provider(name: &'static str) -> Service {
    provider(move |frame, wire| {
        let question = format!("{name} asks {}", frame.value_of_argument());
        wire.send(request(CALLBACK, false, serialization::HESSIAN2, &invocation("by the way")));
        wire.send(call(CALLBACK, &question));
        let answer = read_frame(wire).expect("an answer");
        assert_eq!((answer.header.id, answer.header.request, answer.value()), (CALLBACK, false, question));
        wire.send(frame.echo());
    })
}

fn connections_are_made_and_closed_with_their_consumers(driver: Driver) {
    let (tell, ended) = channel();
    let tell = Mutex::new(tell);
    let service = Service::tcp(move |mut wire| {
        let mut last = None;
        while let Some(frame) = read_frame(&mut wire) {
            last = Some(frame.value_of_argument());
            wire.send(frame.echo());
        }
        let _ = tell.lock().expect("no panic").send(last);
    });
    let sidecar = before(driver, &[&service]);
    let (mut one, mut other) = (sidecar.connect("rpc"), sidecar.connect("rpc"));
    for id in 0..5 {
        assert_eq!(ask(&mut one, &call(id, "one")).value(), "one");
        assert_eq!(ask(&mut other, &call(id, "other")).value(), "other");
    }
    assert_eq!(service.accepted(), 2);
    // A stream of an app is a connection, too.
    let client = Client::builder()
        .hang_timeout(crate::process::PATIENCE)
        .socket(sidecar.path("apps.sock"))
        .name("test")
        .connect()
        .expect("it attaches");
    let mut stream = client.stream(shmesh_client::Protocol::Dubbo2, None).expect("a stream");
    for id in 0..3 {
        stream.write_all(&call(id, "stream")).expect("it is taken");
        assert_eq!(frame_of(&mut stream).value(), "stream");
    }
    assert_eq!(service.accepted(), 3);
    // Calls of lanes share one.
    let key = DubboKey {
        service: "com.demo.GreetService",
        method: "sayHello",
        group: Some("g1"),
        version: Some("1.0.0"),
        tag: None,
    };
    for id in 0..3 {
        let response = client.call(Request::dubbo(key, &call(id, "lane"))).expect("an answer");
        assert_eq!(Frame::parse(&response.body).value(), "lane");
    }
    assert_eq!(service.accepted(), 4);
    drop(one);
    assert_eq!(ended.recv_timeout(PATIENCE).expect("an end").as_deref(), Some("one"));
    drop(stream);
    assert_eq!(ended.recv_timeout(PATIENCE).expect("an end").as_deref(), Some("stream"));
    assert_eq!(ask(&mut other, &call(9, "other")).value(), "other");
    // Who leaves at once behind a one-way call has it delivered.
    other.send(request(10, false, serialization::HESSIAN2, &invocation("last")));
    other.end();
    assert_eq!(ended.recv_timeout(PATIENCE).expect("an end").as_deref(), Some("last"));
    assert_eq!(service.accepted(), 4);
}

fn frame_of(stream: &mut Stream) -> Frame {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).expect("a header");
    let header = FrameHeader::parse(&header, u32::MAX).expect("a good header");
    let mut body = vec![0; header.body_len as usize];
    stream.read_exact(&mut body).expect("a body");
    Frame { header, body }
}

fn callbacks_reach_the_consumer_that_they_are_for(driver: Driver) {
    let service = asking_provider("p");
    let sidecar = before(driver, &[&service]);
    std::thread::scope(|scope| {
        for consumer in 0..3 {
            let mut wire = sidecar.connect("rpc");
            scope.spawn(move || {
                for id in 0..20 {
                    let text = format!("{consumer}/{id}");
                    let (answer, callbacks) = ask_and_serve(&mut wire, id, &text);
                    assert_eq!(answer.value(), text);
                    let asked: Vec<String> = callbacks.iter().map(Frame::value_of_argument).collect();
                    assert_eq!(asked, ["by the way".to_owned(), format!("p asks {text}")]);
                    // As they were sent, but for the id.
                    let mut sent = Frame::parse(&call(CALLBACK, &asked[1]));
                    sent.header.id = callbacks[1].header.id;
                    assert_eq!(callbacks[1], sent);
                }
            });
        }
        let sidecar = &sidecar;
        scope.spawn(move || {
            let client = Client::builder()
                .hang_timeout(crate::process::PATIENCE)
                .socket(sidecar.path("apps.sock"))
                .connect()
                .expect("it attaches");
            let mut stream = client.stream(shmesh_client::Protocol::Dubbo2, None).expect("a stream");
            stream.write_all(&call(1, "stream")).expect("it is taken");
            assert!(frame_of(&mut stream).header.request);
            let question = frame_of(&mut stream);
            assert_eq!(question.value_of_argument(), "p asks stream");
            stream.write_all(&question.echo()).expect("it is taken");
            let answer = frame_of(&mut stream);
            assert_eq!((answer.header.id, answer.value().as_str()), (1, "stream"));
        });
    });
    assert_eq!(service.accepted(), 4);
    // An answer to what nobody asked goes nowhere.
    let mut wire = sidecar.connect("rpc");
    wire.send(Frame::parse(&call(999, "?")).echo());
    sidecar.expect_metric("shmesh_late_answers_total", 1.0);
    assert_eq!(ask_and_serve(&mut wire, 1, "still here").0.value(), "still here");
}

fn callbacks_of_two_providers_are_not_confused(driver: Driver) {
    let services = [asking_provider("one"), asking_provider("two")];
    let sidecar = before(driver, &[&services[0], &services[1]]);
    let mut wire = sidecar.connect("rpc");
    for round in 0..5 {
        // One call to each.
        wire.send(call(1, "x"));
        wire.send(call(2, "x"));
        let frames: Vec<Frame> = (0..4).map(|_| read_frame(&mut wire).expect("a question")).collect();
        let questions: Vec<&Frame> = frames.iter().filter(|frame| frame.header.two_way).collect();
        assert_eq!(questions.len(), 2, "round {round}");
        assert_ne!(questions[0].header.id, questions[1].header.id);
        // Answered the other way round.
        for question in questions.iter().rev() {
            assert!(question.header.request);
            wire.send(question.echo());
        }
        let ids: HashSet<u64> = (0..2).map(|_| read_frame(&mut wire).expect("an answer").header.id).collect();
        assert_eq!(ids, HashSet::from([1, 2]));
    }
    assert_eq!([services[0].accepted(), services[1].accepted()], [1, 1]);
}

fn callbacks_without_an_answer_are_bounded(driver: Driver) {
    let service = provider(|frame, wire| {
        for id in 0..13 {
            wire.send(call(id, "are you there?"));
        }
        // Three are refused at once, the others are answered later.
        let mut answers: Vec<Frame> = (0..3).map(|_| read_frame(wire).expect("an answer")).collect();
        for (answer, id) in answers.iter().zip(10..) {
            let (status, sentence) = answer.error();
            assert_eq!((answer.header.id, status), (id, 80));
            assert!(sentence.starts_with("shmesh: a limit"), "{sentence}");
        }
        wire.send(frame.echo());
        answers = (0..10).map(|_| read_frame(wire).expect("an answer")).collect();
        let ids: HashSet<u64> = answers.iter().map(|answer| answer.header.id).collect();
        assert_eq!(ids, (0..10).collect());
        wire.send(call(100, "once more"));
        read_frame(wire).expect("an answer");
    });
    let sidecar = before(driver, &[&service]);
    let mut wire = sidecar.connect("rpc");
    wire.send(call(1, "x"));
    let questions: Vec<Frame> = (0..10).map(|_| read_frame(&mut wire).expect("a question")).collect();
    assert_eq!(read_frame(&mut wire).expect("the answer").value(), "x");
    for question in questions {
        wire.send(question.echo());
    }
    let again = read_frame(&mut wire).expect("a question");
    assert_eq!(again.value_of_argument(), "once more");
    wire.send(again.echo());
    sidecar.expect_metric("shmesh_calls_in_flight", 0.0);
}

/// What a consumer does not take is not received: 50 MB pass, one after the other, where 1 MiB may wait.
fn callbacks_wait_for_a_slow_consumer(driver: Driver) {
    const COUNT: u64 = 250;
    let (tell, sent) = channel();
    let service = provider(move |frame, wire| {
        wire.send(frame.echo());
        let text = "x".repeat(200_000);
        for id in 0..COUNT {
            let frame = request(id, id % 2 == 1, serialization::HESSIAN2, &invocation(&text));
            // The other one leaves before it has taken all.
            if wire.try_send(&frame).is_err() {
                return;
            }
        }
        let _ = tell.send(());
    });
    let config = CONFIG.replace("calls_per_connection: 10", "calls_per_connection: 1000");
    let endpoint = format!("\"{}\"", service.endpoint);
    let sidecar = Sidecar::start_with(driver, &config, &[("up", &endpoint)], &["--workers", "1"]);
    let (mut slow, mut other) = (sidecar.connect("rpc"), sidecar.connect("rpc"));
    slow.send(call(1, "begin"));
    until("a provider is there", || service.accepted() == 1);
    // Nobody else waits for it.
    assert_eq!(ask(&mut other, &call(1, "other")).value(), "other");
    assert_eq!(read_frame(&mut slow).expect("the answer").value(), "begin");
    assert!(sent.try_recv().is_err(), "50 MB do not fit in the buffers on the way");
    for id in 0..COUNT {
        let frame = read_frame(&mut slow).expect("a callback");
        assert_eq!((frame.header.two_way, frame.value_of_argument().len()), (id % 2 == 1, 200_000));
    }
    sent.recv_timeout(PATIENCE).expect("all of it");
}

fn a_consumer_outlives_its_provider(driver: Driver) {
    let service = Service::tcp(|mut wire| {
        if let Some(frame) = read_frame(&mut wire) {
            wire.send(frame.echo());
        }
        // A second call finds this connection ended, or makes another.
    });
    let sidecar = before(driver, &[&service]);
    let mut wire = sidecar.connect("rpc");
    for id in 0..5 {
        assert_eq!(ask(&mut wire, &call(id, "x")).value(), "x");
        until("the end is seen", || sidecar.json("/clusters")[0]["endpoints"][0]["connections"] == 0);
    }
    assert_eq!(service.accepted(), 5);
}
