//! How other threads get a forwarding thread's attention: an eventfd that it waits for beside its sockets.

use rustix::event::EventfdFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Wakes one thread.
#[derive(Debug)]
pub(super) struct Wake {
    event: OwnedFd,
}

impl Wake {
    pub(super) fn new() -> io::Result<Wake> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Wake { event: rustix::event::eventfd(0, flags)? })
    }

    /// Has the thread return from its wait, or not begin it.
    pub(super) fn wake(&self) {
        // EAGAIN: the counter is at its end, so the thread has been told already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Takes note; whether there was anything to note. What happens from here on wakes again.
    pub(super) fn clear(&self) -> bool {
        rustix::io::read(&self.event, &mut [0; 8]) != Err(Errno::AGAIN)
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
impl Wake {
    /// Waits to be woken; false if nobody does.
    pub(super) fn wait(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        let woken = poll(&mut [PollFd::new(&self.event, PollFlags::IN)], Some(&patience));
        woken.is_ok_and(|ready| ready == 1) && self.clear()
    }
}
