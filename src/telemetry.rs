//! What the process tells its operator. Globals (subscriber, panic hook) are installed by the binary only.

pub mod logs;
