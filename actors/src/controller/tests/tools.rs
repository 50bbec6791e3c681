//! Turns whose models call tools.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    bot_supervisor::BotSupervisorMessage,
    controller::{requests::*, *},
    domain::{
        bot::Options,
        message::{MessageState, Sender},
        tool::Answered,
        turn::TurnState,
    },
    ports::{
        chat_model::{ChatRequest, Role},
        history_store::{Cursor, HistoryStore},
    },
    testkit::fakes::{
        hand_model::{Answer, HAND_MODEL, HandModel},
        hand_tools::{ECHO_TOOL, HAND_TOOL, HandTools, PANIC_TOOL},
        memory_store::{MemoryStore, Outage},
    },
};

/// A tool that is declared and that nobody here runs.
const FOREIGN: &str = "open_door";

struct House {
    store: MemoryStore,
    model: Arc<HandModel>,
    tools: Arc<HandTools>,
    tree: Controller,
    bot: BotId,
}

fn declared(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

impl House {
    /// One server of one slot, and the bots `ada` and `bob` with all tools.
    async fn new() -> Self {
        let (store, model) = (MemoryStore::new(), Arc::new(HandModel::default()));
        let tools = Arc::new(HandTools::default());
        let server = ServerSpec {
            name: "hand".into(),
            url: "http://hand".into(),
            slots: 1,
            simulated: false,
            model: model.clone(),
        };
        let tree = Controller::builder(Arc::new(store.clone())).server(server).tools(tools.clone());
        let tree = tree.settings(Settings { seed: 7, ..Settings::default() }).start().await.unwrap();
        let house = Self { store, model, tools, tree, bot: BotId::parse("ada").unwrap() };
        for id in ["ada", "bob"] {
            let tools: Vec<_> = [ECHO_TOOL, HAND_TOOL, PANIC_TOOL, FOREIGN].map(declared).to_vec();
            let config = json!({"model": HAND_MODEL, "tools": tools});
            let Value::Object(config) = config else { unreachable!("an object") };
            let bot_id = Some(BotId::parse(id).unwrap());
            let launch = LaunchBot { bot_id, config: Some(config), ..LaunchBot::default() };
            house.tree.launch(launch).await.unwrap();
        }
        house
    }

    async fn send_to(&self, bot: &str, text: &str) -> AcceptedTurn {
        let bot = BotId::parse(bot).unwrap();
        match self.tree.send(SendMessage::text(bot, text)).await.unwrap() {
            Sent::Turn(accepted) => accepted,
            Sent::Command { .. } => unreachable!("no command"),
        }
    }

    async fn send(&self, text: &str) -> AcceptedTurn {
        self.send_to("ada", text).await
    }

    /// The model calls a tool and its answer is over; gives back what it was asked.
    async fn calls(&self, name: &str, arguments: Value) -> ChatRequest {
        let answer = self.model.called().await;
        let request = answer.request.clone();
        assert!(answer.call(name, arguments).await && answer.end().await);
        request
    }

    async fn says(&self, text: &str) -> ChatRequest {
        let answer: Answer = self.model.called().await;
        let request = answer.request.clone();
        assert!(answer.say(text).await && answer.end().await);
        request
    }

    /// The path of the main conversation.
    async fn path(&self) -> Vec<Message> {
        let home = self.tree.bot(&self.bot).unwrap().main_conversation_id;
        self.store.page(home, Cursor::Newest { offset: 0 }, 200).await.unwrap().unwrap().items
    }

    /// Names of the events of a turn.
    async fn events(&self, turn: &Turn) -> Vec<String> {
        let all = self.store.events_after(0, 10_000).await.unwrap();
        let topic = crate::domain::event::Topic::Turn(turn.id);
        let own = all.iter().filter(|e| e.seqs.iter().any(|(t, _)| *t == topic));
        own.map(|e| e.name.to_string()).collect()
    }

    fn crash(&self) {
        let (reply, _answer) = tokio::sync::oneshot::channel();
        let (bot, reason) = (self.bot.clone(), "a defect".to_owned());
        let kill = BotSupervisorMessage::Kill { bot, how: KillHow::Panic, reason, reply: reply.into() };
        self.tree.inner.slots.bots.cast(kill).unwrap();
    }
}

async fn end_of(turn: AcceptedTurn) -> (Turn, Message) {
    let end = turn.ended().await.unwrap();
    (end.turn.clone(), end.reply.clone().unwrap())
}

fn roles(request: &ChatRequest) -> Vec<Role> {
    request.messages.iter().map(|m| m.role).collect()
}

/// Time is paused: waiting costs nothing.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(60), "not within a minute");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_tool_returned_is_told_to_the_model_and_stands_between_question_and_reply() {
    let house = House::new().await;
    let turn = house.send("what is x?").await;
    let answer = house.model.called().await;
    assert_eq!(answer.request.tools.len(), 4);
    assert!(answer.say("Let me see. ").await && answer.call(ECHO_TOOL, json!({"x": 1})).await);
    assert!(answer.end().await);
    let asked = house.says("It is 1.").await;
    assert_eq!(roles(&asked), [Role::User, Role::Assistant, Role::Tool]);
    assert_eq!(&*asked.messages[1].content, "Let me see. ");
    assert_eq!(asked.messages[1].tool_calls.as_ref().unwrap()[0]["function"]["name"], ECHO_TOOL);
    assert_eq!(&*asked.messages[2].content, r#"{"x":1}"#);
    let answers = Answered { call_id: "call_1_0".into(), name: ECHO_TOOL.into(), error: None };
    assert_eq!(asked.messages[2].answers, Some(answers.clone()));

    let (ended, reply) = end_of(turn).await;
    assert_eq!((ended.state, &*reply.content), (TurnState::Completed, "Let me see. It is 1."));
    assert_eq!(reply.tool_calls, None);
    let path = house.path().await;
    let senders: Vec<_> = path.iter().map(|m| m.sender).collect();
    assert_eq!(senders, [Sender::User, Sender::Bot, Sender::Tool, Sender::Bot]);
    assert!(path.windows(2).all(|pair| pair[1].parent_id == Some(pair[0].id) && pair[0].id < pair[1].id));
    assert!(path.iter().all(|m| m.turn_id == Some(ended.id) && m.state == MessageState::Complete));
    assert_eq!(path[1].metadata["text"], json!({"content": 12, "thinking": 0}));
    assert_eq!(Answered::of(&path[2].metadata), Some(answers));
    assert_eq!(path[3], reply);
    assert_eq!(
        house.events(&ended).await,
        [
            "message_received",
            "turn_accepted",
            "turn_started",
            "message_received",
            "tool_called",
            "message_received",
            "tool_returned",
            "turn_completed"
        ]
    );

    let audit = house.store.audit();
    let entry = audit.last().unwrap();
    assert_eq!((entry.action.as_str(), entry.actor.as_str()), ("tool.call", "bot:ada"));
    assert_eq!(entry.detail["tools"], json!([ECHO_TOOL]));

    // The next turn has call and result together, from memory and from storage.
    for _ in 0..2 {
        let next = house.send("and now?").await;
        let asked = house.says("Still 1.").await;
        assert_eq!(roles(&asked)[..4], [Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
        assert_eq!(asked.messages[2].answers.as_ref().unwrap().call_id, "call_1_0");
        end_of(next).await;
        house.crash();
        until(async || house.tree.bot(&house.bot).unwrap().status.restart_count > 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_slot_is_free_while_a_tool_runs() {
    let house = House::new().await;
    let slow = house.send("ask by hand").await;
    house.calls(HAND_TOOL, json!({})).await;
    let call = house.tools.called().await;
    let other = house.send_to("bob", "hello").await;
    house.says("hello").await;
    assert_eq!(end_of(other).await.0.state, TurnState::Completed);
    call.result.send(Ok("at last".into())).unwrap();
    let asked = house.says("done").await;
    assert_eq!(&*asked.messages.last().unwrap().content, "at last");
    assert_eq!(end_of(slow).await.0.state, TurnState::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_stopped_while_a_tool_runs_ends_once_and_the_tool_with_it() {
    let house = House::new().await;
    let turn = house.send("ask by hand").await;
    let answer = house.model.called().await;
    assert!(answer.say("Wait. ").await && answer.call(HAND_TOOL, json!({})).await && answer.end().await);
    let mut call = house.tools.called().await;
    let stopped = house.tree.stop_turn(turn.turn.id).await.unwrap();
    assert_eq!(stopped.state, TurnState::Stopped);
    call.result.closed().await;
    let (ended, reply) = end_of(turn).await;
    assert_eq!(
        (ended.state, &*reply.content, reply.state),
        (TurnState::Stopped, "Wait. ", MessageState::Partial)
    );
    let events = house.events(&ended).await;
    assert_eq!(events.iter().filter(|e| *e == "tool_called").count(), 1);
    assert_eq!(events.iter().filter(|e| e.starts_with("turn_stopped")).count(), 1);
    assert_eq!(events.last().map(String::as_str), Some("turn_stopped"));
    let path = house.path().await;
    assert_eq!(path.last(), Some(&reply));
    assert_eq!(path.len(), 3, "the call is kept");
    // The conversation goes on.
    let next = house.send("never mind").await;
    house.says("fine").await;
    assert_eq!(end_of(next).await.0.state, TurnState::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_bot_that_crashes_while_a_tool_runs_interrupts_its_turn_and_runs_nothing_again() {
    let house = House::new().await;
    let turn = house.send("ask by hand").await;
    let answer = house.model.called().await;
    assert!(answer.say("Wait. ").await && answer.call(HAND_TOOL, json!({})).await && answer.end().await);
    let mut call = house.tools.called().await;
    house.crash();
    call.result.closed().await;
    let (ended, reply) = end_of(turn).await;
    assert_eq!((ended.state, &*reply.content), (TurnState::Interrupted, "Wait. "));
    let path = house.path().await;
    assert_eq!(path.last().map(|m| m.parent_id), Some(Some(path[1].id)), "the reply hangs on the call");
    assert_eq!(house.events(&ended).await.last().map(String::as_str), Some("turn_interrupted"));
    assert_eq!(house.tools.runs(), 1);
    assert!(house.model.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_turn_has_so_many_rounds_and_then_has_to_answer() {
    let house = House::new().await;
    let turn = house.send("round and round").await;
    for _ in 0..8 {
        assert_eq!(house.calls(ECHO_TOOL, json!({})).await.tools.len(), 4);
    }
    assert!(house.says("enough").await.tools.is_empty(), "no more tools are offered");
    let (ended, reply) = end_of(turn).await;
    assert_eq!((ended.state, &*reply.content), (TurnState::Completed, "enough"));
    assert_eq!(house.tools.runs(), 8);

    // One that calls what it was not offered is told nothing more.
    let turn = house.send("again").await;
    for _ in 0..9 {
        house.calls(ECHO_TOOL, json!({})).await;
    }
    let (ended, reply) = end_of(turn).await;
    assert_eq!(ended.state, TurnState::Completed);
    assert_eq!(reply.tool_calls.unwrap()[0]["function"]["name"], ECHO_TOOL);
    assert_eq!(house.tools.runs(), 16);
    assert!(house.model.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_tool_that_nobody_here_runs_are_passed_through() {
    let house = House::new().await;
    let turn = house.send("open it").await;
    let answer = house.model.called().await;
    assert!(answer.call(ECHO_TOOL, json!({})).await && answer.call(FOREIGN, json!({"door": 2})).await);
    assert!(answer.end().await);
    let (ended, reply) = end_of(turn).await;
    assert_eq!((ended.state, reply.state), (TurnState::Completed, MessageState::Complete));
    let calls = reply.tool_calls.clone().unwrap();
    assert_eq!(calls[1], json!({"id": "call_1_1", "function": {"name": FOREIGN, "arguments": {"door": 2}}}));
    assert_eq!(house.tools.runs(), 0, "all of a round or nothing");
    assert_eq!(house.path().await.last(), Some(&reply));
}

#[tokio::test(start_paused = true)]
async fn whatever_a_tool_does_the_model_is_told_and_the_turn_goes_on() {
    let house = House::new().await;
    let send = SendMessage {
        options: Some(Options { num_ctx: Some(65_536), ..Options::default() }),
        ..SendMessage::text(house.bot.clone(), "try everything")
    };
    let Sent::Turn(turn) = house.tree.send(send).await.unwrap() else { unreachable!("no command") };
    let answer = house.model.called().await;
    assert!(answer.call(PANIC_TOOL, json!({})).await && answer.call("never_declared", json!({})).await);
    assert!(answer.call(ECHO_TOOL, json!(["no object"])).await && answer.call(HAND_TOOL, json!({})).await);
    assert!(answer.call(ECHO_TOOL, json!({"nul": "a\u{0}b", "long": "é".repeat(40_000)})).await);
    assert!(answer.end().await);
    // Nobody answers this one: its time passes.
    let _call = house.tools.called().await;
    let asked = house.says("I see.").await;
    let told: Vec<_> = asked.messages.iter().filter(|m| m.role == Role::Tool).collect();
    let errors: Vec<_> = told.iter().map(|m| m.answers.as_ref().unwrap().error.clone()).collect();
    assert!(errors[0].as_ref().unwrap().contains("unexpected"), "{errors:?}");
    assert!(errors[1].as_ref().unwrap().contains("no tool"));
    assert!(errors[2].as_ref().unwrap().contains("wrong arguments"));
    assert!(errors[3].as_ref().unwrap().contains("longer than 30 s"));
    assert_eq!(errors[4], None);
    assert!(told[4].content.ends_with("longer]") && told[4].content.len() < 66_000);
    let (ended, reply) = end_of(turn).await;
    assert_eq!((ended.state, &*reply.content), (TurnState::Completed, "I see."));
    assert_eq!(house.tree.bot(&house.bot).unwrap().status.restart_count, 0, "its bot did not crash");
}

#[tokio::test(start_paused = true)]
async fn the_form_of_an_answer_is_that_of_the_reply_as_stored() {
    let house = House::new().await;
    for (before, calls, after, state) in [
        ("", ECHO_TOOL, "[1]", TurnState::Completed),
        ("Let me see. ", ECHO_TOOL, "[1]", TurnState::Failed),
        ("", FOREIGN, "", TurnState::Completed),
        ("[1]", FOREIGN, "", TurnState::Completed),
        ("Let me see. ", FOREIGN, "", TurnState::Failed),
    ] {
        let send = SendMessage {
            format: Some(json!("json")),
            ..SendMessage::text(house.bot.clone(), "a list, please")
        };
        let Sent::Turn(turn) = house.tree.send(send).await.unwrap() else { unreachable!("no command") };
        let answer = house.model.called().await;
        assert!(answer.say(before).await && answer.call(calls, json!({})).await && answer.end().await);
        if calls == ECHO_TOOL {
            house.says(after).await;
        }
        let (ended, reply) = end_of(turn).await;
        assert_eq!((ended.state, &*reply.content), (state, &*format!("{before}{after}")));
        assert_eq!(reply.tool_calls.is_some(), calls == FOREIGN);
        assert_eq!(ended.error.map(|e| e.code), (state == TurnState::Failed).then_some(Code::OutputInvalid));
    }
}

#[tokio::test(start_paused = true)]
async fn what_tools_return_has_its_room_in_the_context_and_fails_the_turn_where_there_is_none() {
    let house = House::new().await;
    let text = |letters: usize| json!({"x": "word ".repeat(letters / 5)});
    let before = house.send(&"word ".repeat(1000)).await;
    house.says("I see.").await;
    end_of(before).await;

    let turn = house.send("and now?").await;
    assert_eq!(house.calls(ECHO_TOOL, text(4000)).await.messages.len(), 3, "all history fits");
    let answer = house.model.called().await;
    assert_eq!(roles(&answer.request), [Role::Assistant, Role::User, Role::Assistant, Role::Tool]);
    assert!(answer.say("One more. ").await && answer.call(ECHO_TOOL, text(6000)).await && answer.end().await);
    let (ended, reply) = end_of(turn).await;
    assert_eq!((ended.state, &*reply.content), (TurnState::Failed, "One more. "));
    let context = ended.context;
    assert!((2000..=3072).contains(&context.used) && context.trimmed_messages == 1, "{context:?}");
    let problem = ended.error.clone().unwrap();
    assert_eq!(problem.code, Code::PromptTooLong);
    assert!(problem.detail.contains("tools") && problem.detail.contains("kept"), "{}", problem.detail);
    assert!(problem.context.unwrap().needed.unwrap() > 4096);
    assert!(house.model.is_quiet().await, "it was not sent");
    assert!(house.events(&ended).await.contains(&"context_trimmed".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn counts_beyond_all_bounds_do_not_break_the_sum_of_the_rounds() {
    let house = House::new().await;
    let turn = house.send("count").await;
    for _ in 0..3 {
        let answer = house.model.called().await;
        assert!(answer.call(ECHO_TOOL, json!({})).await && answer.end_counted(u32::MAX).await);
    }
    house.says("done").await;
    let (ended, _) = end_of(turn).await;
    assert_eq!((ended.state, ended.usage.completion_tokens), (TurnState::Completed, u32::MAX));
}

#[tokio::test(start_paused = true)]
async fn more_calls_than_a_round_takes_fail_the_turn() {
    let house = House::new().await;
    let turn = house.send("all at once").await;
    let answer = house.model.called().await;
    assert!(answer.say("Here: ").await);
    for _ in 0..17 {
        answer.call(ECHO_TOOL, json!({})).await;
    }
    let (ended, reply) = end_of(turn).await;
    assert_eq!(ended.error.unwrap().code, Code::UpstreamError);
    assert_eq!((&*reply.content, reply.tool_calls), ("Here: ", None));
    assert_eq!(house.tools.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_run_before_its_call_is_stored_and_a_stop_meanwhile_ends_it_once() {
    let house = House::new().await;
    let turn = house.send("ask by hand").await;
    let answer = house.model.called().await;
    assert!(answer.say("Wait. ").await);
    house.store.go_away(Outage::Refusing);
    assert!(answer.call(HAND_TOOL, json!({})).await && answer.end().await);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(house.tools.runs(), 0, "the database is away");
    let id = turn.turn.id;
    let tree = house.tree.clone();
    let stopping = tokio::spawn(async move { tree.stop_turn(id).await });
    sleep(Duration::from_millis(100)).await;
    house.store.come_back();
    let (ended, reply) = end_of(turn).await;
    assert_eq!((ended.state, &*reply.content), (TurnState::Stopped, "Wait. "));
    let _ = stopping.await.unwrap();
    assert_eq!(house.tools.runs(), 0);
    let events = house.events(&ended).await;
    assert_eq!(events.last().map(String::as_str), Some("turn_stopped"));
    let path = house.path().await;
    assert_eq!(path.last(), Some(&reply), "what was told of the reply is what is stored");
    assert_eq!(reply.parent_id, Some(path[path.len() - 2].id));
}
