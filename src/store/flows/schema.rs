//! What is kept of a flow: the columns, as the files, the query language, the API and the downloads name them.
//!
//! A row is one flow record ([`crate::flow::FlowRecord`]) in names. Numbers are signed, for not every reader of Parquet
//! knows others. Addresses are text, so that they read the same everywhere; a dictionary makes them small. The tenant and
//! the day are no columns but parts of a file's path, `tenant=NAME/date=YYYY-MM-DD`, which readers take for columns (Hive's
//! way to partition).

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::sync::{Arc, OnceLock};

/// A column, in the order of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Column {
    /// The first packet, and the last, since the session's last record.
    Start,
    End,
    /// The same in all records of a session; unique while popgate runs.
    Session,
    Protocol,
    /// As the first packet arrived, before translation.
    Source,
    SourcePort,
    Destination,
    DestinationPort,
    /// What they became, where they became something else.
    NatSource,
    NatSourcePort,
    NatDestination,
    NatDestinationPort,
    /// The branch, handoff or tenant that the first packet came from, and went to.
    From,
    To,
    Class,
    /// What told the class.
    ClassBy,
    App,
    /// What the far end is called.
    Name,
    Rule,
    Dscp,
    /// The path that the last packet of this direction took.
    ForwardPath,
    ReversePath,
    ForwardPackets,
    /// IP bytes, headers included.
    ForwardBytes,
    ReversePackets,
    ReverseBytes,
    TcpFlags,
    /// Of the configuration that decided.
    Generation,
    EndReason,
    /// Moves between paths since the session's last record: a JSON array, the oldest first.
    ForwardMoves,
    ReverseMoves,
    /// Packets of it that were dropped, and why: `acl-dropped no-telnet 12, ttl-expired 1`.
    DroppedPackets,
    DropReasons,
    /// What did not let it go on: `acl-dropped no-telnet`; and how long after its last packet, in milliseconds.
    DeniedBy,
    DeniedAfter,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Milliseconds since the Unix epoch.
    Time,
    /// 64 bits: what adds up, and numbers that grow without end.
    Long,
    /// 32 bits: ports and their like.
    Int,
    /// Text of which there are few, kept in a dictionary.
    Text,
    /// An IPv4 or IPv6 address, in the text of RFC 5952; otherwise as `Text`.
    Address,
}

impl Column {
    /// All of them.
    pub const ALL: [Column; 35] = {
        use Column::*;
        [
            Start,
            End,
            Session,
            Protocol,
            Source,
            SourcePort,
            Destination,
            DestinationPort,
            NatSource,
            NatSourcePort,
            NatDestination,
            NatDestinationPort,
            From,
            To,
            Class,
            ClassBy,
            App,
            Name,
            Rule,
            Dscp,
            ForwardPath,
            ReversePath,
            ForwardPackets,
            ForwardBytes,
            ReversePackets,
            ReverseBytes,
            TcpFlags,
            Generation,
            EndReason,
            ForwardMoves,
            ReverseMoves,
            DroppedPackets,
            DropReasons,
            DeniedBy,
            DeniedAfter,
        ]
    };

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Column::Start => "start",
            Column::End => "end",
            Column::Session => "session",
            Column::Protocol => "protocol",
            Column::Source => "source",
            Column::SourcePort => "source_port",
            Column::Destination => "destination",
            Column::DestinationPort => "destination_port",
            Column::NatSource => "nat_source",
            Column::NatSourcePort => "nat_source_port",
            Column::NatDestination => "nat_destination",
            Column::NatDestinationPort => "nat_destination_port",
            Column::From => "from",
            Column::To => "to",
            Column::Class => "class",
            Column::ClassBy => "class_by",
            Column::App => "app",
            Column::Name => "name",
            Column::Rule => "rule",
            Column::Dscp => "dscp",
            Column::ForwardPath => "forward_path",
            Column::ReversePath => "reverse_path",
            Column::ForwardPackets => "forward_packets",
            Column::ForwardBytes => "forward_bytes",
            Column::ReversePackets => "reverse_packets",
            Column::ReverseBytes => "reverse_bytes",
            Column::TcpFlags => "tcp_flags",
            Column::Generation => "generation",
            Column::EndReason => "end_reason",
            Column::ForwardMoves => "forward_moves",
            Column::ReverseMoves => "reverse_moves",
            Column::DroppedPackets => "dropped_packets",
            Column::DropReasons => "drop_reasons",
            Column::DeniedBy => "denied_by",
            Column::DeniedAfter => "denied_after_ms",
        }
    }

    /// What it holds.
    pub fn kind(self) -> Kind {
        use Column::*;
        match self {
            Start | End => Kind::Time,
            Session | ForwardPackets | ForwardBytes | ReversePackets | ReverseBytes | Generation
            | DroppedPackets | DeniedAfter => Kind::Long,
            SourcePort | DestinationPort | NatSourcePort | NatDestinationPort | Dscp | TcpFlags => Kind::Int,
            Source | Destination | NatSource | NatDestination => Kind::Address,
            Protocol | From | To | Class | ClassBy | App | Name | Rule | ForwardPath | ReversePath
            | EndReason | ForwardMoves | ReverseMoves | DropReasons | DeniedBy => Kind::Text,
        }
    }

    /// Whether a row may have nothing there.
    pub fn is_nullable(self) -> bool {
        use Column::*;
        matches!(
            self,
            NatSource
                | NatSourcePort
                | NatDestination
                | NatDestinationPort
                | App
                | Name
                | ForwardPath
                | ReversePath
                | ForwardMoves
                | ReverseMoves
                | DropReasons
                | DeniedBy
        )
    }

    /// Whether it holds text, addresses among it.
    pub fn is_text(self) -> bool {
        matches!(self.kind(), Kind::Text | Kind::Address)
    }

    /// Its place in a row, and so in a file of rows.
    pub fn place(self) -> usize {
        self as usize
    }

    fn field(self) -> Field {
        let data_type = match self.kind() {
            Kind::Time => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Kind::Long => DataType::Int64,
            Kind::Int => DataType::Int32,
            Kind::Text | Kind::Address => {
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
            }
        };
        Field::new(self.name(), data_type, self.is_nullable())
    }
}

