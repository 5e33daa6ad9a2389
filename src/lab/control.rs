//! Commands to a lab that is up: one line of JSON over a unix socket, one line back.

use super::link::LinkReport;
use super::topology::Action;
use super::{Lab, LabError, Signal};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What may be asked of a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Do something to a link.
    Link { link: String, action: Action },
    /// How the links are doing.
    Links,
    /// End an appliance by this signal, and wait until it has.
    Kill { node: String, signal: i32 },
    /// Start an appliance that has ended, and wait until it is ready.
    Start { node: String },
    /// Take the lab down.
    Down,
}

/// What it answers: the links, where they were asked for; or what went wrong.
pub type Response = Result<Vec<LinkReport>, String>;

/// 64 KiB: a request is a line, and nobody's is longer.
const MAX_REQUEST: u64 = 65_536;
/// 5 s: both ends are on this machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// 60 s: a start waits until the appliance is ready.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// The socket of the lab `name`.
pub fn socket_path(name: &str) -> PathBuf {
    Path::new(super::RUN_DIR).join(format!("{name}.sock"))
}

/// Asks the lab `name`. `None` if no such lab is up.
///
/// # Errors
/// What the lab answered; or the conversation broke off.
pub fn ask(name: &str, request: &Request) -> Result<Option<Vec<LinkReport>>, LabError> {
    let broken = || LabError::io(format!("talking to lab {name}"));
    let mut stream = match UnixStream::connect(socket_path(name)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(broken()(error)),
    };
    let line = serde_json::to_string(request).map_err(|error| broken()(error.into()))?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE)).map_err(broken())?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(broken())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(broken())?;
    let answer: Response = serde_json::from_str(&answer).map_err(|error| broken()(error.into()))?;
    answer.map(Some).map_err(LabError::Refused)
}

/// Listens for commands to `lab` and does them, one after the other, until one says to take it down or there is
/// something to read from `stop`.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(lab: &Lab, stop: impl AsFd) -> Result<(), LabError> {
    let path = socket_path(lab.name());
    let listener = listen(&path).map_err(LabError::io(format!("listening on {}", path.display())))?;
    loop {
        let mut fds = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&stop, PollFlags::IN)];
        // Interrupted or not: what there is to do shows below.
        let _ = poll(&mut fds, None);
        if !fds[1].revents().is_empty() {
            break;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        // Who does not finish the conversation gets no answer; the lab goes on.
        if let Ok(true) = converse(lab, stream) {
            break;
        }
    }
    drop(listener);
    fs::remove_file(&path).map_err(LabError::io(format!("removing {}", path.display())))
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    // Whose lock this is has no other process: a socket that is there is a dead one's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// True if the lab is to be taken down.
fn converse(lab: &Lab, mut stream: UnixStream) -> io::Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&stream).take(MAX_REQUEST)).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    let down = matches!(request, Request::Down);
    let answer: Response = answer(lab, request).map_err(|error| error.to_string());
    let answer = serde_json::to_string(&answer)?;
    stream.write_all(format!("{answer}\n").as_bytes())?;
    Ok(down)
}

fn answer(lab: &Lab, request: Request) -> Result<Vec<LinkReport>, LabError> {
    match request {
        Request::Link { link, action } => {
            let found = lab.links().iter().find(|candidate| candidate.name() == link);
            found.ok_or(LabError::NoSuchLink(link))?.apply(&action)?;
        }
        Request::Links => return Ok(lab.links().iter().map(|link| link.report()).collect()),
        Request::Kill { node, signal } => {
            let signal = Signal::from_named_raw(signal);
            let signal = signal.ok_or_else(|| LabError::Refused("there is no such signal".to_owned()))?;
            lab.kill(&node, signal)?;
        }
        Request::Start { node } => lab.start(&node)?,
        Request::Down => {}
    }
    Ok(Vec::new())
}
