//! `popgate enrol CODE`: a branch gets its configuration from its PoP. What is to be done is [`crate::enrol::branch`]'s; here are the
//! network, the interfaces of the box, and the time in between.

use super::{random, system};
use crate::config::{APPLIANCE_FILE, STATE_DIR, interfaces_alone};
use crate::enrol::branch::{Attachment, Plan, Pop, Trouble};
use crate::enrol::{Address, Claim, Code, Offer, PROGRESS_FILE};
use crate::io::pinned::{self, NoAnswer};
use crate::store::whole;
use crate::system::setup::UPLINK_FILE;
use clap::Args;
use serde::Deserialize;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 2 s: traffic is to run within ten after somebody has approved.
const PAUSE: Duration = Duration::from_secs(2);
/// The type of an Ethernet interface (ARPHRD_ETHER).
const ETHERNET: &str = "1";

/// How a branch is enrolled.
#[derive(Clone, Debug, Args)]
pub struct EnrolArgs {
    /// What the operator of the PoP has given out: PG1-...
    pub code: Option<String>,
    /// A file that it is in
    #[arg(long, value_name = "FILE", conflicts_with_all = ["code", "resume"])]
    pub code_file: Option<PathBuf>,
    /// Go on with what was begun before a restart
    #[arg(long, conflicts_with = "code")]
    pub resume: bool,
    /// An attachment to the underlay, several times for several [default: wan=the interface with the default route]
    #[arg(long = "transport", value_name = "NAME=INTERFACE")]
    pub transports: Vec<Attachment>,
    /// The interface of the branch's own hosts [default: the next Ethernet interface]
    #[arg(long, value_name = "INTERFACE")]
    pub lan: Vec<String>,
    /// Where the configuration is written
    #[arg(long, default_value = "/etc/popgate")]
    pub dir: PathBuf,
    /// Where the box keeps its state
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Even if there is a configuration already: it is replaced
    #[arg(long)]
    pub force: bool,
}

/// Enrols this box as a branch.
///
/// # Errors
/// For whoever is there: why it is not.
pub fn enrol(args: &EnrolArgs) -> Result<(), String> {
    let done = carry_out(args);
    match &done {
        Ok(()) => drop(fs::remove_file(args.state_dir.join(PROGRESS_FILE))),
        Err(why) => note(args, why),
    }
    done
}

fn carry_out(args: &EnrolArgs) -> Result<(), String> {
    if !args.force && args.dir.join(APPLIANCE_FILE).exists() {
        return Err(format!("{} has a configuration already; --force replaces it", args.dir.display()));
    }
    let kept =
        Plan::kept(&args.state_dir).map_err(|error| format!("{}: {error}", args.state_dir.display()))?;
    let in_file = match &args.code_file {
        Some(file) => Some(fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?),
        None => None,
    };
    let code = args.code.clone().or(in_file.map(|text| text.trim().to_owned()));
    let interfaces = interfaces(args)?;
    let mut before = String::new();
    let mut tell = |line: &str| {
        // A serial console keeps every line.
        if line != before {
            say(line);
            note(args, line);
            line.clone_into(&mut before);
        }
    };
    let plan = match (&code, kept, args.resume) {
        // Begun before a restart.
        (Some(code), Some(plan), _) if plan.code == *code && plan.interfaces == interfaces => plan,
        (Some(code), _, _) => loop {
            if let Some(plan) = plan(args, code, &interfaces, uplink(Path::new("/proc/net")))? {
                break plan;
            }
            tell("no network card leads anywhere yet: a cable, or an address by DHCP, is missing");
            std::thread::sleep(PAUSE);
        },
        (None, Some(plan), _) => plan,
        (None, None, true) => return Ok(()),
        (None, None, false) => {
            return Err("which code? The operator of the PoP makes one: `popgate enrol new`".to_owned());
        }
    };
    system::follow_uplink(
        &interfaces_alone(UPLINK_FILE, &plan.interfaces).map_err(|error| error.to_string())?,
    );
    let code = plan.code().map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if u64::from(code.expires_unix_secs) <= now {
        say("by this box's clock the code is too old; it is tried all the same, for the clock may be wrong");
    }
    plan.carry_out(
        &args.dir,
        &mut Pinned { is_known: args.resume, code_file: args.code_file.clone(), code: plan.code.clone() },
        &mut random,
        &mut tell,
        &mut || std::thread::sleep(PAUSE),
    )?;
    say(&format!("{} is enrolled: its configuration is in {}", code.site, args.dir.display()));
    Ok(())
}

/// For the box's console. Where it cannot be written nobody reads it there, and the enrolment goes on.
fn note(args: &EnrolArgs, line: &str) {
    let _ = whole::create(&args.state_dir.join(PROGRESS_FILE), |file| writeln!(file, "{line}"));
}

