//! The appliance as it is installed: the Debian package on a clean system, and what its unit may do there. `make test-image` runs
//! these; they need root, systemd-nspawn and mmdebstrap, and a package that was made before (`make package PROFILE=dev`).

mod container;
mod lan;
mod package;
mod sandbox;
