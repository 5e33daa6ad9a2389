//! Signing in at a provider: a real one (oidc-provider), asked over TLS as a browser and as the box ask it; what comes back wrong,
//! twice or from somebody else lets nobody in, and what a rule gave goes with the rule.

use crate::reload::edit_and_tell;
use crate::world::{World, eventually, need_program, node, template};
use popgate::lab::NodeChild;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where the browsers are: somewhere on the internet.
const DESK: &str = "stun";
const BOX: &str = "https://192.0.2.1:4443";
const PROVIDER: &str = "https://203.0.113.80:9443";
const SECRET: &str = "a-secret-of-the-client";

const RULES: &str = "\
    [[admin.oidc.rule]]\ngroup = \"owners\"\nrole = \"owner\"\n\
    [[admin.oidc.rule]]\ngroup = \"noc\"\nrole = \"operator\"\ntenant = \"acme\"\n";

/// The box, the provider, and what both show of themselves.
struct Office {
    world: World,
    files: TempDir,
    provider: Option<NodeChild>,
}

impl Office {
    fn open(name: &str) -> Office {
        need_program("node", "nodejs");
        let files = tempfile::tempdir().expect("a directory");
        let path = |file: &str| files.path().join(file);
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["203.0.113.80".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(path("provider.key"), key.serialize_pem()).expect("written");
        fs::write(path("provider.pem"), certificate.pem()).expect("written");
        fs::write(path("secret"), format!("{SECRET}\n")).expect("written");
        fs::set_permissions(path("secret"), fs::Permissions::from_mode(0o600)).expect("ours");
        let oidc = format!(
            "\n[admin]\ntls-listen = \"192.0.2.1:4443\"\n[admin.oidc]\nissuer = \"{PROVIDER}\"\nclient-id = \"popgate\"\n\
             client-secret-file = {:?}\nca-file = {:?}\nlabel = \"Example\"\nconsole = \"{BOX}\"\n{RULES}",
            path("secret"),
            path("provider.pem"),
        );
        let world = World::changed(name, &[DESK], |topology| {
            let text = template("fra1/popgate.toml") + &oidc;
            node(topology, "fra1").files.insert("popgate.toml".to_owned(), text);
        });
        let mut office = Office { world, files, provider: None };
        office.open_provider();
        eventually("the box's certificate is there", || {
            fs::read_to_string(office.world.node("fra1").state_dir().join("admin-certificate.pem"))
                .is_ok_and(|own| fs::write(office.path("both.pem"), own + &certificate.pem()).is_ok())
        });
        office
    }

    fn path(&self, file: &str) -> PathBuf {
        self.files.path().join(file)
    }

    fn open_provider(&mut self) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("target/tools/oidc-provider/node_modules");
        assert!(modules.exists(), "{}: `make test` installs it", modules.display());
        let mut server =
            self.world.node("web").command("node").arg(root.join("tests/e2e/provider.mjs")).arg(modules);
        for argument in ["203.0.113.80", "9443"] {
            server = server.arg(argument);
        }
        let server = server.arg(self.path("provider.key")).arg(self.path("provider.pem"));
        let redirect = format!("{BOX}/api/v1/oidc/callback");
        self.provider = Some(server.arg(SECRET).arg(redirect).spawn().expect("node runs"));
        let knock = ["socat", "-u", "/dev/null", "TCP:203.0.113.80:9443"];
        eventually("the provider listens", || self.world.exec(DESK, &knock).status.success());
    }

    fn browser(&self) -> Browser<'_> {
        let jar = tempfile::NamedTempFile::new_in(self.files.path()).expect("a file");
        Browser { office: self, jar, at: "192.0.2.66" }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.world.node("fra1").log()).expect("a log")
    }
}

/// Somebody's, with its cookies.
struct Browser<'a> {
    office: &'a Office,
    jar: tempfile::NamedTempFile,
    /// Its own address.
    at: &'static str,
}

/// What it was told.
struct Told {
    status: u16,
    location: String,
    headers: String,
    body: String,
}

