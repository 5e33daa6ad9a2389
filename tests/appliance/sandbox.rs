//! Must hold 6: what the unit's sandbox keeps out, tried from inside it, and what systemd thinks of it.

use crate::container::{Container, text};
use crate::package::{configure_and_start, install, package};

/// The most that is asked of `systemd-analyze security`, in its tenths.
const MOST_EXPOSED: &str = "30";

/// What is tried, and whether it is to work. System calls by their numbers (x86-64), as no program that makes them is there.
const TRIALS: [(&str, &str, bool); 15] = [
    ("it writes its state", "echo x > /var/lib/popgate/trial", true),
    ("it writes its configuration", "echo x > /etc/popgate/trial", true),
    (
        "it changes a setting of the network",
        "cat /proc/sys/net/ipv4/ip_forward > /proc/sys/net/ipv4/ip_forward",
        true,
    ),
    ("it makes an interface", "ip link add trial0 type veth && ip link del trial0", true),
    ("it makes a network namespace and names it", "ip netns add trial && ip netns del trial", true),
    ("it writes a program", "echo x > /usr/bin/trial", false),
    ("it writes another's configuration", "echo x > /etc/trial", false),
    ("it writes the root", "echo x > /trial", false),
    ("it writes where services are told of", "echo x > /run/systemd/system/trial.service", false),
    ("it changes a setting of the kernel", "echo 1 > /proc/sys/kernel/sysrq", false),
    ("it looks into a home", "ls /root", false),
    ("it loads a module", "perl -e 'exit(syscall(175, \"\", 0, \"\") == 0 || $! != 1 ? 0 : 1)'", false),
    ("it traces a process", "perl -e 'exit(syscall(101, 16, getppid(), 0, 0) == 0 ? 0 : 1)'", false),
    ("it makes a user namespace", "perl -e 'exit(syscall(272, 0x10000000) == 0 ? 0 : 1)'", false),
    ("it makes a device", "perl -e 'exit(syscall(133, \"/tmp/trial\", 0x2180, 0x101) == 0 ? 0 : 1)'", false),
];

#[test]
fn from_inside_the_units_sandbox_nothing_is_to_be_had_but_the_network_and_its_own_folders() {
    let container = Container::boot();
    install(&container, &package());
    configure_and_start(&container);

    // The unit as it is, with something else to run.
    let unit = container.must(&["cat", "/usr/lib/systemd/system/popgate.service"]);
    let kept = unit.lines().filter(|line| {
        !["Exec", "Type=", "Restart=", "WatchdogSec="].iter().any(|key| line.starts_with(key))
    });
    let mut script = String::from("#!/bin/sh\n");
    for (number, (_, trial, _)) in TRIALS.iter().enumerate() {
        script += &format!(
            "if sh -c '{}' 2>/dev/null; then echo {number} done; else echo {number} refused; fi\n",
            trial.replace('\'', "'\\''")
        );
    }
    container.write("/usr/local/bin/trials", &script);
    let trials: Vec<&str> = kept.collect();
    let trials = trials
        .join("\n")
        .replace("[Service]", "[Service]\nType=oneshot\nExecStart=/bin/sh /usr/local/bin/trials");
    container.write("/etc/systemd/system/trials.service", &trials);
    container.must(&["systemctl", "daemon-reload"]);
    container.must(&["systemctl", "start", "trials"]);
    let said = container.journal("trials");
    for (number, (what, trial, works)) in TRIALS.iter().enumerate() {
        let expected = format!("{number} {}", if *works { "done" } else { "refused" });
        assert!(said.lines().any(|line| line == expected), "{what} ({trial}) is not {expected:?}: {said}");
    }

    let analyze = ["systemd-analyze", "security", "--no-pager", "popgate.service"];
    let analyzed = container.must(&analyze);
    let score = analyzed.lines().find(|line| line.contains("Overall exposure level"));
    println!("sandbox: {}", score.unwrap_or_default().trim());
    let threshold = container.exec(&[&analyze[..], &["--threshold", MOST_EXPOSED]].concat());
    assert!(threshold.status.success(), "{analyzed}{}", text(&threshold.stderr));

    // The thread that whoever is outside talks to.
    let admin = container.thread("popgate", "admin");
    let status = std::fs::read_to_string(format!("/proc/{admin}/status")).expect("readable");
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
    }
}
