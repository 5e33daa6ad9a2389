//! Information elements: which of IANA's "IPFIX Information Elements" popgate speaks of, and the fields that carry them.
//!
//! A template is a table with one line per field: the element, how it is encoded, and where its value comes from. The
//! template that is announced and the records that follow it are both written from that one table, so they cannot
//! disagree.

use std::net::{Ipv4Addr, Ipv6Addr};

/// How messages are written. Both protocols share elements, templates and records; IPFIX grew out of NetFlow v9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// RFC 7011.
    Ipfix,
    /// RFC 3954. Flows' times are in milliseconds since the box began, which for the collector was then: milliseconds since
    /// the Unix epoch. Some collectors read no others in NetFlow v9.
    NetflowV9 { boot_unix_millis: u64 },
}

/// An element's number in IANA's registry (RFC 7012 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Element {
    OctetDeltaCount = 1,
    PacketDeltaCount = 2,
    ProtocolIdentifier = 4,
    IpClassOfService = 5,
    TcpControlBits = 6,
    SourceTransportPort = 7,
    SourceIpv4Address = 8,
    IngressInterface = 10,
    DestinationTransportPort = 11,
    DestinationIpv4Address = 12,
    EgressInterface = 14,
    FlowEndSysUpTime = 21,
    FlowStartSysUpTime = 22,
    SourceIpv6Address = 27,
    DestinationIpv6Address = 28,
    IcmpTypeCodeIpv4 = 32,
    SamplingInterval = 34,
    SamplingAlgorithm = 35,
    ExportedOctetTotalCount = 40,
    ExportedMessageTotalCount = 41,
    ExportedFlowRecordTotalCount = 42,
    FlowDirection = 61,
    InterfaceName = 82,
    InterfaceDescription = 83,
    ApplicationDescription = 94,
    ApplicationId = 95,
    ApplicationName = 96,
    FlowEndReason = 136,
    CommonPropertiesId = 137,
    IcmpTypeCodeIpv6 = 139,
    FlowId = 148,
    ObservationDomainId = 149,
    FlowStartMilliseconds = 152,
    FlowEndMilliseconds = 153,
    NotSentFlowTotalCount = 166,
    NotSentPacketTotalCount = 167,
    NotSentOctetTotalCount = 168,
    PostNatSourceIpv4Address = 225,
    PostNatDestinationIpv4Address = 226,
    PostNaptSourceTransportPort = 227,
    PostNaptDestinationTransportPort = 228,
    NatEvent = 230,
    IngressVrfId = 234,
    EgressVrfId = 235,
    VrfName = 236,
    BiflowDirection = 239,
    PostNatSourceIpv6Address = 281,
    PostNatDestinationIpv6Address = 282,
    NatPoolId = 283,
    ObservationTimeMilliseconds = 323,
    SelectorName = 335,
    PortRangeStart = 361,
    PortRangeEnd = 362,
    NatQuotaExceededEvent = 466,
}

/// One field of a template for records of `T`: the element and its value's encoding (RFC 7011 section 6.1).
pub(super) struct Field<T> {
    element: Element,
    /// Whether it tells of a biflow's answers (RFC 5103 section 6.1).
    is_reverse: bool,
    value: Value<T>,
}

/// RFC 5103 section 6.1: the enterprise in whose name an element tells of the reverse direction.
const REVERSE_ENTERPRISE: u32 = 29_305;

enum Value<T> {
    U8(fn(&T) -> u8),
    U16(fn(&T) -> u16),
    U32(fn(&T) -> u32),
    U64(fn(&T) -> u64),
    V4(fn(&T) -> Ipv4Addr),
    V6(fn(&T) -> Ipv6Addr),
    /// A flow's time, milliseconds since the Unix epoch; and the element that tells it in NetFlow v9.
    Time(fn(&T) -> u64, Element),
    /// A string of a fixed number of bytes, filled up with NUL: pmacct reads no variable-length ones in options.
    Text(u16, fn(&T) -> &str),
}

