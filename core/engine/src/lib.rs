//! The engine: workers that move calls, and the thread that attaches apps.
//!
//! A worker is one thread that shares nothing hot: it has its own driver, lanes, connections, upstream pools, timers and
//! counters. Everything that is under way is plain data in tables ([`conn`], [`call`], [`lane`]), advanced by
//! explicit state machines; nothing of the data path lives on a stack.
//!
//! To follow a request, read in this order: `flow` and `http_down` (or `ingress` for shared memory), `dispatch`,
//! `exchange` (or `dubbo`, `dubbo_up`, `dubbo_own`, `raw`), `http_up` (or `served` for an app that serves), and `egress` on the way back to an app.

#![forbid(unsafe_code)]

mod access_log;
mod attach;
mod attempt;
mod call;
mod conn;
mod connect;
mod counters;
mod date;
mod direct;
mod dispatch;
mod dubbo;
mod dubbo_extension;
mod dubbo_own;
mod dubbo_route;
mod dubbo_up;
mod egress;
pub mod embed;
mod engine;
mod exchange;
mod flow;
mod frame;
mod handover;
mod host;
mod http_down;
mod http_up;
mod idle;
mod ingress;
mod known_front;
mod known_head;
mod landing;
mod lane;
mod liveness;
mod load;
mod load_view;
mod lookup;
mod mailbox;
mod memory;
mod outlier;
mod partial;
mod quota;
mod raw;
mod relay;
mod request_id;
mod resolve;
mod route_key;
mod served;
mod session;
mod session_thread;
mod shared;
mod slab;
mod stages;
mod timer;
mod token;
mod upgrade;
mod upstream;
mod usage;
mod view;
mod worker;

pub use direct::{DIRECT_ALL, DIRECT_APPS_MAX, Direct};
pub use engine::{DriverReport, Engine, EngineOptions, PublishError, StartError, WORKERS_MAX};
pub use handover::{Giver, HandedOver, Predecessor, TakeError, TakenOver, UpgradeSocket};
pub use resolve::{NAMES_MAX, Outcome, Question, RETRY_AFTER, Resolver};
pub use session_thread::SESSION_THREAD;
pub use shmesh_io::Choice;
pub use view::{ClusterView, Count, DurationCount, EndpointView, RequestCount, SessionInfo, View};
