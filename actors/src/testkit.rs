//! For tests of the tree and of the adapters: fakes of the ports and one conformance suite per port;
//! and a simulation of many bots in front of several model servers.

pub mod conformance;
pub mod desk;
pub mod fakes;
pub mod simulation;
