//! The readers: each follows one topic from now to the end, and comes back where it stopped whenever it is cut.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    clients::Stage,
    log::{Heard, Reader},
    shared::support::Socket,
};

/// How soon a reader comes back that finds nobody.
const AGAIN: Duration = Duration::from_millis(5);

/// Where a reader is to stop: the number of the last event by topic, once that is known.
pub type Goal = watch::Receiver<Option<BTreeMap<String, u64>>>;

/// What a reader must remember to come back.
#[derive(Default)]
struct Place {
    at: Option<(Value, u64)>,
    offsets: BTreeMap<String, u64>,
}

impl Place {
    fn after(&self) -> Option<Value> {
        let (epoch, seq) = self.at.as_ref()?;
        let offset =
            |(id, content): (&String, &u64)| (id.clone(), json!({"content": content, "thinking": 0}));
        let offsets: serde_json::Map<_, _> = self.offsets.iter().map(offset).collect();
        Some(json!({"epoch": epoch, "seq": seq, "offsets": offsets}))
    }

    fn note(&mut self, frame: &Value) {
        let data = &frame["data"];
        match frame["event"].as_str() {
            Some("token") if data["kind"] == "content" => {
                let (from, text) = (data["offset"].as_u64(), data["text"].as_str().unwrap_or_default());
                let id = data["message_id"].as_str().unwrap_or_default().to_owned();
                self.offsets.insert(id, from.unwrap_or(0) + text.len() as u64);
            }
            Some("token" | "queue_moved") => {}
            _ => {
                self.at = frame["seq"].as_u64().map(|seq| (frame["epoch"].clone(), seq));
                if let Some(reply) = data["turn"]["reply_id"].as_str() {
                    self.offsets.remove(reply);
                }
            }
        }
    }

    fn begin(&mut self, subscribed: &Value) {
        self.at = subscribed["seq"].as_u64().map(|seq| (subscribed["epoch"].clone(), seq));
        for running in subscribed["running"].as_array().into_iter().flatten() {
            let content = &running["content"];
            let end = content["offset"].as_u64().unwrap_or(0)
                + content["text"].as_str().unwrap_or_default().len() as u64;
            self.offsets.insert(running["message_id"].as_str().unwrap_or_default().to_owned(), end);
        }
    }

    fn has_reached(&self, goal: &Option<BTreeMap<String, u64>>, topic: &str) -> bool {
        let goal = goal.as_ref().and_then(|heads| heads.get(topic));
        goal.is_some_and(|goal| self.at.as_ref().is_some_and(|(_, seq)| seq >= goal))
    }
}

/// Follows the topic of `reader` until it has reached the goal.
pub async fn follow(stage: Arc<Stage>, reader: Arc<Mutex<Reader>>, mut goal: Goal) {
    let topic = reader.lock().topic.clone();
    let mut place = Place::default();
    loop {
        stage.up().await;
        let Some(mut socket) = Socket::try_connect(&stage.url).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let mut ask = json!({"type": "subscribe", "topic": topic});
        let after = place.after();
        if let Some(after) = &after {
            ask["after"] = after.clone();
        }
        match socket.try_call(ask).await {
            Some(frame) if frame["type"] == "subscribed" => {
                place.begin(&frame);
                reader.lock().heard.push(Heard::Subscribed { after, frame });
            }
            _ => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        }
        loop {
            if place.has_reached(&goal.borrow_and_update(), &topic) {
                return;
            }
            let frame = tokio::select! {
                frame = socket.next() => frame,
                Ok(()) = goal.changed() => continue,
            };
            match frame {
                Some(frame) if frame["type"] == "event" => {
                    place.note(&frame);
                    reader.lock().heard.push(Heard::Event(frame));
                }
                Some(_) => {}
                None => break,
            }
        }
        reader.lock().heard.push(Heard::Cut);
    }
}
