//! popgate: the box at the edge of a provider's point of presence, and the box in each branch. One binary, two roles,
//! one data plane.
//!
//! # The life of a packet
//!
//! A laptop in acme's Berlin branch opens a web page. Its SYN reaches the branch's LAN interface, and the branch's kernel
//! leads it into a TUN device ([`io::network`] put the rule there).
//!
//! 1. [`io::forward`], the worker's thread, reads it with whatever else is waiting into a [`wire::Batch`] and calls
//!    [`pipeline::Worker::process`]. From here to the way out there are no sockets, no clock and no locks: the
//!    data plane is a function, and time is its argument.
//! 2. [`wire::parse()`] checks the packet once; everything after works at the offsets it found. Its addresses, ports,
//!    protocol and *zone* (whose address space is this?) are its [`model::FlowKey`].
//! 3. [`flow::SessionTable`] knows no session of that key, so the packet takes the slow path
//!    ([`pipeline::decide`]): who owns the source, and did it come from there; who owns the destination; which app
//!    class; which ACL rule; which NAT policy. What comes out is a [`flow::Plan`], kept in a new session with both
//!    directions' keys. Every later packet is one look-up: check the side it came from, run the plan, count.
//!    What the flow is called may decide its class: DNS answers have taught which name its destination has, and what its
//!    client says first is better still, and has the session planned anew (`pipeline`'s `naming`).
//! 4. The plan says "into the tunnels to the PoP". Which of Berlin's paths, [`path::steer`] says now, for this packet:
//!    the first in the class's order that [`path::Prober`] has found alive. A failover therefore invalidates nothing. Where many
//!    sessions would leave a path that is alive for a better one, [`path::Turns`] says when each does.
//!    Where a bandwidth is limited, it waits in its class's queue for its turn ([`path::Shaper`]).
//! 5. [`tunnel::Tunnel`] seals it (boringtun's noise), and the datagram leaves with the batch.
//!
//! At the PoP the datagram's receiver index names the tunnel, and the worker that has it: each worker has its own sites,
//! tunnels and sessions, and the kernel brings a datagram straight to its thread ([`pipeline::steer`]). A packet whose
//! session or tunnel is another worker's is handed over ([`wire::Handover`], [`io::crossing`]); handshake initiations come
//! in by the [`pipeline::Entrance`], on a thread of its own. The packet that comes out of it is acme's, from Berlin,
//! and nobody else's: its source must belong to Berlin by longest-prefix match. It is looked up in acme's zone, where no
//! other tenant's 10.1.0.10 can be met; the plan there says "out to the internet, translated", and that is not stored
//! either: it is the difference between the session's two keys, which need not even be of one family (NAT64). The answer
//! arrives on the internet's side with the other key, and goes back the same way, by the path the flow last arrived on.
//!
//! A packet that goes no further becomes a [`model::DropReason`]: one counter, one row in the console, one test. A session
//! that ends becomes a [`flow::FlowRecord`], goes by a bounded queue to [`io::exporting`], and leaves as IPFIX
//! ([`export`]); what the queue has no room for is counted. The worker waits for nobody. Where a NAT ledger is kept, the
//! beginnings and ends of bindings go the same way to [`io::ledgering`], and into files that are searched by address, port
//! and time ([`store::ledger`]).
//!
//! # The life of a commit
//!
//! The operator edits `tenants/acme.toml` and says `popgate commit`, which is [`control::commits::Verb::Commit`] to whoever owns
//! the running box ([`run`]); SIGHUP says the same.
//!
//! 1. [`config::Documents`] reads all files into a [`config::Candidate`], or gives all problems at once, each with its file
//!    and line. A file that is wrong changes nothing.
//! 2. [`tables::Compiler`] turns the candidate into a [`tables::Generation`]: immutable, numbered, every name an id that
//!    keeps its meaning for the life of the process ([`tables::Names`]). Whatever could be wrong with it was found before.
//!    Its policy tests are asked ([`pipeline::rehearse`]): one that fails stops the commit, though not the start of a box,
//!    for one that is down carries nobody's traffic. Rules that never decide are warned of.
//! 3. It is written into the audit log ([`control::audit`]) and kept as a revision ([`control::revisions`]): one rename, before which
//!    a box that starts has the old configuration, and from which on it has the new one.
//! 4. Each worker adopts it between two batches ([`pipeline::Worker::adopt`]). Tunnels whose keys stay keep their
//!    sessions. A session that was planned by an older generation is decided on again at its next packet: it keeps its NAT
//!    binding if the new policy permits it, and ends if not.
//! 5. [`io::network`] compares the kernel's devices, namespaces, routes and rules with what the generation asks for and
//!    changes what differs; what cannot be done now is tried again.
//! 6. It is on trial ([`control::trial`]): where nobody confirms it in time, if that was asked for, or the box is worse off than
//!    before, the revision before it comes back by the same way.
//!
//! # Where things are
//!
//! Imports run one way, and `tests/tidy.rs` holds them: [`model`] <- [`wire`] <- {[`tunnel`], [`path`], [`flow`]};
//! [`model`] <- [`config`] <- [`tables`]; those <- [`pipeline`] <- [`io`]; [`flow`] <- {[`export`], [`store`]} <- [`io`];
//! {[`pipeline::report`], [`store::report`]} <- [`control`] <- [`admin`]. [`run`] wires a box together, [`lab`] wires many.

pub mod admin;
pub mod config;
pub mod control;
pub mod enrol;
pub mod export;
pub mod flow;
pub mod io;
pub mod lab;
pub mod model;
pub mod path;
pub mod pipeline;
pub mod run;
pub mod store;
pub mod system;
pub mod tables;
pub mod tunnel;
pub mod update;
pub mod wire;