/// The columns of a file of rows, in memory and on disk.
pub fn schema() -> SchemaRef {
    static SCHEMA: OnceLock<SchemaRef> = OnceLock::new();
    Arc::clone(SCHEMA.get_or_init(|| Arc::new(Schema::new(Column::ALL.map(Column::field).to_vec()))))
}

/// The column of a roll-up that says how many records a row sums up; 64 bits.
pub const FLOWS: &str = "flows";

/// What a roll-up tells apart. None keeps both addresses, nor ports: it would hardly be smaller than what it sums up; and for
/// the same reason those that keep one have a row for each hour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rollup {
    /// What was sent whence and whither, and how; no address.
    Class,
    Source,
    Destination,
}

/// How much time a row of a roll-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Minute,
    FiveMinutes,
    Hour,
}

impl Rollup {
    pub const ALL: [Rollup; 3] = [Rollup::Class, Rollup::Source, Rollup::Destination];

    /// Its name in a file's path.
    pub fn name(self) -> &'static str {
        self.sorted_by().name()
    }

    /// The steps that it is kept in, each a part of the next.
    pub fn steps(self) -> &'static [Step] {
        match self {
            Rollup::Class => &Step::ALL,
            Rollup::Source | Rollup::Destination => &[Step::Hour],
        }
    }

    /// What its rows are told apart by, in the order of its files; what is summed up follows: [`FLOWS`], and [`Rollup::SUMS`].
    pub fn columns(self) -> [Column; 9] {
        let (first, second) = match self {
            Rollup::Class => (Column::App, Column::Rule),
            Rollup::Source => (Column::Source, Column::Rule),
            Rollup::Destination => (Column::Destination, Column::Name),
        };
        [
            Column::End,
            first,
            second,
            Column::Protocol,
            Column::From,
            Column::To,
            Column::Class,
            Column::ForwardPath,
            Column::ReversePath,
        ]
    }

    /// What it sums up.
    pub const SUMS: [Column; 4] =
        [Column::ForwardPackets, Column::ForwardBytes, Column::ReversePackets, Column::ReverseBytes];

    /// What its files are sorted by, before time.
    pub fn sorted_by(self) -> Column {
        match self {
            Rollup::Class => Column::Class,
            Rollup::Source => Column::Source,
            Rollup::Destination => Column::Destination,
        }
    }

    /// The columns of its files.
    pub fn schema(self) -> SchemaRef {
        let flows = Field::new(FLOWS, DataType::Int64, false);
        let fields = self.columns().map(Column::field).into_iter().chain([flows]);
        Arc::new(Schema::new(fields.chain(Rollup::SUMS.map(Column::field)).collect::<Vec<_>>()))
    }
}

impl Step {
    pub const ALL: [Step; 3] = [Step::Minute, Step::FiveMinutes, Step::Hour];

    /// Its name in a file's path.
    pub fn name(self) -> &'static str {
        match self {
            Step::Minute => "1m",
            Step::FiveMinutes => "5m",
            Step::Hour => "1h",
        }
    }

    /// Milliseconds.
    pub fn millis(self) -> u64 {
        match self {
            Step::Minute => 60_000,
            Step::FiveMinutes => 300_000,
            Step::Hour => 3_600_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_stands_at_its_place_with_a_name_of_its_own() {
        for (place, column) in Column::ALL.into_iter().enumerate() {
            assert_eq!(column.place(), place);
            assert_eq!(schema().index_of(column.name()).ok(), Some(place));
        }
    }
}
