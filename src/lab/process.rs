//! Processes inside a node: commands that a test or an operator runs there, and appliances with their log.

use super::netns;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A [`Command`] that runs inside a namespace. Its standard input is empty unless said otherwise.
#[derive(Debug)]
pub struct NodeCommand {
    namespace: String,
    command: Command,
}

impl NodeCommand {
    pub(super) fn new(namespace: &str, program: impl AsRef<OsStr>) -> NodeCommand {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program);
        // A group of its own: Ctrl-C at the terminal is for the lab, which ends its processes in order.
        command.stdin(Stdio::null()).process_group(0);
        NodeCommand { namespace: namespace.to_owned(), command }
    }

    /// As [`Command::arg`].
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> NodeCommand {
        self.command.arg(argument);
        self
    }

    /// As [`Command::args`].
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> NodeCommand {
        self.command.args(arguments);
        self
    }

    /// As [`Command::env`].
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> NodeCommand {
        self.command.env(key, value);
        self
    }

    /// As [`Command::current_dir`].
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> NodeCommand {
        self.command.current_dir(directory);
        self
    }

    /// As [`Command::stdin`].
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> NodeCommand {
        self.command.stdin(stdin);
        self
    }

    /// As [`Command::stdout`].
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> NodeCommand {
        self.command.stdout(stdout);
        self
    }

    /// As [`Command::stderr`].
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> NodeCommand {
        self.command.stderr(stderr);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// No such program, or the namespace is gone.
    pub fn spawn(mut self) -> io::Result<NodeChild> {
        let child = netns::try_within(&self.namespace, || self.command.spawn());
        child.map(|child| NodeChild { child: Some(child) }).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.command.get_program().display()))
        })
    }

    /// Runs it and waits for it to end; gives what it wrote.
    ///
    /// # Errors
    /// As [`NodeCommand::spawn`].
    pub fn output(self) -> io::Result<Output> {
        self.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?.output()
    }
}

/// A process inside a node. Dropping it kills it.
#[derive(Debug)]
pub struct NodeChild {
    /// `None` once it has been waited for.
    child: Option<Child>,
}

impl NodeChild {
    /// Waits for it to end; gives what it wrote to the pipes it was given.
    ///
    /// # Errors
    /// A pipe cannot be read.
    pub fn output(mut self) -> io::Result<Output> {
        self.child.take().expect("only this and drop take it").wait_with_output()
    }
}

impl Deref for NodeChild {
    type Target = Child;
    fn deref(&self) -> &Child {
        self.child.as_ref().expect("only `output` and drop take it")
    }
}

impl DerefMut for NodeChild {
    fn deref_mut(&mut self) -> &mut Child {
        self.child.as_mut().expect("only `output` and drop take it")
    }
}

impl Drop for NodeChild {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has been waited for already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An appliance that was started. Its output goes to its log.
#[derive(Debug)]
pub(super) struct Appliance {
    child: NodeChild,
    /// Heard from once, when it says that it is ready; then, or when it has closed its standard output, no more.
    pub(super) ready: Receiver<()>,
}

impl Appliance {
    pub(super) fn start(command: NodeCommand, log: &Path) -> io::Result<Appliance> {
        let stderr = append(log)?;
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn()?;
        let (tell, ready) = channel();
        if let Some(stdout) = child.stdout.take() {
            let log = append(log)?;
            std::thread::Builder::new().name("log".to_owned()).spawn(move || {
                copy_and_listen(stdout, log, || {
                    // Nobody waits for it any more.
                    let _ = tell.send(());
                });
            })?;
        }
        Ok(Appliance { child, ready })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

/// Copies to the log line by line, and tells when a line says `ready`.
fn copy_and_listen(stdout: ChildStdout, mut log: File, mut ready: impl FnMut()) {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    while stdout.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
        // A full disk must not stop the appliance.
        let _ = log.write_all(&line);
        if line.trim_ascii() == b"ready" {
            ready();
        }
        line.clear();
    }
}

/// Opens a log to be written at its end, by as many as like.
pub(super) fn append(log: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(log)
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    // 4 KiB, 20 lines: what fits on a screen.
    let read = || {
        let mut file = File::open(log)?;
        let len = fs::metadata(log)?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(4096)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
