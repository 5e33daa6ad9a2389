//! Must hold 2: VLANs of one trunk for two tenants with the same prefixes, and the kernel's own WireGuard as their branches, which
//! one tenant's calls and the other's is called.

use crate::guest::Guest;
use crate::machine::{BOOT, Build, Disk, Machine};
use crate::network::Network;
use crate::office::SERVICE;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

/// Its cards, as systemd names them.
const POP: &str = r#"
site = "fra1"
role = "pop"
private-key-file = "keys/fra1.key"
[[interface]]
name = "enp0s16"
address = "192.0.2.2/24"
[[transport]]
name = "isp"
listen = "192.0.2.2:51820"
"#;

/// One tenant; `path` and `handoff` are what differs.
fn tenant(name: &str, key: &str, path: &str, handoff: &str) -> String {
    format!(
        r#"
tenant = "{name}"
[[branch]]
name = "berlin"
prefixes = ["10.1.0.0/16"]
[[branch.path]]
name = "dsl"
public-key = "{key}"
{path}
[[handoff]]
name = "dc"
kind = "private"
prefixes = ["10.200.0.0/16"]
interface = "enp0s17"
{handoff}
[[acl]]
name = "both-ways"
action = "accept"
[[path-policy]]
class = "default"
prefer = ["dsl"]
"#
    )
}

