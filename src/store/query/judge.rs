//! Which rows of a batch a filter means. Text is looked at once for each value of a dictionary, not for each row.

use super::field::Field;
use super::filter::{Filter, Is, Order, Test};
use super::read::{Trouble, dictionary, longs};
use crate::store::flows::{Column, Kind};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use std::net::IpAddr;
use std::sync::Arc;

/// Rows of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mask {
    All,
    None,
    Some(Vec<bool>),
}

impl Mask {
    fn of(bits: impl Iterator<Item = bool>) -> Mask {
        Mask::Some(bits.collect())
    }

    fn constant(all: bool) -> Mask {
        if all { Mask::All } else { Mask::None }
    }

    pub(super) fn and(self, other: Mask) -> Mask {
        match (self, other) {
            (Mask::None, _) | (_, Mask::None) => Mask::None,
            (Mask::All, mask) | (mask, Mask::All) => mask,
            (Mask::Some(mut bits), Mask::Some(others)) => {
                bits.iter_mut().zip(others).for_each(|(bit, other)| *bit &= other);
                Mask::Some(bits)
            }
        }
    }

    fn or(self, other: Mask) -> Mask {
        match (self, other) {
            (Mask::All, _) | (_, Mask::All) => Mask::All,
            (Mask::None, mask) | (mask, Mask::None) => mask,
            (Mask::Some(mut bits), Mask::Some(others)) => {
                bits.iter_mut().zip(others).for_each(|(bit, other)| *bit |= other);
                Mask::Some(bits)
            }
        }
    }

    fn not(self) -> Mask {
        match self {
            Mask::All => Mask::None,
            Mask::None => Mask::All,
            Mask::Some(mut bits) => {
                bits.iter_mut().for_each(|bit| *bit = !*bit);
                Mask::Some(bits)
            }
        }
    }

    /// The rows' places; `None` for all of them.
    pub(super) fn places(&self) -> Option<Vec<u32>> {
        match self {
            Mask::All => None,
            Mask::None => Some(Vec::new()),
            Mask::Some(bits) => {
                Some((0..).zip(bits).filter(|(_, bit)| **bit).map(|(place, _)| place).collect())
            }
        }
    }
}

