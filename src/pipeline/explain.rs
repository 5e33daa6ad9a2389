//! Why: what would become of a flow whose first packet came now, and what decides it.
//!
//! The slow path itself decides ([`decide`]); an [`Observer`] writes down each step with the line it is written at. No
//! packet is needed and no state is touched, so that a candidate can be asked as well as the generation in force.

use super::decide::{Decision, Observer, Question, Way, decide};
use super::report::{Explanation, LivePath, PathState, PathStep, Step, StepKind};
use crate::config::{AclAction, Outcome};
use crate::model::{
    AskedFlow, ClassBy, ClassId, DropReason, End, FlowKey, HandoffId, NextHop, PathId, Share, TenantId, Zone,
};
use crate::path::Candidate;
use crate::tables::{
    AclRule, Breakout, Called, Classified, Crossing, Generation, Misfit, NatVerdict, Site, Subject, Tenant,
};
use std::net::{IpAddr, SocketAddr};

/// What would become of `asked` in `tenant`'s network.
pub fn explain(generation: &Generation, tenant: TenantId, asked: &AskedFlow) -> Explanation {
    let mut explaining = Explaining::new(generation, tenant);
    let outcome = match generation.tenants.get(tenant) {
        Some(tables) => explaining.decide(tables, asked),
        None => Err(DropReason::NoRoute),
    };
    explaining.finish(outcome)
}

/// An explanation in the making.
struct Explaining<'a> {
    generation: &'a Generation,
    tenant: TenantId,
    explanation: Explanation,
    /// The addresses that are asked about: of the source, and the destination.
    addresses: Option<[IpAddr; 2]>,
    /// It is decided on in another tenant: what that one says is told, and the answer stays the first one's.
    crossed: bool,
    /// The branch's own way out, which the session may take too.
    breakout: Option<&'a Breakout>,
    /// It is decided on once more, with its name: what a name does not change is not told again.
    renamed: bool,
}

