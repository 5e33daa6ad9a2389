//! Classes: what a flow is, by the first of its tenant's `[[app-class]]` rules that fits it. Rules may ask for apps and for
//! domains (`apps` says what those are), so that a flow's class may change when its name becomes known.

use super::apps::{Domains, FitBy, TenantApps};
use super::rules::{FirstMatch, Matcher, Subject};
use crate::model::{AppId, ClassBy, ClassId, DomainId, Named};

/// A tenant's ordered app classes.
#[derive(Clone, Debug)]
pub struct Classifier {
    default: ClassId,
    first_match: FirstMatch,
    /// By rule.
    classes: Box<[ClassId]>,
    asks: Box<[Asks]>,
    asks_for_apps: bool,
    apps: TenantApps,
    domains: Domains<DomainId>,
    /// The rules that a name can make fit, as if it did; and which those are.
    with_name: FirstMatch,
    named_rules: Box<[usize]>,
}

/// One alternative of an app class.
pub(super) struct ClassRule {
    pub(super) class: ClassId,
    pub(super) matcher: Matcher,
    pub(super) asks: Asks,
}

/// What a rule asks for that only a look at the whole flow tells. Empty: nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Asks {
    pub(super) apps: Box<[AppId]>,
    pub(super) domains: Box<[DomainId]>,
}

/// What a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    pub class: ClassId,
    pub by: ClassBy,
    /// The rule's number, counted over all alternatives of all classes; `None` for the default class.
    pub rule: Option<usize>,
}

impl Classifier {
    pub(super) fn new(
        default: ClassId,
        rules: Vec<ClassRule>,
        apps: TenantApps,
        domains: Domains<DomainId>,
    ) -> Classifier {
        let needs_name =
            |asks: &Asks| !asks.domains.is_empty() || asks.apps.iter().any(|app| apps.has_domains(*app));
        let named = rules.iter().enumerate().filter(|(_, rule)| needs_name(&rule.asks));
        let (named_rules, with_name): (Vec<_>, Vec<_>) =
            named.map(|(number, rule)| (number, rule.matcher.clone())).unzip();
        let classes = rules.iter().map(|rule| rule.class).collect();
        let (matchers, asks): (Vec<_>, Vec<_>) = rules
            .into_iter()
            .map(|ClassRule { matcher, asks, .. }| {
                (matcher.asking_for(asks.apps.clone(), asks.domains.clone()), asks)
            })
            .unzip();
        Classifier {
            asks_for_apps: asks.iter().any(|asks| !asks.apps.is_empty()),
            default,
            first_match: FirstMatch::new(matchers),
            classes,
            asks: asks.into(),
            apps,
            domains,
            with_name: FirstMatch::new(with_name),
            named_rules: named_rules.into(),
        }
    }

    /// The class of the first rule that fits a flow that is, or may be, called `named`; or `default`.
    pub fn classify(&self, subject: &Subject<'_>, named: Option<&Named>) -> Classified {
        let name = named.map(|named| &*named.name);
        let fits = if self.asks_for_apps { self.apps.of(subject, name) } else { Vec::new() };
        let apps: Vec<AppId> = fits.iter().map(|fit| fit.app).collect();
        let domains: Vec<DomainId> =
            name.into_iter().flat_map(|name| self.domains.of(name)).map(|(_, domain)| *domain).collect();
        let subject = Subject { apps: &apps, domains: &domains, ..*subject };
        let Some(rule) = self.first_match.find(&subject, None) else {
            return Classified { class: self.default, by: ClassBy::Default, rule: None };
        };
        let asks = &self.asks[rule];
        let by_app = fits.iter().find(|fit| asks.apps.contains(&fit.app)).map(|fit| fit.by);
        let by_name = !asks.domains.is_empty() || by_app == Some(FitBy::Name);
        let by = match (named, by_app) {
            (Some(named), _) if by_name => ClassBy::Name(named.by),
            (_, Some(FitBy::Prefix)) => ClassBy::Prefix,
            (_, Some(_)) => ClassBy::Port,
            (_, None) => ClassBy::Rule,
        };
        Classified { class: self.classes[rule], by, rule: Some(rule) }
    }

    /// Whether a name, or another one than it is believed to have, could give the flow another class.
    pub fn may_change(&self, subject: &Subject<'_>, classified: &Classified) -> bool {
        let with_name = self.with_name.find(subject, None).map(|at| self.named_rules[at]);
        with_name.is_some_and(|named| classified.rule.is_none_or(|rule| named <= rule))
    }

