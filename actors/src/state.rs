//! StateActor: who is on the roster. It gives out ids, keeps the limit of running bots, admits and removes.
//!
//! Parent: root. Children: none. Ports: StateStore, to restore the roster when the process starts.
//!
//! Invariants: a bot is on the roster only after its creation is durable; an id is given out once; at most
//! `max_running` bots count as running, reservations included.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde::Serialize;

use crate::{
    domain::{
        bot::{BotRecord, BotState, StoredStatus},
        ids::BotId,
        problem::{Code, Problem},
    },
    history::StorageWatch,
    ports::state_store::StateStore,
    supervision::{Clock, RestartRules},
};

mod roster;

pub(crate) use roster::{BotEntry, Roster, TurnTally};

/// Messages of [`StateActor`].
#[derive(Debug)]
pub(crate) enum StateMessage {
    /// Reserve an id (or the next free one) and a place among the running bots.
    Reserve { id: Option<BotId>, reply: RpcReplyPort<Result<BotId, Problem>> },
    /// The reserved bot is durable.
    Admit { entry: Arc<BotEntry>, reply: RpcReplyPort<()> },
    /// The reserved bot was not stored; or the one that wanted to run does, or does not.
    Release(BotId),
    /// The reserved id turned out to be that of a bot that can't be read: it is not given out again.
    Unusable(BotId),
    /// A stopped bot wants to run again.
    MayStart { id: BotId, reply: RpcReplyPort<Result<(), Problem>> },
    /// The bot is deleted.
    Remove { id: BotId, reply: RpcReplyPort<()> },
    /// What it keeps.
    Observe(RpcReplyPort<StateObservation>),
}

/// What [`StateActor`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StateObservation {
    /// Bots on the roster.
    pub bots: usize,
    /// Those that count as running.
    pub running: usize,
    /// Ids given out whose bots are not stored yet.
    pub reserved: usize,
}

/// What [`StateActor`] starts with.
#[derive(Clone)]
pub(crate) struct StateArgs {
    pub roster: Arc<Roster>,
    pub store: Arc<dyn StateStore>,
    pub max_running: usize,
    pub rules: RestartRules,
    pub clock: Clock,
    pub seed: u64,
    /// How the store is read while it may be away.
    pub watch: StorageWatch,
    /// True until the roster was read once.
    pub first: Arc<AtomicBool>,
}

impl StateArgs {
    /// Puts on the roster what storage knows; what is known of each survivor stays.
    fn restore(&self, stored: Vec<(BotRecord, StoredStatus)>) {
        for (n, (record, mut status)) in stored.into_iter().enumerate() {
            match self.roster.get(&record.id) {
                Some(entry) => entry.replace_record(record),
                None => {
                    if !matches!(status.state, BotState::Terminated | BotState::Quarantined) {
                        status.state = BotState::Crashed;
                    }
                    let seed = self.seed.wrapping_add(n as u64);
                    let entry = BotEntry::new(record, &status, self.rules, self.clock, seed);
                    self.roster.insert(Arc::new(entry));
                }
            }
        }
    }
}

/// State of [`StateActor`].
pub(crate) struct StateState {
    args: StateArgs,
    reserved: HashSet<BotId>,
    unusable: HashSet<BotId>,
    next_number: u64,
}

impl StateState {
    fn room(&self) -> Result<(), Problem> {
        let max = self.args.max_running;
        let new = |id: &&BotId| self.args.roster.get(id).is_none_or(|e| !e.state().counts_as_running());
        if self.args.roster.running() + self.reserved.iter().filter(new).count() < max {
            return Ok(());
        }
        Err(Problem::new(
            Code::BotLimitReached,
            format!("{max} of {max} bots run. Stop one or raise bots.max_running."),
        ))
    }

    fn taken(&self, id: &BotId) -> bool {
        self.reserved.contains(id) || self.unusable.contains(id) || self.args.roster.contains(id)
    }

    fn reserve(&mut self, id: Option<BotId>) -> Result<BotId, Problem> {
        if let Some(id) = &id
            && self.taken(id)
        {
            return Err(Problem::new(
                Code::BotExists,
                format!("A bot {id} exists. Choose another id, or start the one that exists."),
            ));
        }
        self.room()?;
        let id = id.unwrap_or_else(|| {
            // The number only grows, so this looks at each id once; the roster is finite.
            while self.taken(&BotId::numbered(self.next_number)) {
                self.next_number += 1;
            }
            BotId::numbered(self.next_number)
        });
        self.reserved.insert(id.clone());
        Ok(id)
    }

    fn admit(&mut self, entry: Arc<BotEntry>) {
        self.reserved.remove(&entry.id());
        self.args.roster.insert(entry);
    }

    /// The place is kept until the caller releases it: by then the bot counts itself.
    fn may_start(&mut self, id: &BotId) -> Result<(), Problem> {
        match self.args.roster.get(id) {
            None => Err(no_such_bot(id)),
            Some(entry) if entry.state().counts_as_running() || self.reserved.contains(id) => Ok(()),
            Some(_) => {
                self.room()?;
                self.reserved.insert(id.clone());
                Ok(())
            }
        }
    }

    fn observe(&self) -> StateObservation {
        StateObservation {
            bots: self.args.roster.all().len(),
            running: self.args.roster.running(),
            reserved: self.reserved.len(),
        }
    }
}

/// The problem of an unknown bot.
pub(crate) fn no_such_bot(id: &BotId) -> Problem {
    Problem::new(Code::BotNotFound, format!("There is no bot {id}."))
}

/// Keeps the roster.
pub(crate) struct StateActor;

impl Actor for StateActor {
    type Msg = StateMessage;
    type State = StateState;
    type Arguments = StateArgs;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        // After a crash the storage decides who exists; where it is away, the roster in memory is as good.
        if args.first.load(Ordering::Acquire) {
            args.restore(args.watch.read(args.store.roster()).await?);
        } else {
            match args.watch.glance(args.store.roster()).await {
                Ok(stored) => args.restore(stored),
                Err(error) => tracing::warn!(%error, "the roster stays as it is in memory"),
            }
        }
        args.first.store(false, Ordering::Release);
        Ok(StateState { args, reserved: HashSet::new(), unusable: HashSet::new(), next_number: 1 })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            StateMessage::Reserve { id, reply } => {
                let _ = reply.send(state.reserve(id));
            }
            StateMessage::Admit { entry, reply } => {
                state.admit(entry);
                let _ = reply.send(());
            }
            StateMessage::Release(id) => {
                state.reserved.remove(&id);
            }
            StateMessage::Unusable(id) => {
                state.reserved.remove(&id);
                state.unusable.insert(id);
            }
            StateMessage::MayStart { id, reply } => {
                let _ = reply.send(state.may_start(&id));
            }
            StateMessage::Remove { id, reply } => {
                state.args.roster.remove(&id);
                let _ = reply.send(());
            }
            StateMessage::Observe(reply) => {
                let _ = reply.send(state.observe());
            }
        }
        Ok(())
    }
}