impl<'a> Explaining<'a> {
    fn new(generation: &'a Generation, tenant: TenantId) -> Explaining<'a> {
        Explaining {
            generation,
            tenant,
            explanation: Explanation::default(),
            addresses: None,
            crossed: false,
            breakout: None,
            renamed: false,
        }
    }

    fn decide(&mut self, tables: &'a Tenant, asked: &AskedFlow) -> Result<(), DropReason> {
        let Some(to) = called_by(tables, asked) else {
            self.addresses = Some([asked.from.address, asked.to.address]);
            self.step(StepKind::Destination, "it is of another family than the source".into(), None, false);
            return Err(DropReason::NoRoute);
        };
        self.addresses = Some([asked.from.address, to]);
        // It is taken to come from where its source belongs; from anywhere else it would be refused.
        let arrives = tables.owners.lookup(asked.from.address).and_then(|end| tables.next_hop(end));
        let Some(arrived_from) = arrives else {
            self.source(None);
            return Err(DropReason::SourceNotAllowed);
        };
        let zone = match arrived_from {
            NextHop::Device(device) => self.generation.device_zones.get(device).copied(),
            NextHop::Tunnel(_) => Some(Zone::tenant(self.tenant)),
        };
        let zone = zone.ok_or(DropReason::DeviceDown)?;
        let sent_to = (to, asked.destination_port());
        let host = if zone == Zone::INTERNET { self.called(asked, sent_to)? } else { sent_to };
        let from = (asked.from.address, asked.source_port());
        let key = FlowKey::new(zone, asked.protocol, from, host);
        let (generation, home) = (self.generation, (self.tenant, self.addresses));
        // How paths stand is told beside; the best is taken to be up.
        let way = Way::Best(&|_, _| Candidate::Up);
        let (key, dscp) = (&key, asked.dscp);
        let mut question = Question { key, dscp, arrives_from: arrived_from, named: None, way };
        let mut decision = decide(generation, tables, &question, self)?;
        (self.tenant, self.addresses, self.crossed) = (home.0, home.1, false);
        if let Some(name) = asked.sni {
            let named = asked.named();
            let text = match named {
                Some(_) => format!("then the client calls the server {name}, and it is planned anew"),
                None => format!("nobody calls a server {name} in {}", asked.protocol),
            };
            self.step(StepKind::Class, text, None, named.is_some());
            if named.is_some() {
                self.renamed = true;
                // By then it has its way.
                let way = Way::Kept(decision.plan.hops[1]);
                question = Question { named: named.as_ref(), way, ..question };
                decision = decide(generation, tables, &question, self)?;
                (self.tenant, self.crossed) = (home.0, false);
            }
        }
        self.paths(&decision);
        Ok(())
    }

    /// Whom a call from the internet reaches: the host that has the address, or that stands behind it.
    fn called(&mut self, asked: &AskedFlow, sent_to: (IpAddr, u16)) -> Result<(IpAddr, u16), DropReason> {
        let (text, reason) = match self.generation.called(asked.protocol, sent_to) {
            Some(Called::Host { tenant, host }) if tenant == self.tenant => {
                if host != sent_to {
                    let text = format!("{} stands for {}", asked.to, SocketAddr::from(host));
                    self.step(StepKind::Destination, text, None, true);
                    self.addresses = Some([asked.from.address, host.0]);
                }
                return Ok(host);
            }
            Some(Called::Pool { tenant, .. }) if tenant == self.tenant => (
                "is a NAT pool's: only a host that is bound to it can be called there",
                DropReason::NoSession,
            ),
            _ => ("cannot be called from the internet", DropReason::NoRoute),
        };
        self.step(StepKind::Destination, format!("{} {text}", asked.to.address), None, false);
        Err(reason)
    }

    /// The paths it would be sent on, best first; where it leaves by a device, those of its answers.
    fn paths(&mut self, decision: &Decision<'_>) {
        let (hops, class) = (decision.plan.hops, decision.plan.class);
        // Whatever it is called later, it stays on the way that it has.
        let breakout = self.breakout.filter(|_| !self.renamed || matches!(hops[1], NextHop::Device(_)));
        let beside = breakout.map(|breakout| breakout.site);
        let (site, text) = match (hops, beside) {
            ([_, NextHop::Tunnel(site)], _) | ([_, NextHop::Device(_)], Some(site)) => {
                (site, "the first that is up is taken")
            }
            ([NextHop::Tunnel(site), _], None) => {
                (site, "answers take the path it came by, and if that goes down, the first that is up")
            }
            _ => return,
        };
        self.explanation.paths_are_forward = beside.is_some() || matches!(hops[1], NextHop::Tunnel(_));
        let names = &self.generation.names;
        let tables = names.site_tenant(site).and_then(|tenant| self.generation.tenants.get(tenant));
        let Some(tables) = tables else { return };
        let Some(far) = tables.sites.get(site) else { return };
        let order = breakout.map_or(far.order(class), |breakout| breakout.order(class));
        let at = tables.written.policies.get(class).map(ToString::to_string);
        let text = format!("{text}{}", self.shares(far, class));
        self.step(StepKind::Path, text, at, true);
        // Of the way out nobody is asked that policy does not name: there is none while its interface has no address.
        let is_up = |id| breakout.is_some_and(|breakout| breakout.path == id && breakout.echo.is_none());
        let up = LivePath { state: PathState::Up, rtt_ms: None, jitter_ms: None, loss: None };
        let steps = order.iter().filter_map(|id| {
            let site = self.generation.far_end(*id)?.1.to_owned();
            Some(PathStep { site, path: names.path(*id).to_owned(), live: is_up(*id).then_some(up) })
        });
        self.explanation.paths = steps.collect();
    }

    /// Which of the paths are equal, and what each takes.
    fn shares(&self, far: &Site, class: ClassId) -> String {
        let shared: Vec<(PathId, Share)> =
            far.order(class).iter().copied().zip(far.shares(class).iter().copied()).collect();
        let groups = shared.chunk_by(|(_, one), (_, next)| one.group == next.group);
        let told = groups.filter(|group| group.len() > 1).map(|group| {
            let all: f32 = group.iter().map(|(_, share)| share.weight).sum();
            let parts = group.iter().map(|(path, share)| {
                format!("{} {:.0} %", self.generation.names.path(*path), share.weight / all * 100.0)
            });
            format!("; equal ones share: {}", parts.collect::<Vec<_>>().join(", "))
        });
        told.collect()
    }

    fn finish(mut self, outcome: Result<(), DropReason>) -> Explanation {
        self.explanation.outcome = match outcome {
            Ok(()) => Outcome::Accept,
            Err(DropReason::AclRejected(_)) => Outcome::Reject,
            Err(_) => Outcome::Drop,
        };
        self.explanation.reason = outcome.err().map(|reason| reason.name().to_owned());
        self.explanation
    }

    fn step(&mut self, kind: StepKind, mut text: String, at: Option<String>, fits: bool) {
        let told_already =
            self.crossed || matches!(kind, StepKind::Source | StepKind::Destination | StepKind::Nat);
        if self.renamed && told_already {
            return;
        }
        if self.crossed {
            text = format!("in {}: {text}", self.generation.names.tenant(self.tenant));
        }
        self.explanation.steps.push(Step { kind, text, at, fits });
    }

    fn owner(&mut self, kind: StepKind, end: Option<End>) {
        let Some([source, destination]) = self.addresses else { return };
        let address = if kind == StepKind::Source { source } else { destination };
        let Some(end) = end else {
            let tenant = self.generation.names.tenant(self.tenant).to_owned();
            return self.step(kind, format!("{address} is nobody's in {tenant}"), None, false);
        };
        let tables = self.generation.tenants.get(self.tenant);
        let prefix = tables.and_then(|tables| tables.written.prefix_of(address));
        let of = prefix.map_or(String::new(), |(prefix, _)| format!(", as part of {prefix}"));
        let end = self.generation.describe_end(end);
        self.step(
            kind,
            format!("{address} belongs to {end}{of}"),
            prefix.map(|(_, at)| at.to_string()),
            true,
        );
    }

    fn tables(&self) -> Option<&'a Tenant> {
        self.generation.tenants.get(self.tenant)
    }

