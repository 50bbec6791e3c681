//! Obligations of [`HistoryStore`](crate::ports::history_store::HistoryStore).

mod branches;
mod commits;
mod groups;
mod keys;
mod model;
mod numbers;
mod pages;
mod rounds;
mod trees;

pub use self::{
    branches::*, commits::*, groups::*, keys::*, model::*, numbers::*, pages::*, rounds::*, trees::*,
};
use super::{Subject, samples};
use crate::{
    domain::{ids::BotId, message::Conversation},
    ports::history_store::{Committed, Fact, HistoryStore},
};

/// One test per obligation of the history store. The argument is a [`Subject`].
#[macro_export]
macro_rules! history_store_suite {
    ($subject:ty) => {
        mod history_store_suite {
            use super::*;
            $crate::conformance_tests!($subject, history_store:
                a_group_is_stored_whole_and_in_order
                a_repeated_group_changes_nothing_and_adds_no_events
                a_bot_id_in_use_is_not_taken_over
                a_deleted_bot_keeps_its_history_and_frees_its_id
                a_deleted_bot_leaves_no_open_turn_to_its_successor
                a_purged_bot_leaves_nothing_behind
                a_turn_ends_once
                a_turn_keeps_what_it_was_asked_with
                a_turn_behind_a_message_that_is_not_there_is_not_stored
                a_key_names_what_its_request_did
                a_known_key_stands_against_a_second_request
                a_refused_request_leaves_its_key_free
                a_key_outlives_its_messages_and_goes_with_its_bot
                a_status_never_goes_back
                a_checkpoint_stops_with_its_turn
                open_turns_come_with_their_messages_oldest_first
                clearing_leaves_running_turns_alone
                clearing_tells_each_conversation_what_it_lost
                a_conversation_begins_anew_with_its_key_or_stays_as_it_is
                a_conversation_is_deleted_with_its_turns_once_none_is_open
                the_leaf_stays_while_a_turn_is_open
                what_has_no_target_does_not_apply
                exact_texts_survive
                numbers_are_gap_free_per_topic_and_positions_increase
                events_come_back_as_they_were_committed
                events_of_deleted_messages_keep_their_numbers_and_lose_their_text
                numbers_and_epoch_go_on_after_reopening
                a_refused_fact_takes_no_number
                a_topic_gives_out_what_a_reader_missed
                a_redacted_event_is_given_out_under_its_number
                pages_follow_the_active_path
                a_cursor_off_the_path_is_no_page
                pages_of_deep_trees_are_those_of_a_walk
                siblings_are_counted_within_their_conversation
                a_fork_begins_with_the_path_of_its_origin
                a_fork_answers_what_it_shares_in_itself
                a_fork_counts_what_it_shares_among_its_own
                an_answer_made_anew_stands_beside_the_first
                a_leaf_must_be_there
                a_branch_ends_with_its_newest_message
                a_fork_that_lost_its_beginning_is_told
                a_path_stops_where_it_is_large_enough
                calls_of_tools_are_text_of_a_path
                heavy_messages_make_pages_and_paths_shorter
                conversations_are_listed_main_first_then_by_last_use
                a_snapshot_is_of_one_moment
                a_conversation_grows_by_every_message_of_a_group
                nothing_is_put_behind_what_just_went_away
                a_stored_id_in_a_group_is_left_out_of_it
                a_committed_fact_is_seen_by_every_read
                a_round_of_tools_stands_before_the_reply
                rounds_of_tools_go_and_stay_with_their_turn
                a_random_life_matches_the_model
            );
        }
    };
}

/// Commits a group that must succeed.
async fn commit<S: Subject>(subject: &S, facts: Vec<Fact>) -> Vec<Committed> {
    subject.store().commit(facts).await.expect("the commit succeeds")
}

/// Commits one fact that must apply.
async fn commit_one<S: Subject>(subject: &S, fact: Fact) -> Committed {
    let committed = commit(subject, vec![fact]).await.remove(0);
    assert!(committed.applied, "the fact applies");
    committed
}

/// Commits one fact that must not apply.
async fn refuse<S: Subject>(subject: &S, fact: Fact) {
    let why = format!("{:?}", fact.change);
    let committed = commit(subject, vec![fact]).await.remove(0);
    assert!(!committed.applied && committed.events.is_empty(), "does not apply: {why}");
}

/// A store with one bot, and its main conversation.
async fn with_bot<S: Subject>() -> (S, BotId, Conversation) {
    let subject = S::create().await;
    let id = BotId::numbered(1);
    let (fact, main) = samples::launch(&id);
    commit_one(&subject, fact).await;
    (subject, id, main)
}