impl<T> Field<T> {
    pub(super) const fn u8(element: Element, value: fn(&T) -> u8) -> Self {
        Self { element, is_reverse: false, value: Value::U8(value) }
    }

    pub(super) const fn u16(element: Element, value: fn(&T) -> u16) -> Self {
        Self { element, is_reverse: false, value: Value::U16(value) }
    }

    pub(super) const fn u32(element: Element, value: fn(&T) -> u32) -> Self {
        Self { element, is_reverse: false, value: Value::U32(value) }
    }

    pub(super) const fn u64(element: Element, value: fn(&T) -> u64) -> Self {
        Self { element, is_reverse: false, value: Value::U64(value) }
    }

    pub(super) const fn v4(element: Element, value: fn(&T) -> Ipv4Addr) -> Self {
        Self { element, is_reverse: false, value: Value::V4(value) }
    }

    pub(super) const fn v6(element: Element, value: fn(&T) -> Ipv6Addr) -> Self {
        Self { element, is_reverse: false, value: Value::V6(value) }
    }

    pub(super) const fn time(element: Element, in_v9: Element, value: fn(&T) -> u64) -> Self {
        Self { element, is_reverse: false, value: Value::Time(value, in_v9) }
    }

    pub(super) const fn text(element: Element, bytes: u16, value: fn(&T) -> &str) -> Self {
        Self { element, is_reverse: false, value: Value::Text(bytes, value) }
    }

    /// The same of a biflow's answers.
    pub(super) const fn reversed(mut self) -> Self {
        self.is_reverse = true;
        self
    }

    /// Bytes in every record.
    const fn length(&self, dialect: &Dialect) -> u16 {
        match (&self.value, dialect) {
            (Value::U8(_), _) => 1,
            (Value::U16(_), _) => 2,
            (Value::U32(_) | Value::V4(_), _) => 4,
            (Value::U64(_), _) => 8,
            (Value::V6(_), _) => 16,
            (Value::Time(..), Dialect::Ipfix) => 8,
            (Value::Time(..), Dialect::NetflowV9 { .. }) => 4,
            (Value::Text(bytes, _), _) => *bytes,
        }
    }

    fn element(&self, dialect: &Dialect) -> Element {
        match (&self.value, dialect) {
            (Value::Time(_, in_v9), Dialect::NetflowV9 { .. }) => *in_v9,
            _ => self.element,
        }
    }

    /// Appends this field of `record`.
    fn write(&self, record: &T, dialect: &Dialect, out: &mut Vec<u8>) {
        match self.value {
            Value::U8(value) => out.push(value(record)),
            Value::U16(value) => out.extend_from_slice(&value(record).to_be_bytes()),
            Value::U32(value) => out.extend_from_slice(&value(record).to_be_bytes()),
            Value::U64(value) => out.extend_from_slice(&value(record).to_be_bytes()),
            Value::V4(value) => out.extend_from_slice(&value(record).octets()),
            Value::V6(value) => out.extend_from_slice(&value(record).octets()),
            Value::Time(value, _) => match *dialect {
                Dialect::Ipfix => out.extend_from_slice(&value(record).to_be_bytes()),
                Dialect::NetflowV9 { boot_unix_millis } => {
                    let millis = value(record).saturating_sub(boot_unix_millis);
                    out.extend_from_slice(&u32::try_from(millis).unwrap_or(u32::MAX).to_be_bytes());
                }
            },
            Value::Text(bytes, value) => write_text(value(record), usize::from(bytes), out),
        }
    }
}

/// A template: what the records in the sets that bear its id look like (RFC 7011 section 3.4.1), or, where it has scope
/// fields, an options template (section 3.4.2.2).
pub(super) struct Template<T: 'static> {
    /// From 256 on; also the id of the sets that hold its records.
    pub(super) id: u16,
    /// How many of the fields, counted from the first, say what the others speak of. None in a flow record's template.
    pub(super) scope_fields: u16,
    fields: &'static [Field<T>],
    /// Bytes of a record, in IPFIX and in NetFlow v9.
    record_lengths: [usize; 2],
}

