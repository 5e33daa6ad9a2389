//! A flow record in names, as it comes in; and as it lies in memory, where each text is a number.

use super::schema::Column;
use super::table::NOTHING;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// One flow record in names; see [`Column`] for what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    pub tenant: &'a str,
    /// Milliseconds since the Unix epoch.
    pub start: u64,
    pub end: u64,
    pub session: u64,
    pub protocol: &'a str,
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
    pub nat_source: Option<(IpAddr, u16)>,
    pub nat_destination: Option<(IpAddr, u16)>,
    pub from: &'a str,
    pub to: &'a str,
    pub class: &'a str,
    pub class_by: &'a str,
    pub app: Option<&'a str>,
    pub name: Option<&'a str>,
    pub rule: &'a str,
    pub dscp: u8,
    pub forward_path: Option<&'a str>,
    pub reverse_path: Option<&'a str>,
    pub forward: Counted,
    pub reverse: Counted,
    pub tcp_flags: u8,
    pub generation: u64,
    pub end_reason: &'a str,
    pub told: Told<'a>,
}

/// What happened to it, in texts; most rows have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told<'a> {
    pub forward_moves: Option<&'a str>,
    pub reverse_moves: Option<&'a str>,
    pub dropped_packets: u64,
    pub drop_reasons: Option<&'a str>,
    pub denied_by: Option<&'a str>,
    /// Milliseconds.
    pub denied_after: u64,
}

/// Packets and IP bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub packets: u64,
    pub bytes: u64,
}

/// A row's values in the order of [`Column::ALL`], [`NOTHING`] where there is none.
pub(super) type Values = [i64; Column::ALL.len()];

/// Texts and the numbers they go by, from 0 in the order in which they came: those of one log.
#[derive(Debug, Default)]
pub(super) struct Names {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32, foldhash::fast::FixedState>,
    addresses: HashMap<IpAddr, u32, foldhash::fast::FixedState>,
}

impl Row<'_> {
    /// The values, what is new among the texts being added to `names`.
    pub(super) fn values(&self, names: &mut Names) -> Values {
        let mut text = |text: &str| i64::from(names.number(text));
        let [protocol, from, to, class, class_by, rule, end_reason] =
            [self.protocol, self.from, self.to, self.class, self.class_by, self.rule, self.end_reason]
                .map(&mut text);
        let [app, name, forward_path, reverse_path] =
            [self.app, self.name, self.forward_path, self.reverse_path]
                .map(|wanted| wanted.map_or(NOTHING, &mut text));
        let Told { forward_moves, reverse_moves, dropped_packets, drop_reasons, denied_by, denied_after } =
            self.told;
        let [forward_moves, reverse_moves, drop_reasons, denied_by] =
            [forward_moves, reverse_moves, drop_reasons, denied_by]
                .map(|wanted| wanted.map_or(NOTHING, &mut text));
        let mut end = |(address, port): (IpAddr, u16)| (names.address(address).into(), port.into());
        let (source, source_port) = end(self.source);
        let (destination, destination_port) = end(self.destination);
        let [(nat_source, nat_source_port), (nat_destination, nat_destination_port)] =
            [self.nat_source, self.nat_destination]
                .map(|translated| translated.map_or((NOTHING, NOTHING), &mut end));
        [
            long(self.start),
            long(self.end),
            long(self.session),
            protocol,
            source,
            source_port,
            destination,
            destination_port,
            nat_source,
            nat_source_port,
            nat_destination,
            nat_destination_port,
            from,
            to,
            class,
            class_by,
            app,
            name,
            rule,
            self.dscp.into(),
            forward_path,
            reverse_path,
            long(self.forward.packets),
            long(self.forward.bytes),
            long(self.reverse.packets),
            long(self.reverse.bytes),
            self.tcp_flags.into(),
            long(self.generation),
            end_reason,
            forward_moves,
            reverse_moves,
            long(dropped_packets),
            drop_reasons,
            denied_by,
            long(denied_after),
        ]
    }
}

/// Files have signed numbers; no counter of ours comes near their end.
fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Names {
    /// The number of `text`.
    pub(super) fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        number
    }

    fn address(&mut self, address: IpAddr) -> u32 {
        if let Some(number) = self.addresses.get(&address) {
            return *number;
        }
        let number = self.number(&address.to_string());
        self.addresses.insert(address, number);
        number
    }

    /// What goes by `number`; nothing goes by one that was not given out.
    pub(super) fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", |text| text)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }
}