/// The branches and the data centres, each in a namespace of its own. What a data centre answers says whose it is.
const WORLD: &str = r#"
say() { echo "world: $*" >/dev/console; }
modprobe -a wireguard 8021q
under=$(ls -d /sys/devices/pci*/0000:00:10.0/virtio*/net/*) trunk=$(ls -d /sys/devices/pci*/0000:00:11.0/virtio*/net/*)
under=${under##*/} trunk=${trunk##*/}
ip address add 192.0.2.11/24 dev $under; ip link set $under up; ip link set $trunk up
place() { ip netns add $1; ip -n $1 link set lo up; }
number=0
for name in acme globex; do
    number=$((number + 1))
    place $name-dc; place $name
    ip link add link $trunk name v$number type vlan id 10$number; ip link set v$number netns $name-dc
    ip -n $name-dc address add 10.200.0.254/24 dev v$number; ip -n $name-dc link set v$number up
    ip -n $name-dc route add 10.1.0.0/16 via 10.200.0.1
    mkdir -p /tmp/$name; echo "this is $name" >/tmp/$name/index.html
    ip netns exec $name-dc busybox httpd -h /tmp/$name -p 10.200.0.254:80
    # Its socket stays outside, where the PoP is.
    ip link add w$number type wireguard
done
ip netns exec acme-dc dnsmasq --conf-file=/dev/null --port=0 --interface=v1 --bind-interfaces --user=root --pid-file= --leasefile-ro \
    --dhcp-range=10.200.0.1,10.200.0.1,1h --dhcp-option=option:router,10.200.0.254
echo '@acme@' >/tmp/1.key; echo '@globex@' >/tmp/2.key
# One calls, the other does not know where to.
wg set w1 private-key /tmp/1.key listen-port 51821 peer @pop@ endpoint 192.0.2.2:51820 allowed-ips 0.0.0.0/0 persistent-keepalive 5
wg set w2 private-key /tmp/2.key listen-port 51822 peer @pop@ allowed-ips 0.0.0.0/0
number=0
for name in acme globex; do
    number=$((number + 1))
    ip link set w$number netns $name; ip -n $name address add 10.1.0.1/32 dev w$number
    ip -n $name link set w$number up; ip -n $name route add default dev w$number
    mkdir -p /tmp/$name-branch; echo "$name's branch" >/tmp/$name-branch/index.html
    ip netns exec $name busybox httpd -h /tmp/$name-branch -p 10.1.0.1:80
done
say ready
fetch() { printf 'GET / HTTP/1.0\r\n\r\n' | ip netns exec $1 busybox nc -w 5 $2 80 2>/dev/null | tail -n 1; }
until_is() { until [ "$(fetch $1 $2)" = "$3" ]; do sleep 0.5; done; say "$1 reaches $2: $3"; }
until_is acme 10.200.0.254 'this is acme'
until_is globex 10.200.0.254 'this is globex'
until_is acme-dc 10.1.0.1 "acme's branch"
until_is globex-dc 10.1.0.1 "globex's branch"
# Many times, each time its own and no other's.
wrong=0
for round in $(seq 50); do
    [ "$(fetch acme 10.200.0.254)" = 'this is acme' ] || wrong=$((wrong + 1))
    [ "$(fetch globex 10.200.0.254)" = 'this is globex' ] || wrong=$((wrong + 1))
done
say "wrong: $wrong"
say done
while :; do sleep 1000; done
"#;

fn key() -> (String, String) {
    let run = |arguments: &[&str], input: &str| {
        let mut wg = Command::new("wg").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let wg = wg.as_mut().expect("wg runs: it is in Debian's package wireguard-tools");
        wg.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
        let mut said = String::new();
        wg.stdout.take().expect("a pipe").read_to_string(&mut said).expect("read");
        wg.wait().expect("ours");
        said.trim().to_owned()
    };
    let private = run(&["genkey"], "");
    let public = run(&["pubkey"], &private);
    (private, public)
}

/// A file of the image's popgate's, in what will be its state partition.
fn put(state: &Path, name: &str, text: &str) {
    let path = state.join(name);
    fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("made");
    fs::write(&path, text).expect("written");
    let mut of_popgate = Some(path.as_path());
    while let Some(path) = of_popgate.filter(|path| path.starts_with(state.join("etc/popgate"))) {
        chown(path, Some(SERVICE), Some(SERVICE)).expect("as root");
        fs::set_permissions(path, fs::Permissions::from_mode(if path.is_dir() { 0o700 } else { 0o600 }))
            .expect("ours");
        of_popgate = path.parent();
    }
}

#[test]
fn two_tenants_with_the_same_addresses_are_on_one_trunk_and_the_kernels_wireguard_is_their_branch() {
    let network = Network::new();
    network.add_switch("trunk", None);
    let [(pop_key, pop), (acme_key, acme), (globex_key, globex)] = [key(), key(), key()];
    let state = tempfile::tempdir().expect("a directory");
    let put = |name: &str, text: &str| put(state.path(), &format!("etc/popgate/{name}"), text);
    put("popgate.toml", POP);
    put("keys/fra1.key", &pop_key);
    put("tenants/acme.toml", &tenant("acme", &acme, "", "vlan = 101\naddress = \"dhcp\""));
    let called = "endpoint = \"192.0.2.11:51822\"\npersistent-keepalive = \"5s\"";
    put(
        "tenants/globex.toml",
        &tenant("globex", &globex, called, "vlan = 102\naddress = [\"10.200.0.1/24\"]"),
    );
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let disk = Disk::new().with_state(state.path());
    let cards = vec![("switch", 10), ("trunk", 11)];
    let mut pop_box = Machine::start(&network, &disk, &Build { cards, ..Build::default() });

    let script = WORLD.replace("@acme@", &acme_key).replace("@globex@", &globex_key).replace("@pop@", &pop);
    let guest = Guest::new(&script);
    let cards = vec![("switch", 12), ("trunk", 13)];
    let mut world = Machine::start_guest(&network, &guest, &Build { cards, ..Build::default() });
    world.await_serial(0, "world: ready", BOOT);
    let ready = world.age();
    world.eventually("all four ways are open", BOOT, |world| {
        let is_open = world.serial().contains("world: globex-dc reaches 10.1.0.1: globex's branch");
        if !is_open && world.age() > BOOT {
            println!("{}", pop_box.serial());
        }
        is_open
    });
    println!("vlan: all four ways are open {:.1} s after the branches", (world.age() - ready).as_secs_f64());
    world.await_serial(0, "world: done", BOOT);
    assert!(world.serial().contains("world: wrong: 0"), "{}", world.serial());
    pop_box.eventually("it still runs", BOOT, |_| true);
}
