//! A fresh box is set up by whoever is at its console: plain questions, each with what is taken when nothing is typed, each answer
//! looked at at once. Nothing is written while they are asked; what comes out of them are the files of a configuration, or the code
//! that a branch enrols by.
//!
//! 1 Which role. 2 A branch: its code, and its uplink. A PoP: its name, its uplink, its ports. 3 Whether it is to be so.

use super::screen::Card;
use super::setup::{CODE_FILE, UPLINK_FILE};
use crate::config::{
    self, APPLIANCE_FILE, PrivateKey, STATE_DIR, TENANTS_DIR, interface, interface_address, quoted,
    socket_address,
};
use crate::enrol::{Code, NotACode};
use ipnetwork::IpNetwork;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;

/// Where WireGuard listens by custom.
const PORT: &str = "51820";
/// A browser asks there.
const ADMIN: u16 = 443;

/// Whoever answers.
pub trait Person {
    /// # Errors
    /// There is nobody any more.
    fn say(&mut self, text: &str) -> io::Result<()>;
    /// A line; none when there comes no more.
    ///
    /// # Errors
    /// There is nobody any more.
    fn hear(&mut self) -> io::Result<Option<String>>;
}

/// What the box is like before it is asked about.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// Its network cards.
    pub cards: Vec<Card>,
    /// The one with the default route.
    pub uplink: Option<String>,
    /// Somebody else keeps its addresses, unless popgate is told to.
    pub is_kept: bool,
}

/// What somebody wants the box to be.
#[derive(Clone, Debug)]
pub enum Answers {
    Branch { code: Box<Code>, uplink: Option<Uplink> },
    Pop { site: String, uplink: Uplink, port: NonZeroU16, admin: SocketAddr },
}

/// How it reaches others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub interface: String,
    pub addressing: Addressing,
}

/// How it gets its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// By whoever keeps it now.
    Kept,
    /// By DHCP and router advertisements.
    Learned,
    Fixed {
        address: IpNetwork,
        gateway: Option<IpAddr>,
        dns: Vec<IpAddr>,
    },
}

#[derive(Clone, Copy)]
enum Role {
    Pop,
    Branch,
}

/// Asks. `None`: they do not want to any more, or have gone.
///
/// # Errors
/// There is nobody to ask.
pub fn ask(person: &mut dyn Person, around: &Around) -> io::Result<Option<Answers>> {
    let mut asking = Asking { person };
    asking.say(
        "\nThis sets the box up. Enter takes what is in [brackets], ? explains.\n\
         Nothing is written before the last question; Ctrl-D leaves.\n\n",
    )?;
    match asking.all(around) {
        Ok(answers) => Ok(Some(answers)),
        Err(Left::Gone) => asking.say("\nNothing was written.\n").map(|()| None),
        Err(Left::Failed(error)) => Err(error),
    }
}

/// Why there is no answer.
enum Left {
    Gone,
    Failed(io::Error),
}

impl From<io::Error> for Left {
    fn from(error: io::Error) -> Left {
        Left::Failed(error)
    }
}

struct Asking<'a> {
    person: &'a mut dyn Person,
}

