//! The appliance as it is installed, and as it boots: the Debian package on a clean system and what its unit may do there, and the
//! image in QEMU. `make test-image` makes both and runs these; they need root, systemd-nspawn, mmdebstrap and QEMU.

mod at_the_console;
mod boot;
mod container;
mod first_boot;
mod guest;
mod hosts;
mod lan;
mod machine;
mod network;
mod office;
mod package;
mod power_cuts;
mod sandbox;
mod updates;
mod vlan;