impl Browser<'_> {
    fn ask(&self, url: &str, more: &[&str]) -> Told {
        let (jar, trusted) = (self.jar.path().to_owned(), self.office.path("both.pem"));
        let [jar, trusted] = [&jar, &trusted].map(|path| path.to_str().expect("UTF-8"));
        let curl = [
            "curl",
            "-sS",
            "-i",
            "-m",
            "20",
            "--interface",
            self.at,
            "--cacert",
            trusted,
            "-b",
            jar,
            "-c",
            jar,
        ];
        let told = self.office.world.must(DESK, &[&curl[..], more, &[url]].concat());
        let (headers, body) = told.split_once("\r\n\r\n").expect("an answer");
        let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let location = headers.lines().find_map(|line| {
            line.split_once(": ")
                .filter(|(name, _)| name.eq_ignore_ascii_case("location"))
                .map(|(_, value)| value)
        });
        let location = location.unwrap_or_default().to_owned();
        Told { status, location, headers: headers.to_owned(), body: body.to_owned() }
    }

    /// Signs in at the provider: where the browser is sent back to, which it does not follow.
    fn go(&self, name: &str) -> String {
        let mut at = self.ask(&format!("{BOX}/api/v1/oidc/start"), &[]).location;
        assert!(at.starts_with(&format!("{PROVIDER}/auth?")), "{at}");
        for _ in 0..10 {
            if at.starts_with(BOX) {
                return at;
            }
            let url = if at.starts_with('/') { format!("{PROVIDER}{at}") } else { at };
            let login = format!("prompt=login&login={name}&password=any");
            let body = ["-d", &*login];
            let told = self.ask(&url, if url.contains("/interaction/") { &body } else { &[] });
            assert_eq!(told.status, 303, "{url}: {}", told.body);
            at = told.location;
        }
        panic!("the provider sends nobody back: {at}");
    }

    /// The whole way: where it ends.
    fn sign_in(&self, name: &str) -> String {
        let back = self.go(name);
        let told = self.ask(&back, &[]);
        assert_eq!(told.status, 303, "{}", told.body);
        told.location
    }

    fn me(&self) -> Option<Value> {
        let told = self.ask(&format!("{BOX}/api/v1/session"), &[]);
        (told.status == 200).then(|| serde_json::from_str(&told.body).expect("JSON"))
    }
}

#[test]
fn whom_a_provider_vouches_for_may_what_the_rules_say_and_is_nobody_elses_user() {
    let mut office = Office::open("eoidc");
    let world = &office.world;
    let password = world.ask("fra1", &["users", "add", "anna", "--role", "viewer"]).trim().to_owned();

    let anna = office.browser();
    let told = anna.ask(&format!("{BOX}/api/v1/oidc"), &[]);
    let expected = json!({"provider": {"label": "Example", "start": format!("{BOX}/api/v1/oidc/start")}});
    assert_eq!(serde_json::from_str::<Value>(&told.body).expect("JSON"), expected);
    let back = anna.go("anna");
    let entered = anna.ask(&back, &[]);
    assert_eq!((entered.status, &*entered.location), (303, "/"), "{}", office.log());
    assert!(entered.headers.contains("__Host-popgate=") && entered.headers.contains("SameSite=Strict"));
    let me = anna.me().expect("she is in");
    assert_eq!(
        (&me["name"], &me["role"], &me["tenant"]),
        (&json!("oidc:anna"), &json!("operator"), &json!("acme"))
    );
    assert_eq!((&me["pending"], &me["is-vouched"]), (&Value::Null, &json!(true)));

    // Who has a name like hers is somebody else: the box's own user, and another of the provider's.
    let users = world.ask("fra1", &["users", "list"]);
    let row =
        |name: &str| users.lines().find(|line| line.starts_with(&format!("{name} "))).map(str::to_owned);
    let (own, hers) = (row("anna").expect("a user"), row("oidc:anna").expect("a user"));
    assert!(own.contains("viewer") && own.contains("choose a password"), "{users}");
    assert!(hers.contains("operator") && hers.contains(PROVIDER), "{users}");
    assert_eq!(office.browser().sign_in("namesake"), "/#sign-in=taken");
    let audit = world.ask("fra1", &["audit", "show"]);
    assert!(audit.contains("oidc:anna") && audit.contains(&format!("\"anna\" of {PROVIDER}")), "{audit}");

    // No group of hers is in a rule.
    let bert = office.browser();
    assert_eq!(bert.sign_in("bert"), "/#sign-in=unmapped");
    assert!(bert.me().is_none());
    assert!(!world.ask("fra1", &["users", "list"]).contains("bert"));

    // The provider has other keys from one moment to the next.
    assert_eq!(anna.ask(&format!("{PROVIDER}/keys"), &["-X", "PUT"]).status, 200);
    let olga = office.browser();
    assert_eq!(olga.sign_in("olga"), "/", "{}", office.log());
    assert_eq!(olga.me().expect("in")["role"], json!("owner"));

    // An owner keeps somebody out, whatever the rules say.
    world.ask("fra1", &["users", "disable", "oidc:olga"]);
    assert!(olga.me().is_none());
    assert_eq!(office.browser().sign_in("olga"), "/#sign-in=disabled");
    world.ask("fra1", &["users", "enable", "oidc:olga"]);
    assert_eq!(olga.sign_in("olga"), "/");

    // A rule goes, without a restart, and with it what it gave.
    assert!(anna.me().is_some());
    edit_and_tell(world, "fra1", "popgate.toml", |text| text.replace("group = \"noc\"", "group = \"night\""));
    eventually("she is out", || anna.me().is_none());
    assert!(olga.me().is_some());
    assert_eq!(office.browser().sign_in("anna"), "/#sign-in=unmapped");
    assert!(world.ask("fra1", &["users", "list"]).contains("no rule lets them in"));

    // Without the provider whoever has a password comes in all the same.
    office.provider = None;
    let body = json!({"name": "anna", "password": password}).to_string();
    let ours = ["-H", "popgate-request: 1", "-d", &*body];
    assert_eq!(office.browser().ask(&format!("{BOX}/api/v1/session"), &ours).status, 200);

    let log = office.log();
    let code = back.split("code=").nth(1).and_then(|rest| rest.split('&').next()).expect("a code");
    assert!(!log.contains(code) && !log.contains(SECRET));
    let audit = office.world.ask("fra1", &["audit", "show", "--limit", "1000"]);
    assert!(!audit.contains(code), "{audit}");
}

