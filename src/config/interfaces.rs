//! Interfaces and their addresses: of private handoffs; and of the box's own, as far as it is to keep them, with what it does for
//! the hosts on its LAN.

use super::problem::{Ledger, Noted};
use super::reader::{Document, Table, Value, all};
use super::scope::{Claims, Owners, Scope, whose};
use super::values;
use super::{Addressing, Attachment, IpNetwork, Problems, SourceRef};
use crate::model::HostName;
use ipnetwork::Ipv4Network;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// One of the box's own interfaces, which systemd-networkd keeps as this says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// It is this VLAN's, and is made.
    pub of: Option<Attachment>,
    pub addressing: Addressing,
    /// At most one of a family, for all that has no other way.
    pub gateways: Vec<IpAddr>,
    /// Whom the box itself asks for names.
    pub dns: Vec<IpAddr>,
    /// Bytes.
    pub mtu: Option<u16>,
    pub at: SourceRef,
}

/// What a branch's box does for the hosts on its LAN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LanServices {
    pub dhcp: Vec<DhcpPool>,
    pub dns: Option<LanDns>,
    /// It advertises itself, and the prefixes of its LAN interfaces, to hosts that make themselves addresses of them (RFC 4862).
    pub advertises: bool,
}

/// Addresses that are given out in one network by DHCP (RFC 2131).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpPool {
    pub interface: String,
    /// The box's own address there, which is the hosts' router, with the length of the network's prefix.
    pub own: Ipv4Network,
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
    pub lease: Duration,
    /// Hosts' names end in it.
    pub domain: Option<String>,
    /// Whom hosts are to ask for names, where it is not the box.
    pub dns: Vec<Ipv4Addr>,
    pub hosts: Vec<DhcpHost>,
}

/// A host that always gets the same address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpHost {
    pub name: String,
    pub mac: [u8; 6],
    pub address: Ipv4Addr,
}

