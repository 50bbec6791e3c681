//! What is written: one change of the record, with what goes along with it.

use serde_json::Value;

use crate::{
    domain::{
        bot::{AuditEntry, BotRecord, StoredStatus},
        event::NewEvent,
        idempotency::Idempotency,
        ids::{BotId, ConversationId, MessageId},
        message::{Conversation, Message},
        model::ServerRecord,
        time::Timestamp,
        turn::Turn,
    },
    ports::archive::ImportPart,
};

/// One change of the record. Ids are given by the caller, so that doing it twice changes nothing.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "moved once, into the batch")]
pub enum Change {
    /// Nothing but the events.
    None,
    /// A new bot with its main conversation and first status.
    CreateBot {
        /// The bot.
        bot: BotRecord,
        /// Its main conversation.
        main: Conversation,
        /// Its status.
        status: StoredStatus,
    },
    /// A bot's name, configuration, version, metadata.
    UpdateBot(BotRecord),
    /// A bot is gone from the roster and its id is free again, its idempotency keys are forgotten. Its conversations are in no list any
    /// more and take nothing new, but stay readable by id; with `purge` they are deleted, also those
    /// of earlier bots of this id, and it does not apply while one of them is held. Turns that are open nevertheless are `interrupted` at the
    /// [`Fact::time`], their replies `partial`, without events: whoever deletes a bot ends its turns before.
    DeleteBot {
        /// Which.
        bot_id: BotId,
        /// Also conversations, messages and turns.
        purge: bool,
    },
    /// A bot's status. Applies only if it is not older (`updated_at`) than the stored one: a late repetition takes nothing back.
    SaveStatus(StoredStatus),
    /// A new conversation. With a leaf it is a fork: its path begins with that message's. Applies only if the leaf is there.
    CreateConversation(Conversation),
    /// Title, leaf, archived (not the legal hold). Applies only if a new leaf is there. With another leaf than the stored
    /// one it applies only while no turn of the conversation is open: the leaf is then that of the turn.
    UpdateConversation(Conversation),
    /// A conversation with its messages and turns. Applies only while none of its turns is open, no open turn of a fork answers
    /// a message of it, and no hold reaches it.
    /// Forks are mended and told as with [`Change::ClearHistory`]; the conversation itself is not.
    DeleteConversation(ConversationId),
    /// Puts a conversation under legal hold, or lifts it. Applies where that changes something, also to one of a deleted
    /// bot. What is held loses no message that it shows: not by clearing, deleting, purging or age. So a hold reaches
    /// also the conversation that a held fork begins in (see [`RetentionStore`](super::retention::RetentionStore)).
    HoldConversation {
        /// Which.
        conversation_id: ConversationId,
        /// Whose.
        bot_id: BotId,
        /// Held from now on, or not.
        held: bool,
    },
    /// A turn with the user's message and the empty pending reply. Moves the leaf of the conversation
    /// to the reply, its `last_at` and count. A message of another turn is answered once more: it must be
    /// stored, and stays as it is; it may be of another conversation than the turn and the reply, which share it.
    AcceptTurn {
        /// The turn, `accepted`, `queued` or `generating`.
        turn: Turn,
        /// The user's message.
        message: Message,
        /// The pending reply.
        reply: Message,
        /// What the message asks for instead of its bot's configuration, if the turn begins only after a restart.
        overrides: Option<Value>,
        /// The key of the request, stored with what it did; a key that is not expired stands against the change.
        idempotency: Option<Idempotency>,
    },
    /// Messages of no turn (a command and its answer). Moves the leaf to the last. Applies only if the first one's parent is stored.
    AppendMessages {
        /// The messages, of one conversation. With a key: the command first, its answer last.
        messages: Vec<Message>,
        /// As with [`Change::AcceptTurn`].
        idempotency: Option<Idempotency>,
    },
    /// A turn that waited has a slot. Applies only to a turn that has not ended.
    StartTurn(Turn),
    /// The text so far of a running reply. Applies only while the reply is pending.
    Checkpoint {
        /// Which reply.
        reply_id: MessageId,
        /// Content so far.
        content: String,
        /// Thinking so far.
        thinking: Option<String>,
    },
    /// Calls and results of tools, each hung on the one before, in front of a reply: the first hangs where the reply hung, the reply on
    /// the last; the conversation ends where it did. Applies only while the reply is pending and hangs where the first one does.
    ToolRound {
        /// Which reply.
        reply_id: MessageId,
        /// In their order, of the same turn.
        messages: Vec<Message>,
    },
    /// The one end of a turn, with its reply and the bot's totals. Applies only to a turn that has
    /// not ended: the first end wins.
    FinishTurn {
        /// The ended turn.
        turn: Turn,
        /// The reply, `complete` or `partial`.
        reply: Message,
        /// The bot's status after it; left out where the stored one is newer, like [`Change::SaveStatus`].
        status: StoredStatus,
    },
    /// All messages and ended turns of a conversation, or of all of the bot's. Leaves running turns' messages alone.
    /// What remains is mended, here and in forks: a message whose parent is gone is a first one, a
    /// conversation whose leaf is gone ends with its newest message. So a fork keeps what was said in it, and begins there.
    ///
    /// The store itself adds one [`cleared_event`] per conversation and one (of 0) per fork that was mended, in the order
    /// of their ids and before the events of the fact: only it knows the numbers, and they are told in the same
    /// transaction. So callers give no events; doing it again is told again, with 0 where nothing was left.
    /// Conversations that a hold reaches are left out; where only they are meant it does not apply.
    ClearHistory {
        /// Whose.
        bot_id: BotId,
        /// Which; none = all.
        conversation_id: Option<ConversationId>,
    },
    /// A conversation begins anew: its messages and turns go as with [`Change::ClearHistory`], which is told the same way, and
    /// these messages of no turn (the command that asked for it, and its answer) are what it has then. All of it or nothing.
    /// Applies only while none of its turns is open, no hold reaches it, and it has as many messages as `clears` says.
    BeginAnew {
        /// The first messages of the conversation: the command, which has no parent, and its answer.
        messages: Vec<Message>,
        /// How many go: the answer names the number.
        clears: u64,
        /// As with [`Change::AcceptTurn`].
        idempotency: Option<Idempotency>,
    },
    /// A part of an archive. Applies, as a whole or not at all, where its bot is in the roster and no id of it is
    /// stored with other content (siblings aside) or for another bot, and where the conversations of its messages and the leaves that it
    /// gives are in it or stored: no conversation ends with what is not there. What is stored already stays as it is, so that doing it again
    /// changes nothing and applies.
    ///
    /// A conversation that is not there is made, with its leaf as given. One that is there keeps title and archiving;
    /// it belongs to the roster again if an earlier bot of this id left it, and where it has no leaf gets the
    /// one given. Its count and `last_at` follow the messages that are added. The one that is given as `main` becomes the bot's main
    /// one if the one that is has no messages and no leaf, which is deleted then; else it becomes a side conversation.
    Import(ImportPart),
    /// A model server that was added; it takes the place of one of this name.
    AddServer(ServerRecord),
    /// The model server of this name goes. Applies also where it is not stored, as those of the configuration are not.
    RemoveServer(String),
}