    /// The app that a flow is of; of several the most specific.
    pub fn app(&self, subject: &Subject<'_>, name: Option<&str>) -> Option<AppId> {
        self.apps.of(subject, name).first().map(|fit| fit.app)
    }

    /// Whether names make any difference.
    pub fn asks_for_names(&self) -> bool {
        !self.named_rules.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::apps::Apps;
    use super::super::apps::tests::{app, host, is_of, subject};
    use super::super::names::Names;
    use super::*;
    use crate::config::{self, FlowMatch};
    use crate::model::{End, HostName, NameSource, Protocol};
    use proptest::prelude::*;
    use std::net::IpAddr;
    use std::sync::Arc;

    /// A rule: its destination ports, and which of the apps and which domains it asks for.
    type Rule = (Vec<u16>, Vec<usize>, Vec<HostName>);

    fn rule() -> impl Strategy<Value = Rule> {
        let some = |least| prop_oneof![2 => Just(0), 1 => least..3usize];
        (some(1), some(1), some(1)).prop_flat_map(|(ports, apps, domains)| {
            (
                proptest::collection::vec(1u16..8, ports),
                proptest::collection::vec(0usize..6, apps),
                proptest::collection::vec(host(), domains),
            )
        })
    }

    fn named(name: &HostName) -> Named {
        Named { name: name.as_str().into(), by: NameSource::TlsSni }
    }

    fn classifier(apps: &[config::App], rules: &[Rule]) -> Classifier {
        let mut names = Names::default();
        let own = Apps::compile(apps, &mut names);
        let mut domains = Domains::default();
        let rules = (0..).zip(rules).map(|(class, (ports, of_apps, of_domains))| {
            let protocols = if ports.is_empty() { vec![] } else { vec![Protocol::TCP, Protocol::UDP] };
            let destination_ports = ports.iter().map(|port| *port..=*port).collect();
            let matches = FlowMatch { protocols, destination_ports, ..FlowMatch::default() };
            let asks = Asks {
                apps: of_apps.iter().map(|at| names.app_id(&apps[*at].name)).collect(),
                domains: of_domains.iter().map(|domain| domains.id(domain)).collect(),
            };
            let matcher = Matcher::compile(&matches, [].into(), |_| End::Lan);
            ClassRule { class: ClassId(class), matcher, asks }
        });
        let rules = rules.collect();
        Classifier::new(ClassId(99), rules, TenantApps { catalog: Arc::default(), own }, domains)
    }

    /// The twin: the first rule that fits, each tried as the reference of `config` says it.
    fn naive(
        apps: &[config::App],
        rules: &[Rule],
        flow: &Subject<'_>,
        name: Option<&HostName>,
    ) -> Option<usize> {
        rules.iter().position(|(ports, of_apps, of_domains)| {
            let lies_in =
                |domain: &HostName| name.is_some_and(|name| name.suffixes().any(|d| d == domain.as_str()));
            (ports.is_empty() || ports.contains(&flow.destination_port))
                && (of_apps.is_empty() || of_apps.iter().any(|at| is_of(&apps[*at], flow, name)))
                && (of_domains.is_empty() || of_domains.iter().any(lies_in))
        })
    }

    proptest! {
        #[test]
        fn a_class_is_the_first_rules_that_trying_each_finds_and_only_what_may_change_does(
            mut apps in proptest::collection::vec(app(), 6),
            rules in proptest::collection::vec(rule(), 0..24),
            flows in proptest::collection::vec((0u8..4, any::<bool>(), 1u16..8, proptest::option::of(host())), 1..20),
            other in host(),
        ) {
            for (at, app) in apps.iter_mut().enumerate() {
                app.name = format!("app-{at}");
            }
            let classifier = classifier(&apps, &rules);
            for (destination, tcp, port, name) in flows {
                let protocol = if tcp { Protocol::TCP } else { Protocol::UDP };
                let flow = subject(IpAddr::from([10, 0, 0, destination]), protocol, port);
                let classified = classifier.classify(&flow, name.as_ref().map(named).as_ref());
                prop_assert_eq!(classified.rule, naive(&apps, &rules, &flow, name.as_ref()));
                let renamed = classifier.classify(&flow, Some(&named(&other)));
                if renamed.class != classified.class {
                    prop_assert!(classifier.may_change(&flow, &classified));
                }
            }
        }
    }
}
