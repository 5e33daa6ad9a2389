//! A branch as its unit runs it, with systemd-networkd and dnsmasq told by it: the addresses of its own interfaces, and what the
//! hosts on its LAN get.

use crate::container::{Container, text};
use crate::package::{install, package};

/// The point of presence and what lies beyond it are in namespaces of the same container.
const POP: &str = r#"
site = "fra1"
role = "pop"
state-dir = "/var/lib/pop"
private-key-file = "keys/fra1.key"
[[transport]]
name = "isp"
listen = "192.0.2.1:51820"
"#;
const TENANT: &str = r#"
tenant = "acme"
[[branch]]
name = "berlin"
prefixes = ["10.1.0.0/16"]
[[branch.path]]
name = "dsl"
public-key = "@branch@"
[[handoff]]
name = "internet"
kind = "internet"
nat-pool = ["203.0.113.0/29"]
[[acl]]
name = "out"
from = ["branch:berlin"]
to = ["handoff:internet"]
action = "accept"
[[path-policy]]
class = "default"
prefer = ["dsl"]
"#;
const BRANCH: &str = r#"
site = "berlin"
role = "branch"
[[interface]]
name = "eth0"
address = ["10.1.0.1/24", "2001:db8:1::1/64"]
[[interface]]
name = "eth1"
address = "dhcp"
[[transport]]
name = "dsl"
listen = "0.0.0.0:51820"
interface = "eth1"
[lan]
interfaces = ["eth0"]
advertise = true
[[lan.dhcp]]
range = "10.1.0.100-10.1.0.199"
domain = "berlin.example"
[[lan.dhcp.host]]
name = "printer"
mac = "52:54:00:12:34:56"
address = "10.1.0.20"
[lan.dns]
upstream = "198.51.100.53"
[[pop]]
name = "fra1"
public-key = "@pop@"
[[pop.path]]
name = "dsl"
transport = "dsl"
endpoint = "192.0.2.1:51820"
private-key-file = "keys/dsl.key"
"#;

const NAMESPACES: [&str; 4] = ["printer", "guest", "pop", "beyond"];