    fn handoff(&self, handoff: HandoffId) -> String {
        self.generation.names.handoff(handoff).to_owned()
    }
}

impl<'a> Observer<'a> for Explaining<'a> {
    fn source(&mut self, end: Option<End>) {
        self.owner(StepKind::Source, end);
    }

    fn destination(&mut self, end: Option<End>) {
        self.owner(StepKind::Destination, end);
        if let Some(End::Handoff(handoff)) = end {
            self.explanation.handoff = Some(self.handoff(handoff));
        }
    }

    fn across(&mut self, asked: Option<&FlowKey>) {
        let Some([source, destination]) = self.addresses else { return };
        let (text, fits) = match asked {
            Some(asked) => {
                self.addresses = Some([source, asked.destination()]);
                (format!("{destination} stands for {}", asked.destination()), true)
            }
            None => (format!("{destination} stands for an address that NAT64 does not lead to"), false),
        };
        let prefix = self.tables().and_then(|tables| tables.written.prefix_of(destination));
        self.step(StepKind::Destination, text, prefix.map(|(_, at)| at.to_string()), fits);
    }

    fn class(&mut self, classified: &Classified) {
        let class = classified.class;
        let name = self.generation.names.class(class).to_owned();
        let at = self.tables().and_then(|tables| tables.written.classes.get(class)).map(ToString::to_string);
        let text = match classified.by {
            ClassBy::Default => format!("class {name}: no app class fits"),
            ClassBy::Rule => format!("class {name}: the first whose match fits"),
            by => format!("class {name}: the first whose match fits, by {}", by.name()),
        };
        self.step(StepKind::Class, text, at, true);
        if !self.crossed {
            self.explanation.class = Some(name);
        }
    }

    fn rule(&mut self, subject: &Subject<'_>, class: ClassId, rule: Option<&'a AclRule>) {
        let Some(tables) = self.tables() else { return };
        let names = &self.generation.names;
        for (tried, misfits) in tables.acl.tried(subject, class) {
            let name = names.rule(tried.id);
            let why = |misfit: &Misfit| match misfit {
                Misfit::Direction => "its direction".to_owned(),
                Misfit::Source => format!("from {}", subject.source),
                Misfit::Destination => format!("to {}", subject.destination),
                Misfit::Service if subject.protocol.has_ports() => {
                    format!("{} {} to {}", subject.protocol, subject.source_port, subject.destination_port)
                }
                Misfit::Service => format!("protocol {}", subject.protocol),
                Misfit::Dscp => format!("DSCP {}", subject.dscp),
                Misfit::Class => format!("class {}", names.class(class)),
                Misfit::App | Misfit::Domain => "what it is known by".to_owned(),
            };
            let text = if misfits.is_empty() {
                format!("{name} fits: {}", verb(tried.action))
            } else {
                format!("{name} does not fit: {}", misfits.iter().map(why).collect::<Vec<_>>().join(", "))
            };
            self.step(StepKind::Rule, text, Some(tried.at.to_string()), misfits.is_empty());
        }
        match rule {
            Some(rule) if !self.crossed || rule.action != AclAction::Accept => {
                self.explanation.rule = Some(names.rule(rule.id).to_owned());
            }
            Some(_) => {}
            None => {
                self.explanation.rule = None;
                self.step(StepKind::Rule, "no rule fits: drop".into(), None, false);
            }
        }
    }

    fn crosses(&mut self, crossing: &Crossing) {
        self.tenant = crossing.publisher;
        self.addresses = Some([crossing.source, crossing.host]);
        self.crossed = true;
    }

    fn nat(&mut self, subject: &Subject<'_>, class: ClassId, nat: &NatVerdict<'a>) {
        let tables = self.tables().filter(|tables| !self.renamed && tables.may_break_out(subject, class));
        self.breakout = tables.and_then(|tables| tables.breakout.as_ref()).or(self.breakout);
        let (text, fits) = match nat {
            NatVerdict::Cross(Crossing { publisher, source, host, .. }) => {
                self.explanation.nat = vec![source.to_string()];
                let publisher = self.generation.names.tenant(*publisher);
                (
                    format!("a service of {publisher}: the source becomes {source}, the destination {host}"),
                    true,
                )
            }
            NatVerdict::Untranslated => ("not translated".to_owned(), true),
            NatVerdict::Map(outside) => {
                self.explanation.nat = vec![outside.to_string()];
                (format!("the source becomes {outside}"), true)
            }
            NatVerdict::Beyond(_) => ("the PoP translates it".to_owned(), true),
            NatVerdict::Impossible(handoff) => {
                let handoff = self.handoff(*handoff);
                (format!("it would have to be translated, and handoff {handoff} has no pool"), false)
            }
            NatVerdict::Translate(pool) => {
                let computed = match subject.source_end {
                    End::Site(branch) => pool.ports_of(branch),
                    End::Handoff(_) | End::Lan | End::Tenant(_) => None,
                };
                let (nat, text) = match computed {
                    Some((address, ports)) => {
                        let text =
                            format!("{address}, with one of its ports {}-{}", ports.start(), ports.end());
                        (vec![address.to_string()], text)
                    }
                    None => {
                        let prefixes: Vec<String> = pool.networks().iter().map(ToString::to_string).collect();
                        let text = format!("an address of {}", prefixes.join(", "));
                        (prefixes, text)
                    }
                };
                self.explanation.nat = nat;
                (format!("the source becomes {text}"), true)
            }
        };
        let at = self.tables().and_then(|tables| match subject.destination_end {
            End::Handoff(handoff) if is_device(tables.next_hop(subject.destination_end)) => {
                tables.nat.get(handoff)?.written(subject, class)
            }
            // Beyond a tunnel, it is the far end's business.
            _ => None,
        });
        self.step(StepKind::Nat, text, at.map(ToString::to_string), fits);
    }
}

/// What the source calls the destination: one of IPv4 is called by IPv6 hosts within the NAT64 prefix that leads there. `None` if
/// there is no such.
fn called_by(tables: &Tenant, asked: &AskedFlow) -> Option<IpAddr> {
    match (asked.from.address, asked.to.address) {
        (IpAddr::V6(_), IpAddr::V4(v4)) => match tables.owners.lookup(v4.into())? {
            End::Handoff(handoff) => Some(tables.nat64(handoff)?.embed(v4).into()),
            End::Site(_) | End::Lan | End::Tenant(_) => None,
        },
        (IpAddr::V4(_), IpAddr::V6(_)) => None,
        (_, destination) => Some(destination),
    }
}

fn is_device(hop: Option<NextHop>) -> bool {
    matches!(hop, Some(NextHop::Device(_)))
}

fn verb(action: AclAction) -> &'static str {
    match action {
        AclAction::Accept => "accept",
        AclAction::Drop => "drop",
        AclAction::Reject => "reject",
    }
}
