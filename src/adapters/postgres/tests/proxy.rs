//! A proxy in front of the server that cuts one connection at one message of the client, once.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// When a connection is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// The server never sees the message.
    Before,
    /// The server has answered it; the client never sees the answer.
    After,
    /// As soon as the server was sent the message: it may or may not get it.
    During,
}

/// Which message, by its tag and a text in it.
pub(super) type At = (u8, &'static str);

/// The next cut.
type Plan = Arc<Mutex<Option<(Cut, At)>>>;

/// The proxy; ends with its last connection when it is dropped.
pub(super) struct Proxy {
    pub(super) port: u16,
    plan: Plan,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// In front of the server at this port of this machine.
    pub(super) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Plan::default();
        let mut tasks = JoinSet::new();
        let shared = plan.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, server, shared.clone()));
            }
        });
        Self { port, plan, _tasks: tasks }
    }

    /// Cuts the next connection that sends this message.
    pub(super) fn cut(&self, how: Cut, at: At) {
        *self.plan.lock() = Some((how, at));
    }

    /// Whether the planned cut has happened.
    pub(super) fn has_cut(&self) -> bool {
        self.plan.lock().is_none()
    }
}

/// Until one side closes, or the plan says so.
async fn serve(mut client: TcpStream, server: u16, plan: Plan) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    // Pieces are passed on as they come.
    if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
        return;
    }
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut answer = [0; 16 * 1024];
    // The first message has no tag.
    let mut tagged = false;
    let mut unread = vec![];
    loop {
        let mut piece = [0; 16 * 1024];
        tokio::select! {
            read = from_server.read(&mut answer) => match read {
                Ok(n) if n > 0 && to_client.write_all(&answer[..n]).await.is_ok() => {}
                _ => return,
            },
            read = from_client.read(&mut piece) => match read {
                Ok(n) if n > 0 => {
                    unread.extend_from_slice(&piece[..n]);
                    while let Some(message) = next_message(&mut unread, &mut tagged) {
                        let cut = planned(&plan, &message);
                        if cut == Some(Cut::Before) || to_server.write_all(&message).await.is_err() {
                            return;
                        }
                        if cut.is_none() {
                            continue;
                        }
                        // What the client sent with it; the server answers at its end.
                        let _ = to_server.write_all(&unread).await;
                        if cut == Some(Cut::After) {
                            let _ = from_server.read(&mut answer).await;
                        }
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}

/// Takes a whole message from the front.
fn next_message(unread: &mut Vec<u8>, tagged: &mut bool) -> Option<Vec<u8>> {
    let head = usize::from(*tagged);
    let length: [u8; 4] = unread.get(head..head + 4)?.try_into().unwrap();
    let end = head + u32::from_be_bytes(length) as usize;
    if unread.len() < end {
        return None;
    }
    *tagged = true;
    Some(unread.drain(..end).collect())
}

/// Takes the plan where the message is the planned one.
fn planned(plan: &Plan, message: &[u8]) -> Option<Cut> {
    let mut plan = plan.lock();
    let (cut, (tag, text)) = (*plan)?;
    let found = message.first() == Some(&tag) && message.windows(text.len()).any(|w| w == text.as_bytes());
    found.then(|| {
        *plan = None;
        cut
    })
}
