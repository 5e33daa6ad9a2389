//! The branch's side. 1 [`Plan::keep`]: what is to be done lies on the disk before anything else, so that a box that is switched off
//! goes on where it was. 2 Look what paths there are to be. 3 A key for each, in a file that nobody else reads. 4 Claim, and wait
//! until somebody has approved it. 5 Write the configuration, after a check by the same reader that runs the box; `popgate.toml` comes
//! last, for with it there is a configuration. 6 Say so, and forget the plan.

use super::{Claim, ClaimedKey, Code, NotACode, Offer, State, Step, proof};
use crate::config::{
    APPLIANCE_FILE, Documents, PrivateKey, PublicKey, STATE_DIR, TENANTS_DIR, name, public_of, quoted,
};
use crate::store::whole;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The plan's file in the state directory.
pub const FILE_NAME: &str = "enrolment.json";
const KEYS_DIR: &str = "keys";
/// Where WireGuard listens by custom.
const PORT: u16 = 51_820;

/// What a branch is about to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Plan {
    /// As it was typed.
    pub code: String,
    /// The underlay's attachments: at least one.
    pub transports: Vec<Attachment>,
    /// The interfaces of the branch's own hosts.
    pub lan: Vec<String>,
    /// `[[interface]]`s, as they are written, of an underlay that does not simply give an address.
    #[serde(default)]
    pub interfaces: String,
    pub state_dir: PathBuf,
}

/// An attachment to the underlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Attachment {
    pub name: String,
    /// Over this interface alone; `None`: as routes say.
    pub interface: Option<String>,
}

/// `NAME=INTERFACE`
impl std::str::FromStr for Attachment {
    type Err = String;
    fn from_str(text: &str) -> Result<Attachment, String> {
        let (its, interface) =
            text.split_once('=').ok_or_else(|| format!("{text:?}: write NAME=INTERFACE, as in wan=eth0"))?;
        Ok(Attachment { name: name(its)?, interface: Some(interface.to_owned()) })
    }
}

/// The PoP, as it is asked.
pub trait Pop {
    /// # Errors
    /// Why there is no answer, or not the one that is hoped for.
    fn ask(&mut self, code: &Code, claim: &Claim) -> Result<Offer, Trouble>;
}

/// What is in the way; for whoever is at the branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It may be better in a while.
    Later(String),
    /// It will not.
    Never(String),
}

impl Plan {
    /// # Errors
    /// What was typed is no code.
    pub fn code(&self) -> Result<Code, NotACode> {
        self.code.parse()
    }

