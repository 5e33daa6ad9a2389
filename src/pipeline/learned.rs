//! What DNS answers have told a worker: which name an address has, for each tenant apart from the others.
//!
//! A worker hears the answers of its own sites' sessions, and passes those that tell something new on to the workers of the
//! tenant's other sites (`worker::naming`). So each has a table of its own, and looking up takes no lock.

use crate::model::{HostName, Instant, TenantId};
use crate::wire::DnsResponse;
use foldhash::fast::FixedState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Addresses that a worker knows the names of, shared out equally among the tenants that ask for names: some 40 MB.
const ADDRESSES: usize = 262_144;
/// A tenant has no more than this, however few there are: the servers that some thousand people use within a day;
const MOST: usize = 16_384;
/// and no fewer than this, however many there are: what one page and its advertisements take.
const LEAST: usize = 128;
/// Bytes of names, for each address that a tenant may have: most names are shorter. Where they are longer, it has fewer.
const NAME_BYTES: usize = 64;
/// Browsers keep an answer for a minute whatever its TTL, and a connection begins a while after the answer that led to it.
const SHORTEST: Duration = Duration::from_secs(60);
/// What resolvers keep an answer at most (unbound's `cache-max-ttl`, within RFC 8767 section 4's week).
const LONGEST: Duration = Duration::from_secs(86_400);
/// Questions that wait for their answers. One that is pushed out of here by many others teaches nothing.
const QUESTIONS: usize = 4_096;

/// Names of addresses, by tenant.
#[derive(Debug)]
pub(super) struct LearnedNames {
    tenants: HashMap<TenantId, Learned, FixedState>,
    /// How many addresses a tenant may have.
    share: usize,
    questions: Questions,
}

#[derive(Debug, Default)]
struct Learned {
    by_address: HashMap<IpAddr, Entry>,
    /// The addresses, that which has been here longest first.
    order: VecDeque<IpAddr>,
    name_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    expires: Instant,
}

impl LearnedNames {
    /// Nothing yet; `seed` must be unpredictable.
    pub(super) fn new(seed: u64) -> LearnedNames {
        let questions = Questions {
            hasher: FixedState::with_seed(seed),
            asked: HashSet::default(),
            order: VecDeque::new(),
        };
        LearnedNames { tenants: HashMap::default(), share: MOST, questions }
    }

    /// Learns for these tenants from now on, and forgets what it knows for others.
    pub(super) fn learn_for(&mut self, tenants: &[TenantId]) {
        self.tenants.retain(|tenant, _| tenants.contains(tenant));
        self.share = (ADDRESSES / tenants.len().max(1)).clamp(LEAST, MOST);
    }

    /// A host has asked, in `session`, what this message says.
    pub(super) fn asked(&mut self, session: u64, query: &[u8]) {
        self.questions.ask(session, query);
    }

    /// Whether this message answers what was asked in `session`; each question is answered once.
    pub(super) fn is_answered(&mut self, session: u64, response: &[u8]) -> bool {
        self.questions.answer(session, response)
    }

    /// Learns what `response` says. True if that is news to others: an address or name they do not know, or one that they
    /// are soon to forget.
    pub(super) fn teach(&mut self, tenant: TenantId, response: &DnsResponse<'_>, now: Instant) -> bool {
        let Some(name) = response.names().next() else { return false };
        let share = self.share;
        let learned = self.tenants.entry(tenant).or_default();
        let mut shared = None;
        let mut is_news = false;
        for given in response.addresses() {
            let ttl = Duration::from_secs(given.ttl_secs.into()).clamp(SHORTEST, LONGEST);
            is_news |= learned.set(given.address, &name, &mut shared, ttl, share, now);
        }
        is_news
    }

    /// The name that the tenant's hosts were last told the address has.
    pub(super) fn name(&self, tenant: TenantId, address: IpAddr, now: Instant) -> Option<&Arc<str>> {
        let entry = self.tenants.get(&tenant)?.by_address.get(&address)?;
        (entry.expires > now).then_some(&entry.name)
    }
}

