//! What is asked about: a flow that has not come, by an operator or a policy test; an address and port of some time ago.

use super::{Civil, HostName, NameSource, Named, Protocol};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::str::FromStr;

/// An end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedEnd {
    pub address: IpAddr,
    pub port: Option<u16>,
}

/// What its first packet would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedFlow {
    pub from: AskedEnd,
    pub to: AskedEnd,
    pub protocol: Protocol,
    /// 0-63.
    pub dscp: u8,
    /// What the client calls the server, in the packets after it.
    pub sni: Option<HostName>,
}

impl AskedFlow {
    /// The port it comes from: 49152, the first of those that systems give to clients (RFC 6335 section 6), unless asked
    /// for another.
    pub fn source_port(&self) -> u16 {
        let any = if self.protocol.has_ports() { 49_152 } else { 0 };
        self.from.port.unwrap_or(any)
    }

    /// What it is known by when its client has said so: in TLS over TCP, in QUIC over UDP; other protocols name nobody.
    pub fn named(&self) -> Option<Named> {
        let by = match self.protocol {
            Protocol::TCP => NameSource::TlsSni,
            Protocol::UDP => NameSource::QuicSni,
            _ => return None,
        };
        self.sni.map(|name| Named { name: name.as_str().into(), by })
    }

    /// The port it goes to; 0 where none was asked for.
    pub fn destination_port(&self) -> u16 {
        self.to.port.unwrap_or_default()
    }
}

/// An outside address and port, and when somebody may have had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedPort {
    pub address: IpAddr,
    /// 0 for protocols without ports.
    pub port: u16,
    /// `None` for all.
    pub protocol: Option<Protocol>,
    /// `None` for now.
    pub at: Option<AskedTime>,
}

/// A time as exactly as it was said: `2026-11-22T10:00Z` is a whole minute. Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedTime {
    pub from_unix_ms: u64,
    /// The first that is not meant any more.
    pub until_unix_ms: u64,
}

/// A time, or how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedWhen {
    At(AskedTime),
    /// Milliseconds.
    Ago(u64),
}

impl AskedWhen {
    /// The time meant, at `now`; milliseconds since the Unix epoch, without the end. Who says "5m ago" means a second of then.
    pub fn range(self, now: u64) -> Range<u64> {
        match self {
            AskedWhen::At(time) => time.from_unix_ms..time.until_unix_ms,
            AskedWhen::Ago(millis) => {
                let from = now.saturating_sub(millis);
                from..from + 1_000
            }
        }
    }
}

/// Neither a time nor how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a time with its zone, as in \"2026-11-22T10:00Z\", nor how long ago, as in \"5m ago\" or \"-5m\""
)]
pub struct NotWhen;

impl FromStr for AskedWhen {
    type Err = NotWhen;

    fn from_str(text: &str) -> Result<AskedWhen, NotWhen> {
        let ago = text.strip_prefix('-').or_else(|| text.strip_suffix("ago").map(str::trim_end));
        let Some(span) = ago else { return text.parse().map(AskedWhen::At).map_err(|_| NotWhen) };
        let (digits, unit) = span.split_at_checked(span.len().wrapping_sub(1)).ok_or(NotWhen)?;
        let millis = match unit {
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(NotWhen),
        };
        number(digits, 1, 9).map(|number| AskedWhen::Ago(number * millis)).map_err(|_| NotWhen)
    }
}

impl fmt::Display for AskedWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskedWhen::At(time) => time.fmt(f),
            AskedWhen::Ago(millis) => write!(f, "-{}s", millis / 1_000),
        }
    }
}

/// Neither an address nor an address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address, or address:port as in \"192.0.2.1:443\" or \"[2001:db8::1]:443\"")]
pub struct NotAnEnd;

impl FromStr for AskedEnd {
    type Err = NotAnEnd;

    fn from_str(text: &str) -> Result<AskedEnd, NotAnEnd> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(AskedEnd { address, port: None });
        }
        let with_port: SocketAddr = text.parse().map_err(|_| NotAnEnd)?;
        Ok(AskedEnd { address: with_port.ip(), port: Some(with_port.port()) })
    }
}

impl fmt::Display for AskedEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// No date with a time of day and its zone (RFC 3339), or one before 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time with its zone, as in \"2026-11-22T10:00Z\" or \"2026-11-22T11:00:05+01:00\"")]
pub struct NotATime;

impl FromStr for AskedTime {
    type Err = NotATime;

    /// RFC 3339's date-time, whose seconds may be left out, and whose T may be a space.
    fn from_str(text: &str) -> Result<AskedTime, NotATime> {
        let (date, rest) = text.split_once(['T', 't', ' ']).ok_or(NotATime)?;
        let at = rest.find(['Z', 'z', '+', '-']).ok_or(NotATime)?;
        let (time, zone) = rest.split_at(at);
        let date: Vec<&str> = date.split('-').collect();
        let [year, month, day] = date.as_slice() else { return Err(NotATime) };
        let mut parts = time.split(':');
        let (hour, minute) = (parts.next().ok_or(NotATime)?, parts.next().ok_or(NotATime)?);
        let (second, span, thousandths) = match (parts.next(), parts.next()) {
            (None, _) => ("0", 60_000, 0),
            (Some(second), None) => match second.split_once('.') {
                None => (second, 1_000, 0),
                Some((second, fraction)) => {
                    // To the millisecond; what is finer is left out.
                    let digits = fraction.len().min(3);
                    let span = 10u64.pow(3 - digits as u32);
                    number(fraction, 1, 9)?;
                    (second, span, number(&fraction[..digits], 1, 3)? * span)
                }
            },
            (Some(_), Some(_)) => return Err(NotATime),
        };
        let civil = Civil {
            year: number(year, 4, 4)?,
            month: number(month, 2, 2)?,
            day: number(day, 2, 2)?,
            hour: number(hour, 2, 2)?,
            minute: number(minute, 2, 2)?,
            second: number(second, 1, 2)?,
        };
        let secs =
            civil.unix_secs().ok_or(NotATime)?.checked_add_signed(-offset_secs(zone)?).ok_or(NotATime)?;
        let from_unix_ms = secs * 1_000 + thousandths;
        Ok(AskedTime { from_unix_ms, until_unix_ms: from_unix_ms + span })
    }
}

