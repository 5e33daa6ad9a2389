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
    let plan = match (&code, kept, args.resume) {
        // Begun before a restart.
        (Some(code), Some(plan), _) if plan.code == *code && plan.interfaces == interfaces => plan,
        (Some(code), _, _) => plan(args, code, interfaces)?,
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
    let mut before = String::new();
    plan.carry_out(
        &args.dir,
        &mut Pinned { is_known: args.resume, code_file: args.code_file.clone(), code: plan.code.clone() },
        &mut random,
        &mut |line| {
            // A serial console keeps every line.
            if line != before {
                say(line);
                note(args, line);
                line.clone_into(&mut before);
            }
        },
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

fn plan(args: &EnrolArgs, code: &str, interfaces: String) -> Result<Plan, String> {
    let own = interfaces_alone(UPLINK_FILE, &interfaces).map_err(|error| error.to_string())?;
    let uplink = own.into_iter().next().map(|first| first.name).or_else(|| uplink(Path::new("/proc/net")));
    let transports = match &*args.transports {
        [] => vec![Attachment { name: "wan".to_owned(), interface: uplink }],
        given => given.to_vec(),
    };
    let lan = match &*args.lan {
        [] => {
            let taken = |name: &str| transports.iter().any(|it| it.interface.as_deref() == Some(name));
            ethernets(Path::new("/sys/class/net")).into_iter().find(|name| !taken(name)).into_iter().collect()
        }
        given => given.to_vec(),
    };
    Ok(Plan { code: code.to_owned(), transports, lan, interfaces, state_dir: args.state_dir.clone() })
}

/// The interface that has the default route, IPv4's first.
pub(super) fn uplink(proc_net: &Path) -> Option<String> {
    let read = |file: &str| fs::read_to_string(proc_net.join(file)).unwrap_or_default();
    let v4 = read("route").lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000"))
            .then(|| fields.first().map(|name| (*name).to_owned()))?
    });
    v4.or_else(|| {
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
                  eth1\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\n";
        fs::write(dir.path().join("route"), v4).expect("written");
        assert_eq!(uplink(dir.path()).as_deref(), Some("eth1"));
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
