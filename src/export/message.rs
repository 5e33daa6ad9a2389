//! A message: the header, then sets (RFC 7011 section 3.1 to 3.3).

use super::element::Template;

/// Fits the MTU of everything a collector may be behind (1,500 less room for tunnels), so no datagram is fragmented.
pub(super) const MAX_MESSAGE_BYTES: usize = 1_400;

const HEADER_BYTES: usize = 16;
const SET_HEADER_BYTES: usize = 4;
/// RFC 7011 section 3.3.2: the ids of sets that hold templates.
const TEMPLATE_SET: u16 = 2;
const OPTIONS_TEMPLATE_SET: u16 = 3;

/// A message that sets are added to. Header and sets' lengths are right at any time but for what only sending decides:
/// [`Message::stamp`].
#[derive(Clone, Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    /// Id and place of the set that is being written.
    set: Option<(u16, usize)>,
    /// Data records of any kind: what the sequence number counts.
    data_records: u32,
}

impl Message {
    pub(super) fn new() -> Message {
        let mut bytes = Vec::with_capacity(MAX_MESSAGE_BYTES);
        bytes.resize(HEADER_BYTES, 0);
        Message { bytes, set: None, data_records: 0 }
    }

    /// Data records in it, of flows and of options.
    pub(super) fn data_records(&self) -> u32 {
        self.data_records
    }

    /// Adds a record to the set being written, or to a new one where that is of another template. False, and nothing
    /// changed, if the message has no room.
    pub(super) fn push<T>(&mut self, template: &Template<T>, record: &T) -> bool {
        let continues = self.set.is_some_and(|(id, _)| id == template.id);
        let needed = template.record_length() + if continues { 0 } else { SET_HEADER_BYTES };
        if self.bytes.len() + needed > MAX_MESSAGE_BYTES {
            return false;
        }
        if !continues {
            self.begin_set(template.id);
        }
        template.write(record, &mut self.bytes);
        self.end_set();
        self.data_records += 1;
        true
    }

    /// Adds a template's definition. Templates of flow records share a set; each options template gets one of its own,
    /// since pmacct reads only the first in a set.
    pub(super) fn define<T>(&mut self, template: &Template<T>) {
        let set_id = if template.scope_fields == 0 { TEMPLATE_SET } else { OPTIONS_TEMPLATE_SET };
        if set_id == OPTIONS_TEMPLATE_SET || self.set.is_none_or(|(id, _)| id != set_id) {
            self.begin_set(set_id);
        }
        template.write_definition(&mut self.bytes);
        self.end_set();
    }

    /// Has the next record begin a set of its own, even if it is of the same template.
    pub(super) fn close_set(&mut self) {
        self.set = None;
    }

    /// Writes the header.
    pub(super) fn stamp(&mut self, export_unix_secs: u32, sequence: u32, observation_domain: u32) {
        /// RFC 7011 section 3.1.
        const VERSION: u16 = 10;
        let length = self.bytes.len() as u16;
        self.bytes[0..2].copy_from_slice(&VERSION.to_be_bytes());
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
        self.bytes[4..8].copy_from_slice(&export_unix_secs.to_be_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_be_bytes());
        self.bytes[12..16].copy_from_slice(&observation_domain.to_be_bytes());
    }

    /// The datagram, once it is stamped.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn begin_set(&mut self, id: u16) {
        self.set = Some((id, self.bytes.len()));
        self.bytes.extend_from_slice(&id.to_be_bytes());
        self.bytes.extend_from_slice(&[0; 2]);
    }

    /// Sets the length of the set being written to what it has come to. No padding (RFC 7011 section 3.3.1 allows it).
    fn end_set(&mut self) {
        let Some((_, start)) = self.set else { return };
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}