impl Learned {
    fn set(
        &mut self,
        address: IpAddr,
        name: &HostName,
        shared: &mut Option<Arc<str>>,
        ttl: Duration,
        share: usize,
        now: Instant,
    ) -> bool {
        if let Some(entry) = self.by_address.get_mut(&address)
            && *entry.name == *name.as_str()
        {
            let was_to_be_forgotten = entry.expires < now + ttl / 2;
            entry.expires = entry.expires.max(now + ttl);
            return was_to_be_forgotten;
        }
        let name = Arc::clone(shared.get_or_insert_with(|| name.as_str().into()));
        self.name_bytes += name.len();
        match self.by_address.insert(address, Entry { name, expires: now + ttl }) {
            Some(before) => self.name_bytes -= before.name.len(),
            None => self.order.push_back(address),
        }
        while self.order.len() > share || self.name_bytes > share * NAME_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.name_bytes -= self.by_address.remove(&oldest).map_or(0, |entry| entry.name.len());
        }
        true
    }
}

/// What hosts have asked and was not answered yet: an answer to nothing is somebody's lie.
#[derive(Debug)]
struct Questions {
    hasher: FixedState,
    asked: HashSet<u64, FixedState>,
    order: VecDeque<u64>,
}

impl Questions {
    fn ask(&mut self, session: u64, query: &[u8]) {
        let Some(key) = self.key(session, query) else { return };
        if !self.asked.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > QUESTIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.asked.remove(&oldest);
        }
    }

    fn answer(&mut self, session: u64, response: &[u8]) -> bool {
        self.key(session, response).is_some_and(|key| self.asked.remove(&key))
    }

    /// The session, the message's id, and the question in small letters (RFC 5452 section 9.1 asks for these to match; the
    /// session is the addresses and ports).
    fn key(&self, session: u64, message: &[u8]) -> Option<u64> {
        let id: &[u8; 2] = message.first_chunk()?;
        let question = message.get(12..)?;
        // Its name, type and class. A name in a question has no pointers: nothing is before it.
        let mut end = 0;
        while question.get(end) != Some(&0) {
            end += 1 + usize::from(*question.get(end)?);
        }
        let question = question.get(..end + 5)?;
        let mut state = self.hasher.build_hasher();
        (session, id).hash(&mut state);
        question.iter().for_each(|byte| state.write_u8(byte.to_ascii_lowercase()));
        Some(state.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: TenantId = TenantId(0);
    const GLOBEX: TenantId = TenantId(1);

    fn at(secs: u64) -> Instant {
        Instant(secs * 1_000_000_000)
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(0xcb00_0000 + n))
    }

    /// A response with one address of `name`'s.
    fn response(id: u16, name: &str, address: u32, ttl: u32) -> Vec<u8> {
        let mut message = question(id, name);
        message[2] = 0x81;
        message[7] = 1;
        message.extend([0xc0, 12, 0, 1, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, 4]);
        message.extend((0xcb00_0000 + address).to_be_bytes());
        message
    }

    fn question(id: u16, name: &str) -> Vec<u8> {
        let mut message = id.to_be_bytes().to_vec();
        message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.bytes());
        }
        message.extend([0, 0, 1, 0, 1]);
        message
    }

    fn teach(
        names: &mut LearnedNames,
        tenant: TenantId,
        name: &str,
        to: u32,
        ttl: u32,
        now: Instant,
    ) -> bool {
        let message = response(1, name, to, ttl);
        names.teach(tenant, &DnsResponse::read(&message).expect("a response"), now)
    }

    fn told(names: &LearnedNames, tenant: TenantId, to: u32, now: Instant) -> Option<&str> {
        names.name(tenant, address(to), now).map(|name| &**name)
    }

    #[test]
    fn a_name_is_known_for_its_ttl_but_for_a_minute_at_least_and_a_day_at_most() {
        let mut names = LearnedNames::new(1);
        for (to, ttl, known_for) in [(1, 0, 60), (2, 300, 300), (3, 1_000_000, 86_400)] {
            teach(&mut names, ACME, "sap.example", to, ttl, at(100));
            assert_eq!(told(&names, ACME, to, at(100 + known_for - 1)), Some("sap.example"));
            assert_eq!(told(&names, ACME, to, at(100 + known_for)), None);
        }
    }

    #[test]
    fn what_one_tenant_is_told_another_does_not_know() {
        let mut names = LearnedNames::new(1);
        teach(&mut names, ACME, "sap.example", 1, 300, at(0));
        assert_eq!(
            (told(&names, ACME, 1, at(1)), told(&names, GLOBEX, 1, at(1))),
            (Some("sap.example"), None)
        );
    }

    #[test]
    fn a_tenant_has_its_share_and_pushes_nothing_of_anothers_out() {
        let mut names = LearnedNames::new(1);
        names.learn_for(&[ACME, GLOBEX]);
        teach(&mut names, GLOBEX, "sap.example", 1, 300, at(0));
        for n in 0..MOST as u32 + 10 {
            teach(&mut names, ACME, "cdn.example", n, 300, at(0));
        }
        assert_eq!(names.tenants[&ACME].by_address.len(), MOST);
        assert_eq!(
            (told(&names, ACME, 9, at(1)), told(&names, ACME, 10, at(1))),
            (None, Some("cdn.example"))
        );
        assert_eq!(told(&names, GLOBEX, 1, at(1)), Some("sap.example"));
        // With so many tenants that the least is theirs, names are bounded by their bytes too.
        names.learn_for(&(0..10_000).map(TenantId).collect::<Vec<_>>());
        let long = ["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(60)].join(".");
        for n in 0..LEAST as u32 * 2 {
            teach(&mut names, TenantId(2), &long, n, 300, at(0));
        }
        let learned = &names.tenants[&TenantId(2)];
        assert_eq!(learned.by_address.len(), LEAST * NAME_BYTES / long.len());
        assert!(learned.name_bytes <= LEAST * NAME_BYTES);
    }

    #[test]
    fn only_what_others_do_not_know_is_news() {
        let mut names = LearnedNames::new(1);
        assert!(teach(&mut names, ACME, "sap.example", 1, 300, at(0)));
        assert!(!teach(&mut names, ACME, "sap.example", 1, 300, at(100)));
        assert!(teach(&mut names, ACME, "sap.example", 1, 300, at(290)), "it was soon to be forgotten");
        assert!(teach(&mut names, ACME, "erp.example", 1, 300, at(290)));
        assert_eq!(told(&names, ACME, 1, at(291)), Some("erp.example"));
    }

    #[test]
    fn tenants_that_are_gone_or_ask_no_longer_are_forgotten() {
        let mut names = LearnedNames::new(1);
        teach(&mut names, ACME, "sap.example", 1, 300, at(0));
        names.learn_for(&[GLOBEX]);
        assert_eq!(told(&names, ACME, 1, at(1)), None);
    }

    #[test]
    fn a_question_is_answered_once_by_its_session_id_and_name_in_any_case() {
        let mut names = LearnedNames::new(1);
        names.asked(7, &question(42, "SAP.example"));
        for (session, id, name) in [(8, 42, "sap.example"), (7, 43, "sap.example"), (7, 42, "erp.example")] {
            assert!(!names.is_answered(session, &response(id, name, 1, 300)));
        }
        assert!(names.is_answered(7, &response(42, "sap.EXAMPLE", 1, 300)));
        assert!(!names.is_answered(7, &response(42, "sap.example", 1, 300)), "it has been answered");
        assert!(!names.is_answered(7, b""));
    }

    #[test]
    fn questions_that_wait_are_bounded() {
        let mut names = LearnedNames::new(1);
        for id in 0..=QUESTIONS as u16 {
            names.asked(7, &question(id, "sap.example"));
        }
        assert!(!names.is_answered(7, &response(0, "sap.example", 1, 300)));
        assert!(names.is_answered(7, &response(1, "sap.example", 1, 300)));
    }
}