impl Asking<'_> {
    fn say(&mut self, text: &str) -> io::Result<()> {
        self.person.say(text)
    }

    fn hear(&mut self) -> Result<String, Left> {
        self.person.hear()?.map(|line| line.trim().to_owned()).ok_or(Left::Gone)
    }

    fn all(&mut self, around: &Around) -> Result<Answers, Left> {
        let help = "pop: the provider's box, which branches dial in to.\nbranch: a customer's box, which has got a code from its provider.";
        let role = self.question("Is it a pop or a branch", Some("branch"), help, |text| match text {
            "pop" | "p" => Ok(Role::Pop),
            "branch" | "b" => Ok(Role::Branch),
            _ => Err(format!("{text:?} is not pop or branch")),
        })?;
        loop {
            let answers = match role {
                Role::Branch => self.branch(around)?,
                Role::Pop => self.pop(around)?,
            };
            self.say(&format!("\n{}", answers.summary()))?;
            let help = "yes: it is written, and the box begins. no: the questions come again.";
            let is_right = self.question("Is that right", Some("yes"), help, |text| match text {
                "yes" | "y" => Ok(true),
                "no" | "n" => Ok(false),
                _ => Err(format!("{text:?} is not yes or no")),
            })?;
            if is_right {
                return Ok(answers);
            }
        }
    }

    fn branch(&mut self, around: &Around) -> Result<Answers, Left> {
        let code = Box::new(self.code()?);
        self.say(&format!("The code is whole: this box is to be the branch {}.\n", code.site))?;
        let uplink = self.uplink(around)?;
        // Enrolment itself goes where routes lead.
        let uplink = (uplink.addressing != Addressing::Kept).then_some(uplink);
        Ok(Answers::Branch { code, uplink })
    }

    /// Over as many lines as somebody needs for it.
    fn code(&mut self) -> Result<Code, Left> {
        loop {
            self.say("The code, PG1-... (small letters and spaces are fine): ")?;
            let mut typed = self.hear()?;
            if matches!(&*typed, "" | "?") {
                self.say("  Whoever runs the PoP makes it, and has it in the console under enrolments.\n")?;
                continue;
            }
            loop {
                match typed.parse::<Code>() {
                    Ok(code) => return Ok(code),
                    Err(why @ NotACode::Another) => {
                        self.say(&format!("  {why}\n"))?;
                        break;
                    }
                    Err(why) => self
                        .say(&format!("  {why}\n  or the rest of it, if it goes on; Enter begins anew: "))?,
                }
                let more = self.hear()?;
                if more.is_empty() {
                    break;
                }
                // Whoever copies it again has all of it.
                if more.get(..3).is_some_and(|head| head.eq_ignore_ascii_case("PG1")) {
                    typed.clear();
                }
                typed += &more;
            }
        }
    }

    fn pop(&mut self, around: &Around) -> Result<Answers, Left> {
        let help = "A short name for this place, as in fra1: a-z, 0-9 and \"-\".";
        let site = self.question("Its name", None, help, config::name)?;
        let uplink = self.uplink(around)?;
        let help = "The UDP port that branches dial.";
        let port = self.question("WireGuard's port", Some(PORT), help, |text| {
            text.parse().map_err(|_| format!("{text:?} is not a port; 1 to 65535"))
        })?;
        let at = match &uplink.addressing {
            Addressing::Fixed { address, .. } => address.ip(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        let default = SocketAddr::new(at, ADMIN).to_string();
        let help = "An address of this box and a port, over TLS; 0.0.0.0 for all its addresses.";
        let admin = self.question("The console is at", Some(&default), help, socket_address)?;
        Ok(Answers::Pop { site, uplink, port, admin })
    }

    fn uplink(&mut self, around: &Around) -> Result<Uplink, Left> {
        let mut told = String::from("\nNetwork cards:\n");
        around.cards.iter().for_each(|card| {
            let _ = writeln!(told, "  {card}");
        });
        self.say(&told)?;
        let is_there = |name: &str| around.cards.iter().any(|card| card.name == name);
        let default = around.uplink.as_deref().filter(|name| is_there(name));
        let default =
            default.or_else(|| around.cards.iter().find(|card| card.carries).map(|card| &*card.name));
        let default = default.or_else(|| around.cards.first().map(|card| &*card.name));
        let help = "The card with the provider's line; not the one that a branch's own hosts are at.";
        let interface = self.question("Which leads to the internet", default, help, |text| {
            let name = interface(text)?;
            if is_there(&name) || around.cards.is_empty() {
                Ok(name)
            } else {
                Err(format!("there is no {name}"))
            }
        })?;
        let (default, learned) = if around.is_kept { ("keep", "keep, dhcp") } else { ("dhcp", "dhcp") };
        let help = if around.is_kept {
            "keep: as this system has it. dhcp: popgate has it asked for. Or an address with the\nlength of its network's prefix: popgate has it set."
        } else {
            "dhcp: it is asked for. Or the address that the provider of the line has told you,\nwith the length of its network's prefix."
        };
        let question = format!("Its address: {learned}, or one as in 192.0.2.10/24");
        let addressing = self.question(&question, Some(default), help, |text| match text {
            "dhcp" => Ok(Addressing::Learned),
            "keep" if around.is_kept => Ok(Addressing::Kept),
            text => interface_address(text).map(|address| Addressing::Fixed {
                address,
                gateway: None,
                dns: Vec::new(),
            }),
        })?;
        let addressing = match addressing {
            Addressing::Fixed { address, .. } => self.beyond(address)?,
            learned => learned,
        };
        Ok(Uplink { interface, addressing })
    }

    /// What belongs to a fixed address.
    fn beyond(&mut self, address: IpNetwork) -> Result<Addressing, Left> {
        let first = address.iter().nth(1).filter(|first| *first != address.ip() && address.prefix() < 31);
        let default = first.map_or_else(|| "none".to_owned(), |first| first.to_string());
        let help = "The router that leads on, in the network of the address; none if there is none.";
        let gateway = self.question("Its gateway", Some(&default), help, |text| match text {
            "none" => Ok(None),
            text => match config::address(text)? {
                gateway if gateway == address.ip() => Err(format!("{gateway} is the box itself")),
                gateway if address.contains(gateway) => Ok(Some(gateway)),
                gateway => Err(format!("{gateway} does not lie in {address}")),
            },
        })?;
        let help = "Whom this box asks for names: up to three addresses; none if nobody.";
        let default = gateway.map_or_else(|| "none".to_owned(), |gateway| gateway.to_string());
        let dns = self.question("DNS servers", Some(&default), help, |text| match text {
            "none" => Ok(Vec::new()),
            text => {
                let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
                match words.len() {
                    1..=3 => words.into_iter().map(config::address).collect(),
                    _ => Err("one to three addresses".to_owned()),
                }
            }
        })?;
        Ok(Addressing::Fixed { address, gateway, dns })
    }

    /// Until there is an answer that `parse` takes.
    fn question<T>(
        &mut self,
        text: &str,
        default: Option<&str>,
        help: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Left> {
        loop {
            let brackets = default.map(|default| format!(" [{default}]")).unwrap_or_default();
            self.say(&format!("{text}{brackets}: "))?;
            let heard = self.hear()?;
            let answer = match (&*heard, default) {
                ("?", _) | ("", None) => {
                    help.lines().try_for_each(|line| self.say(&format!("  {line}\n")))?;
                    continue;
                }
                ("", Some(default)) => default,
                (heard, _) => heard,
            };
            match parse(answer) {
                Ok(parsed) => return Ok(parsed),
                Err(why) => self.say(&format!("  {why}\n"))?,
            }
        }
    }
}

impl Answers {
    fn summary(&self) -> String {
        match self {
            Answers::Branch { code, uplink } => {
                let over =
                    uplink.as_ref().map_or_else(String::new, |uplink| format!(" over {}", uplink.in_words()));
                format!("Branch {}, which enrols at {}{over}\n", code.site, list(&code.addresses))
            }
            Answers::Pop { site, uplink, port, admin } => format!(
                "PoP {site} over {}\nBranches dial UDP port {port}; the console is at {admin}\n",
                uplink.in_words()
            ),
        }
    }

    /// Writes the files that this makes into an empty folder.
    ///
    /// # Errors
    /// The disk's.
    pub fn fill(&self, new: &Path, state_dir: &Path, random: impl FnOnce() -> [u8; 32]) -> io::Result<()> {
        match self {
            Answers::Branch { code, uplink } => {
                fs::write(new.join(CODE_FILE), format!("{code}\n"))?;
                uplink.as_ref().map_or(Ok(()), |uplink| fs::write(new.join(UPLINK_FILE), uplink.to_toml()))
            }
            Answers::Pop { site, uplink, port, admin } => {
                let key = format!("keys/{site}.key");
                for dir in ["keys", TENANTS_DIR] {
                    fs::create_dir(new.join(dir))?;
                }
                let private = PrivateKey::from_random(random());
                fs::write(new.join(&key), format!("{}\n", private.to_base64()))?;
                let listen = match &uplink.addressing {
                    Addressing::Fixed { address, .. } => address.ip(),
                    _ => Ipv4Addr::UNSPECIFIED.into(),
                };
                let state = if state_dir == Path::new(STATE_DIR) {
                    String::new()
                } else {
                    format!("state-dir = {}\n", quoted(&state_dir.to_string_lossy()))
                };
                let text = format!(
                    "# Written by popgate setup. All keys are explained in /usr/share/doc/popgate/examples/pop/popgate.toml.\n\
                     site = {}\nrole = \"pop\"\n{state}private-key-file = {}\n\n{}\
                     [[transport]]\nname = \"wan\"\nlisten = \"{}\"\ninterface = {}\n\n\
                     [admin]\ntls-listen = \"{admin}\"\n",
                    quoted(site),
                    quoted(&key),
                    if uplink.addressing == Addressing::Kept {
                        String::new()
                    } else {
                        uplink.to_toml() + "\n"
                    },
                    SocketAddr::new(listen, port.get()),
                    quoted(&uplink.interface),
                );
                fs::write(new.join(APPLIANCE_FILE), text)
            }
        }
    }
}

impl Uplink {
    fn in_words(&self) -> String {
        match &self.addressing {
            Addressing::Kept => format!("{}, as this system has it", self.interface),
            Addressing::Learned => format!("{}, by DHCP", self.interface),
            Addressing::Fixed { address, gateway, dns } => {
                let gateway = gateway.map(|gateway| format!(" by way of {gateway}")).unwrap_or_default();
                let dns = if dns.is_empty() { String::new() } else { format!(", names from {}", list(dns)) };
                format!("{}, {address}{gateway}{dns}", self.interface)
            }
        }
    }

    fn to_toml(&self) -> String {
        let mut text = format!("[[interface]]\nname = {}\n", quoted(&self.interface));
        match &self.addressing {
            Addressing::Kept | Addressing::Learned => text += "address = [\"dhcp\", \"ra\"]\n",
            Addressing::Fixed { address, gateway, dns } => {
                let _ = writeln!(text, "address = \"{address}\"");
                if let Some(gateway) = gateway {
                    let _ = writeln!(text, "gateway = \"{gateway}\"");
                }
                if !dns.is_empty() {
                    let dns: Vec<String> = dns.iter().map(|server| format!("\"{server}\"")).collect();
                    let _ = writeln!(text, "dns = [{}]", dns.join(", "));
                }
            }
        }
        text
    }
}

fn list<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::backup::Kept;
    use super::super::setup::{Found, put};
    use super::*;
    use crate::config::{Role as Configured, load, public_of};
    use crate::enrol::Secret;
    use tempfile::TempDir;

    /// Types lines, and remembers what it was asked.
    struct Typist {
        lines: std::vec::IntoIter<String>,
        told: String,
    }

    impl Typist {
        fn new(lines: &[&str]) -> Typist {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            Typist { lines: lines.into_iter(), told: String::new() }
        }
    }

    impl Person for Typist {
        fn say(&mut self, text: &str) -> io::Result<()> {
            self.told += text;
            Ok(())
        }
        fn hear(&mut self) -> io::Result<Option<String>> {
            let line = self.lines.next();
            self.told += &line.clone().map(|line| format!("<{line}>\n")).unwrap_or_default();
            Ok(line)
        }
    }

    fn around() -> Around {
        let card =
            |name: &str, carries, addresses: Vec<IpAddr>| Card { name: name.to_owned(), carries, addresses };
        let first = card("enp0s16", true, vec!["192.0.2.10".parse().expect("an address")]);
        Around {
            cards: vec![first, card("enp0s17", false, Vec::new())],
            uplink: Some("enp0s16".to_owned()),
            is_kept: false,
        }
    }

    fn code() -> String {
        Code {
            site: "lyon".to_owned(),
            addresses: vec!["192.0.2.1:443".parse().expect("an address")],
            pin: [1; 32],
            pop_key: public_of(&PrivateKey::from_random([9; 32])),
            expires_unix_secs: 7,
            secret: Secret([5; 16]),
        }
        .to_string()
    }

    fn kept(dir: &TempDir) -> Kept {
        Kept { config: dir.path().join("config"), state: dir.path().join("state") }
    }

    /// What comes of these answers: what was found in its place, and what was said meanwhile.
    fn put_by(dir: &TempDir, lines: &[&str]) -> (Option<io::Result<Found>>, String) {
        let mut typist = Typist::new(lines);
        let answers = ask(&mut typist, &around()).expect("somebody is there");
        let kept = kept(dir);
        let found =
            answers.map(|answers| put(&kept, false, 7, |new| answers.fill(new, &kept.state, || [3; 32])));
        (found, typist.told)
    }

    const POP: [&str; 7] = ["pop", "fra1", "", "", "", "", ""];

    #[test]
    fn a_pop_of_defaults_is_a_configuration_that_reads() {
        let dir = tempfile::tempdir().expect("a directory");
        let (found, told) = put_by(&dir, &POP);
        let summary = "pop fra1, 0 tenants, 0 branches, 0 paths, 0 rules".to_owned();
        assert_eq!(found.expect("answered").expect("put"), Found::Configuration(summary), "{told}");
        let candidate = load(&kept(&dir).config).unwrap_or_else(|problems| panic!("{problems}"));
        let appliance = candidate.appliance;
        assert_eq!(appliance.transports[0].listen.to_string(), "0.0.0.0:51820");
        assert_eq!(appliance.transports[0].interface.as_deref(), Some("enp0s16"));
        assert_eq!(appliance.admin.tls.expect("over TLS").listen[0].to_string(), "0.0.0.0:443");
        assert!(appliance.interfaces[0].addressing.dhcp && appliance.interfaces[0].addressing.ra);
        assert_eq!(appliance.state_dir, kept(&dir).state);
        use std::os::unix::fs::PermissionsExt;
        let key = fs::metadata(kept(&dir).config.join("keys/fra1.key")).expect("there");
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
        assert!(told.lines().all(|line| line.len() < 80), "{told}");
    }

    #[test]
    fn a_pop_at_a_fixed_address_has_its_interface_set() {
        let dir = tempfile::tempdir().expect("a directory");
        let lines =
            ["pop", "fra1", "enp0s17", "198.51.100.7/24", "", "9.9.9.9, 2620:fe::fe", "4500", "", "yes"];
        let (found, told) = put_by(&dir, &lines);
        assert!(matches!(found, Some(Ok(Found::Configuration(_)))), "{told}");
        let appliance = load(&kept(&dir).config).unwrap_or_else(|problems| panic!("{problems}")).appliance;
        let interface = &appliance.interfaces[0];
        assert_eq!(interface.name, "enp0s17");
        assert_eq!(interface.addressing.fixed[0].to_string(), "198.51.100.7/24");
        assert_eq!(interface.gateways[0].to_string(), "198.51.100.1");
        assert_eq!(interface.dns.len(), 2);
        assert_eq!(appliance.transports[0].listen.to_string(), "198.51.100.7:4500");
        assert_eq!(appliance.admin.tls.expect("over TLS").listen[0].to_string(), "198.51.100.7:443");
    }

    #[test]
    fn rubbish_is_told_at_once_and_asked_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let lines = [
            "router",
            "?",
            "pop",
            "",
            "Fra 1",
            "fra1",
            "eth9",
            "enp0s16",
            "192.0.2.0/24",
            "192.0.2.7",
            "192.0.2.7/24",
            "10.0.0.1",
            "192.0.2.7",
            "none",
            "one.example",
            "none",
            "70000",
            "",
            "192.0.2.7",
            "192.0.2.7:444",
            "perhaps",
            "no",
            "fra2",
            "",
            "",
            "",
            "",
            "y",
        ];
        let (found, told) = put_by(&dir, &lines);
        assert!(matches!(found, Some(Ok(Found::Configuration(_)))), "{told}");
        for why in [
            "\"router\" is not pop or branch",
            "pop: the provider's box",
            "bad name \"Fra 1\"",
            "there is no eth9",
            "192.0.2.0/24 is the network itself",
            "lacks the length of its network's prefix",
            "10.0.0.1 does not lie in 192.0.2.7/24",
            "192.0.2.7 is the box itself",
            "\"one.example\" is not an IP address",
            "\"70000\" is not a port",
            "\"192.0.2.7\" lacks its port",
            "\"perhaps\" is not yes or no",
        ] {
            assert!(told.contains(why), "{why}\n{told}");
        }
        assert_eq!(load(&kept(&dir).config).expect("it reads").appliance.site, "fra2");
    }

    #[test]
    fn a_code_is_taken_as_people_type_it_and_a_mistyped_one_is_told() {
        let code = code();
        let small = code.to_lowercase().replace('-', " ");
        let (one, other) = small.split_at(100);
        let wrong = format!("{}{}", &code[..40], code[41..].replacen(&code[41..42], "", 1));
        for lines in [
            &["branch", &code, "", "", ""][..],
            &["", &small, "", "", ""],
            &["b", one, other, "", "", ""],
            &["b", &wrong, "", &code, "", "", ""],
            &["b", &wrong, &code, "", "", ""],
            &["b", "12345", &code, "", "", ""],
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            let (found, told) = put_by(&dir, lines);
            assert_eq!(found.expect("answered").expect("put"), Found::Code, "{told}");
            assert!(told.contains("this box is to be the branch lyon"), "{told}");
            let written = fs::read_to_string(kept(&dir).config.join(CODE_FILE)).expect("there");
            assert_eq!(written.trim(), code);
            let uplink = fs::read_to_string(kept(&dir).config.join(UPLINK_FILE)).expect("there");
            assert_eq!(uplink, "[[interface]]\nname = \"enp0s16\"\naddress = [\"dhcp\", \"ra\"]\n");
        }
        let mut typist = Typist::new(&["b", &wrong]);
        ask(&mut typist, &around()).expect("somebody is there");
        assert!(typist.told.contains("a letter of the code is wrong or missing"), "{}", typist.told);
    }

    #[test]
    fn whoever_leaves_at_any_question_leaves_nothing_behind() {
        let code = code();
        let branch = ["branch", &code, "enp0s17", "192.0.2.7/24", "", ""];
        for all in [&POP[..6], &branch] {
            for answered in 0..=all.len() {
                let dir = tempfile::tempdir().expect("a directory");
                let (found, told) = put_by(&dir, &all[..answered]);
                assert!(found.is_none() && told.ends_with("Nothing was written.\n"), "{told}");
                assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0);
            }
        }
        let dir = tempfile::tempdir().expect("a directory");
        let whole: Vec<&str> = branch.into_iter().chain(["yes"]).collect();
        assert!(put_by(&dir, &whole).0.is_some());
    }

    #[test]
    fn where_somebody_else_keeps_the_addresses_popgate_does_so_only_when_it_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let around = Around { is_kept: true, ..around() };
        let mut typist = Typist::new(&POP);
        let answers = ask(&mut typist, &around).expect("there").expect("answered");
        let kept = kept(&dir);
        put(&kept, false, 7, |new| answers.fill(new, &kept.state, || [3; 32])).expect("put");
        let appliance = load(&kept.config).unwrap_or_else(|problems| panic!("{problems}")).appliance;
        assert!(appliance.interfaces.is_empty());
        let Configured::Pop(_) = appliance.role else { panic!("a PoP") };
        let mut typist = Typist::new(&["b", &code(), "", "", ""]);
        let answers = ask(&mut typist, &around).expect("there").expect("answered");
        assert!(matches!(answers, Answers::Branch { uplink: None, .. }));
    }

    #[test]
    fn what_is_there_already_stays_and_what_makes_no_configuration_is_not_put() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(put_by(&dir, &POP).0.is_some_and(|found| found.is_ok()));
        let again = put_by(&dir, &POP).0.expect("answered").expect_err("refused");
        assert!(again.to_string().contains("there is a configuration already"), "{again}");
        // The console's own port on loopback.
        let other = tempfile::tempdir().expect("a directory");
        let lines = ["pop", "fra1", "", "", "", "0.0.0.0:8443", ""];
        let why = put_by(&other, &lines).0.expect("answered").expect_err("refused");
        assert!(why.to_string().contains("takes the port of listen"), "{why}");
        assert_eq!(fs::read_dir(kept(&other).config).expect("there").count(), 0);
    }
}
