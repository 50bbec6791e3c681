//! Ollama behind the port `ChatModel`: one [`Ollama`] with an HTTP client of its own for each server.
//!
//! Roles and list entries come from ollama-rs; requests and the reading of streams are our own, since ollama-rs drops a
//! chunk that is cut inside a character, swallows error lines, and loses the HTTP status. Nothing here retries, follows
//! redirects or uses a proxy. A stream that is dropped closes its connection.

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use deia_actors::ports::{
    chat_model::{
        ChatModel, ChatRequest, ChatStream, LoadedModel, ModelDetails, ModelError, ModelSummary, PullStream,
        Wait,
    },
    server_factory::AddressRefused,
};
use reqwest::{Client, RequestBuilder, Response, Url, header::CONTENT_TYPE};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

mod body;
mod calls;
mod failure;
mod lines;
mod pinned;
mod pull;
mod servers;
mod stream;

pub use lines::{LineReader, MAX_LINE};
use pinned::{Lookup, Pinned};
pub use servers::OllamaServers;

pub use crate::model_address::parse_address;

/// The largest answer of a call that is not a chat: `show` carries licences and templates.
const MAX_ANSWER: usize = 16 << 20;
/// The largest list of models, or version: a thousand models take less than a megabyte.
const MAX_LIST: usize = 4 << 20;

/// How long to wait for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To the first line of an answer, loading of the model included.
    pub first_byte: Duration,
    /// Between two lines of an answer.
    pub idle: Duration,
    /// For a whole call that is not a chat.
    pub call: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(120),
            idle: Duration::from_secs(30),
            call: Duration::from_secs(10),
        }
    }
}

/// The HTTP client of one server: no proxy, no redirects, no total time limit, connections kept for reuse, its name looked up
/// as [`pinned`] says.
fn client(name: &Pinned) -> Result<Client, reqwest::Error> {
    Client::builder()
        .user_agent(concat!("deia/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(Arc::new(name.clone()))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        // Below the 75 s after which our simulator and common proxies close an idle connection.
        .pool_idle_timeout(Duration::from_secs(50))
        .build()
}

/// One Ollama server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ollama {
    client: Client,
    name: Pinned,
    urls: Arc<Urls>,
    limits: Limits,
}

#[derive(Debug)]
struct Urls {
    chat: Url,
    tags: Url,
    ps: Url,
    show: Url,
    version: Url,
    pull: Url,
    delete: Url,
    generate: Url,
}

impl Ollama {
    /// The server at `base`, as [`parse_address`] gives it; nothing is sent yet, and its name not looked up.
    ///
    /// # Errors
    /// The TLS set-up of the platform failed.
    pub fn new(base: &Url, limits: Limits) -> Result<Self, reqwest::Error> {
        Self::with(pinned::system(), base, limits)
    }

    fn with(lookup: Lookup, base: &Url, limits: Limits) -> Result<Self, reqwest::Error> {
        let name = Pinned::new(lookup);
        let client = client(&name)?;
        let at = |path: &str| {
            let mut url = base.clone();
            url.set_path(&format!("{}/api/{path}", base.path().trim_end_matches('/')));
            url
        };
        let urls = Urls {
            chat: at("chat"),
            tags: at("tags"),
            ps: at("ps"),
            show: at("show"),
            version: at("version"),
            pull: at("pull"),
            delete: at("delete"),
            generate: at("generate"),
        };
        Ok(Self { client, name, urls: Arc::new(urls), limits })
    }

    /// What its name leads to, if it has one.
    async fn find(&self, base: &Url) -> Result<Vec<IpAddr>, AddressRefused> {
        match base.domain() {
            Some(name) => self.name.addresses(name).await,
            None => Ok(vec![]),
        }
    }

    /// A request that got no response.
    fn unanswered(&self, error: reqwest::Error) -> ModelError {
        let error = failure::unanswered(error);
        if matches!(error, ModelError::Unreachable(_)) {
            self.name.forget();
        }
        error
    }

    /// Waits for the head of an answer that streams.
    async fn head(
        &self,
        request: RequestBuilder,
        first_byte: Instant,
        model: &str,
    ) -> Result<Response, ModelError> {
        let response = timeout_at(first_byte, request.send())
            .await
            .map_err(|_| ModelError::Timeout(Wait::FirstByte))?
            .map_err(|error| self.unanswered(error))?;
        failure::check(response, model).await
    }

    /// Asks for something to be done; what a success says is not read.
    async fn order(&self, request: RequestBuilder, limit: Duration, model: &str) -> Result<(), ModelError> {
        self.head(request, Instant::now() + limit, model).await.map(drop)
    }

    /// Asks for nothing but the model itself.
    fn touch(&self, body: &Value) -> RequestBuilder {
        self.client.post(self.urls.generate.clone()).json(body)
    }

    /// Asks and reads a JSON answer of at most `most` bytes, all within [`Limits::call`].
    async fn call<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        model: &str,
        most: usize,
    ) -> Result<T, ModelError> {
        let answer = async {
            let response = request.send().await.map_err(|error| self.unanswered(error))?;
            let mut response = failure::check(response, model).await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|e| failure::broken(&e))? {
                if bytes.len() + chunk.len() > most {
                    return Err(ModelError::Protocol(format!("an answer longer than {most} bytes")));
                }
                bytes.extend_from_slice(&chunk);
            }
            serde_json::from_slice(&bytes).map_err(|e| {
                ModelError::Protocol(format!("an answer that is not as expected: {}", lines::place(&e)))
            })
        };
        timeout(self.limits.call, answer).await.unwrap_or(Err(ModelError::Timeout(Wait::FirstByte)))
    }
}

