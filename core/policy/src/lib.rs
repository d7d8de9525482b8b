//! Pure decisions of the data path, and the snapshot that they read.
//!
//! Nothing here does I/O, reads a clock or allocates per call: the engine asks, this crate answers from a
//! [`Snapshot`] that never changes after it was published.
//!
//! - [`snapshot`]: listeners, clusters, endpoints and settings, as one immutable value
//! - [`address`]: where an endpoint is: `tcp:…`, `unix:…`, `shm:…`
//! - [`limit`]: timeouts and limits with their defaults and reasons
//! - [`route`]: which cluster takes a call, and which route wins when several match
//! - [`condition`]: what a route asks of header fields and parameters
//! - [`pattern`]: texts in which `*` stands for any bytes
//! - [`balance`]: which endpoint of a cluster is next
//! - [`outlier`]: which endpoint is left out for a while, because it fails again and again
//! - [`refuge`]: whether calls go through the sidecar or round it
//! - [`retry`]: whether a failed attempt is made once more
//! - [`turns`]: whose frame leaves next on a shared connection, and whose may wait
//! - [`yielding`]: which share of the calls goes round a sidecar that has too little CPU

#![forbid(unsafe_code)]

pub mod address;
pub mod balance;
pub mod condition;
pub mod limit;
pub mod outlier;
pub mod pattern;
pub mod refuge;
pub mod retry;
pub mod route;
pub mod snapshot;
pub mod turns;
pub mod yielding;

pub use address::{Address, AddressError};
pub use balance::{RoundRobin, Tries};
pub use condition::{Condition, Fields, Query, Regex, Test};
pub use limit::{Limits, Quotas, Timeouts};
pub use outlier::{Ejection, Outcome, OutlierDetection, Outliers, Suspect};
pub use pattern::{Pattern, Precision};
pub use refuge::{Failure, Refuge, Visit};
pub use retry::{Attempt, Retry};
pub use route::{
    Attached, DubboKey, DubboRoute, HostMatch, HttpKey, PathMatch, Route, RouteMatch, Routes, Specificity, Way,
};
pub use snapshot::{
    AccessLog, AdminSpec, AllowUids, Bind, CentralProxy, Cluster, ClusterId, Dns, Endpoint, HttpSpec, Listener,
    Protocol, SessionSpec, Snapshot,
};
pub use turns::{Ticket, Turns};
pub use yielding::{Load, Priority, YieldSpec, Yielding};

pub use shmesh_proto::http1::Lenient;
