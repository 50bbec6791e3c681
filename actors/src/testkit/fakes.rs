//! Ports in memory.

pub mod memory_store;