#[async_trait]
impl ChatModel for Ollama {
    async fn chat(&self, request: ChatRequest) -> Result<ChatStream, ModelError> {
        let first_byte = Instant::now() + self.limits.first_byte;
        let body = serde_json::to_vec(&body::ChatBody::from(&request)).map_err(|e| {
            ModelError::Protocol(format!("the request can't be written: {}", lines::place(&e)))
        })?;
        let sent =
            self.client.post(self.urls.chat.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let response = self.head(sent, first_byte, &request.model).await?;
        Ok(stream::answer(response, first_byte, self.limits.idle))
    }

    async fn models(&self) -> Result<Vec<ModelSummary>, ModelError> {
        let tags: calls::Tags = self.call(self.client.get(self.urls.tags.clone()), "", MAX_LIST).await?;
        Ok(tags.into())
    }

    async fn loaded(&self) -> Result<Vec<LoadedModel>, ModelError> {
        let ps: calls::Ps = self.call(self.client.get(self.urls.ps.clone()), "", MAX_LIST).await?;
        Ok(ps.into())
    }

    async fn show(&self, model: &str) -> Result<ModelDetails, ModelError> {
        let request = self.client.post(self.urls.show.clone()).json(&json!({ "model": model }));
        let raw: Value = self.call(request, model, MAX_ANSWER).await?;
        Ok(calls::details(raw))
    }

    async fn version(&self) -> Result<String, ModelError> {
        let answer: calls::Version =
            self.call(self.client.get(self.urls.version.clone()), "", MAX_LIST).await?;
        Ok(calls::short(&answer.version))
    }

    async fn pull(&self, model: &str) -> Result<PullStream, ModelError> {
        let first_byte = Instant::now() + self.limits.first_byte;
        let request = self.client.post(self.urls.pull.clone()).json(&json!({ "model": model }));
        let response = self.head(request, first_byte, model).await.map_err(|e| pull::condition(e, model))?;
        Ok(pull::steps(response, model, first_byte, self.limits))
    }

    async fn delete(&self, model: &str) -> Result<(), ModelError> {
        let request = self.client.delete(self.urls.delete.clone()).json(&json!({ "model": model }));
        self.order(request, self.limits.call, model).await
    }

    async fn load(&self, model: &str) -> Result<(), ModelError> {
        // Without a prompt the server answers once the model is in memory.
        let body = json!({ "model": model, "stream": false });
        self.order(self.touch(&body), self.limits.first_byte, model).await
    }

    async fn unload(&self, model: &str) -> Result<(), ModelError> {
        let body = json!({ "model": model, "stream": false, "keep_alive": 0 });
        self.order(self.touch(&body), self.limits.call, model).await
    }
}

#[cfg(test)]
mod tests;
