//! The running box, as configurations are put in force on it: 1 prepare, which may refuse, 2 put in force, which cannot fail
//! halfway.

use super::crew::Crew;
use super::flows::FlowsSettings;
use super::is_pop;
use super::kernel::Kernel;
use super::ledger::limits_of;
use super::system;
use crate::admin::Access;
use crate::config::{Admin, Candidate};
use crate::control::commits::{ProblemRow, Refusal};
use crate::export::Directory;
use crate::io::exporting::Order;
use crate::io::ledgering::Entry;
use crate::io::network;
use crate::pipeline::rehearse;
use crate::tables::{Compiler, Generation};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// Everybody who is told of a new configuration.
pub(super) struct Machine {
    pub(super) compiler: Compiler,
    pub(super) current: Arc<ArcSwap<Generation>>,
    /// What the ledger takes names from: of a generation that workers may have already.
    pub(super) naming: Arc<ArcSwap<Generation>>,
    pub(super) crew: Crew,
    pub(super) orders: SyncSender<Order>,
    pub(super) ledger: Option<SyncSender<Entry>>,
    pub(super) history: Option<FlowsSettings>,
    pub(super) kernel: Kernel,
    /// Who may sign in.
    pub(super) access: Access,
    /// The configuration in force.
    pub(super) candidate: Candidate,
}

/// A configuration that can be put in force.
pub(super) struct Prepared {
    candidate: Candidate,
    generation: Arc<Generation>,
}

impl Prepared {
    /// What is not wrong with it, but not what was meant.
    pub(super) fn warnings(&self) -> Vec<ProblemRow> {
        self.generation.unreachable_rules().iter().map(ProblemRow::from).collect()
    }
}

impl Machine {
    /// Compiles `candidate` and runs its policy tests.
    ///
    /// # Errors
    /// All that keeps it from being put in force.
    pub(super) async fn prepare(&mut self, candidate: Candidate) -> Result<Prepared, Refusal> {
        let lasting = self.needs_restart(&candidate);
        if !lasting.is_empty() {
            return Err(Refusal::Wrong(lasting));
        }
        self.know_addresses(&candidate).await;
        self.compile(candidate)
    }

    fn compile(&mut self, candidate: Candidate) -> Result<Prepared, Refusal> {
        let generation = self.compiler.compile(&candidate);
        let generation =
            generation.map_err(|error| Refusal::Wrong(vec![ProblemRow::of_all(error.to_string())]))?;
        let failed = rehearse(&candidate, &generation);
        if !failed.is_empty() {
            return Err(Refusal::Wrong(failed.iter().map(ProblemRow::from).collect()));
        }
        Ok(Prepared { candidate, generation: Arc::new(generation) })
    }

    /// What of `candidate` cannot be while this process runs.
    pub(super) fn needs_restart(&self, candidate: &Candidate) -> Vec<ProblemRow> {
        let (old, new) = (&self.candidate.appliance, &candidate.appliance);
        let differing = [
            ("site", old.site != new.site),
            ("role", is_pop(&old.role) != is_pop(&new.role)),
            ("state-dir", old.state_dir != new.state_dir),
            ("workers", old.workers != new.workers),
            ("[admin] but for [admin.oidc]", doors(&old.admin) != doors(&new.admin)),
            ("whether there is a [nat-ledger]", old.nat_ledger.is_some() != new.nat_ledger.is_some()),
            ("whether there is a [flow-history]", old.flow_history.is_some() != new.flow_history.is_some()),
        ];
        let differing = differing.into_iter().filter(|(_, differs)| *differs);
        differing
            .map(|(what, _)| ProblemRow::of_all(format!("{what}: changes only with a restart")))
            .collect()
    }

    /// Where an address of the box's own is masqueraded with, and has changed, the configuration is compiled anew with it.
    pub(super) async fn follow_addresses(&mut self) {
        let candidate = self.candidate.clone();
        if !self.know_addresses(&candidate).await {
            return;
        }
        tracing::info!("an address of this box's own is another now");
        let done = match self.compile(candidate) {
            Ok(prepared) => self.put_in_force(prepared).await,
            Err(Refusal::Wrong(problems)) => Err(format!("{problems:?}")),
            Err(other) => Err(format!("{other:?}")),
        };
        if let Err(error) = done {
            tracing::error!("the configuration cannot be compiled anew: {error}");
        }
    }