impl<T> Template<T> {
    /// A flow record's.
    pub(super) const fn new(id: u16, fields: &'static [Field<T>]) -> Template<T> {
        Template::options(id, 0, fields)
    }

    /// Of options records.
    pub(super) const fn options(id: u16, scope_fields: u16, fields: &'static [Field<T>]) -> Template<T> {
        let mut record_lengths = [0; 2];
        let mut at = 0;
        while at < fields.len() {
            record_lengths[0] += fields[at].length(&Dialect::Ipfix) as usize;
            record_lengths[1] += fields[at].length(&Dialect::NetflowV9 { boot_unix_millis: 0 }) as usize;
            at += 1;
        }
        Template { id, scope_fields, fields, record_lengths }
    }

    /// Bytes of a record.
    pub(super) fn record_length(&self, dialect: &Dialect) -> usize {
        match dialect {
            Dialect::Ipfix => self.record_lengths[0],
            Dialect::NetflowV9 { .. } => self.record_lengths[1],
        }
    }

    /// Appends `record`.
    pub(super) fn write(&self, record: &T, dialect: &Dialect, out: &mut Vec<u8>) {
        for field in self.fields {
            field.write(record, dialect, out);
        }
    }

    /// Bytes of the template's own record, at most.
    pub(super) fn definition_length(&self) -> usize {
        8 * self.fields.len() + 6
    }

    /// Appends the template's own record, that which announces it.
    pub(super) fn write_definition(&self, dialect: &Dialect, out: &mut Vec<u8>) {
        /// RFC 3954 section 6.1: the scope "System".
        const SYSTEM: u16 = 1;
        out.extend_from_slice(&self.id.to_be_bytes());
        // NetFlow v9 knows five scopes, and the exporter is the only one of them that our options speak of: what they have
        // for a scope besides is a field like any other.
        let v9_options = self.scope_fields > 0 && *dialect != Dialect::Ipfix;
        // A table above, a few dozen lines long.
        let count = u16::try_from(self.fields.len()).expect("a template of fewer than 65,536 fields");
        if v9_options {
            out.extend_from_slice(&4_u16.to_be_bytes());
            out.extend_from_slice(&(4 * (count - 1)).to_be_bytes());
        } else {
            out.extend_from_slice(&count.to_be_bytes());
            if self.scope_fields > 0 {
                out.extend_from_slice(&self.scope_fields.to_be_bytes());
            }
        }
        for (at, field) in self.fields.iter().enumerate() {
            let element = if v9_options && at == 0 { SYSTEM } else { field.element(dialect) as u16 };
            /// RFC 7011 section 3.2: an enterprise's number follows.
            const OF_AN_ENTERPRISE: u16 = 1 << 15;
            let element = if field.is_reverse { element | OF_AN_ENTERPRISE } else { element };
            out.extend_from_slice(&element.to_be_bytes());
            out.extend_from_slice(&field.length(dialect).to_be_bytes());
            if field.is_reverse {
                out.extend_from_slice(&REVERSE_ENTERPRISE.to_be_bytes());
            }
        }
    }
}

/// Cut at a character's boundary where it is too long; configured names never are.
fn write_text(text: &str, bytes: usize, out: &mut Vec<u8>) {
    let fitting = (0..=bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    let end = out.len() + bytes;
    out.extend_from_slice(&text.as_bytes()[..fitting]);
    out.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use super::write_text;

    #[test]
    fn a_text_is_filled_up_with_nul_and_cut_between_characters() {
        let mut out = Vec::new();
        write_text("dsl", 5, &mut out);
        assert_eq!(out, b"dsl\0\0");
        out.clear();
        write_text("Zürich", 2, &mut out);
        assert_eq!(out, b"Z\0");
    }
}
