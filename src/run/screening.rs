//! The box's own console: `popgate screen`, which shows how it is whenever that has changed, and `popgate setup` without a folder, which
//! asks whoever is there. Where one is a fresh box's screen, Enter leads to the other. What is shown and what is asked is
//! [`crate::system`]'s; here are the terminal, the network cards, the clock, and the service manager.

use super::enrolling::{ethernets, uplink};
use super::random;
use crate::admin::{at_console, first_link};
use crate::config::{APPLIANCE_FILE, Documents, load};
use crate::enrol::{Code, PROGRESS_FILE};
use crate::io::network;
use crate::system::backup::Kept;
use crate::system::commands::{Of, SetupArgs};
use crate::system::dialogue::{self, Around, Person};
use crate::system::screen::{Card, Running, Screen, Standing};
use crate::system::setup::{self, CODE_FILE, Found};
use crate::update;
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// 3 s: a change is seen by whoever waits for it, and a line of 9600 baud has long written the one before.
const PAUSE: Duration = Duration::from_secs(3);
/// 10 minutes: a key that was pressed by chance, or by a line's noise, is not to keep the screen away for good.
const LONGEST_ANSWER: Duration = Duration::from_secs(600);
/// 4,096 bytes: what a terminal takes in a line (termios(3)).
const LONGEST_LINE: usize = 4_096;
/// For a box that was just set up to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// Where the appliance's console is, in a configuration that says nothing.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);
/// The folder that the units are about.
const UNITS_DIR: &str = "/etc/popgate";
/// The image's own: every card asks for an address by itself there.
const UNCONFIGURED: &str = "/usr/lib/systemd/network/90-popgate-unconfigured.network";

/// Show how the box is, on its own console: addresses, tunnels, where the admin console is and by which fingerprint it is known; anew
/// whenever that changes, and when Enter is pressed. On a box that is not set up, Enter begins `popgate setup`
#[derive(Clone, Debug, Args)]
pub struct ScreenArgs {
    /// Once, and leave
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    of: Of,
}

/// Shows how the box is until nobody is there to look.
///
/// # Errors
/// It cannot be written.
pub fn screen(args: &ScreenArgs) -> io::Result<()> {
    let runtime = runtime()?;
    let mut terminal = Terminal::new();
    let mut shown = String::new();
    loop {
        let kept = args.of.kept();
        let screen = look(&kept, &runtime, !args.once);
        let text = screen.to_string();
        if text != shown {
            terminal.say(&format!("\n{text}"))?;
            shown = text;
        }
        if args.once {
            return Ok(());
        }
        match terminal.line_within(PAUSE)? {
            Heard::Nothing => {}
            Heard::End => std::thread::sleep(PAUSE),
            Heard::Line(_) => {
                if matches!(screen.standing, Standing::Fresh | Standing::Enrolling { .. })
                    && let Err(why) = ask_and_put(&mut terminal, &kept, false, &runtime)
                {
                    terminal.say(&format!("It cannot be set up: {why}\n"))?;
                }
                shown.clear();
            }
        }
    }
}