impl Change {
    /// Whether it is one of the many: it adds turns and messages or moves on what is theirs. It deletes nothing, and of
    /// conversations it moves only the end, and no message that is stored.
    #[must_use]
    pub fn is_frequent(&self) -> bool {
        match self {
            Self::None
            | Self::SaveStatus(_)
            | Self::AcceptTurn { .. }
            | Self::AppendMessages { .. }
            | Self::StartTurn(_)
            | Self::Checkpoint { .. }
            | Self::FinishTurn { .. } => true,
            Self::CreateBot { .. }
            | Self::UpdateBot(_)
            | Self::DeleteBot { .. }
            | Self::CreateConversation(_)
            | Self::UpdateConversation(_)
            | Self::DeleteConversation(_)
            | Self::HoldConversation { .. }
            | Self::ToolRound { .. }
            | Self::ClearHistory { .. }
            | Self::BeginAnew { .. }
            | Self::Import(_)
            | Self::AddServer(_)
            | Self::RemoveServer(_) => false,
        }
    }

    /// The bot that it is about, where it says so.
    #[must_use]
    pub fn bot_id(&self) -> Option<&BotId> {
        match self {
            Self::None
            | Self::DeleteConversation(_)
            | Self::Checkpoint { .. }
            | Self::AddServer(_)
            | Self::RemoveServer(_) => None,
            Self::CreateBot { bot, .. } | Self::UpdateBot(bot) => Some(&bot.id),
            Self::DeleteBot { bot_id, .. } | Self::ClearHistory { bot_id, .. } => Some(bot_id),
            Self::SaveStatus(status) => Some(&status.bot_id),
            Self::CreateConversation(c) | Self::UpdateConversation(c) => Some(&c.bot_id),
            Self::AcceptTurn { turn, .. } | Self::StartTurn(turn) | Self::FinishTurn { turn, .. } => {
                Some(&turn.bot_id)
            }
            Self::HoldConversation { bot_id, .. } => Some(bot_id),
            Self::Import(part) => Some(&part.bot_id),
            Self::AppendMessages { messages, .. }
            | Self::BeginAnew { messages, .. }
            | Self::ToolRound { messages, .. } => messages.first().map(|m| &m.bot_id),
        }
    }
}

/// A change with what goes into the outbox and the audit log in the same transaction.
#[derive(Debug, Clone)]
pub struct Fact {
    /// The change.
    pub change: Change,
    /// Events, in order. Left out where the change did not apply.
    pub events: Vec<NewEvent>,
    /// Audit entry. Left out where the change did not apply.
    pub audit: Option<AuditEntry>,
}

impl Fact {
    /// A change with its events.
    #[must_use]
    pub fn new(change: Change, events: Vec<NewEvent>) -> Self {
        Self { change, events, audit: None }
    }

    /// When it happened: the time of its first event, or now where it has none.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.events.first().map_or_else(Timestamp::now, |event| event.time)
    }
}