/// Names, asked for on behalf of the LAN's hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanDns {
    /// Whom all is asked, as a host on the LAN would: under the policy, by its paths.
    pub upstream: Vec<IpAddr>,
    /// And whom what lies in some domain.
    pub domains: Vec<(String, Vec<IpAddr>)>,
}

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
pub(super) fn on_link(networks: &[IpNetwork], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// `vlan = 101`. The numbers 0 and 4095 are reserved (IEEE 802.1Q-2022 table 9-2).
pub(super) fn vlan(value: Value<'_>) -> Result<u16, Noted> {
    value.number(1..=4094)
}

/// `[[interface]]`.
pub(super) fn read_interfaces(root: &mut Table<'_>, own: &mut Claims) -> Result<Vec<Interface>, Noted> {
    let mut names = BTreeSet::new();
    let mut vlans = Owners::default();
    let mut addresses = Owners::default();
    let tables = root.tables("interface", "[[interface]]")?;
    all(tables.into_iter().map(|mut table| {
        let at = table.at().clone();
        let name = table.required("name", |value| {
            let name = value.parse(values::interface)?;
            if !names.insert(name.clone()) {
                return Err(value.note(format!("interface {name:?} stands here twice")));
            }
            own.interfaces.share(
                value,
                name.clone(),
                &format!("interface {name:?}"),
                "the box".to_owned(),
            )?;
            Ok(name)
        });
        let owner = whose("interface", &name);
        let number = table.optional("vlan", vlan);
        let trunk = table.optional("of", |value| {
            let trunk = value.parse(values::interface)?;
            if let Ok(Some(number)) = number {
                own.vlan(value, &trunk, number, owner.clone())?;
            }
            vlans.claim(value, (trunk.clone(), number.ok().flatten()), "this VLAN", owner.clone())?;
            Ok(trunk)
        });
        let of = match (number, trunk) {
            (Ok(Some(vlan)), Ok(Some(interface))) => Ok(Some(Attachment { interface, vlan: Some(vlan) })),
            (Ok(None), Ok(None)) => Ok(None),
            (Ok(Some(_)), Ok(None)) => Err(table.note("vlan: of says which interface's")),
            (Ok(None), Ok(Some(_))) => Err(table.note("of: vlan says which")),
            (Err(noted), _) | (_, Err(noted)) => Err(noted),
        };
        let addressing = table.required("address", |value| {
            let addressing = addressing(value)?;
            for address in &addressing.fixed {
                addresses.claim(value, address.ip(), &address.ip().to_string(), owner.clone())?;
            }
            Ok(addressing)
        });
        let mut families = [false; 2];
        let gateways = table.with_default("gateway", Vec::new(), |value| {
            value.one_or_many(|value| {
                let gateway = value.parse(values::address)?;
                if std::mem::replace(&mut families[usize::from(gateway.is_ipv6())], true) {
                    return Err(value.note("one gateway of each family is enough"));
                }
                let may_be = |own: &Addressing| {
                    let is_learned = if gateway.is_ipv4() { own.dhcp } else { own.ra };
                    let is_local = matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
                    is_learned || is_local || on_link(&own.fixed, gateway)
                };
                if addressing.as_ref().is_ok_and(|own| !may_be(own)) {
                    return Err(value.note(format!("{gateway} lies in no network of the interface's")));
                }
                Ok(gateway)
            })
        });
        let dns = table
            .with_default("dns", Vec::new(), |value| value.one_or_many(|value| value.parse(values::address)));
        let mtu = table.optional("mtu", |value| value.number(1280..=9216));
        table.finish();
        Ok(Interface {
            name: name?,
            of: of?,
            addressing: addressing?,
            gateways: gateways?,
            dns: dns?,
            mtu: mtu?,
            at,
        })
    }))
}

/// A file `name` that has `[[interface]]`s and nothing else: what a box has before it has a configuration.
///
/// # Errors
/// All that is wrong with it.
pub fn interfaces_alone(name: &str, text: &str) -> Result<Vec<Interface>, Problems> {
    let ledger = Ledger::default();
    let read = || {
        let document = Document::new(name.into(), text, &ledger);
        let entries = document.parse()?;
        let mut root = document.root(&entries);
        let interfaces = read_interfaces(&mut root, &mut Claims::default());
        root.finish();
        interfaces
    };
    let interfaces = read();
    ledger.settle(interfaces)
}

/// What of `[lan]` is about its hosts. `lan` are the LAN's interfaces.
pub(super) fn read_services(
    table: &mut Table<'_>,
    lan: &Result<Vec<String>, Noted>,
    interfaces: &Result<Vec<Interface>, Noted>,
) -> Result<LanServices, Noted> {
    let own: OwnAddresses = match (lan, interfaces) {
        (Ok(lan), Ok(interfaces)) => {
            let of_lan = interfaces.iter().filter(|interface| lan.contains(&interface.name));
            let own = |interface: &'_ Interface| {
                let name = interface.name.clone();
                interface.addressing.fixed.iter().map(move |own| (name.clone(), *own)).collect::<Vec<_>>()
            };
            Ok(of_lan.flat_map(own).collect())
        }
        (Err(noted), _) | (_, Err(noted)) => Err(*noted),
    };
    let advertises = table.with_default("advertise", false, |value| {
        let advertises = value.boolean()?;
        let is_prefix = |own: &IpNetwork| own.is_ipv6() && own.prefix() == 64;
        if advertises && own.as_ref().is_ok_and(|own| !own.iter().any(|(_, own)| is_prefix(own))) {
            let message =
                "no [[interface]] of the LAN has an IPv6 address in a network of /64 to be advertised";
            return Err(value.note(message));
        }
        Ok(advertises)
    });
    let pools = table.tables("dhcp", "[[lan.dhcp]]").and_then(|tables| {
        let mut taken = Owners::default();
        all(tables.into_iter().map(|table| read_pool(table, &own, &mut taken)))
    });
    let dns = table
        .table("dns", "[lan.dns]")
        .and_then(|table| table.map(|table| read_dns(table, &own)).transpose());
    Ok(LanServices { dhcp: pools?, dns: dns?, advertises: advertises? })
}

/// The box's own addresses on its LAN, with their interfaces; or what about them could not be read.
type OwnAddresses = Result<Vec<(String, IpNetwork)>, Noted>;

fn domain_name(text: &str) -> values::Parsed<String> {
    let name =
        text.parse::<HostName>().map_err(|_| format!("{text:?} is no domain, as in \"berlin.example\""))?;
    Ok(name.to_string())
}

/// `10.1.0.100-10.1.0.199`: the first and the last.
///
/// # Errors
/// For the operator: why the text is none.
pub fn address_range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let ends = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    match ends {
        Some((first, last)) if first <= last => Ok((first, last)),
        Some(_) => Err(format!("{text:?} ends before it begins")),
        None => Err(format!("{text:?} is no range of addresses, as in \"10.1.0.100-10.1.0.199\"")),
    }
}

