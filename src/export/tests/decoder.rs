//! A collector in small, written from RFC 7011 and RFC 3954 alone: it knows no template but those it was sent.

use std::collections::BTreeMap;

/// A message's header (RFC 7011 section 3.1, RFC 3954 section 5.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u64,
    pub(super) length: usize,
    /// NetFlow v9: milliseconds since the box began.
    pub(super) uptime_millis: u64,
    pub(super) export_unix_secs: u32,
    pub(super) sequence: u32,
    pub(super) observation_domain: u32,
}

/// What is added to an element's number where it tells of a biflow's answers (RFC 5103).
pub(super) const REVERSE: u16 = 1 << 15;

/// A data record: the template it came by and its values, by element number.
#[derive(Clone, Debug)]
pub(super) struct Data {
    pub(super) template: u16,
    pub(super) is_options: bool,
    values: BTreeMap<u16, Vec<u8>>,
}

impl Data {
    pub(super) fn number(&self, element: u16) -> u64 {
        let bytes = self.bytes(element);
        assert!(bytes.len() <= 8, "element {element} is no number: {bytes:?}");
        bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }

    pub(super) fn text(&self, element: u16) -> &str {
        let text = std::str::from_utf8(self.bytes(element)).expect("UTF-8");
        text.trim_end_matches('\0')
    }

    pub(super) fn address(&self, element: u16) -> std::net::IpAddr {
        let bytes = self.bytes(element);
        match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(v4), _) => v4.into(),
            (_, Ok(v6)) => v6.into(),
            _ => panic!("element {element} is no address: {bytes:?}"),
        }
    }

    pub(super) fn has(&self, element: u16) -> bool {
        self.values.contains_key(&element)
    }

    fn bytes(&self, element: u16) -> &[u8] {
        let bytes = self.values.get(&element);
        bytes.unwrap_or_else(|| panic!("template {} has no element {element}", self.template))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Template {
    is_options: bool,
    /// Element and length.
    fields: Vec<(u16, usize)>,
}

/// The collector: keeps templates from message to message, and checks the sequence.
#[derive(Default)]
pub(super) struct Collector {
    templates: BTreeMap<u16, Template>,
    expected_sequence: Option<u32>,
    /// How often a set of templates came.
    pub(super) template_sets: usize,
}

impl Collector {
    /// Takes a datagram in; panics at whatever the RFCs do not allow.
    pub(super) fn receive(&mut self, datagram: &[u8]) -> (Header, Vec<Data>) {
        assert!(datagram.len() <= 1_400, "{} bytes", datagram.len());
        let mut rest = Reader(datagram);
        let version = rest.number(2);
        assert!(version == 9 || version == 10, "version {version}");
        let length_or_count = rest.number(2) as usize;
        let header = Header {
            version,
            length: datagram.len(),
            uptime_millis: if version == 9 { rest.number(4) } else { 0 },
            export_unix_secs: rest.number(4) as u32,
            sequence: rest.number(4) as u32,
            observation_domain: rest.number(4) as u32,
        };
        let (templates, options_templates) = if version == 9 { (0, 1) } else { (2, 3) };
        let mut records = Vec::new();
        let mut defined = 0;
        while !rest.0.is_empty() {
            let set_id = rest.number(2) as u16;
            let length = rest.number(2) as usize;
            let mut set = Reader(rest.take(length.checked_sub(4).expect("a set's length has its header in")));
            assert!(version == 10 || length.is_multiple_of(4), "a set of {length} bytes in NetFlow v9");
            match set_id {
                256.. => self.read_records(set_id, &mut set, version == 9, &mut records),
                _ if set_id == templates || set_id == options_templates => {
                    self.template_sets += 1;
                    let is_options = set_id == options_templates;
                    let mut in_set = 0;
                    while !set.is_padding(version == 9) {
                        if is_options && version == 9 {
                            self.learn_v9_options(&mut set)
                        } else {
                            self.learn(&mut set, is_options)
                        };
                        in_set += 1;
                    }
                    assert!(!is_options || in_set == 1, "{in_set} options templates in a set");
                    defined += in_set;
                }
                _ => panic!("set id {set_id}"),
            }
        }
        let counted = if version == 9 { records.len() + defined } else { datagram.len() };
        assert_eq!(length_or_count, counted, "length or count in the header");
        if let Some(expected) = self.expected_sequence {
            assert_eq!(header.sequence, expected, "sequence number");
        }
        let counts = if version == 9 { 1 } else { records.len() as u32 };
        self.expected_sequence = Some(header.sequence.wrapping_add(counts));
        (header, records)
    }

    fn learn(&mut self, set: &mut Reader<'_>, is_options: bool) {
        let id = set.number(2) as u16;
        let count = set.number(2);
        if is_options {
            let scope_count = set.number(2);
            assert!(scope_count > 0 && scope_count <= count, "{scope_count} scope fields of {count}");
        }
        self.learn_fields(id, count, is_options, set);
    }

    /// RFC 3954 section 6.1. Of scopes, "System" is taken for IPFIX's observation domain.
    fn learn_v9_options(&mut self, set: &mut Reader<'_>) {
        let id = set.number(2) as u16;
        let (scope_bytes, option_bytes) = (set.number(2), set.number(2));
        assert_eq!(scope_bytes, 4, "one scope");
        assert_eq!(set.number(2), 1, "System");
        let length = set.number(2) as usize;
        self.learn_fields(id, option_bytes / 4, true, set);
        let template = self.templates.get_mut(&id).expect("just learned");
        if template.fields.first() != Some(&(149, length)) {
            template.fields.insert(0, (149, length));
        }
    }

    fn learn_fields(&mut self, id: u16, count: u64, is_options: bool, set: &mut Reader<'_>) {
        assert!(id >= 256, "template id {id}");
        let fields = (0..count).map(|_| {
            let (element, length) = (set.number(2) as u16, set.number(2) as usize);
            if element >= REVERSE {
                assert_eq!(
                    set.number(4),
                    29_305,
                    "of enterprises' elements those of a biflow's answers alone"
                );
            }
            assert!(length > 0 && length < 65_535, "fixed lengths");
            (element, length)
        });
        let template = Template { is_options, fields: fields.collect() };
        let known = self.templates.entry(id).or_insert_with(|| template.clone());
        let known_fields = known.fields.len().saturating_sub(template.fields.len());
        assert_eq!(
            known.fields[known_fields..],
            template.fields,
            "a template id stands for one template (RFC 7011 section 8)"
        );
    }

    fn read_records(&self, set_id: u16, set: &mut Reader<'_>, may_be_padded: bool, records: &mut Vec<Data>) {
        let Some(template) = self.templates.get(&set_id) else { panic!("template {set_id} was never sent") };
        assert!(!set.0.is_empty(), "an empty set (RFC 7011 section 3.3)");
        while !set.is_padding(may_be_padded) {
            let fields = template.fields.iter();
            let values: BTreeMap<_, _> =
                fields.map(|&(element, length)| (element, set.take(length).to_vec())).collect();
            assert_eq!(values.len(), template.fields.len(), "an element twice in template {set_id}");
            records.push(Data { template: set_id, is_options: template.is_options, values });
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Whether nothing comes any more, but for what makes a set's length a multiple of four.
    fn is_padding(&self, may_be_padded: bool) -> bool {
        self.0.is_empty() || may_be_padded && self.0.len() < 4 && self.0.iter().all(|byte| *byte == 0)
    }

    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(bytes).expect("more bytes in the message");
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> u64 {
        self.take(bytes).iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }
}
