//! The shim that an application links to talk to its sidecar