fn v4_address(text: &str) -> values::Parsed<Ipv4Addr> {
    match values::address(text)? {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => Err(format!("{address} is IPv6, and this is about IPv4")),
    }
}

/// An Ethernet address, as it is written by custom.
fn mac(text: &str) -> values::Parsed<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|byte| if byte.len() == 2 { u8::from_str_radix(byte, 16).ok() } else { None })
        .collect();
    let mac = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    // A group's (IEEE 802) is no host's.
    mac.filter(|mac| mac[0] & 1 == 0)
        .ok_or_else(|| format!("{text:?} is no host's Ethernet address, as in \"52:54:00:12:34:56\""))
}

fn read_pool(
    mut table: Table<'_>,
    own: &OwnAddresses,
    taken: &mut Owners<Ipv4Addr>,
) -> Result<DhcpPool, Noted> {
    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let place = table.required("range", |value| {
        let (first, last) = value.parse(address_range)?;
        let own = own.as_ref().map_err(|noted| *noted)?;
        let mut networks = own.iter().filter_map(|(interface, network)| match network {
            IpNetwork::V4(network) => Some((interface, *network)),
            IpNetwork::V6(_) => None,
        });
        let Some((interface, network)) =
            networks.find(|(_, network)| network.contains(first) && network.contains(last))
        else {
            let message = format!("{first}-{last} lies in no network of an [[interface]] of the LAN's");
            return Err(value.note(message));
        };
        if (first..=last).contains(&network.ip()) {
            return Err(value.note(format!("{} in it is the box's own", network.ip())));
        }
        Ok((interface.to_owned(), network, first, last))
    });
    let lease = table.with_default("lease", DAY / 2, |value| {
        value.duration(|text| values::duration_within(text, 2 * MINUTE..=365 * DAY, "2m to 365d"))
    });
    let domain = table.optional("domain", |value| value.parse(domain_name));
    let dns =
        table.with_default("dns", Vec::new(), |value| value.one_or_many(|value| value.parse(v4_address)));
    let (mut names, mut macs) = (Scope::new("host"), Owners::default());
    let hosts = table.tables("host", "[[lan.dhcp.host]]").and_then(|tables| {
        all(tables.into_iter().map(|mut table| {
            let name = table.required("name", |value| names.claim(value, ()));
            let owner = whose("host", &name);
            let mac = table.required("mac", |value| {
                let mac = value.parse(mac)?;
                macs.claim(value, mac, "this address", owner.clone())?;
                Ok(mac)
            });
            let address = table.required("address", |value| {
                let address = value.parse(v4_address)?;
                if let Ok((_, network, ..)) = &place
                    && (!network.contains(address) || network.ip() == address)
                {
                    let message =
                        format!("{address} is no host's in {}/{}", network.network(), network.prefix());
                    return Err(value.note(message));
                }
                taken.claim(value, address, &address.to_string(), owner)?;
                Ok(address)
            });
            table.finish();
            Ok(DhcpHost { name: name?, mac: mac?, address: address? })
        }))
    });
    table.finish();
    let (interface, own, first, last) = place?;
    let (lease, domain, dns, hosts) = (lease?, domain?, dns?, hosts?);
    Ok(DhcpPool { interface, own, first, last, lease, domain, dns, hosts })
}

fn read_dns(mut table: Table<'_>, own: &OwnAddresses) -> Result<LanDns, Noted> {
    let server = |value: Value<'_>| {
        let server = value.parse(values::address)?;
        // They are asked from an address of the LAN's.
        if let Ok(own) = own {
            if own.iter().any(|(_, own)| own.ip() == server) {
                return Err(value.note(format!("{server} is the box itself")));
            }
            if !own.iter().any(|(_, own)| own.is_ipv4() == server.is_ipv4()) {
                let message = format!("no [[interface]] of the LAN has an address to ask {server} from");
                return Err(value.note(message));
            }
        }
        Ok(server)
    };
    let upstream = table.required("upstream", |value| value.one_or_many(server));
    let domains = table.with_default("domains", Vec::new(), |value| {
        all(value.entries()?.map(|(domain, value)| {
            let domain = domain_name(domain).map_err(|message| value.note(message))?;
            Ok((domain, value.one_or_many(server)?))
        }))
    });
    table.finish();
    Ok(LanDns { upstream: upstream?, domains: domains? })
}
