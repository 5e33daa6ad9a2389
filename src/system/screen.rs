//! What a box shows at its own console: how it is, and what whoever stands before it can do. Plain lines of a name and a value, at most
//! 79 wide where words allow, for a serial console keeps them all and moves no cursor.
//!
//! Of secrets there is one, the link that makes the first owner, while there is none: whoever stands before the box is who is to be that.

use std::fmt;
use std::net::IpAddr;

/// A terminal's 80 columns, less the one where some of them wrap.
const WIDTH: usize = 79;
/// Where values begin.
const INDENT: usize = 13;
/// Of what is wrong with a configuration; `popgate check` says all.
const PROBLEMS: usize = 5;

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    pub name: String,
    /// It has a link.
    pub carries: bool,
    /// Without link-local ones.
    pub addresses: Vec<IpAddr>,
}

/// All that it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    pub version: String,
    pub cards: Vec<Card>,
    pub standing: Standing,
    /// What became of the last update, while that is news.
    pub update: Option<String>,
    /// What Enter does here; none where nobody listens.
    pub key: bool,
}

/// How far the box is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Fresh,
    /// A branch without its configuration.
    Enrolling {
        /// None if its code does not read.
        site: Option<String>,
        /// What the enrolment says that it waits for.
        progress: Option<String>,
    },
    /// It has a configuration and does not answer: what is wrong with that.
    Silent {
        problems: Vec<String>,
    },
    Running(Running),
}

/// A box that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    pub site: String,
    pub role: String,
    pub tunnels: u64,
    pub tunnels_up: u64,
    /// By when the commit in force is to be confirmed.
    pub confirm_by: Option<String>,
    /// Of the certificate that the console shows, as browsers write it.
    pub fingerprint: Option<String>,
    /// Where the console is.
    pub urls: Vec<String>,
    /// While there is no user.
    pub setup_link: Option<String>,
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") };
        let link = if self.carries { "" } else { ", no link" };
        write!(f, "{:<11} {addresses}{link}", self.name)
    }
}

impl fmt::Display for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "popgate {}", plain(&self.version))?;
        for card in &self.cards {
            line(f, "", &card.to_string())?;
        }
        if self.cards.is_empty() {
            line(f, "network", "no network card")?;
        }
        if let Some(update) = &self.update {
            line(f, "update", update)?;
        }
        match &self.standing {
            Standing::Fresh => {
                line(f, "state", "not set up yet")?;
                let key = if self.key { "press Enter here, or " } else { "popgate setup, or " };
                line(
                    f,
                    "to do",
                    &format!(
                        "{key}put in a stick called POPGATE with enrol-code or popgate.toml on it, \
                         or give it cloud-init data (a volume cidata)"
                    ),
                )
            }
            Standing::Enrolling { site, progress } => {
                let site = site.as_deref().unwrap_or("a branch whose code does not read");
                line(f, "state", &format!("{site} is to be enrolled by its code"))?;
                line(f, "enrolment", progress.as_deref().unwrap_or("it begins"))?;
                if self.key {
                    line(f, "to do", "nothing; Enter sets the box up in another way")
                } else {
                    Ok(())
                }
            }
            Standing::Silent { problems } if problems.is_empty() => {
                line(f, "state", "popgate does not answer: it starts, or does not run")
            }
            Standing::Silent { problems } => {
                line(f, "state", "popgate does not run: its configuration does not read")?;
                problems.iter().take(PROBLEMS).try_for_each(|problem| line(f, "", problem))
            }
            Standing::Running(running) => running.fmt(f),
        }
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "site", &format!("{} ({})", self.site, self.role))?;
        let tunnels = match self.tunnels {
            0 => "none is configured".to_owned(),
            all => format!("{} of {all} up", self.tunnels_up),
        };
        line(f, "tunnels", &tunnels)?;
        if let Some(by) = &self.confirm_by {
            let what = format!("a commit is to be confirmed by {by}, or the one before comes back");
            line(f, "commit", &what)?;
        }
        if self.urls.is_empty() {
            line(f, "console", "on the box alone: tls-listen in [admin] opens it to others")?;
        }
        self.urls.iter().try_for_each(|url| line(f, "console", url))?;
        if let Some(fingerprint) = &self.fingerprint {
            // Two lines of 16 bytes: what somebody compares with a browser's.
            let half = fingerprint.len().div_ceil(2);
            line(f, "SHA-256", fingerprint.get(..half).unwrap_or(fingerprint))?;
            line(f, "", fingerprint.get(half..).unwrap_or_default())?;
        }
        match &self.setup_link {
            // From the first column, so that it fits into a line.
            Some(link) => {
                writeln!(f, "There is no user yet. Who opens this link within a day is the first owner:")?;
                writeln!(f, "{}", plain(link))
            }
            None => Ok(()),
        }
    }
}

