//! Quantities as a topology file writes them, unit in the value: `"20ms"`, `"1%"`, `"20Mbps"`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

/// A span of time: `"250us"`, `"20ms"`, `"10s"`, `"2m"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Span, String> {
        let (number, unit) = split(text);
        let nanos = match unit {
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            _ => return Err(format!("\"{text}\" is not a time: write it as \"20ms\" (units us, ms, s, m)")),
        };
        Ok(Span(Duration::from_nanos((decimal(number, text)? * nanos) as u64)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos() as f64;
        match self.0 {
            time if time < Duration::from_millis(1) => write!(f, "{}us", nanos / 1e3),
            time if time < Duration::from_secs(1) => write!(f, "{}ms", nanos / 1e6),
            _ => write!(f, "{}s", nanos / 1e9),
        }
    }
}

/// A share of frames, in millionths, so that it can be drawn without rounding: `"1%"`, `"0.05%"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Loss {
    millionths: u32,
}

impl Loss {
    /// What [`Loss::millionths`] is a share of.
    pub const WHOLE: u32 = 1_000_000;

    /// 0 to [`Loss::WHOLE`].
    pub fn millionths(self) -> u32 {
        self.millionths
    }
}

impl FromStr for Loss {
    type Err = String;
    fn from_str(text: &str) -> Result<Loss, String> {
        let percent = match split(text) {
            (number, "%") => decimal(number, text)?,
            _ => return Err(format!("\"{text}\" is not a share: write it as \"1%\"")),
        };
        if percent > 100.0 {
            return Err(format!("\"{text}\" is more than everything: \"100%\" is the most"));
        }
        Ok(Loss { millionths: (percent * 10_000.0).round() as u32 })
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.millionths) / 10_000.0)
    }
}

/// Bits per second: `"64kbps"`, `"20Mbps"`, `"1Gbps"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(pub NonZeroU64);

impl Rate {
    /// How long a frame of `bytes` takes to leave.
    pub fn serialization(self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.0.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Rate, String> {
        let (number, unit) = split(text);
        let bits = match unit {
            "bps" => 1.0,
            "kbps" => 1e3,
            "Mbps" => 1e6,
            "Gbps" => 1e9,
            _ => {
                return Err(format!(
                    "\"{text}\" is not a rate: write it as \"20Mbps\" (units bps, kbps, Mbps, Gbps)"
                ));
            }
        };
        let bits = NonZeroU64::new((decimal(number, text)? * bits) as u64);
        bits.map(Rate).ok_or_else(|| format!("\"{text}\" lets nothing through: to stop a link, cut it"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.get() as f64;
        match self.0.get() {
            0..1_000 => write!(f, "{bits}bps"),
            1_000..1_000_000 => write!(f, "{}kbps", bits / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{}Mbps", bits / 1e6),
            _ => write!(f, "{}Gbps", bits / 1e9),
        }
    }
}

macro_rules! written_as_text {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    )*};
}
written_as_text! { Span Loss Rate }

/// The number at the front, the unit after it.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn decimal(number: &str, whole: &str) -> Result<f64, String> {
    number.parse().map_err(|_| format!("\"{whole}\" does not begin with a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_come_back_as_they_were_written() {
        for text in ["250us", "20ms", "1.5s", "10s"] {
            assert_eq!(text.parse::<Span>().expect("a time").to_string(), text);
        }
        for text in ["0%", "0.05%", "1%", "100%"] {
            assert_eq!(text.parse::<Loss>().expect("a share").to_string(), text);
        }
        for text in ["64kbps", "20Mbps", "1.5Gbps"] {
            assert_eq!(text.parse::<Rate>().expect("a rate").to_string(), text);
        }
    }

    #[test]
    fn a_quantity_without_its_unit_is_refused_with_an_example() {
        assert!("20".parse::<Span>().expect_err("no unit").contains("\"20ms\""));
        assert!("0.01".parse::<Loss>().expect_err("no unit").contains("\"1%\""));
        assert!("20".parse::<Rate>().expect_err("no unit").contains("\"20Mbps\""));
        assert!("101%".parse::<Loss>().is_err());
        assert!("0Mbps".parse::<Rate>().is_err());
        assert!("ms".parse::<Span>().is_err());
    }

    #[test]
    fn fifteen_hundred_bytes_take_twelve_milliseconds_at_one_megabit() {
        let rate: Rate = "1Mbps".parse().expect("a rate");
        assert_eq!(rate.serialization(1_500), Duration::from_millis(12));
    }
}
