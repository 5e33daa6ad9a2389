//! Telling the system around the box what it needs to know of a configuration.

use crate::config::{Candidate, HandoffKind, Interface};
use crate::system::Files;

/// Where the unit may write; systemd says so (RuntimeDirectory=). Without it somebody runs popgate by hand, in a lab maybe, and the
/// machine's network is not popgate's to keep.
const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";

/// Brings the files of other programs to the configuration. Nothing that a packet needs waits for it, so what fails is told.
pub(super) fn follow(candidate: &Candidate) {
    hand_on(&files(candidate));
}

/// The same for interfaces that are to be there before there is a configuration.
pub(super) fn follow_uplink(interfaces: &[Interface]) {
    hand_on(&Files::of_interfaces(interfaces));
}

fn hand_on(files: &Files) {
    let Some(runtime) = std::env::var_os(RUNTIME_DIRECTORY) else {
        if *files != Files::default() {
            tracing::warn!(
                "[[interface]] and the LAN's services are for the service popgate: nobody keeps them here"
            );
        }
        return;
    };
    match files.put(runtime.as_ref()) {
        Ok(true) => tracing::info!("the system is told of this box's interfaces"),
        Ok(false) => {}
        Err(error) => tracing::error!("the system cannot be told of this box's interfaces: {error}"),
    }
}

fn files(candidate: &Candidate) -> Files {
    let handoffs = candidate.tenants.values().flat_map(|tenant| &tenant.handoffs);
    let attached = handoffs.filter_map(|handoff| match &handoff.kind {
        HandoffKind::Private { attachment, .. } => Some(attachment.interface.clone()),
        HandoffKind::Internet { .. } => None,
    });
    // A branch has the tenant's file, and not its handoffs.
    let is_pop = super::is_pop(&candidate.appliance.role);
    Files::of(&candidate.appliance, &if is_pop { attached.collect() } else { Vec::new() })
}
