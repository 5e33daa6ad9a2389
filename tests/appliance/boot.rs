//! The image boots on what it may be put on, to the status screen on both consoles.

use crate::machine::{BOOT, Build, Disk, Firmware, Machine, image_version};
use crate::network::Network;
use std::path::Path;

fn boots_to_its_screen(firmware: Firmware, name: &str) {
    let network = Network::new();
    let disk = Disk::new();
    let mut machine = Machine::start(&network, &disk, &Build { firmware, ..Build::default() });
    // It has asked for an address, and shows it.
    machine.await_serial(0, "192.0.2.10", BOOT);
    println!("{name}: on the status screen with an address after {:.1} s", machine.age().as_secs_f64());
    assert!(machine.serial().contains(&image_version()), "{}", machine.serial());
    // Also on the one with a cable: the firmware's and GRUB's last lines are less than that.
    machine.eventually("its screen shows it too", BOOT, |it| it.lit_permille() > 10);
    let screen = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/appliance/screen-{name}.png"));
    machine.screendump(&screen).expect("it runs");
    // Whoever is at its console gets no shell.
    let before = machine.said();
    machine.type_text("\nroot\n\nid\n");
    network.must(&["ping", "-c", "3", "-W", "5", "192.0.2.10"]);
    assert!(!machine.serial()[before..].contains("uid="), "{}", machine.serial());
    machine.power_off();
}

#[test]
fn it_boots_by_bios() {
    boots_to_its_screen(Firmware::Bios, "bios");
}

#[test]
fn it_boots_by_uefi() {
    boots_to_its_screen(Firmware::Uefi, "uefi");
}
