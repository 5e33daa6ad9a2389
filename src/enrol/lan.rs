//! What a branch's LAN is to be: as whoever makes the code says, or as the branch's prefixes suggest. Nobody at the branch would know.

use crate::config;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use utoipa::ToSchema;

/// Hosts make themselves addresses in networks of this length alone (RFC 4862 section 5.5.3, RFC 7421).
const ADVERTISED: u8 = 64;
/// The box is one host of a LAN's, which needs room for others.
const LONGEST_V4: u8 = 30;
/// No hint is longer: nobody asks more servers.
const MOST_SERVERS: usize = 4;
const MOST_ADDRESSES: usize = 8;

/// The LAN of a branch, as its box is to keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Lan {
    /// The box's own, with the length of the network's prefix. Where there is none, the LAN's interface has one already.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpNetwork>,
    /// What hosts are given by DHCP (RFC 2131).
    #[schema(value_type = Option<String>)]
    pub dhcp: Option<Range>,
    /// Whom the box asks for names on behalf of its hosts. Where there is none, hosts are told of no server.
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
}

/// Addresses from the first to the last, as in `10.2.0.100-10.2.0.199`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
}

impl TryFrom<String> for Range {
    type Error = String;
    fn try_from(text: String) -> Result<Range, String> {
        config::address_range(&text).map(|(first, last)| Range { first, last })
    }
}

impl From<Range> for String {
    fn from(range: Range) -> String {
        range.to_string()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// What may be said of it; what is not is suggested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LanAsked {
    /// As in `10.2.0.1/24`, each in a prefix of the branch's; empty: the LAN's interface has an address already. Unless it is said, the
    /// first of the first prefix of each family.
    #[serde(default)]
    pub addresses: Option<Vec<String>>,
    /// As in `10.2.0.100-10.2.0.199`, or `none`. Unless it is said, the half of the network that the box's own address is not in.
    #[serde(default)]
    pub dhcp: Option<String>,
    /// Resolvers, which are asked as a host on the LAN would: under the tenant's policy.
    #[serde(default)]
    pub dns: Vec<String>,
}

impl Lan {
    /// What is asked for, or suggested, for a branch with these prefixes.
    ///
    /// # Errors
    /// For the operator: what of it cannot be.
    pub fn of(asked: &LanAsked, prefixes: &[IpNetwork]) -> Result<Lan, String> {
        let addresses = match &asked.addresses {
            None => suggested(prefixes),
            Some(given) => {
                given.iter().map(|text| own_address(text, prefixes)).collect::<Result<Vec<_>, _>>()?
            }
        };
        if addresses.len() > MOST_ADDRESSES || asked.dns.len() > MOST_SERVERS {
            return Err(format!("at most {MOST_ADDRESSES} addresses and {MOST_SERVERS} servers"));
        }
        let v4 = addresses.iter().find_map(|own| match own {
            IpNetwork::V4(own) => Some(*own),
            IpNetwork::V6(_) => None,
        });
        let dhcp = match (asked.dhcp.as_deref(), v4) {
            (Some("none"), _) | (None, None) => None,
            (None, Some(own)) => free_half(own),
            (Some(range), Some(own)) => Some(given_range(range, own)?),
            (Some(range), None) => {
                return Err(format!("{range}: the box has no IPv4 address on this LAN to serve it from"));
            }
        };
        let server = |text: &String| {
            let server = config::address(text)?;
            if addresses.iter().any(|own| own.ip() == server) {
                return Err(format!("{server} is the box itself"));
            }
            if !addresses.iter().any(|own| own.is_ipv4() == server.is_ipv4()) {
                return Err(format!("the box has no address on this LAN to ask {server} from"));
            }
            Ok(server)
        };
        let dns = asked.dns.iter().map(server).collect::<Result<_, _>>()?;
        Ok(Lan { addresses, dhcp, dns })
    }

    /// In `popgate.toml`, for a box whose LAN is on these interfaces: the first gets the addresses. None where there is no LAN.
    pub fn to_toml(&self, interfaces: &[String]) -> String {
        let Some(first) = interfaces.first() else { return String::new() };
        let mut text = String::new();
        let list = |items: &[String]| {
            let quoted: Vec<String> = items.iter().map(|item| config::quoted(item)).collect();
            format!("[{}]", quoted.join(", "))
        };
        if !self.addresses.is_empty() {
            let own: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
            let (name, own) = (config::quoted(first), list(&own));
            // Strings take whatever is written into them.
            let _ = writeln!(text, "\n[[interface]]\nname = {name}\naddress = {own}");
        }
        let _ = writeln!(text, "\n[lan]\ninterfaces = {}", list(interfaces));
        if self.addresses.iter().any(is_advertised) {
            text += "advertise = true\n";
        }
        if let Some(range) = self.dhcp {
            let _ = writeln!(text, "\n[[lan.dhcp]]\nrange = \"{range}\"");
        }
        if !self.dns.is_empty() {
            let servers: Vec<String> = self.dns.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "\n[lan.dns]\nupstream = {}", list(&servers));
        }
        text
    }
}

