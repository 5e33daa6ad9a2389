//! What a question may name: the columns, and words for several of them at once.

use crate::store::flows::{Column, Kind};

/// A word of the filter language, as a question's words for columns are everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// No column: a file is of one tenant.
    Tenant,
    Column(Column),
    /// Both directions' together.
    Bytes,
    Packets,
    /// From the first packet to the last; milliseconds.
    Duration,
    /// Either of the two ends' ports, before translation.
    Port,
    /// Any of the four addresses.
    Address,
    /// Either direction's path.
    Path,
}

/// What a field's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    Text,
    Address,
    /// Of at most this size.
    Small(u64),
    /// May be written with `k`, `M`, `G` or `T`.
    Count,
    /// Milliseconds; written with a unit.
    Span,
    Time,
}

/// Words that are shorter, or that people know from elsewhere.
const ALIASES: [(&str, Field); 10] = [
    ("src", Field::Column(Column::Source)),
    ("dst", Field::Column(Column::Destination)),
    ("sport", Field::Column(Column::SourcePort)),
    ("dport", Field::Column(Column::DestinationPort)),
    ("src_port", Field::Column(Column::SourcePort)),
    ("dst_port", Field::Column(Column::DestinationPort)),
    ("proto", Field::Column(Column::Protocol)),
    ("host", Field::Address),
    ("branch", Field::Column(Column::From)),
    ("reason", Field::Column(Column::EndReason)),
];

/// Those that stand for several columns, and the tenant.
const COMPOSED: [Field; 7] =
    [Field::Tenant, Field::Bytes, Field::Packets, Field::Duration, Field::Port, Field::Address, Field::Path];

impl Field {
    /// By its name or an alias; `-` and `_` are the same, and so are large and small letters.
    pub fn named(name: &str) -> Option<Field> {
        let plain = name.to_ascii_lowercase().replace('-', "_");
        Field::all().find(|field| field.name() == plain).or_else(|| {
            let alias = ALIASES.iter().find(|(alias, _)| *alias == plain);
            alias.map(|(_, field)| *field)
        })
    }

    /// All of them, once each.
    pub fn all() -> impl Iterator<Item = Field> {
        COMPOSED.into_iter().chain(Column::ALL.map(Field::Column))
    }

    /// The name that is most likely meant by `word`.
    pub fn nearest(word: &str) -> Option<&'static str> {
        /// 32 bytes: twice the longest name; the distance takes time by the product of lengths.
        const LONGEST: usize = 32;
        if word.len() > LONGEST {
            return None;
        }
        let plain = word.to_ascii_lowercase().replace('-', "_");
        let names = Field::all().map(Field::name).chain(ALIASES.map(|(alias, _)| alias));
        names
            .map(|name| (strsim::osa_distance(&plain, name), name))
            // A third of the letters wrong: beyond that a guess misleads more often than it helps.
            .filter(|(distance, name)| *distance <= name.len().max(plain.len()).div_ceil(3))
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, name)| name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Field::Tenant => "tenant",
            Field::Column(column) => column.name(),
            Field::Bytes => "bytes",
            Field::Packets => "packets",
            Field::Duration => "duration",
            Field::Port => "port",
            Field::Address => "address",
            Field::Path => "path",
        }
    }

    pub fn holds(self) -> Holds {
        match self {
            Field::Tenant | Field::Path => Holds::Text,
            Field::Bytes | Field::Packets => Holds::Count,
            Field::Duration => Holds::Span,
            Field::Port => Holds::Small(u64::from(u16::MAX)),
            Field::Address => Holds::Address,
            Field::Column(column) => match (column, column.kind()) {
                (Column::Dscp, _) => Holds::Small(63),
                (Column::TcpFlags, _) => Holds::Small(u64::from(u8::MAX)),
                (_, Kind::Int) => Holds::Small(u64::from(u16::MAX)),
                (_, Kind::Time) => Holds::Time,
                (_, Kind::Long) => Holds::Count,
                (_, Kind::Text) => Holds::Text,
                (_, Kind::Address) => Holds::Address,
            },
        }
    }

    /// Whether there may be nothing there.
    pub fn is_nullable(self) -> bool {
        match self {
            Field::Column(column) => column.is_nullable(),
            Field::Path => true,
            _ => false,
        }
    }

    /// What is read for it. A test of a field with several holds if it does for any of them, but for sums and spans.
    pub fn columns(self) -> &'static [Column] {
        use Column::*;
        match self {
            Field::Tenant => &[],
            Field::Bytes => &[ForwardBytes, ReverseBytes],
            Field::Packets => &[ForwardPackets, ReversePackets],
            Field::Duration => &[Start, End],
            Field::Port => &[SourcePort, DestinationPort],
            Field::Address => &[Source, Destination, NatSource, NatDestination],
            Field::Path => &[ForwardPath, ReversePath],
            Field::Column(column) => std::slice::from_ref(&Column::ALL[column.place()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_fields_and_every_field_has_one() {
        for field in Field::all() {
            assert_eq!(Field::named(field.name()), Some(field));
            assert_eq!(Field::named(&field.name().to_uppercase().replace('_', "-")), Some(field));
        }
        for (alias, field) in ALIASES {
            assert_eq!(Field::named(alias), Some(field));
        }
        assert_eq!(Field::nearest("clas"), Some("class"));
        assert_eq!(Field::nearest("sorce-port"), Some("source_port"));
        assert_eq!(Field::nearest("xyzzy"), None);
    }
}