    /// Looks what they are; true if that differs from before. Those that nobody can tell stay as they are.
    async fn know_addresses(&mut self, candidate: &Candidate) -> bool {
        match addresses_for(candidate).await {
            Some(addresses) => self.compiler.know_addresses(addresses),
            None => false,
        }
    }

    /// From here on it is the box's configuration.
    ///
    /// # Errors
    /// A forwarding thread has ended: the box is about to end.
    pub(super) async fn put_in_force(&mut self, prepared: Prepared) -> Result<(), String> {
        let Prepared { candidate, generation } = prepared;
        warn_of(&generation);
        self.naming.store(Arc::clone(&generation));
        if !self.crew.adopt(&generation).await {
            return Err("a forwarding thread has ended; the new configuration is not taken over".to_owned());
        }
        self.current.store(Arc::clone(&generation));
        system::follow(&candidate);
        self.kernel.bring_to(&generation).await;
        if self.orders.send(reconfigure(&candidate, &generation)).is_err() {
            tracing::error!("the exporter is gone");
        }
        if let (Some(history), Some(config)) = (&self.history, &candidate.appliance.flow_history)
            && !history.take_over(config)
        {
            tracing::error!("the flow history's thread is gone");
        }
        if let (Some(ledger), Some(config)) = (&self.ledger, &candidate.appliance.nat_ledger)
            && ledger.send(Entry::Limits(limits_of(config))).is_err()
        {
            tracing::error!("the NAT ledger's thread is gone");
        }
        if let Err(error) = self.access.follow(candidate.appliance.admin.oidc.as_ref()).await {
            tracing::error!("who may sign in is not looked through anew: {error}");
        }
        self.candidate = candidate;
        tracing::info!(generation = generation.number, "the configuration is in force");
        Ok(())
    }
}

/// Where the admin server is reached: all of it but who may come in.
fn doors(admin: &Admin) -> Admin {
    Admin { oidc: None, ..admin.clone() }
}

/// The addresses of the interfaces that `candidate` masquerades with; `None` where nobody can tell.
pub(super) async fn addresses_for(candidate: &Candidate) -> Option<BTreeMap<String, Ipv4Addr>> {
    let addresses = network::addresses(&candidate.masquerades()).await;
    addresses.inspect_err(|error| tracing::warn!("this box's own addresses: {error}")).ok()
}

/// What is not wrong with a configuration, but not what was meant.
pub(super) fn warn_of(generation: &Generation) {
    for warning in generation.unreachable_rules() {
        tracing::warn!("{warning}");
    }
}

pub(super) fn reconfigure(candidate: &Candidate, generation: &Generation) -> Order {
    let collectors = candidate.appliance.export.collectors.clone();
    let packet_sampling = candidate.appliance.export.packet_sampling;
    Order::Reconfigure { collectors, packet_sampling, directory: directory(generation) }
}

/// The names a collector is told. All ever given, not only the present generation's: a record may still speak of them.
fn directory(generation: &Generation) -> Directory {
    let names = &generation.names;
    Directory {
        tenants: names.all_tenants().map(|(id, name)| (id, name.to_string())).collect(),
        classes: names.all_classes().map(|(id, (tenant, name))| ((*tenant, id), name.to_string())).collect(),
        rules: names.all_rules().map(|(id, (tenant, name))| ((*tenant, id), name.to_string())).collect(),
        sites: names
            .all_sites()
            .map(|(id, (tenant, name))| (id, format!("{}/{name}", names.tenant(*tenant))))
            .collect(),
        paths: names
            .all_paths()
            .map(|(id, (site, _))| {
                let tenant = names.site_tenant(*site).map_or("?", |tenant| names.tenant(tenant));
                (id, format!("{tenant}/{}", names.site_and_path(id)))
            })
            .collect(),
        handoffs: names
            .all_handoffs()
            .map(|(id, (tenant, name))| (id, format!("{}/{name}", names.tenant(*tenant))))
            .collect(),
        lan: generation
            .devices
            .iter()
            .find(|(_, spec)| matches!(spec.kind, crate::tables::DeviceKind::Lan { .. }))
            .map(|(_, spec)| spec.name.clone()),
    }
}