/// In a line, for people.
impl fmt::Display for Lan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.addresses.is_empty() {
            return f.write_str("as it is");
        }
        let own: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        write!(f, "the box is {}", own.join(" and "))?;
        match self.dhcp {
            Some(range) => write!(f, ", hosts get {range} by DHCP")?,
            None => f.write_str(", no DHCP")?,
        }
        let servers: Vec<String> = self.dns.iter().map(ToString::to_string).collect();
        if servers.is_empty() {
            f.write_str(", and are told of no resolver")
        } else {
            write!(f, ", names are asked of {}", servers.join(", "))
        }
    }
}

fn is_advertised(own: &IpNetwork) -> bool {
    own.is_ipv6() && own.prefix() == ADVERTISED
}

/// The first address of the first prefix of each family that has room for hosts; of IPv6 in its first /64.
fn suggested(prefixes: &[IpNetwork]) -> Vec<IpNetwork> {
    let v4 = prefixes.iter().find_map(|prefix| match prefix {
        IpNetwork::V4(prefix) if prefix.prefix() <= LONGEST_V4 => {
            let first = Ipv4Addr::from_bits(prefix.network().to_bits() + 1);
            Ipv4Network::new(first, prefix.prefix()).ok().map(IpNetwork::V4)
        }
        _ => None,
    });
    let v6 = prefixes.iter().find_map(|prefix| match prefix {
        IpNetwork::V6(prefix) if prefix.prefix() <= ADVERTISED => {
            let first = Ipv6Addr::from_bits(prefix.network().to_bits() + 1);
            Ipv6Network::new(first, ADVERTISED).ok().map(IpNetwork::V6)
        }
        _ => None,
    });
    v4.into_iter().chain(v6).collect()
}

fn own_address(text: &str, prefixes: &[IpNetwork]) -> Result<IpNetwork, String> {
    let own = config::interface_address(text)?;
    let is_its = |prefix: &IpNetwork| prefix.contains(own.network()) && prefix.prefix() <= own.prefix();
    if prefixes.iter().any(is_its) {
        return Ok(own);
    }
    let its: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    Err(format!("{text} lies in no prefix of the branch's: {}", its.join(", ")))
}

fn given_range(text: &str, own: Ipv4Network) -> Result<Range, String> {
    let range @ Range { first, last } = Range::try_from(text.to_owned())?;
    if !own.contains(first) || !own.contains(last) {
        return Err(format!("{text} does not lie in {}/{}", own.network(), own.prefix()));
    }
    if (first..=last).contains(&own.ip()) {
        return Err(format!("{} in it is the box's own", own.ip()));
    }
    Ok(range)
}

