//! Named network namespaces, as `ip netns` has them: a file under /run/netns that the namespace is mounted on, so that
//! it outlives the process and can be found again by name.
//!
//! A thread is in one network namespace at a time, and everything it opens (a socket, a TUN device, a file under
//! /proc/sys/net) belongs to that one for good. So nothing here moves the calling thread: work is sent to a thread of its
//! own, which goes there, does it and ends; what it opened comes back.

#![allow(unsafe_code)]

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;

/// Where `ip netns` keeps them.
const DIRECTORY: &str = "/run/netns";
/// The network namespace of the thread that opens it.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// A network namespace, kept open.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Namespace> {
        Ok(Namespace { fd: open_for_reading(CURRENT)? })
    }

    /// The namespace called `name`, if there is one. A file that no namespace is mounted on (left by a machine or process
    /// that died half-way) is none.
    pub fn find(name: &str) -> io::Result<Option<Namespace>> {
        match open_for_reading(path_of(name)?) {
            Ok(fd) if is_namespace(&fd)? => Ok(Some(Namespace { fd })),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The namespace called `name`, made if there is none.
    pub fn ensure(name: &str) -> io::Result<Namespace> {
        let _lock = prepare_directory()?;
        if let Some(found) = Namespace::find(name)? {
            return Ok(found);
        }
        let path = path_of(name)?;
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC;
        drop(rustix::fs::open(&path, flags, Mode::empty())?);
        let made = on_own_thread(|| {
            // SAFETY: only the network namespace is unshared; file descriptors stay shared with the other threads.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            rustix::mount::mount_bind(CURRENT, &path)?;
            open_for_reading(CURRENT)
        });
        match made.and_then(|made| made) {
            Ok(fd) => Ok(Namespace { fd }),
            Err(e) => {
                let _ = rustix::fs::unlink(&path);
                Err(e)
            }
        }
    }

    /// Takes the name away. The namespace itself ends when nothing is open in it any more; the kernel then destroys
    /// virtual interfaces in it, and hands physical ones back to the machine's first namespace. No error if there is none.
    pub fn remove(name: &str) -> io::Result<()> {
        let path = path_of(name)?;
        match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
            // EINVAL: nothing is mounted there; the file alone is a leftover.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        match rustix::fs::unlink(&path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Runs `work` on a thread inside the namespace and waits for it; what it panics with goes on here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            rustix::thread::move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?
    }
}

impl Namespace {
    /// Runs `work` on a thread that is in the namespace from its beginning to its end, and does not wait for it.
    ///
    /// # Errors
    /// There can be no more threads, or open files. That the thread cannot go there is what it ends with.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<T>>> {
        let fd = self.fd.try_clone()?;
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            rustix::thread::move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A name is a file name: no way out of the directory.
fn path_of(name: &str) -> io::Result<PathBuf> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        let message = format!("{name:?} cannot be the name of a network namespace");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok([DIRECTORY, name].iter().collect())
}

fn open_for_reading(path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn is_namespace(fd: &OwnedFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == libc::NSFS_MAGIC)
}

/// Makes /run/netns a shared mount as `ip netns add` does, so that namespaces made here are seen (and their removal is)
/// in other mount namespaces. Locked as `ip` locks it: two processes that do this at once would mount it twice.
fn prepare_directory() -> io::Result<OwnedFd> {
    match rustix::fs::mkdir(DIRECTORY, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let lock = open_for_reading(DIRECTORY)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    let share = || {
        let flags = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
        rustix::mount::mount_change(DIRECTORY, flags)
    };
    match share() {
        // Not a mount point yet.
        Err(Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(DIRECTORY, DIRECTORY)?;
            share()?;
        }
        result => result?,
    }
    Ok(lock)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().or_else(|panic| std::panic::resume_unwind(panic))
    })
}
