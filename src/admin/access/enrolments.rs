//! Enrolments, in the users' database: codes that were made for branches, and what has become of them. Of a code's secret the hash
//! is kept: it is random, and as long as nobody guesses.

use super::store::{Hash, Store, StoreError, Stored, millis};
use crate::enrol::{Lan, OfferedPath, State};
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// 1,000 that are listed, of which 200 may be open or waiting: a provider connects no more branches in a month. The oldest that
/// are over make room.
const MOST: i64 = 1_000;
const MOST_LIVE: i64 = 200;
/// 30 days for which one that is over is listed.
const KEPT_MS: u64 = 30 * 86_400_000;

pub(crate) const SCHEMA: &str = "
    CREATE TABLE enrolments (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        hash BLOB NOT NULL UNIQUE,
        site TEXT NOT NULL,
        tenant TEXT NOT NULL,
        prefixes TEXT NOT NULL,
        paths TEXT NOT NULL,
        state TEXT NOT NULL,
        maker TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        claim TEXT,
        decider TEXT,
        decided_ms INTEGER,
        revision INTEGER
    ) STRICT;
    PRAGMA user_version = 3;
";

/// What a branch's LAN is to be; of one that was made before, what it is.
pub(crate) const WITH_LAN: &str = "
    ALTER TABLE enrolments ADD COLUMN lan TEXT NOT NULL DEFAULT '';
    PRAGMA user_version = 4;
";

/// An enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Enrolment {
    pub(crate) id: i64,
    pub(crate) hash: Hash,
    pub(crate) site: String,
    pub(crate) tenant: String,
    /// Of a branch that is new.
    pub(crate) prefixes: Vec<String>,
    pub(crate) paths: Vec<OfferedPath>,
    pub(crate) lan: Lan,
    /// As it stands at the time it was asked for.
    pub(crate) state: State,
    pub(crate) maker: String,
    pub(crate) created_unix_ms: u64,
    pub(crate) expires_unix_ms: u64,
    pub(crate) claim: Option<Claimant>,
    pub(crate) decider: Option<String>,
    pub(crate) decided_unix_ms: Option<u64>,
    pub(crate) revision: Option<u64>,
}

/// Who has used a code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Claimant {
    pub(crate) from: IpAddr,
    pub(crate) version: String,
    pub(crate) unix_ms: u64,
    /// Paths and their public keys, by the paths' names.
    pub(crate) keys: Vec<(String, String)>,
}

/// An enrolment to be.
pub(crate) struct NewEnrolment {
    pub(crate) hash: Hash,
    pub(crate) site: String,
    pub(crate) tenant: String,
    pub(crate) prefixes: Vec<String>,
    pub(crate) paths: Vec<OfferedPath>,
    pub(crate) lan: Lan,
    pub(crate) maker: String,
    pub(crate) expires_unix_ms: u64,
}

const COLUMNS: &str = "id, hash, site, tenant, prefixes, paths, state, maker, created_ms, expires_ms, claim, decider, \
                       decided_ms, revision, lan";

impl Store {
    /// Its number. Of one branch there is one that is open: another code takes the place of what was not used.
    pub(crate) fn add_enrolment(&mut self, new: &NewEnrolment, now: u64) -> Stored<i64> {
        let NewEnrolment { hash, site, tenant, prefixes, paths, lan, maker, expires_unix_ms } = new;
        let all = self.0.transaction()?;
        let live = "state IN ('open', 'claimed') AND (state = 'claimed' OR expires_ms > ?1)";
        let over = format!(
            "DELETE FROM enrolments WHERE NOT ({live}) AND (created_ms <= ?2 OR id IN \
                            (SELECT id FROM enrolments ORDER BY id DESC LIMIT -1 OFFSET ?3))"
        );
        let (at, old) = (now.cast_signed(), now.saturating_sub(KEPT_MS).cast_signed());
        all.execute(&over, params![at, old, MOST - 1])?;
        let waiting = "SELECT count(*) FROM enrolments WHERE tenant = ?1 AND site = ?2 AND state IN ('claimed', 'approved')";
        let is_waiting: i64 = all.query_row(waiting, [tenant, site], |row| row.get(0))?;
        if is_waiting > 0 {
            return Err(StoreError::Conflict(format!(
                "a box has claimed {site} already: approve, refuse or revoke that first"
            )));
        }
        let replaced = "UPDATE enrolments SET state = 'revoked', decider = ?3, decided_ms = ?4 \
                        WHERE tenant = ?1 AND site = ?2 AND state = 'open' AND expires_ms > ?4";
        all.execute(replaced, params![tenant, site, maker, at])?;
        let count: i64 =
            all.query_row(&format!("SELECT count(*) FROM enrolments WHERE {live}"), [at], |row| row.get(0))?;
        if count >= MOST_LIVE {
            return Err(StoreError::Conflict(format!(
                "{MOST_LIVE} codes are open or waiting already: revoke some first"
            )));
        }
        all.execute(
            "INSERT INTO enrolments (hash, site, tenant, prefixes, paths, state, maker, created_ms, expires_ms, lan) \
             VALUES (?1, ?2, ?3, ?4, ?5, 'open', ?6, ?7, ?8, ?9)",
            params![
                &hash[..],
                site,
                tenant,
                serde_json::to_string(prefixes).unwrap_or_default(),
                serde_json::to_string(paths).unwrap_or_default(),
                maker,
                at,
                expires_unix_ms.cast_signed(),
                serde_json::to_string(lan).unwrap_or_default()
            ],
        )?;
        let id = all.last_insert_rowid();
        all.commit()?;
        Ok(id)
    }

