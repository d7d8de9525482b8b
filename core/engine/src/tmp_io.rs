#[derive(Clone, Copy, Debug)]
pub enum Choice { Auto, Uring, Epoll }
pub use shmesh_io::EpollDriver as UringDriver;
pub mod probe { pub fn uring() -> Result<(), String> { Err("not yet".into()) } }
pub mod net {
    use std::os::fd::OwnedFd; use std::net::SocketAddr; use std::path::Path; use std::io;
    pub struct AddressLock;
    pub fn lock_tcp(_: SocketAddr) -> io::Result<AddressLock> { Ok(AddressLock) }
    pub fn listen_tcp(a: SocketAddr, _: bool) -> io::Result<OwnedFd> { let l = std::net::TcpListener::bind(a)?; l.set_nonblocking(true)?; Ok(l.into()) }
    pub fn listen_unix(p: &Path, _: u32) -> io::Result<(OwnedFd, AddressLock)> { let _ = std::fs::remove_file(p); let l = std::os::unix::net::UnixListener::bind(p)?; l.set_nonblocking(true)?; Ok((l.into(), AddressLock)) }
}
