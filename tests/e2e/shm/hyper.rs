//! A real HTTP stack on a stream: hyper does not notice that there is no socket.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use shmesh_client::Protocol;

use super::{before, client};
use crate::bytes::{KIB, MIB, Noise};
use crate::service::noise_service;
use crate::sidecar::{Driver, Sidecar};

on_each_driver!(hyper_runs_on_a_stream, hyper_runs_on_many_streams_at_once);

fn on_a_runtime(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}

/// Uploads and downloads of growing size, one after the other on one connection.
async fn converse(sidecar: &Sidecar, sizes: &[u64]) {
    let stream = client(sidecar).async_stream(Protocol::Http, None).expect("a stream");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("hyper");
    let connection = tokio::spawn(connection);
    for &len in sizes {
        let up = Request::builder()
            .method(Method::PUT)
            .uri("/take/9")
            .header("host", "service")
            .body(Full::new(Bytes::from(Noise::new(9).take(len as usize))))
            .expect("a request");
        let answer = sender.send_request(up).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let said = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(said, len.to_string().as_bytes());

        let down = Request::builder()
            .uri(format!("/give/3/{len}/length"))
            .header("host", "service")
            .body(Full::new(Bytes::new()))
            .expect("a request");
        let answer = sender.send_request(down).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body.len() as u64, len);
        Noise::new(3).check(&body);
    }
    drop(sender);
    connection.await.expect("the connection's task").expect("an end in order");
}

fn hyper_runs_on_a_stream(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    on_a_runtime(converse(&sidecar, &[0, 1, 1000, 16 * KIB, 300 * KIB, 4 * MIB]));
    assert_eq!(sidecar.requests("apps", "service", 200), 12.0);
}

fn hyper_runs_on_many_streams_at_once(driver: Driver) {
    let service = noise_service();
    let sidecar = before(driver, &service.endpoint);
    on_a_runtime(async {
        let one = || converse(&sidecar, &[10, 200 * KIB]);
        tokio::join!(one(), one(), one(), one(), one(), one());
    });
    assert_eq!(sidecar.requests("apps", "service", 200), 24.0);
}
