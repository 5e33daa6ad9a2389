//! A fresh image is set up at its serial console, by keys alone, and shows there what its first owner needs.

use crate::container::text;
use crate::machine::{BOOT, Build, Disk, Machine};
use crate::network::Network;
use std::io::Write;
use std::process::Stdio;

/// Waits for the question, then answers it.
fn answer(machine: &mut Machine, question: &str, typed: &str) {
    machine.await_serial(0, question, BOOT);
    machine.type_text(&format!("{typed}\n"));
}

/// What follows a name on the screen, which begins lines.
fn shown(machine: &Machine, name: &str) -> Option<String> {
    let serial = machine.serial();
    let line = serial.lines().rev().find(|line| line.starts_with(name))?;
    Some(line[name.len()..].trim().to_owned())
}

/// Waits until the screen says it. A letter may be lost or doubled on its way out of QEMU, so Enter shows all of it again.
fn shows(machine: &mut Machine, what: &str, says: impl Fn(&Machine) -> bool) {
    let (mut before, mut quiet) = (0, 0);
    machine.eventually(what, BOOT, |it| {
        let is_there = says(it);
        let now = it.said();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        // For as many looks as are longer than the screen's own pause.
        if !is_there && quiet == 50 {
            it.type_text("\n");
            quiet = 0;
        }
        is_there
    });
}

/// Opens the setup link as its page does: asks for a second factor, and proves that it has it (RFC 6238). The certificate is the
/// box's own, which nobody vouches for.
const OPEN_LINK: &str = r#"
import base64, hashlib, hmac, json, ssl, struct, sys, time, urllib.request
url, secret = sys.stdin.read().strip().split("/#setup=")
nobody = ssl._create_unverified_context()
def ask(method, body):
    # As the page has them.
    headers = {"Content-Type": "application/json", "Origin": url, "popgate-request": "1"}
    request = urllib.request.Request(url + "/api/v1/setup", json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, context=nobody, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        sys.exit(f"{method}: {refused.code} {refused.read()}")
totp = json.loads(ask("POST", {"secret": secret, "name": "olga"})[1])["secret"].replace(" ", "")
key = base64.b32decode(totp + "=" * (-len(totp) % 8))
step = hmac.new(key, struct.pack(">Q", int(time.time()) // 30), hashlib.sha1).digest()
at = step[19] & 15
code = "%06d" % ((struct.unpack(">I", step[at:at + 4])[0] & 0x7fffffff) % 1000000)
print(ask("PUT", {"secret": secret, "name": "olga", "password": "correct horse battery", "totp-secret": totp, "code": code})[0])
"#;

#[test]
fn a_fresh_box_is_made_a_pop_by_keys_alone_and_shows_the_link_that_makes_its_owner() {
    let network = Network::new();
    let disk = Disk::new();
    let mut pop = Machine::start(&network, &disk, &Build::default());
    pop.await_serial(0, "192.0.2.10", BOOT);
    answer(&mut pop, "press Enter here", "");
    answer(&mut pop, "Is it a pop or a branch", "pop");
    answer(&mut pop, "Its name", "Fra1");
    pop.await_serial(0, "bad name", BOOT);
    pop.type_text("fra1\n");
    answer(&mut pop, "Which leads to the internet", "");
    // Another than the one that DHCP gave it: it is in force at once.
    answer(&mut pop, "Its address", "192.0.2.40/24");
    answer(&mut pop, "Its gateway", "");
    answer(&mut pop, "DNS servers", "none");
    answer(&mut pop, "WireGuard's port", "");
    answer(&mut pop, "The console is at", "");
    answer(&mut pop, "Is that right", "");
    pop.await_serial(0, "Set up: pop fra1", BOOT);
    let begin = pop.age();
    let link = "https://192.0.2.40/#setup=";
    shows(&mut pop, "the link that makes the first owner", |it| {
        shown(it, link).is_some_and(|secret| secret.len() == 43)
    });
    println!(
        "at the console: the link is shown {:.1} s after the last answer",
        (pop.age() - begin).as_secs_f64()
    );
    assert_eq!(shown(&pop, "console").as_deref(), Some("https://192.0.2.40"));
    assert_eq!(shown(&pop, "site").as_deref(), Some("fra1 (pop)"));

    // The fingerprint is the one of what is shown over the network.
    let certificate = network.must(&[
        "sh",
        "-c",
        "openssl s_client -connect 192.0.2.40:443 </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256",
    ]);
    let fingerprint = certificate.trim().rsplit('=').next().expect("a fingerprint").to_owned();
    shows(&mut pop, "that certificate's fingerprint", |it| {
        let serial = it.serial();
        let halves = serial.split("SHA-256").last().unwrap_or_default();
        halves.split_whitespace().take(2).collect::<String>() == fingerprint
    });

    // And the link makes an owner. It is not printed here.
    let secret = shown(&pop, link).expect("shown");
    let mut opening = network.command(&["python3", "-c", OPEN_LINK]);
    let opening = opening.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut opening = opening.expect("python3 runs");
    let whole = format!("{link}{secret}");
    opening.stdin.take().expect("piped").write_all(whole.as_bytes()).expect("read");
    let opened = opening.wait_with_output().expect("ours");
    let told = text(&opened.stderr).replace(&secret, "[secret]");
    assert!(text(&opened.stdout).starts_with("20"), "{}{told}", text(&opened.stdout));
    // There is a user now, and the screen says no more of a link.
    let said = pop.said();
    pop.type_text("\n");
    pop.await_serial(said, "SHA-256", BOOT);
    pop.await_serial(said, "tunnels", BOOT);
    let again = pop.serial();
    assert!(!again[said..].contains("setup="), "the link is still shown");
    pop.power_off();
}
