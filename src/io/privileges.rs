//! What a thread may do that others may not: capabilities(7), which Linux keeps for each thread.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};
use std::io;

/// Takes all capabilities away from the calling thread, and from those that it begins from now on, for good: nothing that they
/// execute gets any either.
///
/// # Errors
/// The kernel's, or that it kept some.
pub fn give_up() -> io::Result<()> {
    let none = CapabilitySet::empty();
    set_no_new_privs(true)?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    let left = capabilities(None)?;
    if left.effective.union(left.permitted).is_empty() { Ok(()) } else { Err(Errno::PERM.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_thread_that_gives_up_what_it_may_do_keeps_nothing_and_takes_nothing_from_others() {
        let before = capabilities(None).expect("readable");
        let within = || {
            give_up().expect("given up");
            thread::spawn(|| capabilities(None).expect("readable")).join().expect("no panic")
        };
        let after = thread::spawn(within).join().expect("no panic");
        assert!(after.effective.is_empty() && after.permitted.is_empty());
        assert_eq!(capabilities(None).expect("readable"), before);
    }
}
