//! The edge: the only place with sockets, TUN devices, netlink, clocks and threads.
//!
//! Two sides that share nothing but open files. The fast side is [`forward`]: a thread per worker that receives a batch
//! from a [`udp`] socket or a [`tun`] device, lets the data plane make packets to send of it, and sends them; the kernel
//! brings each thread what is its own (`steering`), and what turns out to be another's goes over by [`crossing`]. The slow
//! side is [`network`]: it brings the kernel's devices, namespaces, routes and rules to what a generation asks for, and hands
//! the devices it opened to the fast side.

pub mod clock;
mod collector;
pub mod cpu;
pub mod crossing;
mod dhcp;
pub mod exporting;
pub mod flow_keeping;
pub mod forward;
pub mod ledgering;
pub mod listening;
mod masquerade;
pub mod namespace;
mod netlink;
pub mod network;
pub mod object_sending;
pub mod pinned;
mod polling;
mod portion;
pub mod privileges;
mod standing;
mod steering;
pub mod syslog;
pub mod tap;
pub mod tun;
pub mod tuntap;
pub mod udp;
mod wake;
