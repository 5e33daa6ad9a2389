//! A message: the header, then sets (RFC 7011 section 3.1 to 3.3; RFC 3954 section 5).

use super::element::{Dialect, Template};
use crate::model::Now;

/// Fits the MTU of everything a collector may be behind (1,500 less room for tunnels), so no datagram is fragmented.
pub(super) const MAX_MESSAGE_BYTES: usize = 1_400;

const SET_HEADER_BYTES: usize = 4;

/// A message that sets are added to. Header and sets' lengths are right at any time but for what only sending decides:
/// [`Message::stamp`].
#[derive(Clone, Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    dialect: Dialect,
    /// Id and place of the set that is being written.
    set: Option<(u16, usize)>,
    /// Data records of any kind: what IPFIX's sequence number counts.
    data_records: u32,
    /// Those, and templates: what NetFlow v9's header tells.
    all_records: u16,
}

impl Message {
    pub(super) fn new(dialect: Dialect) -> Message {
        let mut bytes = Vec::with_capacity(MAX_MESSAGE_BYTES);
        bytes.resize(if dialect == Dialect::Ipfix { 16 } else { 20 }, 0);
        Message { bytes, dialect, set: None, data_records: 0, all_records: 0 }
    }

    /// By how much a message takes the sequence number forward: IPFIX counts data records, of flows and of options (RFC
    /// 7011 section 3.1), NetFlow v9 messages (RFC 3954 section 5.1).
    pub(super) fn counts(&self) -> u32 {
        if self.dialect == Dialect::Ipfix { self.data_records } else { 1 }
    }

    /// Adds a record to the set being written, or to a new one where that is of another template. False, and nothing
    /// changed, if the message has no room.
    pub(super) fn push<T>(&mut self, template: &Template<T>, record: &T) -> bool {
        let continues = self.set.is_some_and(|(id, _)| id == template.id);
        let needed = template.record_length(&self.dialect) + if continues { 0 } else { self.new_set_bytes() };
        if self.bytes.len() + needed > self.room() {
            return false;
        }
        if !continues {
            self.begin_set(template.id);
        }
        template.write(record, &self.dialect, &mut self.bytes);
        self.end_record();
        self.data_records += 1;
        true
    }

    /// Adds a template's definition; false, and nothing changed, if the message has no room. Templates of flow records share
    /// a set; each options template gets one of its own, since pmacct reads only the first in a set.
    pub(super) fn define<T>(&mut self, template: &Template<T>) -> bool {
        if self.bytes.len() + self.new_set_bytes() + template.definition_length() > self.room() {
            return false;
        }
        // RFC 7011 section 3.3.2, RFC 3954 sections 5.2 and 6.1: the ids of sets that hold templates.
        let is_options = template.scope_fields > 0;
        let set_id = u16::from(is_options) + if self.dialect == Dialect::Ipfix { 2 } else { 0 };
        if is_options || self.set.is_none_or(|(id, _)| id != set_id) {
            self.begin_set(set_id);
        }
        template.write_definition(&self.dialect, &mut self.bytes);
        self.end_record();
        true
    }

    /// Has the next record begin a set of its own, even if it is of the same template.
    pub(super) fn close_set(&mut self) {
        // RFC 3954 section 5.3 wants the next set to begin at four bytes. RFC 7011 section 3.3.1 allows it, no more.
        if self.dialect != Dialect::Ipfix && self.set.is_some() {
            self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
            self.write_set_length();
        }
        self.set = None;
    }

    /// Counts `dialect`'s time in the header: that of a message without times of its own may have changed since.
    pub(super) fn in_dialect(mut self, dialect: Dialect) -> Message {
        self.dialect = dialect;
        self
    }

    /// Writes the header.
    pub(super) fn stamp(&mut self, now: Now, sequence: u32, observation_domain: u32) {
        self.close_set();
        let unix_secs = now.unix_nanos / 1_000_000_000;
        let header = match self.dialect {
            Dialect::Ipfix => {
                /// RFC 7011 section 3.1.
                const VERSION: u16 = 10;
                let length = self.bytes.len() as u16;
                self.bytes[0..2].copy_from_slice(&VERSION.to_be_bytes());
                self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
                &mut self.bytes[4..16]
            }
            Dialect::NetflowV9 { boot_unix_millis } => {
                /// RFC 3954 section 5.1.
                const VERSION: u16 = 9;
                // As of the whole second that stands beside it: a collector takes one from the other to know when 0 was.
                let uptime = (unix_secs * 1_000).saturating_sub(boot_unix_millis) as u32;
                self.bytes[0..2].copy_from_slice(&VERSION.to_be_bytes());
                self.bytes[2..4].copy_from_slice(&self.all_records.to_be_bytes());
                self.bytes[4..8].copy_from_slice(&uptime.to_be_bytes());
                &mut self.bytes[8..20]
            }
        };
        header[0..4].copy_from_slice(&(unix_secs as u32).to_be_bytes());
        header[4..8].copy_from_slice(&sequence.to_be_bytes());
        header[8..12].copy_from_slice(&observation_domain.to_be_bytes());
    }

    /// The datagram, once it is stamped.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What records may fill: the last set's padding comes on top.
    fn room(&self) -> usize {
        if self.dialect == Dialect::Ipfix { MAX_MESSAGE_BYTES } else { MAX_MESSAGE_BYTES - 3 }
    }

    /// What a new set costs: its header, and the padding of that before it.
    fn new_set_bytes(&self) -> usize {
        if self.dialect == Dialect::Ipfix { SET_HEADER_BYTES } else { SET_HEADER_BYTES + 3 }
    }

    fn begin_set(&mut self, id: u16) {
        self.close_set();
        self.set = Some((id, self.bytes.len()));
        self.bytes.extend_from_slice(&id.to_be_bytes());
        self.bytes.extend_from_slice(&[0; 2]);
    }

    fn end_record(&mut self) {
        self.write_set_length();
        self.all_records += 1;
    }

    /// Sets the length of the set being written to what it has come to.
    fn write_set_length(&mut self) {
        let Some((_, start)) = self.set else { return };
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}
