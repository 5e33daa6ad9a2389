//! Accepts connections, a bounded number of them, and hangs up on those where nothing moves: whoever can reach the port
//! must not be able to take away the box's file descriptors, with or without a token.

use super::tls::CHALLENGE_PROTOCOL;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

/// 256: some twenty browsers with six connections each, and room for scripts. More wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;

/// 30 s: longer than a console rests between two requests; an event stream moves every second.
const IDLE: Duration = Duration::from_secs(30);

/// Room for connections, of all listeners together.
pub(super) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_CONNECTIONS))
}

pub(super) struct Bounded {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    room: Arc<Semaphore>,
    idle: Duration,
}

impl Bounded {
    /// Over TLS, if `tls` is there.
    pub(super) fn new(listener: TcpListener, tls: Option<TlsAcceptor>, room: Arc<Semaphore>) -> Bounded {
        Bounded { listener, tls, room, idle: IDLE }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Acquiring fails only once the semaphore is closed, which nobody does.
        let permit = self.room.clone().acquire_owned().await.ok();
        let (stream, from) = Listener::accept(&mut self.listener).await;
        let stream = match &self.tls {
            Some(tls) => Stream::Greeting(Box::new(tls.accept(stream))),
            None => Stream::Plain(stream),
        };
        let idle = Box::pin(tokio::time::sleep(self.idle));
        (Connection { stream, idle, patience: self.idle, _permit: permit }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, Bounded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

/// What goes over a connection. A client is greeted by whoever reads from it, so that a slow one keeps nobody from being accepted.
enum Stream {
    Plain(TcpStream),
    Greeting(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Stream {
    /// What is read from and written to, once the client is greeted.
    fn poll_greeted(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Duplex>>> {
        if let Stream::Greeting(greeting) = self {
            let stream = ready!(Pin::new(&mut **greeting).poll(context))?;
            // An authority has seen what it came for (RFC 8737 section 3): nothing is served by that greeting.
            if stream.get_ref().1.alpn_protocol() == Some(CHALLENGE_PROTOCOL) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            *self = Stream::Tls(Box::new(stream));
        }
        match self {
            Stream::Plain(stream) => Poll::Ready(Ok(Pin::new(stream))),
            Stream::Tls(stream) => Poll::Ready(Ok(Pin::new(&mut **stream))),
            Stream::Greeting(_) => Poll::Pending,
        }
    }
}

/// A connection, its place among the bounded number, and when it will have been idle for too long.
pub(super) struct Connection {
    stream: Stream,
    idle: Pin<Box<Sleep>>,
    patience: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Does `work` with the stream; nothing of it, for too long, is an error.
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        work: impl FnOnce(Pin<&mut dyn Duplex>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let poll = match self.stream.poll_greeted(context) {
            Poll::Ready(Ok(stream)) => work(stream, context),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        if poll.is_ready() {
            let deadline = Instant::now() + self.patience;
            self.idle.as_mut().reset(deadline);
            return poll;
        }
        self.idle.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(context, |stream, context| stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(context, |stream, context| stream.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_connection_where_nothing_moves_is_hung_up_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let bounded = Bounded { idle: Duration::from_millis(50), ..Bounded::new(listener, None, room()) };
        std::thread::spawn(move || {
            runtime.block_on(async { axum::serve(bounded, axum::Router::new()).await })
        });
        let mut stream = std::net::TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        assert_eq!(stream.read(&mut [0]).expect("hung up on, not timed out"), 0);
    }
}
