//! Where turns stand that wait behind their conversation, and who is told so.

use std::time::Duration;

use ractor::ActorRef;

use super::{BotActorState, BotMessage};
use crate::{
    domain::{
        event::QueueMoved,
        ids::{ConversationId, TurnId},
        turn::QueuePlace,
    },
    inference::{Want, is_near},
};

/// Between two looks at the lines, and so between two words to one turn, however fast its line moves.
const MOVED_EVERY: Duration = Duration::from_millis(500);

impl BotActorState {
    /// Places of those who wait in a conversation, and of one who comes now.
    pub(super) fn places(&self, conversation: ConversationId, new: Option<&Want>) -> Vec<QueuePlace> {
        let Some(lane) = self.talks.get(&conversation).map(|talk| &talk.lane) else { return vec![] };
        let Some(running) = lane.running() else { return vec![] };
        let waiting: Vec<_> = lane.waiting().map(|(_, kept)| &kept.want).chain(new).collect();
        self.args.context.inference.places_behind(running, &waiting)
    }

    pub(super) fn place(&self, turn: TurnId) -> Option<QueuePlace> {
        let (conversation, at) = self.talks.iter().find_map(|(conversation, talk)| {
            Some((*conversation, talk.lane.waiting().position(|(waiting, _)| *waiting == turn)?))
        })?;
        self.places(conversation, None).into_iter().nth(at)
    }

    /// Tells those who wait in a conversation where that is not what they were told.
    fn tell_moved(&mut self, conversation: ConversationId) {
        let places = self.places(conversation, None);
        let Some(talk) = self.talks.get_mut(&conversation) else { return };
        for (kept, place) in talk.lane.waiting_mut().zip(places) {
            if kept.want.told.as_ref().is_some_and(|told| is_near(told, &place)) {
                continue;
            }
            kept.want.told = Some(place.clone());
            let moved = QueueMoved::new(kept.want.turn, place);
            self.args.context.hubs.publish_moved(conversation, &moved);
        }
    }

    /// Waits get shorter by themselves.
    pub(super) fn moved_due(&mut self, me: &ActorRef<BotMessage>) {
        self.moved_timer = false;
        let waits = |lane: &super::Lane<super::Kept>| lane.waiting().next().is_some();
        let talks = self.talks.iter().filter(|(_, talk)| waits(&talk.lane)).map(|(id, _)| *id);
        for conversation in talks.collect::<Vec<_>>() {
            self.tell_moved(conversation);
        }
        self.arm_moved(me);
    }

    /// Looks again while anybody waits.
    pub(super) fn arm_moved(&mut self, me: &ActorRef<BotMessage>) {
        if !self.moved_timer && self.talks.values().any(|talk| talk.lane.waiting().next().is_some()) {
            self.moved_timer = true;
            me.send_after(MOVED_EVERY, || BotMessage::MovedDue);
        }
    }
}
