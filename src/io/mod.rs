//! The edge: the only place with sockets, devices, clocks and `unsafe`.

pub mod tap;
