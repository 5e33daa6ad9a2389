//! Network namespaces by name, as `ip netns` keeps them: files under /run/netns that a namespace is mounted on.
//!
//! A namespace belongs to a thread. So what is to happen inside one happens on a thread of its own that moves in and
//! ends there; a child process it starts stays inside.

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const NETNS_DIR: &str = "/run/netns";

/// The file of the namespace `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Makes namespaces.
///
/// # Errors
/// What `ip` said.
pub fn create(names: &[String]) -> io::Result<()> {
    // By `ip` rather than by hand: it takes a lock while it makes /run/netns a shared mount for the first time.
    ip_batch(&names.iter().map(|name| format!("netns add {name}\n")).collect::<String>())
}

/// The names of all namespaces that begin with `prefix`.
pub fn with_prefix(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// Removes the name; the namespace itself goes with its last process and socket.
///
/// # Errors
/// The file cannot be removed. That it was there but nothing mounted on it (`ip netns add` was killed half way) is none.
pub fn remove(name: &str) -> io::Result<()> {
    let path = path(name);
    match unmount(&path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Moves the calling thread, and whatever process it starts from now on, into the namespace `name`.
///
/// # Errors
/// No such namespace; no right to.
pub fn enter(name: &str) -> io::Result<()> {
    let namespace = File::open(path(name))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Runs `inside` on a thread in the namespace `name` and waits for it. A panic in there goes on out here.
///
/// # Errors
/// As [`enter`].
pub fn within<T: Send>(name: &str, inside: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| enter(name).map(|()| inside()));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `inside` as [`within`] does, where it may fail.
///
/// # Errors
/// As [`enter`], and its own.
pub fn try_within<T: Send>(name: &str, inside: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    within(name, inside)?
}

/// Runs `ip` on lines of commands, in the calling thread's namespace.
///
/// # Errors
/// What it said, with the line it said it about.
pub fn ip_batch(lines: &str) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run ip (iproute2): {error}")))?;
    if let Some(mut stdin) = ip.stdin.take() {
        // A broken pipe means that `ip` gave up: what it said is worth more than that.
        let _ = stdin.write_all(lines.as_bytes());
    }
    let output = ip.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    // `ip` says "Command failed -:3": the third line of its input.
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr.rsplit_once("-:").and_then(|(_, number)| number.trim().parse::<usize>().ok());
    let line = line.and_then(|number| lines.lines().nth(number.checked_sub(1)?)).unwrap_or("-batch");
    Err(io::Error::other(format!("ip {line}: {}", stderr.trim())))
}

/// Ends every process that is in one of the namespaces: SIGTERM, and SIGKILL after `grace`. `reap` collects those that
/// are our own children, or they would stay as zombies. False if some would not end.
pub fn end_processes(names: &[String], grace: Duration, mut reap: impl FnMut()) -> bool {
    let namespaces: BTreeSet<(u64, u64)> = names.iter().filter_map(|name| identity(&path(name))).collect();
    // 5 s: what SIGKILL does not end by then hangs in the kernel.
    for (signal, patience) in [(Signal::TERM, grace), (Signal::KILL, Duration::from_secs(5))] {
        let deadline = Instant::now() + patience;
        let mut told = BTreeSet::new();
        loop {
            let processes = processes_in(&namespaces);
            for (pid, process) in &processes {
                if told.insert(*pid) {
                    // It may have ended meanwhile, which is what was wanted.
                    let _ = pidfd_send_signal(process, signal);
                }
            }
            reap();
            if processes.is_empty() {
                return true;
            }
            if Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    false
}

/// Processes whose main thread is in one of the namespaces; zombies are in none.
fn processes_in(namespaces: &BTreeSet<(u64, u64)>) -> Vec<(i32, OwnedFd)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_inside = |pid: i32| {
        identity(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|id| namespaces.contains(&id))
    };
    pids.filter(|pid| is_inside(*pid))
        .filter_map(|pid| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?)))
        // Looked at again, now that the number cannot come to stand for another process.
        .filter(|(pid, _)| is_inside(*pid))
        .collect()
}

/// What tells one namespace from another: device and inode of its file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
