//! How often somebody may try to sign in: a bucket of tries for each address they come from, and one for each account. A try
//! takes one out of both; with the time there are more.
//!
//! Addresses from which an account was signed in to before do not take from the account's bucket, nor wait for it: whoever
//! empties it from elsewhere locks nobody out, and nobody for good.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

/// 10 tries at once and one every 6 seconds: an office behind one address signs in in the morning; a guesser has 14,000 a day.
const PER_ADDRESS: Rate = Rate { burst: 10.0, refill_ms: 6_000.0 };
/// 10 at once and one every 30 seconds, from everywhere together: 2,900 guesses a day.
const PER_ACCOUNT: Rate = Rate { burst: 10.0, refill_ms: 30_000.0 };
/// 20 at once and one every 6 seconds: each sign-in at a provider is two, there and back. They take nothing from those who try here.
const PER_VISITOR: Rate = Rate { burst: 20.0, refill_ms: 6_000.0 };
/// 20 at once and one every 3 seconds of those that open nothing: a branch whose code is good asks every two seconds, and takes none.
const PER_CLAIMANT: Rate = Rate { burst: 20.0, refill_ms: 3_000.0 };
/// 4,096 of each: 400 KB. Whoever wants one forgotten must come from as many addresses.
const MOST: usize = 4_096;

#[derive(Clone, Copy)]
struct Rate {
    burst: f64,
    refill_ms: f64,
}

/// The buckets.
#[derive(Default)]
pub(crate) struct Limiter {
    addresses: Buckets<IpAddr>,
    accounts: Buckets<String>,
    known: HashSet<(String, IpAddr)>,
    visitors: Buckets<IpAddr>,
    claimants: Buckets<IpAddr>,
}

impl Limiter {
    /// Takes a try; or says in how many milliseconds there is one.
    pub(crate) fn admit(&mut self, account: &str, from: IpAddr, now_ms: u64) -> Result<(), u64> {
        let from = network(from);
        self.addresses.take(from, PER_ADDRESS, now_ms)?;
        if self.known.contains(&(account.to_owned(), from)) {
            return Ok(());
        }
        self.accounts.take(account.to_owned(), PER_ACCOUNT, now_ms)
    }

    /// Takes a way to the provider or back; or says in how many milliseconds there is one.
    pub(crate) fn admit_visitor(&mut self, from: IpAddr, now_ms: u64) -> Result<(), u64> {
        self.visitors.take(network(from), PER_VISITOR, now_ms)
    }

    /// Takes a try to claim an enrolment; or says in how many milliseconds there is one.
    pub(crate) fn admit_claim(&mut self, from: IpAddr, now_ms: u64) -> Result<(), u64> {
        self.claimants.take(network(from), PER_CLAIMANT, now_ms)
    }

    /// It was no guess: it is given back.
    pub(crate) fn claim_was_good(&mut self, from: IpAddr) {
        self.claimants.give_back(&network(from), PER_CLAIMANT);
    }

    /// The provider has vouched for whoever came back: both ways are given back.
    pub(crate) fn vouched(&mut self, from: IpAddr) {
        let from = network(from);
        (0..2).for_each(|_| self.visitors.give_back(&from, PER_VISITOR));
    }

    /// The try was no guess: it is given back.
    pub(crate) fn give_back(&mut self, account: &str, from: IpAddr) {
        self.addresses.give_back(&network(from), PER_ADDRESS);
        self.accounts.give_back(&account.to_owned(), PER_ACCOUNT);
    }

    /// The try was a success: it is given back, and where it came from is known.
    pub(crate) fn succeeded(&mut self, account: &str, from: IpAddr) {
        self.give_back(account, from);
        let from = network(from);
        if self.known.len() >= MOST {
            // Whichever: it comes back with the next success.
            let some = self.known.iter().next().cloned();
            some.map(|some| self.known.remove(&some));
        }
        self.known.insert((account.to_owned(), from));
    }
}

/// One host has all addresses of an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        v4 => v4,
    }
}

struct Buckets<K>(HashMap<K, Bucket>);

#[derive(Clone, Copy)]
struct Bucket {
    tries: f64,
    at_ms: u64,
}

impl<K> Default for Buckets<K> {
    fn default() -> Buckets<K> {
        Buckets(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn take(&mut self, key: K, rate: Rate, now_ms: u64) -> Result<(), u64> {
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            self.forget_one();
        }
        let bucket = self.0.entry(key).or_insert(Bucket { tries: rate.burst, at_ms: now_ms });
        // The wall clock may be set back; that fills nothing.
        let since_ms = now_ms.saturating_sub(bucket.at_ms) as f64;
        bucket.tries = (bucket.tries + since_ms / rate.refill_ms).min(rate.burst);
        bucket.at_ms = now_ms;
        if bucket.tries < 1.0 {
            return Err(((1.0 - bucket.tries) * rate.refill_ms).ceil() as u64);
        }
        bucket.tries -= 1.0;
        Ok(())
    }

    fn give_back(&mut self, key: &K, rate: Rate) {
        if let Some(bucket) = self.0.get_mut(key) {
            bucket.tries = (bucket.tries + 1.0).min(rate.burst);
        }
    }

    /// The one that was not asked for the longest: it is the fullest, as a rule.
    fn forget_one(&mut self) {
        let oldest = self.0.iter().min_by_key(|(_, bucket)| bucket.at_ms).map(|(key, _)| key.clone());
        oldest.map(|oldest| self.0.remove(&oldest));
    }
}

/// How many failures are written down: a log that anyone can fill is none.
pub(crate) struct Sparingly {
    bucket: Bucket,
    left_out: u64,
}

impl Sparingly {
    /// 20 at once, and one a minute: 200 KB a day.
    const RATE: Rate = Rate { burst: 20.0, refill_ms: 60_000.0 };

