//! Consumers take turns on the connection that they share: a large request holds a small one up while it is leaving, and no longer.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shmesh_proto::dubbo::{Event, Invocation, serialization, write_event};

use super::{Frame, ask, call, invocation, read_frame, request};
use crate::process::PATIENCE;
use crate::service::Service;
use crate::sidecar::{Driver, Sidecar};
use crate::wire::Wire;

on_each_driver!(
    a_small_request_passes_the_large_ones_of_others,
    a_request_that_was_given_up_does_not_leave,
    one_way_calls_leave_although_the_provider_takes_no_more,
);

const LARGE: usize = 2 << 20;

/// A provider that reads nothing until it is let, and tells what each request says. A Unix socket takes a fraction of a large request.
pub(super) struct Provider {
    pub let_read: Sender<()>,
    pub heard: Receiver<String>,
    pub endpoint: String,
    _service: Service,
    _folder: tempfile::TempDir,
}

impl Provider {
    pub fn start() -> Provider {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("provider.sock");
        let (let_read, may_read) = channel();
        let (tell, heard) = channel();
        let may_read = Arc::new(Mutex::new(may_read));
        let service = Service::unix(&path, move |mut wire| {
            if may_read.lock().expect("no panic").recv().is_err() {
                return;
            }
            while let Some(frame) = read_frame(&mut wire) {
                let text = frame.value_of_argument();
                let _ = tell.send(text.chars().take(10).collect());
                wire.send(frame.echo());
            }
        });
        Provider { let_read, heard, endpoint: service.endpoint.clone(), _service: service, _folder: folder }
    }
}

fn large(id: u64) -> Vec<u8> {
    call(id, &format!("{:10}{}", format!("large {id}"), "x".repeat(LARGE)))
}

/// All that was sent on this connection has been read, as the sidecar answers itself to what no route takes.
fn everything_is_read(wire: &mut Wire) {
    let nowhere = Invocation { path: "com.demo.Nowhere", ..invocation("x") };
    let answer = ask(wire, &request(1_000, true, serialization::HESSIAN2, &nowhere));
    assert_eq!((answer.header.id, answer.header.status), (1_000, 60));
}

fn answers(wire: &mut Wire, count: usize) -> Vec<Frame> {
    (0..count).map(|_| read_frame(wire).expect("an answer")).collect()
}

fn a_small_request_passes_the_large_ones_of_others(driver: Driver) {
    let provider = Provider::start();
    let sidecar = super::before(driver, &provider.endpoint);
    let (mut one, mut other) = (sidecar.connect("rpc"), sidecar.connect("rpc"));
    for id in 0..5 {
        one.send(large(id));
    }
    everything_is_read(&mut one);
    for id in 0..3 {
        other.send(call(id, &format!("small {id}")));
    }
    everything_is_read(&mut other);
    provider.let_read.send(()).expect("a provider");
    let order: Vec<String> = provider.heard.iter().take(8).map(|text| text.trim_end().to_owned()).collect();
    let expected = ["large 0", "small 0", "small 1", "small 2", "large 1", "large 2", "large 3", "large 4"];
    assert_eq!(order, expected);
    for answer in answers(&mut one, 5) {
        assert_eq!(answer.value().len(), LARGE + 10);
    }
    answers(&mut other, 3);
}

fn a_request_that_was_given_up_does_not_leave(driver: Driver) {
    let provider = Provider::start();
    let words = [("up", &*provider.endpoint), ("patience", "3s")];
    let sidecar = Sidecar::start(driver, super::CONFIG, &words);
    let mut one = sidecar.connect("rpc");
    for id in 0..3 {
        one.send(large(id));
    }
    for answer in answers(&mut one, 3) {
        assert_eq!(answer.error().0, 31, "nobody answers");
    }
    provider.let_read.send(()).expect("a provider");
    assert_eq!(ask(&mut one, &call(9, "small")).value(), "small");
    let order: Vec<String> = provider.heard.try_iter().map(|text| text.trim_end().to_owned()).collect();
    // The first was leaving.
    assert_eq!(order, ["large 0", "small"]);
}

fn one_way_calls_leave_although_the_provider_takes_no_more(driver: Driver) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("provider.sock");
    let (go_on, may_go_on) = channel();
    let (tell, heard) = channel();
    let first = Mutex::new(Some((may_go_on, tell)));
    let service = Service::unix(&path, move |mut wire| {
        let first = first.lock().expect("no panic").take();
        if let Some((may_go_on, _)) = &first {
            let _ = may_go_on.recv();
            let mut readonly = Vec::new();
            write_event(&mut readonly, 0, serialization::HESSIAN2, Event::ReadOnly);
            wire.send(readonly);
            let _ = may_go_on.recv();
        }
        while let Some(frame) = read_frame(&mut wire) {
            match &first {
                Some((_, tell)) => drop(tell.send(frame.value_of_argument().len())),
                None => wire.send(frame.echo()),
            }
        }
    });
    let sidecar = super::before(driver, &service.endpoint);
    let mut one = sidecar.connect("rpc");
    let large = "x".repeat(LARGE);
    for id in 0..3 {
        one.send(request(id, false, serialization::HESSIAN2, &invocation(&large)));
    }
    everything_is_read(&mut one);
    go_on.send(()).expect("a provider");
    // Whether READONLY is understood shows in where calls go; one that comes earlier waits on the first connection.
    let mut id = 7;
    crate::process::until("another connection is made", || {
        std::thread::sleep(Duration::from_millis(200));
        id += 1;
        one.send(call(id, "after"));
        service.accepted() == 2
    });
    go_on.send(()).expect("a provider");
    let told: Vec<usize> = (0..3).map(|_| heard.recv_timeout(PATIENCE).expect("all that was sent")).collect();
    assert_eq!(told, [LARGE; 3]);
}
