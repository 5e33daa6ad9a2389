//! The admin server's thread. Whoever talks to the box from outside talks to this thread, so it has none of the box's
//! capabilities: what gets at it can change no interface, no route and no firewall, opens no raw socket and goes into no other
//! namespace. What it may ask for goes through [`Control`], as it would from another process.
//!
//! It is a thread and not a process, since it answers out of what the process has: the recent flows, the flow history's readers,
//! captures, events a second. A process would keep the keys in memory from it as well; it would take a copy of all of that, or
//! a protocol for each question.

use crate::admin::{self, Access, Doors};
use crate::control::Control;
use crate::io::privileges;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};
use tokio::sync::oneshot;

pub(super) struct AdminThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl AdminThread {
    /// Begins to serve.
    ///
    /// # Errors
    /// The process may have no more threads, or what the thread may do could not be taken away from it.
    pub(super) fn start(doors: Doors, control: Arc<Control>, access: Access) -> io::Result<AdminThread> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let serve = move || {
            let prepared = privileges::give_up()
                .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            let runtime = match prepared {
                Ok(runtime) => runtime,
                // Whoever started it waits to hear it.
                Err(error) => return tell.send(Err(error)).map_err(io::Error::other),
            };
            tell.send(Ok(())).map_err(io::Error::other)?;
            runtime.block_on(admin::serve(doors, control, access, async move {
                // Told to stop, or whoever could tell it is gone.
                let _ = stopped.await;
            }))
        };
        let thread = Builder::new().name("admin".to_owned()).spawn(serve)?;
        told.recv().map_err(io::Error::other)??;
        Ok(AdminThread { stop, thread })
    }

    /// Stops when what is under way has been answered.
    ///
    /// # Errors
    /// What it ended with; or it panicked.
    pub(super) fn stop(self) -> io::Result<()> {
        // It may have ended by itself.
        let _ = self.stop.send(());
        self.thread.join().map_err(|_| io::Error::other("the admin server panicked"))?
    }
}