/// Asks whoever is there what the box is to be, makes it that, and shows what has become of it. Whether it was set up.
///
/// # Errors
/// For whoever is there: why it cannot be.
pub fn set_up(args: &SetupArgs) -> io::Result<bool> {
    let (kept, runtime) = (args.of.kept(), runtime()?);
    setup::may_be_set_up(&kept, args.force)?;
    let mut terminal = Terminal::new();
    let Some(found) = ask_and_put(&mut terminal, &kept, args.force, &runtime)? else { return Ok(false) };
    if !starts(&kept) {
        let dir = kept.config.display();
        let next = match found {
            Found::Configuration(_) => format!("popgate run {dir}"),
            Found::Code => format!("popgate enrol --code-file {dir}/{CODE_FILE} --dir {dir}"),
        };
        terminal.say(&format!("What comes next: {next}\n"))?;
        return Ok(true);
    }
    let mut waited = Duration::ZERO;
    loop {
        let screen = look(&kept, &runtime, false);
        let is_there = match &screen.standing {
            Standing::Running(_) => true,
            Standing::Enrolling { progress, .. } => progress.is_some(),
            Standing::Fresh | Standing::Silent { .. } => false,
        };
        if is_there || waited >= BEGINS_WITHIN {
            terminal.say(&format!("\n{screen}\npopgate screen shows how it goes on.\n"))?;
            return Ok(true);
        }
        std::thread::sleep(Duration::from_secs(1));
        waited += Duration::from_secs(1);
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// `None`: somebody did not want to after all.
fn ask_and_put(
    terminal: &mut Terminal,
    kept: &Kept,
    force: bool,
    runtime: &Runtime,
) -> io::Result<Option<Found>> {
    let cards = cards(runtime);
    let around =
        Around { cards, uplink: uplink(Path::new("/proc/net")), is_kept: !Path::new(UNCONFIGURED).exists() };
    loop {
        let Some(answers) = dialogue::ask(terminal, &around)? else { return Ok(None) };
        // From here on Ctrl-C comes too late: it leaves nothing half written.
        let _held = {
            let _within = runtime.enter();
            signal(SignalKind::interrupt())?
        };
        let unix_secs = unix_millis() / 1_000;
        let put = setup::put(kept, force, unix_secs, |new| answers.fill(new, &kept.state, random));
        match put {
            Ok(found) => {
                terminal.say(&format!("Set up: {found}\n"))?;
                return Ok(Some(found));
            }
            // Who is there can answer otherwise.
            Err(why) if setup::may_be_set_up(kept, force).is_ok() => terminal.say(&format!("{why}\n"))?,
            Err(why) => return Err(why),
        }
    }
}

/// Has the system begin with what was put, as far as this is root on a box with the units. The image's own see it by themselves.
fn starts(kept: &Kept) -> bool {
    let may = rustix::process::geteuid().is_root() && Path::new("/run/systemd/system").exists();
    kept.config == Path::new(UNITS_DIR)
        && may
        && Command::new("systemctl")
            .args(["--no-block", "start", "popgate-enrol.service", "popgate.service"])
            .status()
            .is_ok_and(|status| status.success())
}

/// How the box is.
fn look(kept: &Kept, runtime: &Runtime, key: bool) -> Screen {
    let cards = cards(runtime);
    let standing = if kept.config.join(APPLIANCE_FILE).exists() {
        configured(kept, &cards)
    } else {
        match fs::read_to_string(kept.config.join(CODE_FILE)) {
            Ok(code) => Standing::Enrolling {
                site: code.parse::<Code>().ok().map(|code| code.site),
                progress: fs::read_to_string(kept.state.join(PROGRESS_FILE))
                    .ok()
                    .map(|line| line.trim().to_owned()),
            },
            Err(_) => Standing::Fresh,
        }
    };
    Screen { version: version(), cards, standing, update: update::news(), key }
}

/// The image's, where it runs from one.
fn version() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let image = release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="));
    image.unwrap_or(env!("CARGO_PKG_VERSION")).to_owned()
}

/// The hardware, and whatever else has an address.
fn cards(runtime: &Runtime) -> Vec<Card> {
    let hardware = ethernets(Path::new("/sys/class/net"));
    let all = runtime.block_on(network::interfaces()).unwrap_or_default();
    let shown = all.into_iter().filter(|it| {
        it.name != "lo" && (hardware.contains(&it.name) || it.addresses.iter().any(|it| !it.is_loopback()))
    });
    let mut cards: Vec<Card> =
        shown.map(|it| Card { name: it.name, carries: it.carries, addresses: it.addresses }).collect();
    cards.sort_by_key(|card| (card.name.len(), card.name.clone()));
    cards
}

fn configured(kept: &Kept, cards: &[Card]) -> Standing {
    let text = Documents::read(&kept.config).text(APPLIANCE_FILE).unwrap_or_default().to_owned();
    let admin = Admin::of(&text);
    let Ok(told) = at_console(admin.listen, &kept.state) else {
        let problems = load(&kept.config).err();
        let problems = problems.iter().flat_map(|all| all.iter().map(ToString::to_string));
        return Standing::Silent { problems: problems.collect() };
    };
    let urls = admin.urls(cards);
    let loopback = format!("http://{}", admin.listen);
    let url = urls.first().unwrap_or(&loopback);
    Standing::Running(Running {
        site: told.status.site.site,
        role: told.status.site.role,
        tunnels: told.status.totals.paths,
        tunnels_up: told.status.totals.paths_up,
        confirm_by: told.confirm_by,
        fingerprint: told.fingerprint,
        setup_link: first_link(&kept.state, url, random, unix_millis()),
        urls,
    })
}

/// Where the API and the console are, as far as that can be made out: also of a configuration that is wrong.
struct Admin {
    listen: SocketAddr,
    tls: Vec<SocketAddr>,
    names: Vec<String>,
}

impl Admin {
    fn of(text: &str) -> Admin {
        let table: toml::Table = text.parse().unwrap_or_default();
        let admin = table.get("admin");
        // One, or a list.
        let texts = |key: &str| -> Vec<String> {
            match admin.and_then(|admin| admin.get(key)) {
                Some(toml::Value::String(one)) => vec![one.clone()],
                Some(toml::Value::Array(all)) => {
                    all.iter().filter_map(|it| Some(it.as_str()?.to_owned())).collect()
                }
                _ => Vec::new(),
            }
        };
        let parsed =
            |key: &str| texts(key).iter().filter_map(|text| text.parse().ok()).collect::<Vec<SocketAddr>>();
        let listen = parsed("listen").first().copied().unwrap_or(ADMIN);
        Admin { listen, tls: parsed("tls-listen"), names: texts("names") }
    }

    /// From elsewhere: by the names that it has, then by its addresses.
    fn urls(&self, cards: &[Card]) -> Vec<String> {
        let mut urls: Vec<String> = Vec::new();
        for listen in &self.tls {
            let port = if listen.port() == 443 { String::new() } else { format!(":{}", listen.port()) };
            urls.extend(self.names.iter().map(|name| format!("https://{name}{port}")));
            let own = cards.iter().flat_map(|card| &card.addresses);
            let addresses: Vec<IpAddr> = match listen.ip() {
                // IPv6's takes both families.
                any if any.is_unspecified() => {
                    own.filter(|own| any.is_ipv6() || own.is_ipv4()).copied().collect()
                }
                one => vec![one],
            };
            let addresses = addresses.into_iter().filter(|address| !address.is_loopback());
            urls.extend(addresses.map(|address| match address {
                IpAddr::V4(v4) => format!("https://{v4}{port}"),
                IpAddr::V6(v6) => format!("https://[{v6}]{port}"),
            }));
        }
        urls
    }
}

fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Standard input and output.
struct Terminal {
    /// Read, and not asked for yet.
    pending: Vec<u8>,
    /// What is typed at a terminal is shown there by itself.
    echoes: bool,
}

enum Heard {
    Line(String),
    Nothing,
    /// There comes no more; at a terminal, for now.
    End,
}

impl Terminal {
    fn new() -> Terminal {
        Terminal { pending: Vec::new(), echoes: io::stdin().is_terminal() }
    }

    /// What is typed within a while.
    fn line_within(&mut self, patience: Duration) -> io::Result<Heard> {
        let stdin = io::stdin();
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(Heard::Line(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.pending.len() > LONGEST_LINE {
                self.pending.clear();
            }
            let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&patience)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Heard::Nothing),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            // Unbuffered: what lies in a buffer is not seen by poll.
            let mut bytes = [0; 512];
            let read = rustix::io::read(&stdin, &mut bytes)?;
            if read == 0 {
                return Ok(Heard::End);
            }
            self.pending.extend(&bytes[..read]);
        }
    }
}

impl Person for Terminal {
    fn say(&mut self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn hear(&mut self) -> io::Result<Option<String>> {
        match self.line_within(LONGEST_ANSWER)? {
            Heard::Line(line) => {
                if !self.echoes {
                    self.say("\n")?;
                }
                Ok(Some(line))
            }
            Heard::Nothing | Heard::End => Ok(None),
        }
    }
}