/// Hosts' addresses in the half of the network that the box's own is not in: the other half is for those whose address is fixed.
fn free_half(own: Ipv4Network) -> Option<Range> {
    if own.prefix() > LONGEST_V4 {
        return None;
    }
    let (network, broadcast) = (own.network().to_bits(), own.broadcast().to_bits());
    let middle = network + (broadcast - network) / 2;
    let is_upper = own.ip().to_bits() <= middle;
    let (first, last) = if is_upper { (middle + 1, broadcast - 1) } else { (network + 1, middle) };
    Some(Range { first: Ipv4Addr::from_bits(first), last: Ipv4Addr::from_bits(last) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    fn lan(asked: &LanAsked, its: &[&str]) -> Result<String, String> {
        Lan::of(asked, &prefixes(its)).map(|lan| lan.to_string())
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_first_address_is_the_boxs_and_the_other_half_its_hosts() {
        let of = |its: &[&str]| lan(&LanAsked::default(), its).expect("a LAN");
        let told = ", and are told of no resolver";
        assert_eq!(
            of(&["10.2.0.0/24"]),
            format!("the box is 10.2.0.1/24, hosts get 10.2.0.128-10.2.0.254 by DHCP{told}")
        );
        assert_eq!(
            of(&["10.9.9.9/32", "10.2.0.0/16", "10.3.0.0/16"]),
            format!("the box is 10.2.0.1/16, hosts get 10.2.128.0-10.2.255.254 by DHCP{told}")
        );
        assert_eq!(
            of(&["2001:db8:2::/48", "10.2.0.0/30"]),
            format!("the box is 10.2.0.1/30 and 2001:db8:2::1/64, hosts get 10.2.0.2-10.2.0.2 by DHCP{told}")
        );
        assert_eq!(of(&["10.9.9.9/32", "10.9.9.8/31", "2001:db8::/96"]), "as it is");
    }

    #[test]
    fn whoever_makes_the_code_may_say_otherwise() {
        let addresses = |given: &[&str]| Some(texts(given));
        let high = LanAsked { addresses: addresses(&["10.2.0.254/24"]), ..LanAsked::default() };
        let told = lan(&high, &["10.2.0.0/16"]).expect("a LAN");
        assert!(told.contains("hosts get 10.2.0.1-10.2.0.127"), "{told}");
        let asked = LanAsked {
            dhcp: Some("10.2.0.10-10.2.0.20".to_owned()),
            dns: texts(&["192.0.2.53"]),
            ..LanAsked::default()
        };
        let told = lan(&asked, &["10.2.0.0/24"]).expect("a LAN");
        assert!(told.ends_with("hosts get 10.2.0.10-10.2.0.20 by DHCP, names are asked of 192.0.2.53"));
        let none = LanAsked { dhcp: Some("none".to_owned()), ..LanAsked::default() };
        assert!(lan(&none, &["10.2.0.0/24"]).expect("a LAN").contains("no DHCP"));
        let kept = LanAsked { addresses: Some(Vec::new()), ..LanAsked::default() };
        assert_eq!(lan(&kept, &["10.2.0.0/24"]), Ok("as it is".to_owned()));
    }

    #[test]
    fn what_cannot_be_is_told_before_a_branch_hears_of_it() {
        type Case<'a> = (&'a [&'a str], Option<&'a str>, &'a [&'a str], &'a str);
        let cases: [Case<'_>; 9] = [
            (&["10.3.0.1/24"], None, &[], "10.3.0.1/24 lies in no prefix of the branch's: 10.2.0.0/24"),
            (&["10.2.0.1/16"], None, &[], "lies in no prefix"),
            (&["10.2.0.0/24"], None, &[], "is the network itself"),
            (&["10.2.0.1"], None, &[], "lacks the length"),
            (&["10.2.0.1/24"], Some("10.2.0.1-10.2.0.9"), &[], "10.2.0.1 in it is the box's own"),
            (&["10.2.0.1/24"], Some("10.2.1.1-10.2.1.9"), &[], "does not lie in 10.2.0.0/24"),
            (&[], Some("10.2.0.2-10.2.0.9"), &[], "no IPv4 address"),
            (&["10.2.0.1/24"], None, &["10.2.0.1"], "is the box itself"),
            (&["10.2.0.1/24"], None, &["2001:db8::53"], "no address on this LAN to ask"),
        ];
        for (addresses, dhcp, dns, expected) in cases {
            let asked = LanAsked {
                addresses: Some(texts(addresses)),
                dhcp: dhcp.map(str::to_owned),
                dns: texts(dns),
            };
            let told = lan(&asked, &["10.2.0.0/24"]).expect_err(expected);
            assert!(told.contains(expected), "{told}");
        }
    }

    /// Otherwise a branch that was approved would have no configuration, and nobody there to help it.
    #[test]
    fn whatever_is_accepted_is_a_configuration() {
        let its: [&[&str]; 5] = [
            &["10.2.0.0/24"],
            &["10.0.0.0/8", "2001:db8::/32"],
            &["192.0.2.0/30"],
            &["2001:db8:2::/64"],
            &["10.9.9.8/31"],
        ];
        let dir = tempfile::tempdir().expect("a directory");
        let key = config::PrivateKey::from_random([8; 32]);
        crate::store::whole::create(&dir.path().join("wan.key"), |file| {
            std::io::Write::write_all(file, key.to_base64().as_bytes())
        })
        .expect("written");
        for its in its {
            for dns in [&[][..], &["198.51.100.53"], &["2001:db8::53"]] {
                let asked = LanAsked { dns: texts(dns), ..LanAsked::default() };
                let Ok(lan) = Lan::of(&asked, &prefixes(its)) else { continue };
                let own = "site = \"lyon\"\nrole = \"branch\"\n\n[[transport]]\nname = \"wan\"\nlisten = \"0.0.0.0:51820\"\n";
                let pop = format!(
                    "\n[[pop]]\nname = \"fra1\"\npublic-key = \"{}\"\n[[pop.path]]\nname = \"wan\"\ntransport = \"wan\"\n\
                     endpoint = \"192.0.2.1:51820\"\nprivate-key-file = \"wan.key\"\n",
                    config::PublicKey([9; 32])
                );
                let text = [own, &lan.to_toml(&texts(&["eth1", "eth2"])), &pop].concat();
                let tenant = format!(
                    "tenant = \"acme\"\n[[branch]]\nname = \"lyon\"\nprefixes = {:?}\n\
                     [[branch.path]]\nname = \"wan\"\npublic-key = \"{}\"\n",
                    its,
                    config::public_of(&key)
                );
                let all = [(config::APPLIANCE_FILE, text.clone()), ("tenants/acme.toml", tenant)];
                let documents =
                    config::Documents::from_texts(all.map(|(name, text)| (name.to_owned(), text)).into());
                let checked = documents.expect("documents").check(dir.path());
                checked.unwrap_or_else(|problems| panic!("{text}\n{problems}"));
            }
        }
    }
}
