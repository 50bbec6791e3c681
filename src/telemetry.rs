//! What the process tells its operator. Globals (subscriber, panic hook, recorder) are installed by the binary only.

pub mod logs;
pub mod metrics;