/// What lies beside the code's file.
fn interfaces(args: &EnrolArgs) -> Result<String, String> {
    let Some(file) = args.code_file.as_ref().map(|file| file.with_file_name(UPLINK_FILE)) else {
        return Ok(String::new());
    };
    match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(|error| format!("{}: {error}", file.display())),
    }
}

fn say(line: &str) {
    // Nobody may be there any more.
    let _ = writeln!(io::stdout(), "{line}");
    let _ = io::stdout().flush();
}

/// None while nobody knows which interface leads to the PoP: on a box that has just been switched on none does, and one that was
/// taken for the LAN by mistake would have another address for ever.
fn plan(
    args: &EnrolArgs,
    code: &str,
    interfaces: &str,
    uplink: Option<String>,
) -> Result<Option<Plan>, String> {
    code.parse::<Code>().map_err(|error| error.to_string())?;
    let own = interfaces_alone(UPLINK_FILE, interfaces).map_err(|error| error.to_string())?;
    let transports = match (&*args.transports, own.into_iter().next().map(|first| first.name).or(uplink)) {
        ([], None) => return Ok(None),
        ([], interface) => vec![Attachment { name: "wan".to_owned(), interface }],
        (given, _) => given.to_vec(),
    };
    let lan = match &*args.lan {
        [] => {
            let taken = |name: &str| transports.iter().any(|it| it.interface.as_deref() == Some(name));
            ethernets(Path::new("/sys/class/net")).into_iter().find(|name| !taken(name)).into_iter().collect()
        }
        given => given.to_vec(),
    };
    let (code, interfaces) = (code.to_owned(), interfaces.to_owned());
    Ok(Some(Plan { code, transports, lan, interfaces, state_dir: args.state_dir.clone() }))
}

/// The interface that has the default route, IPv4's first, and of several the one with the lowest metric.
pub(super) fn uplink(proc_net: &Path) -> Option<String> {
    let read = |file: &str| fs::read_to_string(proc_net.join(file)).unwrap_or_default();
    let routes = read("route");
    let v4 = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        let metric: u32 = fields.get(6)?.parse().ok()?;
        is_default.then(|| Some((metric, (*fields.first()?).to_owned())))?
    });
    v4.min_by_key(|(metric, _)| *metric).map(|(_, name)| name).or_else(|| {
        read("ipv6_route").lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_default = fields.get(1) == Some(&"00")
                && fields.first().is_some_and(|to| to.bytes().all(|it| it == b'0'));
            fields.last().filter(|name| is_default && **name != "lo").map(|name| (*name).to_owned())
        })
    })
}

/// Ethernet interfaces that are hardware, or stand for it, by name.
pub(super) fn ethernets(sys_net: &Path) -> Vec<String> {
    let is_ethernet = |name: &String| {
        let dir = sys_net.join(name);
        let kind = fs::read_to_string(dir.join("type")).unwrap_or_default();
        kind.trim() == ETHERNET && dir.join("device").exists() && !dir.join("wireless").exists()
    };
    let entries = fs::read_dir(sys_net).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(is_ethernet);
    names.sort_by_key(|name| (name.len(), name.clone()));
    names
}

/// The PoP, over TLS.
struct Pinned {
    /// It was reached before: whoever answers now with another key is in the way, and may be gone later.
    is_known: bool,
    /// Where the code is from, and what it was there.
    code_file: Option<PathBuf>,
    code: String,
}

impl Pinned {
    /// Somebody has given the box another one.
    fn is_replaced(&self) -> bool {
        let text = self.code_file.as_ref().map(fs::read_to_string);
        text.is_some_and(|text| text.is_ok_and(|text| text.trim() != self.code))
    }
}

#[derive(Deserialize)]
struct Told {
    detail: String,
}

impl Pop for Pinned {
    fn ask(&mut self, code: &Code, claim: &Claim) -> Result<Offer, Trouble> {
        if self.is_replaced() {
            return Err(Trouble::Never("the box has got another code".to_owned()));
        }
        let body = serde_json::to_vec(claim).map_err(|error| Trouble::Never(error.to_string()))?;
        let (mut reasons, mut others) = (Vec::new(), 0);
        for address in &code.addresses {
            let (host, port) = match address {
                Address::At(at) => (at.ip().to_string(), at.port()),
                Address::Named(name, port) => (name.as_str().to_owned(), *port),
            };
            match pinned::post(&host, port, code.pin, "/api/v1/enrol", &body) {
                Ok((status, body)) => {
                    self.is_known = true;
                    return understood(status, &body, address);
                }
                Err(error) => {
                    others += usize::from(matches!(error, NoAnswer::AnotherKey));
                    reasons.push(format!("{address}: {error}"));
                }
            }
        }
        let why = format!("the PoP is not reached: {}", reasons.join("; "));
        // Nowhere anything but that: the code is of another box, or somebody is in between.
        if others == code.addresses.len() && !self.is_known {
            Err(Trouble::Never(why))
        } else {
            Err(Trouble::Later(why))
        }
    }
}

