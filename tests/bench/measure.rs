//! What is measured with: a thread's own processor time, and this process's memory.

use std::time::Duration;

/// What this thread has had of a processor: a busy machine takes turns, and a turn is no part of what is timed.
pub fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Nanoseconds of it.
pub fn since(begin: Duration) -> f64 {
    (cpu_time() - begin).as_nanos() as f64
}

/// Adds up the processor time of many short pieces of work.
pub struct Stopwatch {
    nanos: f64,
    /// Of a piece with nothing in it.
    nothing: f64,
}

impl Stopwatch {
    /// At zero.
    pub fn new() -> Stopwatch {
        let nothing = (0..100).map(|_| since(cpu_time())).fold(f64::MAX, f64::min);
        Stopwatch { nanos: 0.0, nothing }
    }

    /// Does `work`.
    pub fn time<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let begin = cpu_time();
        let result = work();
        self.nanos += (since(begin) - self.nothing).max(0.0);
        result
    }

    /// Nanoseconds in all.
    pub fn nanos(&self) -> f64 {
        self.nanos
    }
}

/// The one in the middle.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Resident bytes of this process.
pub fn rss() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4_096
}
