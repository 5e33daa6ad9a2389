//! Copying the flow history's finished files to an object store: a thread that sends one file after the other, and takes its
//! time over it.
//!
//! Nothing waits for it: neither who tells the history, nor who asks it, nor the end of the process, since a file that has
//! arrived in part has not arrived, and is sent again under the same name.

use super::clock::Clock;
use super::flow_keeping::SharedFlows;
use crate::config::ObjectStore;
use crate::store::flows::ToSend;
use crate::store::s3::{self, Request, Signer};
use ring::digest;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How often it is looked whether there is another file; files come every ten minutes.
const IDLE: Duration = Duration::from_secs(5);
/// After a failure: at first, and at most. Each one more doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);
/// For a connection, for an answer, and for all of a file: half a gigabyte over a line of some megabits.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);
const FILE: Duration = Duration::from_secs(3_600);
/// Of what a store says is wrong: enough for its code and message.
const MOST_ANSWER: u64 = 64 << 10;

/// Where to, from now on; the thread ends when there is nobody left who could say.
pub type Destination = Sender<Option<Arc<ObjectStore>>>;

/// Starts the thread, which sends nothing until it is told where to.
///
/// # Errors
/// The thread could not be made.
pub fn start(flows: SharedFlows, clock: Clock) -> io::Result<Destination> {
    let (destination, destinations) = channel();
    let sending = Sending { flows, clock, destinations, client: None, retry: FIRST_RETRY };
    std::thread::Builder::new().name("flow-copies".into()).spawn(move || sending.run())?;
    Ok(destination)
}

struct Sending {
    flows: SharedFlows,
    clock: Clock,
    destinations: Receiver<Option<Arc<ObjectStore>>>,
    client: Option<Client>,
    retry: Duration,
}

impl Sending {
    fn run(mut self) {
        let mut wait = IDLE;
        loop {
            match self.destinations.recv_timeout(wait) {
                Ok(store) => {
                    self.client = store.map(Client::new);
                    self.retry = FIRST_RETRY;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            wait = self.send_next();
        }
    }

    /// Sends one file; how long until the next.
    fn send_next(&mut self) -> Duration {
        let Some(client) = &self.client else { return IDLE };
        let now = unix_ms(self.clock);
        let next = self.flows.lock().next_to_send(now);
        let sent = match next {
            Ok(None) => return IDLE,
            Ok(Some(file)) => client.put(&file, now / 1_000).map(|()| file),
            Err(error) => Err(error.to_string()),
        };
        match sent {
            Ok(file) => {
                self.retry = FIRST_RETRY;
                self.flows.lock().sent(&file);
                Duration::ZERO
            }
            Err(why) => {
                let (now, wait) = (unix_ms(self.clock), self.retry);
                self.retry = (2 * wait).min(LAST_RETRY);
                self.flows.lock().not_sent(&why, now, now + wait.as_millis() as u64);
                wait
            }
        }
    }
}

struct Client {
    store: Arc<ObjectStore>,
    agent: ureq::Agent,
}

impl Client {
    fn new(store: Arc<ObjectStore>) -> Client {
        let authorities = store.authorities.iter().map(|der| Certificate::from_der(der).to_owned());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(authorities.collect())))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        // What is signed goes to this address and to none that a proxy variable or a redirect names.
        let config = ureq::Agent::config_builder().proxy(None).max_redirects(0).http_status_as_error(false);
        let config = config.timeout_connect(Some(CONNECT)).timeout_recv_response(Some(ANSWER));
        let agent = config.timeout_global(Some(FILE)).tls_config(tls).build().new_agent();
        Client { store, agent }
    }

    /// Puts a file in its place, whole or not at all: the store compares what has arrived with its hash, which is signed.
    fn put(&self, file: &ToSend, unix_secs: u64) -> Result<(), String> {
        let told = |error: io::Error| format!("{}: {error}", file.path.display());
        let opened = File::open(&file.path).map_err(told)?;
        let sha256 = sha256_of(&opened).map_err(told)?;
        let content = File::open(&file.path).map_err(told)?;
        let ObjectStore { endpoint, bucket, prefix, region, credentials, .. } = &*self.store;
        let path = s3::encoded(&format!("/{bucket}/{prefix}{}", file.name));
        let host = endpoint.split_once("://").map_or(&**endpoint, |(_, host)| host);
        let date = s3::date(unix_secs);
        let signer = Signer {
            access_key_id: &credentials.access_key_id,
            secret_access_key: &credentials.secret_access_key,
            region,
        };
        let headers = [("x-amz-content-sha256", &*sha256), ("x-amz-date", &*date)];
        let request = Request { method: "PUT", host, path: &path, headers: &headers, sha256: &sha256 };
        let put = self.agent.put(format!("{endpoint}{path}"));
        let put = put.header("authorization", signer.authorization(&request, &date));
        let put = put.content_type("application/vnd.apache.parquet");
        let put = headers.iter().fold(put, |put, (name, value)| put.header(*name, *value));
        let mut answer = put.send(&content).map_err(|error| format!("{host}: {error}"))?;
        match answer.status().as_u16() {
            200 | 201 | 204 => Ok(()),
            status => {
                let body = answer.body_mut().with_config().limit(MOST_ANSWER).read_to_string();
                Err(format!("{host}: status {status}{}", wrong_in(&body.unwrap_or_default())))
            }
        }
    }
}

fn sha256_of(mut file: &File) -> io::Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(s3::hex(context.finish().as_ref())),
            read => context.update(&buffer[..read]),
        }
    }
}

/// The code and the message of an error in XML. The rest of it may repeat what was signed.
fn wrong_in(xml: &str) -> String {
    let told = ["Code", "Message"].into_iter().filter_map(|name| {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        Some(text.chars().filter(|character| !character.is_control()).take(200).collect::<String>())
    });
    told.fold(String::new(), |all, text| format!("{all}, {text}"))
}

fn unix_ms(clock: Clock) -> u64 {
    clock.now().unix_nanos / 1_000_000
}
