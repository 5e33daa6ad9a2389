//! The templates: of flow records, in one direction each, and of the options records that name the numbers in them.

use super::directory;
use super::element::{Element, Field, Template};
use super::{ExportStats, Missed};
use crate::flow::{DirectionRecord, End, FlowRecord};
use crate::model::{Direction, FlowKey, Protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One direction of a session, as it is written down: a unidirectional flow.
///
/// What arrives is told by the ordinary fields, what leaves by the post-NAT ones, in both directions: a reply arrives
/// from the server for the pool's address, and leaves from the server for the inner host.
pub(super) struct Flow {
    record: FlowRecord,
    direction: Direction,
    /// As the direction's packets come in.
    arriving: FlowKey,
    /// As they go out.
    leaving: FlowKey,
    /// Whether the other direction is told of as well.
    is_biflow: bool,
}

impl Flow {
    /// `record`'s `direction`, if anything went that way.
    pub(super) fn of(record: &FlowRecord, direction: Direction) -> Option<Flow> {
        if record.direction(direction).packets == 0 {
            return None;
        }
        let (arriving, answer) = match direction {
            Direction::Forward => (record.key, record.reply_key),
            Direction::Reverse => (record.reply_key, record.key),
        };
        // What leaves is whatever the other direction answers.
        let leaving = answer.turned_round(answer.zone);
        Some(Flow { record: record.clone(), direction, arriving, leaving, is_biflow: false })
    }

    /// Both directions of `record` in one, if something went both ways: a biflow, told from the initiator's side.
    pub(super) fn with_answers(record: &FlowRecord) -> Option<Flow> {
        let has_answers = record.direction(Direction::Reverse).packets > 0;
        let flow = Flow::of(record, Direction::Forward).filter(|_| has_answers)?;
        Some(Flow { is_biflow: true, ..flow })
    }

    /// The template to write it by.
    pub(super) fn template(&self) -> &'static Template<Flow> {
        let [alone, with_answers] = self.templates();
        if self.is_biflow { with_answers } else { alone }
    }

    fn templates(&self) -> [&'static Template<Flow>; 2] {
        let changes_family = self.arriving.changes_family(&self.leaving);
        match (self.arriving.source(), self.arriving.protocol) {
            (IpAddr::V4(_), Protocol::ICMP) if changes_family => [&FLOW_ICMP_TO_IPV6, &BIFLOW_ICMP_TO_IPV6],
            (IpAddr::V4(_), _) if changes_family => [&FLOW_IPV4_TO_IPV6, &BIFLOW_IPV4_TO_IPV6],
            (IpAddr::V6(_), Protocol::ICMPV6) if changes_family => {
                [&FLOW_ICMPV6_TO_IPV4, &BIFLOW_ICMPV6_TO_IPV4]
            }
            (IpAddr::V6(_), _) if changes_family => [&FLOW_IPV6_TO_IPV4, &BIFLOW_IPV6_TO_IPV4],
            (IpAddr::V4(_), Protocol::ICMP) => [&FLOW_ICMP, &BIFLOW_ICMP],
            (IpAddr::V4(_), _) => [&FLOW_IPV4, &BIFLOW_IPV4],
            (IpAddr::V6(_), Protocol::ICMPV6) => [&FLOW_ICMPV6, &BIFLOW_ICMPV6],
            (IpAddr::V6(_), _) => [&FLOW_IPV6, &BIFLOW_IPV6],
        }
    }

    /// What it speaks of.
    pub(super) fn told(&self) -> Missed {
        let answers = if self.is_biflow { *self.answers() } else { DirectionRecord::default() };
        let (packets, octets) = (self.packets() + answers.packets, self.octets() + answers.bytes);
        Missed { records: 1, packets, octets, ..Missed::default() }
    }

    fn packets(&self) -> u64 {
        self.counts().packets
    }

    fn octets(&self) -> u64 {
        self.counts().bytes
    }

    fn counts(&self) -> &DirectionRecord {
        self.record.direction(self.direction)
    }

    /// What went the other way.
    fn answers(&self) -> &DirectionRecord {
        self.record.direction(self.direction.opposite())
    }

    /// Where it comes from, and where it goes.
    fn ends(&self) -> (End, End) {
        match self.direction {
            Direction::Forward => (self.record.initiator, self.record.responder),
            Direction::Reverse => (self.record.responder, self.record.initiator),
        }
    }

    fn ingress_interface(&self) -> u32 {
        directory::interface(self.ends().0, self.counts().arrived_on)
    }

    fn egress_interface(&self) -> u32 {
        directory::interface(self.ends().1, self.counts().left_on)
    }

    fn answers_ingress_interface(&self) -> u32 {
        directory::interface(self.ends().1, self.answers().arrived_on)
    }

    fn answers_egress_interface(&self) -> u32 {
        directory::interface(self.ends().0, self.answers().left_on)
    }

    /// An ICMP echo's identifier as it goes out; a key has it on the requester's side.
    fn leaving_echo_identifier(&self) -> u16 {
        match self.direction {
            Direction::Forward => self.leaving.source_port,
            Direction::Reverse => self.leaving.destination_port,
        }
    }
}