    /// Keeps it.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.state_dir)?;
        let json = serde_json::to_vec(self)?;
        whole::create(&self.state_dir.join(FILE_NAME), |file| file.write_all(&json)).map(drop)
    }

    /// The one that was kept, if there is one.
    ///
    /// # Errors
    /// The disk's; or it is of another version.
    pub fn kept(state_dir: &Path) -> io::Result<Option<Plan>> {
        match fs::read(state_dir.join(FILE_NAME)) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// It is done, or given up.
    ///
    /// # Errors
    /// The disk's.
    pub fn forget(&self) -> io::Result<()> {
        whole::remove(&self.state_dir.join(FILE_NAME))
    }

    /// Carries it out, up to a configuration in `dir`. `tell` is told what there is to wait for, and `pause` waits a while.
    ///
    /// # Errors
    /// For whoever is there: what keeps it from ever being done. A plan that the PoP refuses is forgotten.
    pub fn carry_out(
        &self,
        dir: &Path,
        pop: &mut dyn Pop,
        random: &mut dyn FnMut() -> [u8; 32],
        tell: &mut dyn FnMut(&str),
        pause: &mut dyn FnMut(),
    ) -> Result<(), String> {
        let code = self.code().map_err(|error| error.to_string())?;
        let told = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| format!("{path}: {error}")
        };
        self.keep().map_err(told(&self.state_dir))?;
        let mut ask = |claim: &Claim, is_there: &dyn Fn(&Offer) -> bool, waits: &str| loop {
            let why = match pop.ask(&code, claim) {
                Ok(offer) if is_there(&offer) => return Ok(offer),
                Ok(_) => waits.to_owned(),
                Err(Trouble::Later(why)) => why,
                Err(Trouble::Never(why)) => {
                    let forgotten = self.forget().map_err(told(&self.state_dir));
                    return Err(forgotten.err().unwrap_or(why));
                }
            };
            tell(&why);
            pause();
        };
        let offer = ask(&claim(&code, Step::Look, &[]), &|_| true, "")?;
        let paths: Vec<&str> = offer.paths.iter().map(|path| path.name.as_str()).collect();
        if paths.iter().any(|path| name(path).is_err()) {
            return Err("the PoP offers a path that has no name: it is of another version".to_owned());
        }
        let keys = keys(dir, &paths, random).map_err(told(&dir.join(KEYS_DIR)))?;
        let publics: Vec<(&str, PublicKey)> =
            keys.iter().map(|(path, key)| (*path, public_of(key))).collect();
        let waits = format!(
            "{} waits to be approved at {}: the fingerprint of its keys is {}",
            code.site,
            offer.pop,
            proof::fingerprint(&publics)
        );
        let is_approved = |offer: &Offer| matches!(offer.state, State::Approved | State::Finished);
        let offer = ask(&claim(&code, Step::Claim, &keys), &is_approved, &waits)?;
        let texts = self.texts(&code, &offer)?;
        let documents = Documents::from_texts(texts.clone())?;
        documents
            .check(dir)
            .map_err(|problems| format!("what the PoP sent makes no configuration:\n{problems}"))?;
        write(dir, &texts).map_err(told(dir))?;
        // It has its configuration, whether the PoP hears of that or not.
        let _ = pop.ask(&code, &claim(&code, Step::Done, &keys));
        self.forget().map_err(told(&self.state_dir))
    }

    /// The files of the configuration.
    fn texts(&self, code: &Code, offer: &Offer) -> Result<BTreeMap<String, String>, String> {
        let tenant = offer.tenant.as_ref().ok_or("the PoP has approved, and sent no policy")?;
        name(&tenant.name)?;
        let mut text = format!(
            "# Written by popgate enrol. Keys that are not here are explained in /usr/share/doc/popgate/examples/branch/popgate.toml.\n\
             site = {}\nrole = \"branch\"\n",
            quoted(&code.site)
        );
        let mut line = |line: String| {
            // Strings take whatever is written into them.
            let _ = writeln!(text, "{line}");
        };
        if self.state_dir != Path::new(STATE_DIR) {
            line(format!("state-dir = {}", quoted(&self.state_dir.to_string_lossy())));
        }
        let ways: Vec<(&Attachment, &super::OfferedPath)> = offer
            .paths
            .iter()
            .enumerate()
            .filter_map(|(at, path)| Some((self.attachment(at, &path.name)?, path)))
            .collect();
        for attachment in &self.transports {
            let has_v6 = ways.iter().any(|(its, path)| *its == attachment && path.endpoint.is_ipv6());
            // Of all addresses: IPv6's sockets take both families.
            let any = if has_v6 { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) };
            line(format!(
                "\n[[transport]]\nname = {}\nlisten = \"{}\"",
                quoted(&attachment.name),
                SocketAddr::new(any, PORT)
            ));
            if let Some(interface) = &attachment.interface {
                line(format!("interface = {}", quoted(interface)));
            }
        }
        if !self.interfaces.is_empty() {
            line(format!("\n{}", self.interfaces.trim_end()));
        }
        // Which begins with the line that it is kept apart by.
        if let Some(lan) = offer.lan.to_toml(&self.lan).strip_suffix('\n') {
            line(lan.to_owned());
        }
        line(format!("\n[[pop]]\nname = {}\npublic-key = \"{}\"", quoted(&offer.pop), code.pop_key));
        for (attachment, path) in ways {
            line(format!(
                "\n[[pop.path]]\nname = {}\ntransport = {}\nendpoint = \"{}\"\nprivate-key-file = {}\npersistent-keepalive = \"25s\"",
                quoted(&path.name),
                quoted(&attachment.name),
                path.endpoint,
                quoted(&key_file(&path.name)),
            ));
        }
        let tenants_file = format!("{TENANTS_DIR}/{}.toml", tenant.name);
        Ok(BTreeMap::from([(APPLIANCE_FILE.to_owned(), text), (tenants_file, tenant.text.clone())]))
    }

    /// What a path goes over: the attachment of its name; otherwise they take turns.
    fn attachment(&self, at: usize, path: &str) -> Option<&Attachment> {
        let named = self.transports.iter().find(|attachment| attachment.name == path);
        named.or_else(|| self.transports.iter().cycle().nth(at % self.transports.len().max(1)))
    }
}

fn claim(code: &Code, step: Step, keys: &[(&str, PrivateKey)]) -> Claim {
    let publics: Vec<(&str, PublicKey)> = keys.iter().map(|(path, key)| (*path, public_of(key))).collect();
    let said = proof::transcript(&code.secret, &code.site, &publics);
    let keys = keys.iter().zip(&publics).filter_map(|((path, private), (_, public))| {
        let proof = proof::prove(private, &code.pop_key, &said)?;
        Some(ClaimedKey {
            path: (*path).to_owned(),
            public_key: public.to_string(),
            proof: STANDARD.encode(proof),
        })
    });
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Claim { secret: code.secret.to_letters(), step, version, keys: keys.collect() }
}