    /// Of one tenant or of all, the newest first.
    pub(crate) fn enrolments(&self, tenant: Option<&str>, now: u64) -> Stored<Vec<Enrolment>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM enrolments WHERE ?1 IS NULL OR tenant = ?1 ORDER BY id DESC LIMIT {MOST}"
        );
        let mut statement = self.0.prepare(&sql)?;
        let rows = statement.query_map([tenant], |row| enrolment(row, now))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// By its number; one of another tenant's is as good as none.
    pub(crate) fn enrolment(&self, id: i64, tenant: Option<&str>, now: u64) -> Stored<Enrolment> {
        let sql = format!("SELECT {COLUMNS} FROM enrolments WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)");
        let found = self.0.query_row(&sql, params![id, tenant], |row| enrolment(row, now)).optional()?;
        found.ok_or_else(|| StoreError::Unknown(format!("enrolment {id}")))
    }

    /// The one that a code opens.
    pub(crate) fn enrolment_of(&self, hash: &Hash, now: u64) -> Stored<Option<Enrolment>> {
        let sql = format!("SELECT {COLUMNS} FROM enrolments WHERE hash = ?1");
        Ok(self.0.query_row(&sql, [&hash[..]], |row| enrolment(row, now)).optional()?)
    }

    /// Whether this claim has taken it: nobody had before.
    pub(crate) fn claim(&self, id: i64, claim: &Claimant) -> Stored<bool> {
        let sql = "UPDATE enrolments SET state = 'claimed', claim = ?2 WHERE id = ?1 AND state = 'open'";
        let json = serde_json::to_string(claim).unwrap_or_default();
        Ok(self.0.execute(sql, params![id, json])? == 1)
    }

    /// From one state to another; false if it is not in the first any more.
    pub(crate) fn advance(&self, id: i64, from: State, to: State) -> Stored<bool> {
        let sql = "UPDATE enrolments SET state = ?3 WHERE id = ?1 AND state = ?2";
        Ok(self.0.execute(sql, params![id, from.name(), to.name()])? == 1)
    }

    /// The same, by somebody who has decided it; with the revision that it has made.
    pub(crate) fn decide(
        &self,
        id: i64,
        (from, to): (State, State),
        decider: &str,
        revision: Option<u64>,
        now: u64,
    ) -> Stored<bool> {
        let sql = "UPDATE enrolments SET state = ?3, decider = ?4, decided_ms = ?5, revision = coalesce(?6, revision) \
                   WHERE id = ?1 AND state = ?2";
        let (now, revision) = (now.cast_signed(), revision.map(u64::cast_signed));
        Ok(self.0.execute(sql, params![id, from.name(), to.name(), decider, now, revision])? == 1)
    }
}

