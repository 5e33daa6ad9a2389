//! Processors: how many there are for us, and which thread runs where.

use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use std::io;

/// A processor's number, as the kernel has it.
pub type Cpu = usize;

/// The processors that the calling thread may use, in their order; all of a process's, before it pins any thread.
///
/// # Errors
/// The kernel has more than the 1,024 that fit in its answer.
pub fn usable() -> io::Result<Vec<Cpu>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Where a thread runs, and how much it insists on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Wherever the kernel finds best.
    Anywhere,
    /// On this processor alone: its caches keep the thread's tables.
    Pinned(Cpu),
    /// Anywhere, and behind the others by so many steps of niceness: each is a quarter more for them.
    Behind(i32),
}

impl Placement {
    /// Puts the calling thread in its place.
    ///
    /// # Errors
    /// The processor is not there, or not for us.
    pub fn take(self) -> io::Result<()> {
        match self {
            Placement::Anywhere => {}
            Placement::Pinned(cpu) => {
                let mut set = CpuSet::new();
                set.set(cpu);
                sched_setaffinity(None, &set)?;
            }
            Placement::Behind(steps) => {
                // For the kernel a thread's number is as good as a process's: it means that thread alone.
                let thread: Pid = gettid();
                setpriority_process(Some(thread), getpriority_process(Some(thread))? + steps)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().expect("no panic")
    }

    #[test]
    fn a_thread_takes_its_place_and_leaves_the_others_where_they_are() {
        let all = usable().expect("to ask");
        let last = *all.last().expect("at least the one this runs on");
        let pinned = elsewhere(move || {
            Placement::Pinned(last).take().expect("one of ours");
            usable().expect("to ask")
        });
        assert_eq!(pinned, [last]);
        assert_eq!(usable().expect("to ask"), all);
        assert!(elsewhere(|| Placement::Pinned(CpuSet::MAX_CPU - 1).take()).is_err(), "1,024 processors");

        let niceness = || getpriority_process(Some(gettid())).expect("to ask");
        let before = niceness();
        let behind = elsewhere(move || {
            Placement::Behind(5).take().expect("down is always allowed");
            niceness()
        });
        assert_eq!((behind, niceness()), (before + 5, before));
    }
}