fn key_file(path: &str) -> String {
    format!("{KEYS_DIR}/{path}.key")
}

/// A key for each path: those that are there from before a restart, or new ones.
fn keys<'a>(
    dir: &Path,
    paths: &[&'a str],
    random: &mut dyn FnMut() -> [u8; 32],
) -> io::Result<Vec<(&'a str, PrivateKey)>> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir.join(KEYS_DIR))?;
    let key_of = |path: &&'a str| {
        let file = dir.join(key_file(path));
        let key = match File::open(&file) {
            Ok(there) => {
                if there.metadata()?.permissions().mode() & 0o077 != 0 {
                    return Err(io::Error::other(format!(
                        "{}: may be read by others: chmod 600 it",
                        file.display()
                    )));
                }
                let mut text = String::new();
                // 1024: a key is 44 bytes.
                there.take(1_024).read_to_string(&mut text)?;
                text.trim_ascii()
                    .parse()
                    .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = PrivateKey::from_random(random());
                whole::create(&file, |file| writeln!(file, "{}", key.to_base64()))?;
                key
            }
            Err(error) => return Err(error),
        };
        Ok((*path, key))
    };
    paths.iter().map(key_of).collect()
}

/// Writes the files, the box's own last.
fn write(dir: &Path, texts: &BTreeMap<String, String>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir.join(TENANTS_DIR))?;
    let (own, tenants): (Vec<_>, Vec<_>) = texts.iter().partition(|(file, _)| *file == APPLIANCE_FILE);
    tenants.into_iter().chain(own).try_for_each(|(file, text)| {
        whole::create(&dir.join(file), |it| it.write_all(text.as_bytes())).map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrol::{Lan, OfferedPath, Secret, TenantFile};
    use std::cell::RefCell;

    const POP_KEY: [u8; 32] = [9; 32];

    fn plan(dir: &Path) -> Plan {
        let code = Code {
            site: "lyon".to_owned(),
            addresses: vec!["192.0.2.1:4443".parse().expect("an address")],
            pin: [1; 32],
            pop_key: public_of(&PrivateKey::from_random(POP_KEY)),
            expires_unix_secs: 7,
            secret: Secret([5; 16]),
        };
        Plan {
            code: code.to_string(),
            transports: vec![
                Attachment { name: "wan".to_owned(), interface: Some("eth0".to_owned()) },
                Attachment { name: "lte".to_owned(), interface: Some("wwan0".to_owned()) },
            ],
            lan: vec!["eth1".to_owned()],
            interfaces:
                "[[interface]]\nname = \"eth0\"\naddress = \"192.0.2.7/24\"\ngateway = \"192.0.2.1\"\n"
                    .to_owned(),
            state_dir: dir.join("state"),
        }
    }

    /// Approves what is asked for the `patience`th time.
    struct Fake {
        patience: usize,
        heard: Vec<Claim>,
        refuses: Option<Trouble>,
    }

    impl Pop for Fake {
        fn ask(&mut self, code: &Code, claim: &Claim) -> Result<Offer, Trouble> {
            self.heard.push(claim.clone());
            let claims = self.heard.iter().filter(|claim| claim.step == Step::Claim).count();
            if let Some(trouble) = self.refuses.clone() {
                return Err(trouble);
            }
            let publics: Vec<(&str, PublicKey)> =
                claim.keys.iter().map(|key| (&*key.path, key.public_key.parse().expect("a key"))).collect();
            let said = proof::transcript(&code.secret, &code.site, &publics);
            for (key, (_, public)) in claim.keys.iter().zip(&publics) {
                let proof = STANDARD.decode(&key.proof).expect("base64");
                assert!(proof::holds(&PrivateKey::from_random(POP_KEY), public, &said, &proof));
            }
            let keys = publics
                .iter()
                .map(|(path, key)| format!("[[branch.path]]\nname = \"{path}\"\npublic-key = \"{key}\"\n"));
            let branch =
                "tenant = \"acme\"\n[[branch]]\nname = \"lyon\"\nprefixes = [\"10.2.0.0/16\"]\n".to_owned();
            let text = std::iter::once(branch).chain(keys).collect();
            let path = |name: &str, endpoint: &str| OfferedPath {
                name: name.to_owned(),
                transport: "isp".to_owned(),
                endpoint: endpoint.parse().expect("an endpoint"),
            };
            let is_approved = claims >= self.patience;
            Ok(Offer {
                state: if is_approved { State::Approved } else { State::Claimed },
                pop: "fra1".to_owned(),
                paths: vec![path("a", "192.0.2.1:51820"), path("lte", "192.0.2.5:51820")],
                lan: Lan::of(&super::super::LanAsked::default(), &["10.2.0.0/16".parse().expect("a prefix")])
                    .expect("a LAN"),
                tenant: is_approved.then(|| TenantFile { name: "acme".to_owned(), text }),
            })
        }
    }

    fn run(dir: &Path, pop: &mut Fake, most_pauses: usize) -> (Result<(), String>, Vec<String>) {
        let (told, pauses) = (RefCell::new(Vec::new()), RefCell::new(0));
        let mut byte = 0;
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            plan(dir).carry_out(
                dir,
                pop,
                &mut || {
                    byte += 1;
                    [byte; 32]
                },
                &mut |line| told.borrow_mut().push(line.to_owned()),
                &mut || {
                    *pauses.borrow_mut() += 1;
                    // As a box that is switched off.
                    assert!(*pauses.borrow() <= most_pauses, "switched off");
                },
            )
        }));
        (done.unwrap_or_else(|_| Err("switched off".to_owned())), told.into_inner())
    }

    #[test]
    fn a_branch_waits_for_approval_and_writes_a_configuration_that_checks() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut pop = Fake { patience: 3, heard: Vec::new(), refuses: None };
        let (done, told) = run(dir.path(), &mut pop, 5);
        assert_eq!(done, Ok(()));
        assert!(told.iter().all(|line| line.contains("waits to be approved at fra1")), "{told:?}");
        let candidate = crate::config::load(dir.path()).unwrap_or_else(|problems| panic!("{problems}"));
        let crate::config::Role::Branch(branch) = &candidate.appliance.role else { panic!("a branch") };
        let ways: Vec<(&str, &str)> =
            branch.pops[0].paths.iter().map(|path| (&*path.name, &*path.transport)).collect();
        assert_eq!(ways, [("a", "wan"), ("lte", "lte")]);
        assert_eq!(branch.lan_interfaces, ["eth1"]);
        let uplink = &candidate.appliance.interfaces[0];
        assert_eq!((&*uplink.name, uplink.gateways.len()), ("eth0", 1));
        assert_eq!(branch.lan_services.dhcp[0].own.to_string(), "10.2.0.1/16");
        assert_eq!(Plan::kept(&dir.path().join("state")).expect("read"), None);
        assert_eq!(pop.heard.last().map(|claim| claim.step), Some(Step::Done));
        // No private key has left the box.
        let heard = serde_json::to_string(&pop.heard).expect("JSON");
        for (path, private) in keys(dir.path(), &["a", "lte"], &mut || [0; 32]).expect("keys") {
            assert!(heard.contains(&public_of(&private).to_string()), "{path}");
            assert!(!heard.contains(&private.to_base64()), "{path}");
            let mode = fs::metadata(dir.path().join(key_file(path))).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_box_that_is_switched_off_while_it_waits_goes_on_with_the_same_keys() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut pop = Fake { patience: 4, heard: Vec::new(), refuses: None };
        assert_eq!(run(dir.path(), &mut pop, 1).0, Err("switched off".to_owned()));
        assert!(!dir.path().join(APPLIANCE_FILE).exists());
        assert_eq!(Plan::kept(&dir.path().join("state")).expect("read"), Some(plan(dir.path())));
        assert_eq!(run(dir.path(), &mut pop, 5).0, Ok(()));
        let mut claims = pop.heard.iter().filter(|claim| claim.step == Step::Claim);
        let first = claims.next().expect("a claim");
        assert!(claims.all(|claim| claim.keys == first.keys));
    }

    #[test]
    fn what_the_pop_refuses_is_given_up_and_what_is_in_the_way_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let later = Trouble::Later("no route".to_owned());
        let mut pop = Fake { patience: 1, heard: Vec::new(), refuses: Some(later) };
        let (done, told) = run(dir.path(), &mut pop, 2);
        assert_eq!((done, &*told[0]), (Err("switched off".to_owned()), "no route"));
        assert!(Plan::kept(&dir.path().join("state")).expect("read").is_some());
        pop.refuses = Some(Trouble::Never("it has been used".to_owned()));
        assert_eq!(run(dir.path(), &mut pop, 0).0, Err("it has been used".to_owned()));
        assert_eq!(Plan::kept(&dir.path().join("state")).expect("read"), None);
        assert!(!dir.path().join(APPLIANCE_FILE).exists());
    }
}
