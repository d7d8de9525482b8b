//! Calls whose provider dies after it has read them: sent once more only if their route says that this does no harm.

use std::sync::{Arc, Mutex};

use super::{ask, call, echo_provider, invocation, read_frame, request};
use crate::service::Service;
use crate::sidecar::{Driver, Sidecar};
use shmesh_proto::dubbo::{Invocation, serialization};

on_each_driver!(
    what_a_provider_that_died_had_read_is_sent_again_if_the_route_says_so,
    a_new_connection_that_dies_costs_no_idempotent_call_if_there_is_another_endpoint,
);

const CONFIG: &str = "
listeners: [ { name: rpc, tcp: 127.0.0.1:$rpc, protocol: dubbo } ]
routes:
  - { match: { service: com.demo.GreetService, method: \"say*\" }, cluster: greeter, idempotent: true }
  - { match: { service: com.demo.GreetService }, cluster: greeter }
clusters: [ { name: greeter, endpoints: [ $up ] } ]
workers: 1
";

/// A call of a method that no route calls idempotent.
fn other(id: u64, argument: &str) -> Vec<u8> {
    request(id, true, serialization::HESSIAN2, &Invocation { method: "put", ..invocation(argument) })
}

/// Answers what it has seen before, and what is warm; ends the connection once it has read three others.
fn dying(seen: Arc<Mutex<Vec<String>>>) -> Service {
    Service::tcp(move |mut wire| {
        let mut unanswered = 0;
        while unanswered < 3
            && let Some(frame) = read_frame(&mut wire)
        {
            let text = frame.value_of_argument();
            let again = {
                let mut seen = seen.lock().expect("no panic");
                let again = seen.contains(&text);
                seen.push(text.clone());
                again
            };
            if again || text == "warm" {
                wire.send(frame.echo());
            } else {
                unanswered += 1;
            }
        }
    })
}

fn what_a_provider_that_died_had_read_is_sent_again_if_the_route_says_so(driver: Driver) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let service = dying(seen.clone());
    let sidecar = Sidecar::start(driver, CONFIG, &[("up", &format!("\"{}\"", service.endpoint))]);
    let mut wire = sidecar.connect("rpc");
    assert_eq!(ask(&mut wire, &call(0, "warm")).value(), "warm");
    wire.send([call(1, "one"), other(2, "two"), call(3, "three")].concat());
    let mut answers: Vec<(u64, Option<String>)> = (0..3)
        .map(|_| {
            let answer = read_frame(&mut wire).expect("an answer");
            (answer.header.id, (answer.header.status == 20).then(|| answer.value()))
        })
        .collect();
    answers.sort_unstable();
    assert_eq!(answers, [(1, Some("one".into())), (2, None), (3, Some("three".into()))]);
    let mut seen = seen.lock().expect("no panic").clone();
    seen.sort_unstable();
    assert_eq!(seen, ["one", "one", "three", "three", "two", "warm"]);
    assert_eq!(sidecar.metric("shmesh_upstream_retries_total"), 2.0);
}

fn a_new_connection_that_dies_costs_no_idempotent_call_if_there_is_another_endpoint(driver: Driver) {
    let sick = Service::tcp(|mut wire| {
        read_frame(&mut wire);
    });
    let well = echo_provider();
    let up = format!("\"{}\", \"{}\"", sick.endpoint, well.endpoint);
    let sidecar = Sidecar::start(driver, CONFIG, &[("up", &up)]);
    let mut wire = sidecar.connect("rpc");
    let good = (0..4).filter(|&id| ask(&mut wire, &call(id, "x")).header.status == 20).count();
    assert_eq!((good, sick.accepted()), (4, 2), "each second one comes to the sick one");
    let statuses: Vec<u8> = (0..2).map(|id| ask(&mut wire, &other(id, "x")).header.status).collect();
    assert!(statuses.contains(&20) && statuses.contains(&80), "{statuses:?}");
}