    /// `None`: this one is left out. Otherwise how many were since the last that was not.
    pub(crate) fn admit(&mut self, now_ms: u64) -> Option<u64> {
        let since_ms = now_ms.saturating_sub(self.bucket.at_ms) as f64;
        self.bucket.tries = (self.bucket.tries + since_ms / Self::RATE.refill_ms).min(Self::RATE.burst);
        self.bucket.at_ms = now_ms;
        if self.bucket.tries < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.bucket.tries -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Default for Sparingly {
    fn default() -> Sparingly {
        Sparingly { bucket: Bucket { tries: Sparingly::RATE.burst, at_ms: 0 }, left_out: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn an_address_has_so_many_tries_and_more_with_the_time() {
        let mut limiter = Limiter::default();
        for account in 0..10 {
            limiter.admit(&format!("user{account}"), host(1), 0).expect("a try");
        }
        assert_eq!(limiter.admit("another", host(1), 0), Err(6_000));
        assert_eq!(limiter.admit("another", host(1), 5_000), Err(1_000));
        assert_eq!(limiter.admit("another", host(1), 6_000), Ok(()));
        assert_eq!(limiter.admit("another", host(2), 6_000), Ok(()));
        // A clock that is set back is no way to have more.
        assert!(limiter.admit("another", host(1), 0).is_err());
    }

    #[test]
    fn an_account_has_so_many_tries_from_everywhere_but_its_own_addresses() {
        let mut limiter = Limiter::default();
        limiter.admit("anna", host(1), 0).expect("a try");
        limiter.succeeded("anna", host(1));
        for from in 2..12 {
            limiter.admit("anna", host(from), 0).expect("a try");
        }
        assert_eq!(limiter.admit("anna", host(12), 0), Err(30_000));
        assert_eq!(limiter.admit("anna", host(1), 0), Ok(()));
        assert_eq!(limiter.admit("bert", host(12), 0), Ok(()));
        assert_eq!(limiter.admit("anna", host(12), 30_000), Ok(()));
    }

    #[test]
    fn who_succeeds_does_not_run_out_of_tries() {
        let mut limiter = Limiter::default();
        for _ in 0..100 {
            limiter.admit("anna", host(1), 0).expect("a try");
            limiter.succeeded("anna", host(1));
        }
    }

    #[test]
    fn ways_to_a_provider_are_limited_and_take_nothing_from_tries_here() {
        let mut limiter = Limiter::default();
        (0..20).for_each(|_| limiter.admit_visitor(host(1), 0).expect("a way"));
        assert_eq!(limiter.admit_visitor(host(1), 0), Err(6_000));
        assert_eq!(limiter.admit("anna", host(1), 0), Ok(()));
        limiter.vouched(host(1));
        assert_eq!([(); 3].map(|()| limiter.admit_visitor(host(1), 0).is_ok()), [true, true, false]);
    }

    #[test]
    fn claims_that_open_nothing_are_limited_and_those_that_do_are_not() {
        let mut limiter = Limiter::default();
        for _ in 0..100 {
            limiter.admit_claim(host(1), 0).expect("a try");
            limiter.claim_was_good(host(1));
        }
        (0..20).for_each(|_| limiter.admit_claim(host(1), 0).expect("a try"));
        assert_eq!(limiter.admit_claim(host(1), 0), Err(3_000));
        assert_eq!(limiter.admit_claim(host(2), 0), Ok(()));
        assert_eq!(limiter.admit("anna", host(1), 0), Ok(()));
    }

    #[test]
    fn all_addresses_of_one_host_have_one_bucket() {
        let mut limiter = Limiter::default();
        let mut from = |last: u16| {
            limiter.admit(&last.to_string(), format!("2001:db8::{last:x}").parse().expect("IPv6"), 0)
        };
        assert!((1..=10).all(|last| from(last).is_ok()));
        assert!(from(11).is_err());
    }

    #[test]
    fn however_many_come_the_memory_is_bounded() {
        let mut limiter = Limiter::default();
        for number in 0..3 * MOST as u32 {
            let from = IpAddr::from(number.to_be_bytes());
            limiter.admit(&number.to_string(), from, u64::from(number)).expect("a try");
            limiter.succeeded(&number.to_string(), from);
        }
        assert_eq!(
            (limiter.addresses.0.len(), limiter.accounts.0.len(), limiter.known.len()),
            (MOST, MOST, MOST)
        );
    }

    #[test]
    fn failures_are_written_down_now_and_then_with_how_many_were_left_out() {
        let mut sparingly = Sparingly::default();
        let written = (0..100).filter(|_| sparingly.admit(1_000) == Some(0)).count();
        assert_eq!(written, 20);
        assert_eq!(sparingly.admit(61_000), Some(80));
        assert_eq!(sparingly.admit(61_000), None);
    }
}
