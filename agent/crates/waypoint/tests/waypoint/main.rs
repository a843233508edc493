//! The waypoint, seen from its clients and from the servers behind it.

mod http;
mod routing;
mod world;

mod layer4;
