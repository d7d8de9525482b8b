use super::*;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

fn fresh_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("shmesh-net-{}-{name}.sock", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

fn port_of(socket: &OwnedFd) -> u16 {
    let listener = TcpListener::from(socket.try_clone().unwrap());
    listener.local_addr().unwrap().port()
}

#[test]
fn all_sockets_of_a_group_get_connections() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let sockets = listen_tcp(any, 3).unwrap();
    let port = port_of(&sockets[0]);
    assert!(sockets.iter().all(|socket| port_of(socket) == port));
    let peers: Vec<_> = (0..300).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let counts: Vec<usize> = sockets
        .iter()
        .map(|socket| {
            let listener = TcpListener::from(socket.try_clone().unwrap());
            std::iter::from_fn(|| listener.accept().ok()).count()
        })
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), peers.len());
    assert!(counts.iter().all(|count| *count > 30), "{counts:?}");
}

#[test]
fn a_group_keeps_everybody_else_out() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    for (ours, theirs) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        let sockets = listen_tcp(any, ours).unwrap();
        let addr: SocketAddr = ([127, 0, 0, 1], port_of(&sockets[0])).into();
        let error = listen_tcp(addr, theirs).unwrap_err();
        let ListenError::Served { owner: Some(owner), .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(owner.pid, std::process::id() as i32);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        // The wildcard would take its connections from it, or lose its own to it.
        listen_tcp(([0, 0, 0, 0], addr.port()).into(), theirs).unwrap_err();
        drop(sockets);
        listen_tcp(addr, theirs).unwrap();
    }
}

#[test]
fn a_stranger_on_a_port_is_named() {
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = listen_tcp(stranger.local_addr().unwrap(), 2).unwrap_err();
    assert!(error.to_string().contains("already served by process"), "{error}");
    let error = listen_tcp("192.0.2.1:80".parse().unwrap(), 1).unwrap_err();
    assert!(matches!(error, ListenError::System { .. }), "{error}");
}

#[test]
fn a_socket_file_that_nobody_answers_is_replaced() {
    let path = fresh_path("dead");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listening = listen_unix(&path, 0o660).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    UnixStream::connect(&path).unwrap();
    // Nothing is left behind.
    drop(listening);
    assert!(!path.exists());
    assert!(!lock_path(&path).exists());
}

#[test]
fn a_socket_file_that_somebody_answers_is_refused() {
    let path = fresh_path("alive");
    let stranger = UnixListener::bind(&path).unwrap();
    let error = listen_unix(&path, 0o660).unwrap_err();
    let ListenError::Served { owner: Some(owner), .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(owner.pid, std::process::id() as i32);
    assert!(path.exists());
    drop(stranger);
    drop(listen_unix(&path, 0o600).unwrap());
}

#[test]
fn a_second_claim_is_refused_while_the_first_is_held() {
    let path = fresh_path("twice");
    let first = listen_unix(&path, 0o660).unwrap();
    let error = listen_unix(&path, 0o660).unwrap_err();
    let ListenError::Served { owner: Some(owner), .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(owner.pid, std::process::id() as i32);
    // Even if the file is taken away: its owner is still there.
    fs::remove_file(&path).unwrap();
    listen_unix(&path, 0o660).unwrap_err();
    drop(first);
    drop(listen_unix(&path, 0o660).unwrap());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let path = fresh_path("file");
    fs::write(&path, "precious").unwrap();
    let error = listen_unix(&path, 0o660).unwrap_err();
    assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    let error = listen_unix(Path::new("/no/such/directory/x.sock"), 0o660).unwrap_err();
    assert!(matches!(error, ListenError::System { .. }), "{error}");
}

#[test]
fn only_one_of_many_claims_at_the_same_time_succeeds() {
    let path = fresh_path("race");
    for _ in 0..50 {
        let won: usize = std::thread::scope(|scope| {
            let barrier = std::sync::Arc::new(std::sync::Barrier::new(4));
            let claims: Vec<_> = (0..4)
                .map(|_| {
                    let (barrier, path) = (barrier.clone(), &path);
                    scope.spawn(move || {
                        barrier.wait();
                        listen_unix(path, 0o660)
                    })
                })
                .collect();
            // Kept until all have answered.
            let results: Vec<_> = claims.into_iter().map(|claim| claim.join().unwrap()).collect();
            results.iter().filter(|result| result.is_ok()).count()
        });
        assert_eq!(won, 1);
    }
}

#[test]
fn a_line_about_a_listener_is_read() {
    let line =
        "   0: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 00 100";
    assert_eq!(listening_inode(line, 15000), Some("4711"));
    assert_eq!(listening_inode(line, 15001), None);
    assert_eq!(listening_inode(&line.replace(" 0A ", " 01 "), 15000), None);
    assert_eq!(listening_inode("  sl  local_address rem_address   st", 15000), None);
}