/// Makes a kind of flow's two templates, of the fields given and of those that are the same for all kinds: one for each
/// direction by itself, and one for both at once (RFC 5103), which has the answers' counts besides.
macro_rules! flow_templates {
    ($(#[$doc:meta])* $name:ident = $id:literal, $biflow:ident = $biflow_id:literal, [$($own:expr,)*]) => {
        $(#[$doc])*
        pub(super) static $name: Template<Flow> = Template::new($id, flow_fields![[$($own,)*], []]);

        /// The same, with its answers.
        pub(super) static $biflow: Template<Flow> = Template::new($biflow_id, flow_fields![[$($own,)*], [
            Field::time(Element::FlowStartMilliseconds, Element::FlowStartSysUpTime, |flow: &Flow| {
                flow.answers().first_unix_millis
            }).reversed(),
            Field::time(Element::FlowEndMilliseconds, Element::FlowEndSysUpTime, |flow: &Flow| {
                flow.answers().last_unix_millis
            }).reversed(),
            Field::u64(Element::OctetDeltaCount, |flow: &Flow| flow.answers().bytes).reversed(),
            Field::u64(Element::PacketDeltaCount, |flow: &Flow| flow.answers().packets).reversed(),
            Field::u8(Element::TcpControlBits, |flow: &Flow| flow.answers().tcp_flags).reversed(),
            Field::u32(Element::IngressInterface, Flow::answers_ingress_interface).reversed(),
            Field::u32(Element::EgressInterface, Flow::answers_egress_interface).reversed(),
        ]]);
    };
}

macro_rules! flow_fields {
    ([$($own:expr,)*], [$($answers:expr,)*]) => {&[
        Field::time(Element::FlowStartMilliseconds, Element::FlowStartSysUpTime, |flow: &Flow| {
            flow.counts().first_unix_millis
        }),
        Field::time(Element::FlowEndMilliseconds, Element::FlowEndSysUpTime, |flow| {
            flow.counts().last_unix_millis
        }),
        Field::u64(Element::OctetDeltaCount, Flow::octets),
        Field::u64(Element::PacketDeltaCount, Flow::packets),
        Field::u32(Element::IngressInterface, Flow::ingress_interface),
        Field::u32(Element::EgressInterface, Flow::egress_interface),
        // Every packet counts. Akvorado drops records that do not say so.
        Field::u32(Element::SamplingInterval, |_| 1),
        $($own,)*
        Field::u8(Element::ProtocolIdentifier, |flow| flow.arriving.protocol.0),
        // The session's DSCP: that of its first packet, in the records of both directions.
        Field::u8(Element::IpClassOfService, |flow| flow.record.dscp << 2),
        // Reduced to the octet that is known (RFC 7125 section 3).
        Field::u8(Element::TcpControlBits, |flow| flow.counts().tcp_flags),
        Field::u8(Element::FlowEndReason, |flow| flow.record.end_reason as u8),
        // 0, ingress: packets are counted as they arrive.
        Field::u8(Element::FlowDirection, |_| 0),
        // RFC 5103 section 6.3: 1, from the initiator; 2, to the initiator.
        Field::u8(Element::BiflowDirection, |flow| flow.direction as u8 + 1),
        Field::u32(Element::IngressVrfId, |flow| directory::vrf(flow.record.tenant)),
        Field::u32(Element::EgressVrfId, |flow| directory::vrf(flow.record.tenant)),
        Field::u32(Element::ApplicationId, |flow| directory::application(flow.record.tenant, flow.record.class)),
        Field::u64(Element::CommonPropertiesId, |flow| directory::rule(flow.record.tenant, flow.record.rule)),
        // The session's, the same in both directions' records and in all that follow while it lasts.
        Field::u64(Element::FlowId, |flow| flow.record.session),
        $($answers,)*
    ]};
}

flow_templates! {
    /// Post-NAT fields are always there; where nothing was translated they repeat what arrived.
    FLOW_IPV4 = 256,
    BIFLOW_IPV4 = 274,
    [
        Field::v4(Element::SourceIpv4Address, |flow| v4(flow.arriving.source())),
        Field::v4(Element::DestinationIpv4Address, |flow| v4(flow.arriving.destination())),
        Field::u16(Element::SourceTransportPort, |flow| flow.arriving.source_port),
        Field::u16(Element::DestinationTransportPort, |flow| flow.arriving.destination_port),
        Field::v4(Element::PostNatSourceIpv4Address, |flow| v4(flow.leaving.source())),
        Field::v4(Element::PostNatDestinationIpv4Address, |flow| v4(flow.leaving.destination())),
        Field::u16(Element::PostNaptSourceTransportPort, |flow| flow.leaving.source_port),
        Field::u16(Element::PostNaptDestinationTransportPort, |flow| flow.leaving.destination_port),
    ]
}

flow_templates! {
    /// Of IPv6 no port is translated, as long as it stays IPv6.
    FLOW_IPV6 = 257,
    BIFLOW_IPV6 = 275,
    [
        Field::v6(Element::SourceIpv6Address, |flow| v6(flow.arriving.source())),
        Field::v6(Element::DestinationIpv6Address, |flow| v6(flow.arriving.destination())),
        Field::u16(Element::SourceTransportPort, |flow| flow.arriving.source_port),
        Field::u16(Element::DestinationTransportPort, |flow| flow.arriving.destination_port),
        Field::v6(Element::PostNatSourceIpv6Address, |flow| v6(flow.leaving.source())),
        Field::v6(Element::PostNatDestinationIpv6Address, |flow| v6(flow.leaving.destination())),
    ]
}

flow_templates! {
    /// ICMP has templates of its own, without the ordinary ports: nfdump keeps type and code where the destination port is,
    /// and takes the source port for them where both are 0, as they are for an echo reply. The echo's identifier is told as
    /// it leaves: outside the NAT by the request's record, inside by the reply's.
    FLOW_ICMP = 258,
    BIFLOW_ICMP = 276,
    [
        Field::v4(Element::SourceIpv4Address, |flow| v4(flow.arriving.source())),
        Field::v4(Element::DestinationIpv4Address, |flow| v4(flow.arriving.destination())),
        Field::u16(Element::IcmpTypeCodeIpv4, |flow| match flow.direction {
            Direction::Forward => ECHO_REQUEST,
            Direction::Reverse => ECHO_REPLY,
        }),
        Field::v4(Element::PostNatSourceIpv4Address, |flow| v4(flow.leaving.source())),
        Field::v4(Element::PostNatDestinationIpv4Address, |flow| v4(flow.leaving.destination())),
        Field::u16(Element::PostNaptSourceTransportPort, |flow| flow.leaving_echo_identifier()),
    ]
}

flow_templates! {
    /// See [`FLOW_ICMP`].
    FLOW_ICMPV6 = 259,
    BIFLOW_ICMPV6 = 277,
    [
        Field::v6(Element::SourceIpv6Address, |flow| v6(flow.arriving.source())),
        Field::v6(Element::DestinationIpv6Address, |flow| v6(flow.arriving.destination())),
        Field::u16(Element::IcmpTypeCodeIpv6, |flow| match flow.direction {
            Direction::Forward => ECHO_REQUEST_V6,
            Direction::Reverse => ECHO_REPLY_V6,
        }),
        Field::v6(Element::PostNatSourceIpv6Address, |flow| v6(flow.leaving.source())),
        Field::v6(Element::PostNatDestinationIpv6Address, |flow| v6(flow.leaving.destination())),
    ]
}

flow_templates! {
    /// What NAT64 takes across arrives in one family and leaves in the other.
    FLOW_IPV6_TO_IPV4 = 265,
    BIFLOW_IPV6_TO_IPV4 = 278,
    [
        Field::v6(Element::SourceIpv6Address, |flow| v6(flow.arriving.source())),
        Field::v6(Element::DestinationIpv6Address, |flow| v6(flow.arriving.destination())),
        Field::u16(Element::SourceTransportPort, |flow| flow.arriving.source_port),
        Field::u16(Element::DestinationTransportPort, |flow| flow.arriving.destination_port),
        Field::v4(Element::PostNatSourceIpv4Address, |flow| v4(flow.leaving.source())),
        Field::v4(Element::PostNatDestinationIpv4Address, |flow| v4(flow.leaving.destination())),
        Field::u16(Element::PostNaptSourceTransportPort, |flow| flow.leaving.source_port),
        Field::u16(Element::PostNaptDestinationTransportPort, |flow| flow.leaving.destination_port),
    ]
}

flow_templates! {
    /// See [`FLOW_IPV6_TO_IPV4`].
    FLOW_IPV4_TO_IPV6 = 266,
    BIFLOW_IPV4_TO_IPV6 = 279,
    [
        Field::v4(Element::SourceIpv4Address, |flow| v4(flow.arriving.source())),
        Field::v4(Element::DestinationIpv4Address, |flow| v4(flow.arriving.destination())),
        Field::u16(Element::SourceTransportPort, |flow| flow.arriving.source_port),
        Field::u16(Element::DestinationTransportPort, |flow| flow.arriving.destination_port),
        Field::v6(Element::PostNatSourceIpv6Address, |flow| v6(flow.leaving.source())),
        Field::v6(Element::PostNatDestinationIpv6Address, |flow| v6(flow.leaving.destination())),
        Field::u16(Element::PostNaptSourceTransportPort, |flow| flow.leaving.source_port),
        Field::u16(Element::PostNaptDestinationTransportPort, |flow| flow.leaving.destination_port),
    ]
}

flow_templates! {
    /// See [`FLOW_ICMP`] and [`FLOW_IPV6_TO_IPV4`].
    FLOW_ICMPV6_TO_IPV4 = 267,
    BIFLOW_ICMPV6_TO_IPV4 = 280,
    [
        Field::v6(Element::SourceIpv6Address, |flow| v6(flow.arriving.source())),
        Field::v6(Element::DestinationIpv6Address, |flow| v6(flow.arriving.destination())),
        Field::u16(Element::IcmpTypeCodeIpv6, |flow| match flow.direction {
            Direction::Forward => ECHO_REQUEST_V6,
            Direction::Reverse => ECHO_REPLY_V6,
        }),
        Field::v4(Element::PostNatSourceIpv4Address, |flow| v4(flow.leaving.source())),
        Field::v4(Element::PostNatDestinationIpv4Address, |flow| v4(flow.leaving.destination())),
        Field::u16(Element::PostNaptSourceTransportPort, |flow| flow.leaving_echo_identifier()),
    ]
}

flow_templates! {
    /// See [`FLOW_ICMPV6_TO_IPV4`].
    FLOW_ICMP_TO_IPV6 = 268,
    BIFLOW_ICMP_TO_IPV6 = 281,
    [
        Field::v4(Element::SourceIpv4Address, |flow| v4(flow.arriving.source())),
        Field::v4(Element::DestinationIpv4Address, |flow| v4(flow.arriving.destination())),
        Field::u16(Element::IcmpTypeCodeIpv4, |flow| match flow.direction {
            Direction::Forward => ECHO_REQUEST,
            Direction::Reverse => ECHO_REPLY,
        }),
        Field::v6(Element::PostNatSourceIpv6Address, |flow| v6(flow.leaving.source())),
        Field::v6(Element::PostNatDestinationIpv6Address, |flow| v6(flow.leaving.destination())),
        Field::u16(Element::PostNaptSourceTransportPort, |flow| flow.leaving_echo_identifier()),
    ]
}

/// ICMP type and code in one (RFC 792, RFC 4443 section 4). Only an echo makes an ICMP session.
const ECHO_REQUEST: u16 = 8 << 8;
const ECHO_REPLY: u16 = 0;
const ECHO_REQUEST_V6: u16 = 128 << 8;
const ECHO_REPLY_V6: u16 = 129 << 8;

/// What a template asks for is there: it was chosen by the addresses' families.
fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// The longest configured name.
const NAME_BYTES: u16 = 31;

/// `tenant/name`.
const TENANT_NAME_BYTES: u16 = 2 * NAME_BYTES + 2;

/// `tenant/branch/path`.
const PATH_NAME_BYTES: u16 = 3 * NAME_BYTES + 3;

/// What a number in flow records stands for.
pub(super) struct Named<N> {
    pub(super) observation_domain: u32,
    pub(super) number: N,
    pub(super) name: String,
    /// Where the name itself does not say enough.
    pub(super) description: String,
}

// Options templates' scope fields (RFC 7011 section 3.4.2.1) are the observation domain, in which the numbers hold, as
// Cisco's exporters have it; the number itself is an ordinary field. nfdump finds numbers nowhere else: it knows no scope.

/// nfdump 1.7.1 counts a record's bytes as those of scope, number and description, and shows the description: a name
/// beside it must be in the scope, or it loses its place and complains.
pub(super) static INTERFACE: Template<Named<u32>> = Template::options(
    260,
    2,
    &[
        Field::u32(Element::ObservationDomainId, |it| it.observation_domain),
        Field::text(Element::InterfaceName, PATH_NAME_BYTES, |it| &it.name),
        Field::u32(Element::IngressInterface, |it| it.number),
        // The name, after `handoff `, `path ` or the like.
        Field::text(Element::InterfaceDescription, PATH_NAME_BYTES + 8, |it| &it.description),
    ],
);

/// One record a set: nfcapd 1.7.1 forgets the scope where it counts a record's bytes, and reads a second one 4 bytes off.
pub(super) static APPLICATION: Template<Named<u32>> = Template::options(
    261,
    1,
    &[
        Field::u32(Element::ObservationDomainId, |it| it.observation_domain),
        Field::u32(Element::ApplicationId, |it| it.number),
        Field::text(Element::ApplicationName, TENANT_NAME_BYTES, |it| &it.name),
        Field::text(Element::ApplicationDescription, 48, |it| &it.description),
    ],
);

/// Tenants.
pub(super) static VRF: Template<Named<u32>> = Template::options(
    262,
    1,
    &[
        Field::u32(Element::ObservationDomainId, |it| it.observation_domain),
        Field::u32(Element::IngressVrfId, |it| it.number),
        Field::text(Element::VrfName, NAME_BYTES + 1, |it| &it.name),
    ],
);

/// ACL rules. IANA has no element for a firewall rule's name; a selector's is the nearest. The common properties' id is in
/// the scope, as RFC 5473 has it.
pub(super) static RULE: Template<Named<u64>> = Template::options(
    263,
    2,
    &[
        Field::u32(Element::ObservationDomainId, |it| it.observation_domain),
        Field::u64(Element::CommonPropertiesId, |it| it.number),
        Field::text(Element::SelectorName, TENANT_NAME_BYTES, |it| &it.name),
    ],
);

/// That every packet is counted: whoever looks here for a rate, and not into the records, finds it.
pub(super) static SAMPLING: Template<u32> = Template::options(
    282,
    1,
    &[
        Field::u32(Element::ObservationDomainId, |domain| *domain),
        Field::u32(Element::SamplingInterval, |_| 1),
        // Deterministic.
        Field::u8(Element::SamplingAlgorithm, |_| 1),
    ],
);

/// The exporter's own counts (RFC 7011 sections 4.1 and 4.3).
pub(super) struct Statistics {
    pub(super) observation_domain: u32,
    pub(super) stats: ExportStats,
}

pub(super) static STATISTICS: Template<Statistics> = Template::options(
    264,
    1,
    &[
        Field::u32(Element::ObservationDomainId, |it| it.observation_domain),
        Field::u64(Element::ExportedMessageTotalCount, |it| it.stats.messages),
        Field::u64(Element::ExportedFlowRecordTotalCount, |it| it.stats.records),
        Field::u64(Element::ExportedOctetTotalCount, |it| it.stats.octets),
        Field::u64(Element::NotSentFlowTotalCount, |it| it.stats.lost_records),
        Field::u64(Element::NotSentPacketTotalCount, |it| it.stats.lost_packets),
        Field::u64(Element::NotSentOctetTotalCount, |it| it.stats.lost_octets),
    ],
);