fn understood(status: u16, body: &[u8], address: &Address) -> Result<Offer, Trouble> {
    if status == 200 {
        let offer = serde_json::from_slice(body);
        return offer
            .map_err(|error| Trouble::Never(format!("{address} is of another version of popgate: {error}")));
    }
    let told =
        serde_json::from_slice::<Told>(body).map_or_else(|_| format!("status {status}"), |told| told.detail);
    let told = format!("{address}: {told}");
    match status {
        // Too many at once, or a box that is just starting or stopping.
        429 | 500..=599 => Err(Trouble::Later(told)),
        _ => Err(Trouble::Never(told)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uplink_is_the_interface_with_the_default_route() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(uplink(dir.path()), None);
        let v6 = "20010db8000000000000000000000000 40 00000000000000000000000000000000 00 0 0 0 0 0 eth3\n\
                  00000000000000000000000000000000 00 00000000000000000000000000000000 00 0 fe80 0 0 0 eth2\n\
                  00000000000000000000000000000000 00 00000000000000000000000000000000 00 0 0 0 0 0 lo\n";
        fs::write(dir.path().join("ipv6_route"), v6).expect("written");
        assert_eq!(uplink(dir.path()).as_deref(), Some("eth2"));
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
                  eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n\
                  eth2\t00000000\t0103000A\t0003\t0\t0\t1024\t00000000\t0\n\
                  eth1\t00000000\t0102000A\t0003\t0\t0\t100\t00000000\t0\n";
        fs::write(dir.path().join("route"), v4).expect("written");
        assert_eq!(uplink(dir.path()).as_deref(), Some("eth1"));
    }

    #[test]
    fn nothing_is_planned_before_an_interface_leads_anywhere_but_what_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut args = EnrolArgs {
            code: None,
            code_file: None,
            resume: false,
            transports: Vec::new(),
            lan: vec!["eth1".to_owned()],
            dir: dir.path().join("etc"),
            state_dir: dir.path().join("var"),
            force: false,
        };
        let code = crate::enrol::Code {
            site: "lyon".to_owned(),
            addresses: vec!["192.0.2.1:4443".parse().expect("an address")],
            pin: [1; 32],
            pop_key: crate::config::PublicKey([9; 32]),
            expires_unix_secs: 7,
            secret: crate::enrol::Secret([5; 16]),
        };
        let code = code.to_string();
        let over = |plan: Result<Option<Plan>, String>| {
            plan.expect("a code").map(|plan| plan.transports[0].interface.clone())
        };
        assert_eq!(over(plan(&args, &code, "", None)), None);
        assert_eq!(over(plan(&args, &code, "", Some("eth0".to_owned()))), Some(Some("eth0".to_owned())));
        let own = "[[interface]]\nname = \"eth7\"\naddress = \"dhcp\"\n";
        assert_eq!(over(plan(&args, &code, own, None)), Some(Some("eth7".to_owned())));
        args.transports = vec!["wan=eth2".parse().expect("an attachment")];
        assert_eq!(over(plan(&args, &code, "", None)), Some(Some("eth2".to_owned())));
        assert!(plan(&args, "PG1-ABC", "", None).is_err());
    }

    #[test]
    fn the_lan_is_a_network_card_and_neither_a_bridge_nor_wireless() {
        let dir = tempfile::tempdir().expect("a directory");
        let card = |name: &str, kind: &str, has: &[&str]| {
            has.iter().for_each(|it| fs::create_dir_all(dir.path().join(name).join(it)).expect("made"));
            fs::create_dir_all(dir.path().join(name)).expect("made");
            fs::write(dir.path().join(name).join("type"), format!("{kind}\n")).expect("written");
        };
        card("lo", "772", &[]);
        card("eth10", "1", &["device"]);
        card("eth2", "1", &["device"]);
        card("br0", "1", &[]);
        card("wlan0", "1", &["device", "wireless"]);
        card("wwan0", "65534", &["device"]);
        assert_eq!(ethernets(dir.path()), ["eth2", "eth10"]);
    }

    #[test]
    fn what_the_pop_says_is_told_and_what_passes_is_waited_for() {
        let address: Address = "192.0.2.1:4443".parse().expect("an address");
        let problem = br#"{"title": "Gone", "status": 410, "detail": "this code is too old"}"#;
        let told = "192.0.2.1:4443: this code is too old".to_owned();
        assert_eq!(understood(410, problem, &address), Err(Trouble::Never(told.clone())));
        assert_eq!(understood(429, problem, &address), Err(Trouble::Later(told)));
        assert!(matches!(understood(200, b"[]", &address), Err(Trouble::Never(_))));
    }
}
