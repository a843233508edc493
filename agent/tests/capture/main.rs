//! Capture on the running kernel: real programs, namespaces, sockets. Root is needed; without it every test fails.

mod congestion;
mod inbound;
mod lifecycle;
mod outbound;
mod probes;
mod world;
