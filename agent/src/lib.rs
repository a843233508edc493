//! The Weft agent: eBPF capture, the data path, enrolment, telemetry and the operator's commands.
//!
//! The modules stand in the order in which one should read them. `capture` knows nothing of the proxy, the proxy asks
//! a trait for original destinations, and only `wire` names them all.

pub mod netns;
pub mod capture;
pub mod in_pod;
pub mod proxy;
pub mod duty;
pub mod enrol;
pub mod wanted;
pub mod publish;
pub mod telemetry;
pub mod sandbox;
pub mod node;
pub mod cni;
pub mod admin;
pub mod view;
pub mod command;
pub mod joined;
pub mod footprint;
pub mod clearing;
pub mod state_dir;
pub mod last_state;
pub mod hand_over;
pub mod office;
pub mod wire;
pub mod controller;
pub mod waypoint;
