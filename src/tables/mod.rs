//! A candidate, compiled: immutable, numbered, ready to be looked up in.

mod apps;
mod classify;
mod compile;
mod device;
mod generation;
mod names;
mod nat;
mod routes;
mod rules;
mod services;

pub use apps::{Fit, FitBy, TenantApps};
pub use classify::{Classified, Classifier};
pub use compile::{Compiler, OutOfIds};
pub use device::{DeviceKind, DeviceSpec, Masquerade, PrivateNetwork};
pub use generation::{
    Breakout, Called, EchoSpec, Generation, Here, INTERNET, InternetKind, Order, PathSpec, Site, Sla, Tenant,
    TransportSpec, Written,
};
pub use names::Names;
pub use nat::{Branches, NatPolicy, NatVerdict, Pool};
pub use routes::Routes;
pub use rules::{Acl, AclRule, Matcher, Misfit, Subject};
pub use services::{Crossing, Services, Subscribed};
