//! The memfds of a session: made by the sidecar, sealed so that a mapping never faults, handed to the app with as few
//! rights as the kernel lets one give.

use std::ffi::CString;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The seals of both memfds. F_SEAL_FUTURE_WRITE would keep a successor of the sidecar from mapping them.
pub const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// A zeroed memfd of `len` bytes, mode 0600, sealed. `name` shows in /proc/*/maps.
pub fn create(name: &str, len: usize) -> io::Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let memfd = match memfd_create(name.as_c_str(), flags | no_exec) {
        // Kernels before 6.3 do not know the flag.
        Err(Errno::EINVAL) => memfd_create(name.as_c_str(), flags)?,
        other => other?,
    };
    let file = File::from(memfd);
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.set_len(len as u64)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(OwnedFd::from(file))
}

/// A descriptor of `to_app` for an app that runs as `peer_uid`.
#[derive(Debug)]
pub struct ForApp {
    pub memfd: OwnedFd,
    /// Whether the app is kept from writing: it got a read-only descriptor and has no right to reopen the memfd. An
    /// app of the sidecar's own uid, or root, has.
    pub isolation: bool,
}

/// Reopens `to_app` read-only. Where that is impossible (no /proc) the app gets the descriptor itself; the sidecar decides
/// nothing from what it reads back there, so that costs only a line of defence.
pub fn for_app(to_app: impl AsFd, peer_uid: u32) -> io::Result<ForApp> {
    let to_app = to_app.as_fd();
    let path = format!("/proc/self/fd/{}", to_app.as_raw_fd());
    match OpenOptions::new().read(true).open(path) {
        Ok(file) => {
            let own_uid = nix::unistd::geteuid().as_raw();
            Ok(ForApp { memfd: file.into(), isolation: peer_uid != 0 && peer_uid != own_uid })
        }
        Err(_) => Ok(ForApp { memfd: to_app.try_clone_to_owned()?, isolation: false }),
    }
}

/// Refuses a memfd that is shorter than `len` or could become so: touching the missing part would raise SIGBUS.
pub(crate) fn check_shape(memfd: &File, len: usize) -> io::Result<()> {
    let seals = SealFlag::from_bits_retain(fcntl(memfd, FcntlArg::F_GET_SEALS)?);
    if !seals.contains(SealFlag::F_SEAL_SHRINK) {
        return Err(io::Error::other("the memfd is not sealed against shrinking"));
    }
    let size = memfd.metadata()?.len();
    if size < len as u64 {
        return Err(io::Error::other(format!("the memfd has {size} bytes, {len} are needed")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mapping;

    #[test]
    fn a_memfd_is_zeroed_sealed_and_private() {
        let memfd = create("shmesh-test", 8192).unwrap();
        let file = File::from(memfd.try_clone().unwrap());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(file.metadata().unwrap().len(), 8192);
        assert!(file.set_len(4096).is_err() && file.set_len(16_384).is_err(), "sealed");
        let seals = SealFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GET_SEALS).unwrap());
        assert!(seals.contains(SEALS));
    }

    #[test]
    fn what_one_side_writes_the_other_reads_through_its_own_descriptor() {
        let memfd = create("shmesh-test", 8192).unwrap();
        let writer = Mapping::read_write(&memfd, 8192).unwrap();
        let given = for_app(&memfd, 4711).unwrap();
        assert!(given.isolation);
        let reader = Mapping::read_only(&given.memfd, 8192).unwrap();
        writer.write_bytes(5000, b"hello");
        writer.store_release(64, 7);
        let mut got = [0; 5];
        reader.read_bytes(5000, &mut got);
        assert_eq!((&got, reader.load_acquire(64)), (b"hello", 7));
        assert!(Mapping::read_write(&given.memfd, 8192).is_err(), "mapped writable through a read-only descriptor");
    }

    #[test]
    fn isolation_is_not_claimed_for_root_or_ourselves() {
        let memfd = create("shmesh-test", 4096).unwrap();
        for uid in [0, nix::unistd::geteuid().as_raw()] {
            assert!(!for_app(&memfd, uid).unwrap().isolation);
        }
    }

    #[test]
    fn a_memfd_that_is_short_or_may_shrink_is_not_mapped() {
        let memfd = create("shmesh-test", 4096).unwrap();
        assert!(Mapping::read_write(&memfd, 8192).is_err());
        let loose = memfd_create(c"loose", MFdFlags::MFD_CLOEXEC).unwrap();
        File::from(loose.try_clone().unwrap()).set_len(8192).unwrap();
        assert!(Mapping::read_write(&loose, 8192).is_err());
    }

    #[test]
    #[should_panic(expected = "belongs to the other side")]
    fn storing_into_the_peers_segment_panics() {
        let memfd = create("shmesh-test", 4096).unwrap();
        Mapping::read_only(&memfd, 4096).unwrap().store(0, 1);
    }

    #[test]
    #[should_panic(expected = "outside of the segment")]
    fn an_access_outside_of_the_segment_panics() {
        Mapping::private(4096).unwrap().load(4096);
    }
}
