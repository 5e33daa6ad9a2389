//! TCP ports of a node that are reached from outside the lab: a listener out here, connections made in there.

use super::netns;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// 64: a browser opens six to one server; more than that is not somebody looking at a console.
const MAX_CONNECTIONS: usize = 64;

/// A published port. Dropping it closes the listener; connections end with the node.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) node: String,
    pub(super) inside: SocketAddr,
    /// With the port the kernel chose, where the topology file asked for port 0.
    pub(super) outside: SocketAddr,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Published {
    pub(super) fn start(
        node: &str,
        namespace: &str,
        outside: SocketAddr,
        inside: SocketAddr,
    ) -> io::Result<Published> {
        let listener = TcpListener::bind(outside)?;
        listener.set_nonblocking(true)?;
        let outside = listener.local_addr()?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let thread = std::thread::Builder::new().name(format!("publish {node}")).spawn({
            let (stop, namespace) = (Arc::clone(&stop), namespace.to_owned());
            move || accept(&listener, &stop, &namespace, inside)
        })?;
        Ok(Published { node: node.to_owned(), inside, outside, stop, thread: Some(thread) })
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        // It only fails when the counter is full, and then the thread has been told already.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked, which has been printed.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &OwnedFd, namespace: &str, inside: SocketAddr) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        // Interrupted or not: what there is to do shows below.
        let _ = poll(&mut fds, None);
        if fds[1].revents().contains(PollFlags::IN) {
            return;
        }
        let Ok((outer, _)) = listener.accept() else { continue };
        if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (open, namespace) = (Arc::clone(&open), namespace.to_owned());
        std::thread::spawn(move || {
            // Either side ended or never began: whoever connected sees it close.
            let _ = forward(&outer, &namespace, inside);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn forward(outer: &TcpStream, namespace: &str, inside: SocketAddr) -> io::Result<()> {
    outer.set_nonblocking(false)?;
    // 2 s: it is on this machine.
    let inner = netns::try_within(namespace, || TcpStream::connect_timeout(&inside, Duration::from_secs(2)))?;
    std::thread::scope(|scope| {
        scope.spawn(|| copy(outer, &inner));
        copy(&inner, outer);
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    // However it ended, the other side is to hear of it.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
