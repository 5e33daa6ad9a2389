//! Interfaces' addresses: of private handoffs'.

use super::problem::Noted;
use super::reader::Value;
use super::values;
use super::{Addressing, IpNetwork};

/// `address = ["10.200.0.1/24", "dhcp", "ra"]`: all that stands there, or just one.
pub(super) fn addressing(value: Value<'_>) -> Result<Addressing, Noted> {
    let mut addressing = Addressing::default();
    value.one_or_many(|value| match value.string()? {
        "dhcp" => once(value, &mut addressing.dhcp),
        "ra" => once(value, &mut addressing.ra),
        word if word.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
            Err(value
                .note(format!("{word:?} is not \"dhcp\", \"ra\", or an address as in \"10.200.0.1/24\"")))
        }
        _ => {
            let address = value.parse(values::interface_address)?;
            if addressing.fixed.iter().any(|other| other.ip() == address.ip()) {
                return Err(value.note(format!("{} stands here twice", address.ip())));
            }
            addressing.fixed.push(address);
            Ok(())
        }
    })?;
    Ok(addressing)
}

fn once(value: Value<'_>, is_set: &mut bool) -> Result<(), Noted> {
    if std::mem::replace(is_set, true) {
        return Err(value.note(format!("{:?} stands here twice", value.string()?)));
    }
    Ok(())
}

/// Whether the address is in one of the networks.
pub(super) fn on_link(networks: &[IpNetwork], address: std::net::IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}
