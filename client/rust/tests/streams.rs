//! Byte streams through a sidecar of the tests' own, which echoes them.

mod fake;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use fake::{FakeSidecar, SMALL, Settings, pattern};
use shmesh_client::{CallError, Client, Protocol, Request};
use shmesh_shm::handshake::Policy;
use tempfile::TempDir;

fn sidecar(settings: Settings) -> (TempDir, FakeSidecar, Client) {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = FakeSidecar::start(&dir.path().join("s"), settings);
    let client = Client::builder().socket(sidecar.path()).lanes(2).connect().unwrap();
    (dir, sidecar, client)
}

fn small() -> Settings {
    Settings { geometry: SMALL, ..Settings::default() }
}

#[test]
fn bytes_come_back_and_a_half_close_ends_the_stream() {
    let (_dir, _sidecar, client) = sidecar(Settings::default());
    let mut stream = client.stream(Protocol::Http, None).unwrap();
    for i in 0..100 {
        let sent = pattern(i, 1 + i as usize * 7);
        stream.write_all(&sent).unwrap();
        let mut got = vec![0; sent.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, sent);
    }
    stream.write_all(b"last").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"last");
    assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn two_threads_read_and_write_at_once() {
    for settings in [Settings::default(), small()] {
        let (_dir, _sidecar, client) = sidecar(settings);
        let mut reader = client.stream(Protocol::Raw, Some("echo")).unwrap();
        let mut writer = reader.try_clone().unwrap();
        let sent = pattern(7, 8_000_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (i, piece) in sent.chunks(70_001).enumerate() {
                    writer.write_all(piece).unwrap();
                    if i % 40 == 0 {
                        std::thread::sleep(Duration::from_millis(3));
                    }
                }
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            let mut piece = vec![0; 33_333];
            loop {
                let len = reader.read(&mut piece).unwrap();
                if len == 0 {
                    break;
                }
                got.extend_from_slice(&piece[..len]);
                if got.len() % 17 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            assert!(got == sent);
        });
    }
}

#[test]
fn a_writer_that_nobody_reads_for_is_held_back() {
    let (_dir, _sidecar, client) = sidecar(small());
    let mut stream = client.stream(Protocol::Raw, Some("echo")).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(50)));
    let mut written = 0;
    let error = loop {
        match stream.write(&[7; 10_000]) {
            Ok(len) => written += len,
            Err(error) => break error,
        }
        assert!(written < 50_000_000, "nothing holds it back");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let mut got = vec![0; written];
    stream.read_exact(&mut got).unwrap();
    assert!(got.iter().all(|byte| *byte == 7));
}

#[test]
fn a_read_times_out_and_can_go_on() {
    let (_dir, _sidecar, client) = sidecar(Settings::default());
    let mut stream = client.stream(Protocol::Raw, Some("echo")).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(30)));
    let began = Instant::now();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(began.elapsed() >= Duration::from_millis(30));
    stream.write_all(b"now").unwrap();
    let mut got = [0; 3];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"now");
}

#[test]
fn shutting_the_reading_side_wakes_a_reader() {
    let (_dir, _sidecar, client) = sidecar(Settings::default());
    let mut reader = client.stream(Protocol::Raw, Some("echo")).unwrap();
    let other = reader.try_clone().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || reader.read(&mut [0; 8]).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        other.shutdown(Shutdown::Read).unwrap();
        assert_eq!(waiting.join().unwrap(), 0);
    });
}

#[test]
fn the_death_of_the_sidecar_ends_a_read() {
    let (_dir, sidecar, client) = sidecar(Settings::default());
    let mut stream = client.stream(Protocol::Raw, Some("echo")).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || stream.read(&mut [0; 8]).unwrap_err());
        std::thread::sleep(Duration::from_millis(50));
        sidecar.kill();
        assert_eq!(waiting.join().unwrap().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_stream_that_dies_with_the_sidecar_says_how_much_was_passed_on() {
    let (_dir, sidecar, client) = sidecar(small());
    let mut stream = client.stream(Protocol::Raw, Some("echo")).unwrap();
    let sent = pattern(5, 300_000);
    for piece in sent.chunks(1000) {
        stream.write_all(piece).unwrap();
        let mut got = vec![0; piece.len()];
        stream.read_exact(&mut got).unwrap();
        assert!(got == piece);
    }
    sidecar.kill();
    let error = stream.read(&mut [0; 8]).unwrap_err();
    let why = error.get_ref().and_then(|inner| inner.downcast_ref::<CallError>()).cloned();
    let Some(CallError::StreamReset { acknowledged, .. }) = why else { panic!("{error:?}") };
    // The sidecar says so window by window at least.
    let window = u64::from(SMALL.window);
    assert!((300_000 - window..=300_000).contains(&acknowledged), "{acknowledged}");
}

/// A client whose sidecar said this of raw `echo` and of HTTP, and died.
fn without_sidecar(policy: Policy) -> (tempfile::TempDir, Client) {
    let (dir, sidecar, client) = sidecar(Settings { policy: Some(policy), ..Settings::default() });
    drop(client.stream(Protocol::Raw, Some("echo")).unwrap());
    drop(client.stream(Protocol::Http, None).unwrap());
    sidecar.wait_for_lookups(2);
    sidecar.kill();
    (dir, client)
}

/// Echoes what comes on each connection.
fn echo() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    address
}