#[test]
fn what_comes_back_wrong_twice_or_in_another_browser_lets_nobody_in() {
    let mut office = Office::open("eforged");
    let no_session = |told: &Told, case: &str| {
        assert_eq!(told.status, 303, "{case}: {}", told.body);
        assert!(!told.headers.contains("__Host-popgate="), "{case}: {}", told.headers);
        told.location.clone()
    };

    // Another state, none, and one of another browser.
    let anna = office.browser();
    let back = anna.go("anna");
    let (before, _) = back.split_once("state=").expect("a state");
    let eve = office.browser();
    let of_eve = eve.go("anna");
    let state_of = |url: &str| {
        url.split("state=").nth(1).and_then(|rest| rest.split('&').next()).expect("a state").to_owned()
    };
    assert_ne!(state_of(&back), state_of(&of_eve));
    for (case, browser, url) in [
        ("another state", &anna, format!("{before}state=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
        ("no state", &office.browser(), before.trim_end_matches(['&', '?']).to_owned()),
        ("no cookie", &office.browser(), back.clone()),
        ("another browser's", &eve, back.clone()),
    ] {
        let told = browser.ask(&url, &[]);
        assert_eq!(no_session(&told, case), "/#sign-in=late", "{case}");
    }

    // The code of one attempt in another one, and a code that was used: with the cookie that goes with it, kept by hand.
    let anna = office.browser();
    let back = anna.go("anna");
    let kept = fs::read(anna.jar.path()).expect("cookies");
    let issued_by_another = back.replace("iss=https", "iss=http");
    if issued_by_another != back {
        assert_eq!(no_session(&anna.ask(&issued_by_another, &[]), "another issuer"), "/#sign-in=unproved");
        fs::write(anna.jar.path(), &kept).expect("written");
    }
    assert_eq!(anna.ask(&back, &[]).location, "/");
    fs::write(anna.jar.path(), &kept).expect("written");
    assert_eq!(no_session(&anna.ask(&back, &[]), "a code twice"), "/#sign-in=refused");

    // Somebody thinks better of it.
    let bert = office.browser();
    let back = bert.go("bert");
    let (before, rest) = back.split_once("code=").expect("a code");
    let refused = format!("{before}error=access_denied&{}", rest.split_once('&').expect("more").1);
    assert_eq!(no_session(&bert.ask(&refused, &[]), "denied"), "/#sign-in=refused");

    // What the provider says of them is not of this attempt, this box, this time or this provider.
    for forgery in ["nonce", "audience", "audiences", "issuer", "expired", "old", "key", "secret", "unsigned"]
    {
        // From another address: so many tries that fail are too many from one.
        let browser = Browser { at: "192.0.2.67", ..office.browser() };
        let told = browser.ask(&browser.go(&format!("{forgery}.anna")), &[]);
        assert_eq!(no_session(&told, forgery), "/#sign-in=unproved", "{}", office.log());
        assert!(browser.me().is_none(), "{forgery}");
    }
    let log = office.log();
    for why in ["nonce mismatch", "must contain `popgate`", "not a trusted audience", "ID token expired"] {
        assert!(log.contains(why), "{why}: {log}");
    }
    // Nobody came in by that, and whoever is who they are still does.
    assert_eq!(office.world.ask("fra1", &["users", "list"]).matches("oidc:").count(), 1);
    assert_eq!(office.browser().sign_in("anna"), "/");

    // A box that has not asked it yet, and cannot.
    office.provider = None;
    office.world.kill("fra1", rustix::process::Signal::TERM).expect("stopped");
    office.world.start("fra1").expect("started");
    let lost = office.browser();
    eventually("the box is back", || {
        lost.office.world.exec(DESK, &["socat", "-u", "/dev/null", "TCP:192.0.2.1:4443"]).status.success()
    });
    let told = lost.ask(&format!("{BOX}/api/v1/oidc/start"), &[]);
    assert_eq!(no_session(&told, "no provider"), "/#sign-in=unreachable");
    // Whoever goes on trying is told to wait.
    let limited = (0..30).map(|_| lost.ask(&format!("{BOX}/api/v1/oidc/start"), &[]).location);
    assert!(limited.into_iter().any(|at| at == "/#sign-in=limited"));
}

#[test]
fn in_a_browser_one_presses_the_providers_button_and_is_in() {
    need_program("chromium", "chromium");
    let office = Office::open("ebutton");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(root.join("web/node_modules/playwright-core").exists(), "npm ci in web/");
    let script = root.join("web/test/provider.mjs");
    let command = office.world.node(DESK).command("node").arg(script).env("BASE_URL", BOX);
    let output = command.output().expect("node runs");
    assert!(output.status.success(), "{output:?}");
}