/// A filter on its way through batches: it remembers what it has found out about a dictionary.
pub(super) enum Judge<'a> {
    Every(Vec<Judge<'a>>),
    Any(Vec<Judge<'a>>),
    Not(Box<Judge<'a>>),
    Tenant(&'a Is),
    Words {
        column: Column,
        is: &'a Is,
        known: Option<(ArrayRef, Vec<bool>)>,
    },
    Int {
        column: Column,
        is: &'a Is,
    },
    Long {
        column: Column,
        is: &'a Is,
    },
    /// Of two columns.
    Together {
        columns: [Column; 2],
        is: &'a Is,
    },
    Span {
        is: &'a Is,
    },
}

impl<'a> Judge<'a> {
    pub(super) fn new(filter: &'a Filter) -> Judge<'a> {
        match filter {
            Filter::Every(parts) => Judge::Every(parts.iter().map(Judge::new).collect()),
            Filter::Any(parts) => Judge::Any(parts.iter().map(Judge::new).collect()),
            Filter::Not(inner) => Judge::Not(Box::new(Judge::new(inner))),
            Filter::Test(Test { field, is }) => match field {
                Field::Tenant => Judge::Tenant(is),
                Field::Bytes => Judge::Together { columns: [Column::ForwardBytes, Column::ReverseBytes], is },
                Field::Packets => {
                    Judge::Together { columns: [Column::ForwardPackets, Column::ReversePackets], is }
                }
                Field::Duration => Judge::Span { is },
                field => {
                    let one = |column: &Column| match column.kind() {
                        Kind::Text | Kind::Address => Judge::Words { column: *column, is, known: None },
                        Kind::Int => Judge::Int { column: *column, is },
                        Kind::Long | Kind::Time => Judge::Long { column: *column, is },
                    };
                    Judge::Any(field.columns().iter().map(one).collect())
                }
            },
        }
    }

    pub(super) fn judge(&mut self, batch: &RecordBatch, tenant: &str) -> Result<Mask, Trouble> {
        Ok(match self {
            Judge::Every(parts) => {
                let mut mask = Mask::All;
                for part in parts {
                    if mask == Mask::None {
                        break;
                    }
                    mask = mask.and(part.judge(batch, tenant)?);
                }
                mask
            }
            Judge::Any(parts) => {
                let mut mask = Mask::None;
                for part in parts {
                    if mask == Mask::All {
                        break;
                    }
                    mask = mask.or(part.judge(batch, tenant)?);
                }
                mask
            }
            Judge::Not(inner) => inner.judge(batch, tenant)?.not(),
            Judge::Tenant(is) => Mask::constant(is.fits_text(Some(tenant))),
            Judge::Words { column, is, known } => words(batch, *column, is, known)?,
            Judge::Int { column, is } => {
                let array = super::read::ints(batch, *column)?;
                let values = array.values().iter();
                if array.null_count() == 0 {
                    is.among(values.map(|value| *value as u64))
                } else {
                    let valid = |place| array.is_valid(place);
                    Mask::of(
                        values
                            .enumerate()
                            .map(|(place, value)| is.fits_number(valid(place).then_some(*value as u64))),
                    )
                }
            }
            Judge::Long { column, is } => {
                is.among(longs(batch, column.name())?.iter().map(|value| *value as u64))
            }
            Judge::Together { columns: [one, other], is } => {
                let values = longs(batch, one.name())?.iter().zip(longs(batch, other.name())?);
                is.among(values.map(|(one, other)| (*one as u64).wrapping_add(*other as u64)))
            }
            Judge::Span { is } => {
                let start = longs(batch, Column::Start.name())?;
                let spans = longs(batch, Column::End.name())?.iter().zip(start);
                is.among(spans.map(|(end, start)| (*end as u64).saturating_sub(*start as u64)))
            }
        })
    }
}

fn words(
    batch: &RecordBatch,
    column: Column,
    is: &Is,
    known: &mut Option<(ArrayRef, Vec<bool>)>,
) -> Result<Mask, Trouble> {
    let array = dictionary(batch, column)?;
    let fits = match known {
        Some((values, fits)) if Arc::ptr_eq(values, array.values()) => fits,
        _ => {
            let texts = array.values().as_string::<i32>();
            let fits = texts.iter().map(|text| is.fits_text(text)).collect();
            &mut known.insert((Arc::clone(array.values()), fits)).1
        }
    };
    let keys = array.keys();
    let fit = |key: i32| fits.get(key as usize).copied().unwrap_or(false);
    if keys.null_count() > 0 {
        let of_none = is.fits_text(None);
        let one = |(place, key): (usize, &i32)| if keys.is_valid(place) { fit(*key) } else { of_none };
        return Ok(Mask::of(keys.values().iter().enumerate().map(one)));
    }
    Ok(match fits.iter().filter(|fits| **fits).count() {
        0 => Mask::None,
        all if all == fits.len() => Mask::All,
        _ => Mask::of(keys.values().iter().map(|key| fit(*key))),
    })
}

impl Is {
    /// Text or an address in text.
    pub(super) fn fits_text(&self, text: Option<&str>) -> bool {
        match (self, text) {
            (Is::None, text) => text.is_none(),
            (_, None) => false,
            (Is::Text(wanted), Some(text)) => wanted.iter().any(|wanted| wanted == text),
            (Is::Contains(wanted), Some(text)) => text.to_lowercase().contains(wanted.as_str()),
            (Is::Within(networks), Some(text)) => match text.parse::<IpAddr>() {
                Ok(address) => networks.iter().any(|network| network.contains(address)),
                Err(_) => false,
            },
            (Is::Number(_) | Is::Compared(..), Some(_)) => false,
        }
    }

    fn fits_number(&self, number: Option<u64>) -> bool {
        match (self, number) {
            (Is::None, number) => number.is_none(),
            (_, None) => false,
            (Is::Number(wanted), Some(number)) => wanted.contains(&number),
            (Is::Compared(Order::Less, bound), Some(number)) => number < *bound,
            (Is::Compared(Order::LessOrEqual, bound), Some(number)) => number <= *bound,
            (Is::Compared(Order::Greater, bound), Some(number)) => number > *bound,
            (Is::Compared(Order::GreaterOrEqual, bound), Some(number)) => number >= *bound,
            (Is::Text(_) | Is::Contains(_) | Is::Within(_), Some(_)) => false,
        }
    }

    /// All of `numbers` at once: a loop for each comparison, so that each is as quick as can be.
    fn among(&self, numbers: impl Iterator<Item = u64>) -> Mask {
        match self {
            Is::Number(wanted) => match wanted.as_slice() {
                [one] => Mask::of(numbers.map(|number| number == *one)),
                many => Mask::of(numbers.map(|number| many.contains(&number))),
            },
            Is::Compared(Order::Less, bound) => Mask::of(numbers.map(|number| number < *bound)),
            Is::Compared(Order::LessOrEqual, bound) => Mask::of(numbers.map(|number| number <= *bound)),
            Is::Compared(Order::Greater, bound) => Mask::of(numbers.map(|number| number > *bound)),
            Is::Compared(Order::GreaterOrEqual, bound) => Mask::of(numbers.map(|number| number >= *bound)),
            Is::None | Is::Text(_) | Is::Contains(_) | Is::Within(_) => Mask::None,
        }
    }
}