fn enrolment(row: &Row<'_>, now: u64) -> rusqlite::Result<Enrolment> {
    let expires_unix_ms = millis(row, 9)?;
    let state: String = row.get(6)?;
    let state = match State::by_name(&state) {
        Some(State::Open) if expires_unix_ms <= now => State::Expired,
        Some(state) => state,
        // Of a version that knows more: nobody gets in by it.
        None => State::Revoked,
    };
    let hash: Vec<u8> = row.get(1)?;
    let list = |column| row.get::<_, String>(column);
    Ok(Enrolment {
        id: row.get(0)?,
        hash: hash.try_into().unwrap_or_default(),
        site: row.get(2)?,
        tenant: row.get(3)?,
        prefixes: serde_json::from_str(&list(4)?).unwrap_or_default(),
        paths: serde_json::from_str(&list(5)?).unwrap_or_default(),
        lan: serde_json::from_str(&list(14)?).unwrap_or_default(),
        state,
        maker: row.get(7)?,
        created_unix_ms: millis(row, 8)?,
        expires_unix_ms,
        claim: row.get::<_, Option<String>>(10)?.and_then(|json| serde_json::from_str(&json).ok()),
        decider: row.get(11)?,
        decided_unix_ms: row.get::<_, Option<i64>>(12)?.map(i64::cast_unsigned),
        revision: row.get::<_, Option<i64>>(13)?.map(i64::cast_unsigned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn new(site: &str, byte: u8) -> NewEnrolment {
        NewEnrolment {
            hash: [byte; 32],
            site: site.to_owned(),
            tenant: "acme".to_owned(),
            prefixes: vec!["10.2.0.0/16".to_owned()],
            paths: vec![OfferedPath {
                name: "wan".to_owned(),
                transport: "isp-a".to_owned(),
                endpoint: "192.0.2.1:51820".parse().expect("an endpoint"),
            }],
            lan: Lan { addresses: vec!["10.2.0.1/16".parse().expect("an address")], ..Lan::default() },
            maker: "anna".to_owned(),
            expires_unix_ms: 100 * DAY,
        }
    }

    fn claimant(key: &str) -> Claimant {
        let keys = vec![("wan".to_owned(), key.to_owned())];
        Claimant { from: IpAddr::from([198, 51, 100, 7]), version: "1".to_owned(), unix_ms: 7, keys }
    }

    fn state(store: &Store, id: i64, now: u64) -> State {
        store.enrolment(id, None, now).expect("is there").state
    }

    #[test]
    fn a_code_is_taken_once_and_goes_from_state_to_state_one_way() {
        let mut store = Store::in_memory().expect("a store");
        let now = 99 * DAY;
        let id = store.add_enrolment(&new("lyon", 1), now).expect("added");
        assert_eq!(state(&store, id, now), State::Open);
        assert!(!store.decide(id, (State::Claimed, State::Approved), "anna", None, now).expect("asked"));
        assert!(store.claim(id, &claimant("one")).expect("claimed"));
        assert!(!store.claim(id, &claimant("two")).expect("asked"));
        // A claim waits longer than a code is good.
        assert_eq!(state(&store, id, 200 * DAY), State::Claimed);
        assert!(store.decide(id, (State::Claimed, State::Approved), "bert", Some(7), now).expect("approved"));
        assert!(!store.decide(id, (State::Claimed, State::Refused), "anna", None, now).expect("asked"));
        assert!(store.advance(id, State::Approved, State::Finished).expect("finished"));
        assert!(!store.advance(id, State::Approved, State::Finished).expect("asked"));
        let it = store.enrolment(id, Some("acme"), now).expect("is there");
        assert_eq!((it.state, it.claim, it.revision), (State::Finished, Some(claimant("one")), Some(7)));
        assert_eq!((it.decider.as_deref(), it.prefixes.len(), it.paths.len()), (Some("bert"), 1, 1));
        assert_eq!(it.lan, new("lyon", 1).lan);
        assert!(store.enrolment(id, Some("globex"), now).is_err());
    }

    #[test]
    fn a_code_that_nobody_used_in_time_is_over() {
        let mut store = Store::in_memory().expect("a store");
        let id = store.add_enrolment(&new("lyon", 1), 1).expect("added");
        assert_eq!(state(&store, id, 100 * DAY - 1), State::Open);
        assert_eq!(state(&store, id, 100 * DAY), State::Expired);
    }

    #[test]
    fn another_code_for_a_branch_takes_the_place_of_one_that_is_not_used_and_not_of_a_claim() {
        let mut store = Store::in_memory().expect("a store");
        let first = store.add_enrolment(&new("lyon", 1), 1).expect("added");
        let second = store.add_enrolment(&new("lyon", 2), 2).expect("added");
        assert_eq!((state(&store, first, 2), state(&store, second, 2)), (State::Revoked, State::Open));
        assert!(store.claim(second, &claimant("one")).expect("claimed"));
        assert!(
            store
                .add_enrolment(&new("lyon", 3), 3)
                .expect_err("refused")
                .to_string()
                .contains("claimed lyon")
        );
        assert!(store.decide(second, (State::Claimed, State::Refused), "anna", None, 3).expect("refused"));
        store.add_enrolment(&new("lyon", 3), 3).expect("added");
    }

    #[test]
    fn however_many_are_made_the_table_is_bounded() {
        let mut store = Store::in_memory().expect("a store");
        let count = |store: &Store| store.enrolments(None, 1).expect("listed").len() as i64;
        let mut add = |number: u16, now: u64| {
            let mut hash = Hash::default();
            hash[..2].copy_from_slice(&number.to_be_bytes());
            let site = format!("s{number}");
            let done =
                store.add_enrolment(&NewEnrolment { hash, expires_unix_ms: now + 1, ..new(&site, 0) }, now);
            (done.is_ok(), count(&store))
        };
        let live = (0..300).filter(|number| add(*number, 1).0).count() as i64;
        assert_eq!(live, MOST_LIVE);
        // These expire as they are made.
        let most = (300..2_000).map(|number| add(number, u64::from(number) * 2).1).max();
        assert!(most.is_some_and(|most| most <= MOST), "{most:?}");
    }
}