#[test]
fn a_branchs_hosts_get_addresses_and_names_through_the_tunnel() {
    let container = Container::boot();
    install(&container, &package());
    let sh = |line: &str| container.must(&["sh", "-ec", line]);
    for name in NAMESPACES {
        sh(&format!("ip netns add {name}; ip -n {name} link set lo up"));
    }
    // The LAN is a switch with two hosts on it.
    sh("ip link add eth0 type veth peer name lan; ip link add eth1 type veth peer name p0 netns pop
        ip link add sw type bridge; ip link set sw up; ip link set lan master sw up
        for host in printer guest; do ip link add to-$host type veth peer name h0 netns $host; ip link set to-$host master sw up; done
        ip -n printer link set h0 address 52:54:00:12:34:56
        ip -n printer link set h0 up; ip -n guest link set h0 up
        ip -n pop link add p1 type veth peer name b0 netns beyond
        ip -n pop address add 192.0.2.1/24 dev p0; ip -n pop link set p0 up
        ip -n pop address add 198.51.100.1/24 dev p1; ip -n pop link set p1 up
        ip -n beyond address add 198.51.100.53/24 dev b0; ip -n beyond link set b0 up
        ip -n beyond route add 203.0.113.0/29 via 198.51.100.1");
    // Who gives the branch its address, and who knows names.
    let spawn = |unit: &str, netns: &str, line: &str| {
        sh(&format!("systemd-run --quiet --unit={unit} ip netns exec {netns} {line}"));
    };
    spawn(
        "isp",
        "pop",
        "dnsmasq -k --conf-file=/dev/null --port=0 --interface=p0 --bind-interfaces --user=root \
         --leasefile-ro --dhcp-range=192.0.2.50,192.0.2.50,1h --dhcp-option=option:router,192.0.2.1",
    );
    spawn(
        "names",
        "beyond",
        "dnsmasq -k --conf-file=/dev/null --no-resolv --no-hosts --user=root \
         --address=/www.corp.example/198.51.100.53",
    );

    let keys = "mkdir -p /etc/pop/keys /etc/pop/tenants /var/lib/pop; umask 077
        popgate genkey > /etc/pop/keys/fra1.key; popgate genkey > /etc/popgate/keys/dsl.key";
    sh(keys);
    let [pop, branch] = ["/etc/pop/keys/fra1.key", "/etc/popgate/keys/dsl.key"]
        .map(|key| sh(&format!("popgate pubkey < {key}")).trim().to_owned());
    let tenant = TENANT.replace("@branch@", &branch);
    container.write("/etc/pop/popgate.toml", POP);
    container.write("/etc/pop/tenants/acme.toml", &tenant);
    container.write("/etc/popgate/popgate.toml", &BRANCH.replace("@pop@", &pop));
    container.write("/etc/popgate/tenants/acme.toml", &tenant);
    sh("chown --recursive popgate:popgate /etc/popgate");
    spawn("pop", "pop", "popgate run /etc/pop");

    // As on the appliance: an interface that nobody has said anything about is not up.
    sh("systemctl start systemd-networkd");
    let started = container.exec(&["systemctl", "start", "popgate"]);
    assert!(started.status.success(), "{}", container.journal("popgate"));
    container.eventually("both interfaces have their addresses", |it| {
        let addresses = text(&it.exec(&["ip", "-brief", "address"]).stdout);
        addresses.contains("10.1.0.1/24")
            && addresses.contains("2001:db8:1::1/64")
            && addresses.contains("192.0.2.50/24")
    });
    container.eventually("the tunnel is up", |it| {
        text(&it.exec(&["popgate", "show", "paths"]).stdout).contains("up")
    });

    let lease = |host: &str| {
        let asked = [
            "ip",
            "netns",
            "exec",
            host,
            "udhcpc",
            "-f",
            "-n",
            "-q",
            "-i",
            "h0",
            "-x",
            &format!("hostname:{host}"),
        ];
        container.eventually("a host gets an address", |it| it.exec(&asked).status.success());
        text(&container.exec(&["ip", "-n", host, "-brief", "-4", "address", "show", "dev", "h0"]).stdout)
    };
    assert!(lease("printer").contains("10.1.0.20/24"));
    let guest = lease("guest");
    assert!(guest.contains("10.1.0.1"), "{guest}");
    assert!(container.must(&["ip", "-n", "guest", "route"]).contains("default via 10.1.0.1 dev h0"));
    container.eventually("a host makes itself an address of the prefix", |it| {
        text(&it.exec(&["ip", "-n", "guest", "-6", "-brief", "address"]).stdout).contains("2001:db8:1:")
    });

    for name in NAMESPACES {
        container.write(&format!("/etc/netns/{name}/resolv.conf"), "nameserver 10.1.0.1\n");
    }
    let ask = |name: &str| ["ip", "netns", "exec", "guest", "getent", "ahostsv4", name].map(str::to_owned);
    let answers = |name: &str, address: &str| {
        let asked = ask(name);
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        container.eventually("a name is found", |it| text(&it.exec(&asked).stdout).contains(address));
    };
    // One that is asked beyond the tunnel, under the policy; one of the LAN's own.
    answers("www.corp.example", "198.51.100.53");
    answers("printer.berlin.example", "10.1.0.20");
    let flows = container.must(&["popgate", "show", "sessions", "--json"]);
    assert!(flows.contains("10.1.0.1") && flows.contains("198.51.100.53"), "{flows}");
    container.must(&["ip", "netns", "exec", "guest", "ping", "-n", "-c", "1", "-W", "5", "198.51.100.53"]);

    // A commit without them takes all of it back.
    let without: String =
        BRANCH.replace("@pop@", &pop).split("[[lan.dhcp]]").next().expect("a part").to_owned()
            + &BRANCH.replace("@pop@", &pop)
                [BRANCH.replace("@pop@", &pop).find("[[pop]]").expect("it has one")..];
    container.write("/etc/popgate/popgate.toml", &without.replace("advertise = true\n", ""));
    container.must(&["popgate", "commit"]);
    container.eventually("nobody serves the LAN", |it| {
        text(&it.exec(&["systemctl", "is-active", "popgate-lan"]).stdout).trim() == "inactive"
    });
    assert_eq!(text(&container.exec(&["systemctl", "--failed", "--quiet", "--no-legend"]).stdout), "");
}
