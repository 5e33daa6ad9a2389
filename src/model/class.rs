//! What told a flow's name, and its class.

use std::sync::Arc;

/// What somebody calls the far end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// A [`super::HostName`] in as many bytes as it has.
    pub name: Arc<str>,
    pub by: NameSource,
}

/// What told a flow's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameSource {
    /// An answer that one of the tenant's hosts was given gives its name this address; others may have it too.
    Dns,
    /// The client's own first bytes: TLS, QUIC, HTTP.
    TlsSni,
    QuicSni,
    HttpHost,
}

/// What told a flow's app class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClassBy {
    /// No rule fits it.
    Default,
    /// A rule that asks for no app and no domain.
    Rule,
    /// A rule that asks for an app, which it is of by its port,
    Port,
    /// by where it goes,
    Prefix,
    /// or by its name; or a rule that asks for a domain.
    Name(NameSource),
}

impl ClassBy {
    /// The word for it in the API, the CLI and the console.
    pub fn name(self) -> &'static str {
        match self {
            ClassBy::Default => "default",
            ClassBy::Rule => "rule",
            ClassBy::Port => "port",
            ClassBy::Prefix => "prefix",
            ClassBy::Name(source) => source.name(),
        }
    }
}

impl NameSource {
    /// The word for it in the API, the CLI and the console.
    pub fn name(self) -> &'static str {
        match self {
            NameSource::Dns => "dns",
            NameSource::TlsSni => "tls-sni",
            NameSource::QuicSni => "quic-sni",
            NameSource::HttpHost => "http-host",
        }
    }
}