#[test]
fn a_raw_stream_goes_to_an_endpoint_when_the_sidecar_is_gone() {
    let endpoints = vec!["tcp:127.0.0.1:1".into(), echo()];
    let (_dir, client) = without_sidecar(Policy { endpoints, ..Policy::default() });
    for _ in 0..4 {
        let mut writer = client.stream(Protocol::Raw, Some("echo")).unwrap();
        assert!(writer.is_direct());
        let mut reader = writer.try_clone().unwrap();
        let sent = pattern(7, 1_000_000);
        std::thread::scope(|scope| {
            let expected = &sent;
            scope.spawn(move || {
                writer.write_all(expected).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            assert!(got == sent);
        });
    }
    let error = client.stream(Protocol::Raw, Some("elsewhere")).unwrap_err();
    assert!(matches!(error, CallError::SidecarGone(_) | CallError::Connect(_)), "{error:?}");
}

#[test]
fn a_handle_of_a_direct_stream_waits_as_long_as_it_was_told() {
    let (_dir, client) = without_sidecar(Policy { endpoints: vec![echo()], ..Policy::default() });
    let mut stream = client.stream(Protocol::Raw, Some("echo")).unwrap();
    let mut patient = stream.try_clone().unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20)));
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || patient.read(&mut [0; 8]).unwrap());
        std::thread::sleep(Duration::from_millis(60));
        stream.shutdown(Shutdown::Read).unwrap();
        assert_eq!(waiting.join().unwrap(), 0);
    });
}

#[test]
fn an_http_stream_goes_to_the_central_proxy_or_nowhere() {
    let central_proxy = Some(echo());
    let (_dir, client) = without_sidecar(Policy { central_proxy, ..Policy::default() });
    let mut stream = client.stream(Protocol::Http, None).unwrap();
    stream.write_all(b"GET").unwrap();
    let mut got = [0; 3];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"GET");

    let (_dir, client) = without_sidecar(Policy { endpoints: vec![echo()], ..Policy::default() });
    let error = client.stream(Protocol::Http, None).unwrap_err();
    assert!(matches!(error, CallError::SidecarGone(_) | CallError::Connect(_)), "{error:?}");
}

#[test]
fn a_dropped_stream_frees_its_lane() {
    let (_dir, _sidecar, client) = sidecar(Settings::default());
    let client_of_one = client.clone();
    for i in 0..50 {
        let mut stream = client_of_one.stream(Protocol::Raw, Some("echo")).unwrap();
        stream.write_all(&pattern(i, 1000)).unwrap();
        if i % 2 == 0 {
            stream.read_exact(&mut [0; 1000]).unwrap();
        }
    }
    let response = client.call(Request::http("PUT", "reviews", "/").body(b"calls go on")).unwrap();
    assert_eq!(response.body, b"calls go on");
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_split_stream_reads_and_writes_in_two_tasks() {
        for settings in [Settings::default(), small()] {
            let (_dir, _sidecar, client) = sidecar(settings);
            let stream = client.async_stream(Protocol::Raw, Some("echo")).unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let sent = pattern(9, 4_000_000);
            let expected = sent.clone();
            let writing = tokio::spawn(async move {
                for (i, piece) in sent.chunks(50_021).enumerate() {
                    writer.write_all(piece).await.unwrap();
                    if i % 20 == 0 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
                writer.shutdown().await.unwrap();
            });
            let mut got = Vec::new();
            reader.read_to_end(&mut got).await.unwrap();
            assert!(got == expected);
            writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_opened_without_a_sidecar_goes_round() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("echo");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        for address in [echo(), format!("unix:{}", path.display())] {
            let (_dir, client) = without_sidecar(Policy { endpoints: vec![address], ..Policy::default() });
            let stream = client.async_stream(Protocol::Raw, Some("echo")).unwrap();
            assert!(stream.is_direct());
            let (mut reader, mut writer) = tokio::io::split(stream);
            let sent = pattern(11, 500_000);
            let expected = sent.clone();
            let writing = tokio::spawn(async move {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            });
            let mut got = Vec::new();
            reader.read_to_end(&mut got).await.unwrap();
            assert!(got == expected);
            writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn ping_pong_in_one_task_and_death() {
        let (_dir, sidecar, client) = sidecar(Settings::default());
        let mut stream = client.async_stream(Protocol::Http, None).unwrap();
        for i in 0..300 {
            let sent = pattern(i, 10 + i as usize);
            stream.write_all(&sent).await.unwrap();
            let mut got = vec![0; sent.len()];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(got, sent);
        }
        let waiting = tokio::spawn(async move { stream.read(&mut [0; 8]).await });
        tokio::time::sleep(Duration::from_millis(30)).await;
        tokio::task::spawn_blocking(move || sidecar.kill()).await.unwrap();
        let outcome = tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("woken").unwrap();
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
