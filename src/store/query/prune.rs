//! What a group of rows in a file cannot have, by the least and the greatest value of each of its columns.

use super::field::Field;
use super::filter::{Filter, Is, Order, Test};
use crate::store::flows::{Column, Kind};
use ipnetwork::IpNetwork;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use std::ops::RangeInclusive;

/// When the rows end: the first and the last of them; all of time if the file does not tell.
pub(super) fn times(group: &RowGroupMetaData) -> (u64, u64) {
    let times = chunk(group, Column::End).and_then(numbers);
    times.map_or((0, u64::MAX), |times| (*times.start(), *times.end()))
}

/// Whether there may be rows that `filter` means.
pub(super) fn may_have(filter: &Filter, tenant: &str, group: &RowGroupMetaData) -> bool {
    match filter {
        Filter::Every(parts) => parts.iter().all(|part| may_have(part, tenant, group)),
        Filter::Any(parts) => parts.iter().any(|part| may_have(part, tenant, group)),
        // The least and the greatest say little of what is not there.
        Filter::Not(_) => true,
        Filter::Test(Test { field: Field::Tenant, is }) => is.fits_text(Some(tenant)),
        Filter::Test(Test { field: Field::Bytes | Field::Packets | Field::Duration, .. }) => true,
        Filter::Test(Test { field, is }) => field.columns().iter().any(|column| may_be(is, *column, group)),
    }
}

fn may_be(is: &Is, column: Column, group: &RowGroupMetaData) -> bool {
    let Some(chunk) = chunk(group, column) else { return true };
    match (is, column.kind()) {
        (Is::None, _) => nulls(chunk) != Some(0),
        (Is::Number(_) | Is::Compared(..), Kind::Text | Kind::Address) => false,
        (Is::Number(wanted), _) => {
            numbers(chunk).is_none_or(|there| wanted.iter().any(|wanted| there.contains(wanted)))
        }
        (Is::Compared(order, bound), _) => numbers(chunk).is_none_or(|there| match order {
            Order::Less => there.start() < bound,
            Order::LessOrEqual => there.start() <= bound,
            Order::Greater => there.end() > bound,
            Order::GreaterOrEqual => there.end() >= bound,
        }),
        (Is::Text(wanted), _) => {
            texts(chunk).is_none_or(|there| wanted.iter().any(|wanted| there.meets(wanted.as_bytes())))
        }
        (Is::Within(networks), _) => texts(chunk)
            .is_none_or(|there| networks.iter().any(|network| there.meets(beginning(*network).as_bytes()))),
        (Is::Contains(_), _) => true,
    }
}

fn chunk(group: &RowGroupMetaData, column: Column) -> Option<&ColumnChunkMetaData> {
    let at = column.place();
    let here = |chunk: &&ColumnChunkMetaData| chunk.column_descr().name() == column.name();
    let in_place = (at < group.num_columns()).then(|| group.column(at)).filter(here);
    in_place.or_else(|| group.columns().iter().find(here))
}

fn nulls(chunk: &ColumnChunkMetaData) -> Option<u64> {
    chunk.statistics().and_then(Statistics::null_count_opt)
}

fn numbers(chunk: &ColumnChunkMetaData) -> Option<RangeInclusive<u64>> {
    let (least, greatest) = match chunk.statistics()? {
        Statistics::Int64(statistics) => (*statistics.min_opt()?, *statistics.max_opt()?),
        Statistics::Int32(statistics) => {
            (i64::from(*statistics.min_opt()?), i64::from(*statistics.max_opt()?))
        }
        _ => return None,
    };
    // Numbers beyond 63 bits lie there as negative ones, of which the order says nothing.
    let unsigned = |number: i64| u64::try_from(number).ok();
    Some(unsigned(least)?..=unsigned(greatest)?)
}

/// The least text and the greatest, as bytes.
struct Texts<'a> {
    least: &'a [u8],
    greatest: &'a [u8],
}

fn texts(chunk: &ColumnChunkMetaData) -> Option<Texts<'_>> {
    let statistics = chunk.statistics()?;
    Some(Texts { least: statistics.min_bytes_opt()?, greatest: statistics.max_bytes_opt()? })
}

impl Texts<'_> {
    /// Whether a text that begins with `beginning` may be among them.
    fn meets(&self, beginning: &[u8]) -> bool {
        let length = self.least.len().min(beginning.len());
        beginning >= &self.least[..length] && beginning <= self.greatest
    }
}

/// How the text of every address in `network` begins (RFC 5952 for IPv6): the numbers that it fixes wholly. Zeros within
/// IPv6 addresses may be left out, so the first of them is the end.
fn beginning(network: IpNetwork) -> String {
    let fixed = usize::from(network.prefix());
    match network {
        IpNetwork::V4(v4) if fixed == 32 => v4.network().to_string(),
        IpNetwork::V4(v4) => {
            v4.network().octets().iter().take(fixed / 8).map(|octet| format!("{octet}.")).collect()
        }
        IpNetwork::V6(v6) if fixed == 128 => v6.network().to_string(),
        IpNetwork::V6(v6) => {
            let groups = v6.network().segments();
            let fixed = groups.iter().take(fixed / 16).take_while(|group| **group != 0);
            fixed.map(|group| format!("{group:x}:")).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    #[test]
    fn texts_meet_what_may_be_between_them() {
        let there = Texts { least: b"10.1.0.5", greatest: b"10.1.200.9" };
        for (beginning, meets) in [
            ("10.1.0.5", true),
            ("10.1.0.4", false),
            ("10.1.", true),
            ("10.", true),
            ("", true),
            ("10.1.200.9", true),
            ("10.1.3", false),
            ("9.", false),
            ("10.0.", false),
        ] {
            assert_eq!(there.meets(beginning.as_bytes()), meets, "{beginning}");
        }
    }

    proptest! {
        #[test]
        fn an_addresss_text_begins_as_its_networks_does(bits: u128, zeros in 0u8..=128, prefix in 0u8..=128) {
            let bits = bits & u128::MAX.checked_shl(u32::from(zeros)).unwrap_or_default();
            for address in [IpAddr::V6(bits.into()), IpAddr::V4((bits as u32).into())] {
                let most = if address.is_ipv4() { 32 } else { 128 };
                let network = IpNetwork::new(address, prefix.min(most)).expect("a prefix");
                let text = address.to_string();
                prop_assert!(text.starts_with(&beginning(network)), "{network}: {text}");
            }
        }
    }
}
