//! Supervision: who restarts whom, how often, how fast, and when to give up.
//!
//! Two halves. The **pure** half knows neither tokio nor ractor; given the same clock readings and the same
//! seed it takes the same decisions:
//!
//! - [`RestartPolicy`], [`Strategy`] and [`Exit`]: what an ending means and whom it touches;
//! - [`Intensity`]: more than N restarts within T is too many;
//! - [`Backoff`]: the first restart is immediate, later ones wait (full jitter);
//! - [`RestartHistory`]: the last 100 restarts of a child;
//! - [`RestartRecord`] and [`RestartBudget`]: these together, the decision after a crash;
//! - `Machine`: a whole supervisor as a state machine that returns effects.
//!
//! The **glue** performs those effects with ractor: [`Supervisor`] over [`ChildSpec`]s, its [`SupervisorView`]
//! that anyone may read without a message, [`SupervisionNotice`]s for events and logs, [`ActorSlot`]s to find a
//! child again after a restart, and [`exit_of`] for parents that keep their own children.
//!
//! A supervisor with a fixed list of children is a [`Supervisor`]. One whose children come and go by the
//! thousand keeps a [`RestartBudget`] per child and uses [`exit_of`]; giving up then means quarantine.

mod backoff;
mod budget;
mod child_spec;
mod clock;
mod exit;
mod history;
mod intensity;
mod machine;
mod notice;
mod observation;
mod policy;
mod ractor_exit;
mod slot;
mod supervisor;
mod view;

pub use backoff::{Backoff, BackoffRules};
pub use budget::{Decision, RestartBudget, RestartRecord, RestartRules};
pub use child_spec::{ChildHandle, ChildSpec, StartFn};
pub use clock::{Clock, Now};
pub use exit::{Exit, tidy_reason};
pub use history::{RestartEntry, RestartHistory};
pub use intensity::Intensity;
pub use machine::GaveUp;
pub use notice::{NoticeHook, NoticeKind, SupervisionNotice, ignore_notices};
pub use observation::{ChildObservation, ChildState, IntensityObservation, SupervisorObservation};
pub use policy::{ChildKind, RestartPolicy, Strategy};
pub use ractor_exit::{exit_of, panic_message, reason_of};
pub use slot::{ActorSlot, SlotError};
pub use supervisor::{BootError, Supervisor, SupervisorArgs, SupervisorMessage};
pub use view::SupervisorView;