/// A name and its value, which goes on below itself.
fn line(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    let value = plain(value);
    let mut written = 0;
    write!(f, "{name:<INDENT$}")?;
    for word in value.split(' ') {
        if written > 0 && INDENT + written + 1 + word.len() > WIDTH {
            write!(f, "\n{:INDENT$}{word}", "")?;
            written = word.len();
        } else {
            write!(f, "{}{word}", if written > 0 { " " } else { "" })?;
            written += word.len() + 1;
        }
    }
    writeln!(f)
}

/// Nothing that moves a terminal's cursor: some of it was said by another box.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(standing: Standing) -> Screen {
        let card = |name: &str, carries, addresses: &[&str]| Card {
            name: name.to_owned(),
            carries,
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
        };
        let cards = vec![card("enp0s16", true, &["192.0.2.10", "2001:db8::10"]), card("enp0s17", false, &[])];
        Screen { version: "0.1.0".to_owned(), cards, standing, update: None, key: true }
    }

    fn running() -> Running {
        Running {
            site: "fra1".to_owned(),
            role: "pop".to_owned(),
            tunnels: 7,
            tunnels_up: 3,
            fingerprint: Some(vec!["AB"; 32].join(":")),
            urls: vec!["https://192.0.2.10".to_owned(), "https://[2001:db8::10]".to_owned()],
            ..Running::default()
        }
    }

    #[test]
    fn a_fresh_box_says_its_addresses_and_what_to_do() {
        let text = screen(Standing::Fresh).to_string();
        assert!(text.starts_with("popgate 0.1.0\n"), "{text}");
        assert!(text.contains("enp0s16     192.0.2.10, 2001:db8::10\n"), "{text}");
        assert!(text.contains("enp0s17     no address, no link\n"), "{text}");
        assert!(
            text.contains("press Enter here") && text.contains("POPGATE") && text.contains("cidata"),
            "{text}"
        );
        let text = Screen { key: false, ..screen(Standing::Fresh) }.to_string();
        assert!(!text.contains("Enter"), "{text}");
    }

    #[test]
    fn a_running_box_says_where_its_console_is_and_who_may_be_the_first_there() {
        let link = format!("https://192.0.2.10/#setup={}", "x".repeat(43));
        let with = Running { setup_link: Some(link.clone()), ..running() };
        let text = screen(Standing::Running(with)).to_string();
        for expected in [
            "site         fra1 (pop)\n",
            "tunnels      3 of 7 up\n",
            "console      https://192.0.2.10\nconsole      https://[2001:db8::10]\n",
            &format!("\n{link}\n"),
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let joined = text.replace([' ', '\n'], "");
        assert!(joined.contains(&vec!["AB"; 32].join(":")), "{text}");
        assert!(!screen(Standing::Running(running())).to_string().contains("setup="));
    }

    #[test]
    fn what_waits_for_somebody_is_shown() {
        let by = Running { confirm_by: Some("2026-11-29T03:30:00Z".to_owned()), ..running() };
        let text = screen(Standing::Running(by)).to_string();
        assert!(text.contains("to be confirmed by 2026-11-29T03:30:00Z"), "{text}");
        let progress =
            "lyon waits to be approved at fra1: the fingerprint of its keys is 0011-2233-4455-6677-8899";
        let enrolling =
            Standing::Enrolling { site: Some("lyon".to_owned()), progress: Some(progress.to_owned()) };
        let text = screen(enrolling).to_string();
        assert!(text.contains("0011-2233-4455-6677-8899"), "{text}");
        let silent = Standing::Silent { problems: vec!["popgate.toml:2: not UTF-8".to_owned()] };
        assert!(screen(silent).to_string().contains("popgate.toml:2: not UTF-8"));
        let update = Some("2.0 did not come up healthy: the box fell back".to_owned());
        assert!(Screen { update, ..screen(Standing::Fresh) }.to_string().contains("fell back"));
    }

    #[test]
    fn no_line_is_wider_than_a_terminal_and_nothing_moves_its_cursor() {
        let said = format!("\x1b[2J{} \r\n{}", "word ".repeat(60), "long".repeat(10));
        let enrolling = Standing::Enrolling { site: Some("lyon".to_owned()), progress: Some(said) };
        let setup_link = Some(format!("https://192.0.2.10/#setup={}", "x".repeat(43)));
        for standing in [Standing::Fresh, enrolling, Standing::Running(Running { setup_link, ..running() })] {
            let text = screen(standing).to_string();
            assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
            assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
        }
    }
}
