//! Ports in memory.

pub mod hand_model;
pub mod hand_tools;
pub mod memory_store;
pub mod moody_model;
