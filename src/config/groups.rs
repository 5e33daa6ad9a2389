//! `[[address-group]]` and `[[service-group]]`: names for what many rules would repeat. A group may name others, wherever
//! these stand in the file. Here all of them are laid open, so that a rule that names one gets what is in it.

use super::problem::Noted;
use super::reader::{Table, Value, all};
use super::scope::Scope;
use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;

/// The groups of one kind, with all that is in them, each thing once.
pub(super) struct Groups<T> {
    names: Scope<()>,
    open: BTreeMap<String, Result<Vec<T>, Noted>>,
}

/// What a group holds.
pub(super) enum Member<'d, T> {
    Itself(T),
    /// What another group of this name holds.
    Of(&'d str),
}

/// A group as it is written.
type Written<'d, T> = Result<Vec<(Value<'d>, Member<'d, T>)>, Noted>;

impl<T: Clone + Eq + Hash> Groups<T> {
    /// No groups yet; `kind` is what messages call one.
    pub(super) fn new(kind: &'static str) -> Groups<T> {
        Groups { names: Scope::new(kind), open: BTreeMap::new() }
    }

    /// What the group `word` holds; `value` is where it is named.
    pub(super) fn find(&self, value: Value<'_>, word: &str) -> Result<Vec<T>, Noted> {
        let name = self.names.find(value, word)?;
        // A name that is spoilt is known all the same, and its problem noted.
        self.open.get(&name).cloned().unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Whether there is a group of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.get(name).is_some()
    }

    /// Reads the groups that `tables` are, whose members stand under `key` and are read by `member`.
    pub(super) fn read<'d>(
        &mut self,
        tables: Vec<Table<'d>>,
        key: &'static str,
        mut member: impl FnMut(Value<'d>) -> Result<Member<'d, T>, Noted>,
    ) -> Result<(), Noted> {
        let mut written = BTreeMap::new();
        let read = all(tables.into_iter().map(|mut table| {
            let name = table.required("name", |value| self.names.claim(value, ()));
            let members = table.required(key, |value| value.list(|value| Ok((value, member(value)?))));
            table.finish();
            let outcome = members.as_ref().map(|_| ()).map_err(|noted| *noted);
            written.insert(name?, members);
            outcome
        }));
        let opened = self.lay_open(&written);
        read?;
        opened
    }

    /// Opens groups whose members are open already, until there are none; those that are left go round in circles.
    fn lay_open(&mut self, written: &BTreeMap<String, Written<'_, T>>) -> Result<(), Noted> {
        let mut left: Vec<&String> = written.keys().collect();
        let mut before = usize::MAX;
        while left.len() < before {
            before = left.len();
            left.retain(|name| {
                let opened = self.union(&written[*name]);
                opened.map(|things| self.open.insert((*name).clone(), things)).is_none()
            });
        }
        all(left.into_iter().map(|name| self.name_circle(name, written))).map(|_| ())
    }

    /// All that a group's members hold; `None` while one of them is not open.
    fn union(&self, written: &Written<'_, T>) -> Option<Result<Vec<T>, Noted>> {
        let members = match written {
            Ok(members) => members,
            Err(noted) => return Some(Err(*noted)),
        };
        let (mut seen, mut things) = (HashSet::new(), Vec::new());
        for (value, member) in members {
            let held = match member {
                Member::Itself(thing) => Ok(vec![thing.clone()]),
                Member::Of(name) if self.has(name) && !self.open.contains_key(*name) => return None,
                Member::Of(name) => self.find(*value, name),
            };
            match held {
                Ok(held) => things.extend(held.into_iter().filter(|thing| seen.insert(thing.clone()))),
                Err(noted) => return Some(Err(noted)),
            }
        }
        Some(Ok(things))
    }

    /// Follows `name`, which is in a circle or leads to one, round to where it was before.
    fn name_circle(&mut self, name: &str, written: &BTreeMap<String, Written<'_, T>>) -> Result<(), Noted> {
        let mut way: Vec<&str> = vec![name];
        let noted = loop {
            let here = way[way.len() - 1];
            if let Some(Err(noted)) = self.open.get(here) {
                break *noted;
            }
            let next = written[here].iter().flatten().find_map(|(value, member)| match member {
                Member::Of(name) if !matches!(self.open.get(*name), Some(Ok(_))) => Some((*value, *name)),
                _ => None,
            });
            // What waits for nobody is open.
            let Some((value, next)) = next else { return Ok(()) };
            if let Some(begin) = way.iter().position(|name| *name == next) {
                let circle = [&way[begin..], &[next]].concat().join(" > ");
                break value.note(format!("a group cannot be in itself: {circle}"));
            }
            way.push(next);
        };
        for name in way {
            self.open.insert(name.to_owned(), Err(noted));
        }
        Err(noted)
    }
}
