//! Ports in memory.

pub mod hand_model;
pub mod memory_store;
pub mod moody_model;