/// How far a zone is ahead.
fn offset_secs(zone: &str) -> Result<i64, NotATime> {
    if zone.eq_ignore_ascii_case("z") {
        return Ok(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.get(1..).and_then(|zone| zone.split_once(':')).ok_or(NotATime)?;
    let (hours, minutes) = (number(hours, 2, 2)?, number(minutes, 2, 2)?);
    if hours > 23 || minutes > 59 {
        return Err(NotATime);
    }
    Ok(sign * (hours * 3_600 + minutes * 60) as i64)
}

fn number(text: &str, least: usize, most: usize) -> Result<u64, NotATime> {
    let fits = (least..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if fits { text.parse().map_err(|_| NotATime) } else { Err(NotATime) }
}

impl fmt::Display for AskedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second } = Civil::at(self.from_unix_ms / 1_000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}")?;
        let thousandths = self.from_unix_ms % 1_000;
        match self.until_unix_ms - self.from_unix_ms {
            60_000 => f.write_str("Z"),
            1_000 => write!(f, ":{second:02}Z"),
            100 => write!(f, ":{second:02}.{}Z", thousandths / 100),
            10 => write!(f, ":{second:02}.{:02}Z", thousandths / 10),
            _ => write!(f, ":{second:02}.{thousandths:03}Z"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_as_long_as_it_is_said_exactly() {
        let time = |text: &str| text.parse::<AskedTime>().map(|time| (time.from_unix_ms, time.until_unix_ms));
        let ten = 1_795_341_600_000;
        assert_eq!(time("2026-11-22T10:00Z"), Ok((ten, ten + 60_000)));
        assert_eq!(time("2026-11-22 10:00:00z"), Ok((ten, ten + 1_000)));
        assert_eq!(time("2026-11-22T11:30:05+01:30"), Ok((ten + 5_000, ten + 6_000)));
        assert_eq!(time("2026-11-22T02:00:05.25-08:00"), Ok((ten + 5_250, ten + 5_260)));
        assert_eq!(time("2026-11-22T10:00:05.123456789Z"), Ok((ten + 5_123, ten + 5_124)));
        assert_eq!(time("1970-01-01T00:00Z"), Ok((0, 60_000)));
        assert_eq!(time("2028-02-29T00:00Z").map(|time| time.0), Ok(1_835_395_200_000));
        for wrong in [
            "",
            "now",
            "2026-11-22",
            "2026-11-22T10:00",
            "2026-11-22T10Z",
            "2026-02-29T10:00Z",
            "2026-13-01T10:00Z",
            "2026-11-22T24:00Z",
            "2026-11-22T10:60Z",
            "2026-11-22T10:00:60Z",
            "2026-11-22T10:00:00.Z",
            "2026-11-22T10:00:00:00Z",
            "2026-11-22T10:00+1:00",
            "2026-11-22T10:00+24:00",
            "26-11-22T10:00Z",
            "1969-12-31T23:59Z",
            "1970-01-01T00:00+00:01",
            "2026-11-22T10:00Zulu",
            "2026-11-22T-1:00Z",
            "2026-11-00T10:00Z",
        ] {
            assert_eq!(time(wrong), Err(NotATime), "{wrong}");
        }
    }

    #[test]
    fn how_long_ago_is_a_second_of_then() {
        let range = |text: &str| text.parse::<AskedWhen>().map(|when| when.range(100_000_000_000));
        for (text, ago_ms) in [
            ("-5m", 300_000),
            ("5m ago", 300_000),
            ("90s ago", 90_000),
            ("-2h", 7_200_000),
            ("1dago", 86_400_000),
        ] {
            let from = 100_000_000_000 - ago_ms;
            assert_eq!(range(text), Ok(from..from + 1_000), "{text}");
        }
        let ten = 1_795_341_600_000;
        assert_eq!(range("2026-11-22T10:00Z"), Ok(ten..ten + 60_000));
        for wrong in ["", "-", "ago", "5m", "-5", "-m", "-5w", "--5m", "5 minutes ago", "-5µ", "µ ago"] {
            assert_eq!(range(wrong), Err(NotWhen), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_written_as_exactly_as_it_was_said() {
        for text in [
            "2026-11-22T10:00Z",
            "2026-11-22T10:00:05Z",
            "2026-11-22T10:00:05.2Z",
            "2026-11-22T10:00:05.02Z",
            "2026-11-22T10:00:05.002Z",
        ] {
            assert_eq!(text.parse::<AskedTime>().map(|time| time.to_string()).as_deref(), Ok(text));
        }
    }
}
