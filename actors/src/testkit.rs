//! For tests of the tree and of the adapters: fakes of the ports and one conformance suite per port.

pub mod conformance;
pub mod desk;
pub mod fakes;
