//! `POST /api/chat`, `/api/generate` and `/api/embed`: the calls that use a model.

use std::{future::pending, io, sync::Arc, time::Duration};

use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    answer::{Answer, compose, hash},
    catalogue::{Catalogue, EMBEDDING_LENGTH, Unplayable, capabilities},
    masked,
    playback::{Hold, Performance, Playback, Start, duration, error_text, totals},
    reply::{self, Refusal, Reply, ReplyBody},
    request::{Embed, Run},
    script::{Fault, Pace, Script},
    server::Shared,
    stats::{Counters, OpenCall},
    wire::{Dialect, LineWriter},
};

const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";
const TOO_LONG: &str = "the input length exceeds the context length";

/// Chat and generate. The waits for loading and for the first token are before the head of the response, as with the
/// real server; a client that leaves meanwhile drops this future.
pub(crate) async fn run(dialect: Dialect, body: &[u8], shared: &Shared) -> Reply {
    let (start, catalogue) = (Instant::now(), &*shared.catalogue);
    let call = shared.counters.begin();
    let mut run: Run<'_> = match parse(body) {
        Ok(run) => run,
        Err(refusal) => return ended(call, *refusal),
    };
    if dialect == Dialect::Generate {
        run.prompt_into_messages();
    }
    let script = match admit(&run, dialect, catalogue) {
        Ok(script) => script,
        Err(refusal) => return ended(call, *refusal),
    };
    let num_ctx = run.options.as_ref().map_or(4096, |o| o.num_ctx());
    if run.messages.is_empty() && run.unloads() {
        catalogue.touch(&run.model, None, num_ctx);
        let whole = LineWriter::new(dialect, &run.model).loaded("unload");
        return ended(call, reply::raw_json(StatusCode::OK, whole));
    }
    let load =
        if catalogue.is_loaded(&run.model) { Duration::ZERO } else { Duration::from_millis(script.load_ms) };
    if !load.is_zero() {
        sleep(load).await;
    }
    // Stays loaded at least as long as somebody uses it; keep_alive 0 takes it out again at the end of the request.
    catalogue.touch(&run.model, run.keep_alive(), num_ctx);
    if run.messages.is_empty() {
        let whole = LineWriter::new(dialect, &run.model).loaded("load");
        return ended(call, reply::raw_json(StatusCode::OK, whole));
    }
    let prompt_tokens = run.prompt_tokens() * u64::from(script.count);
    if prompt_tokens > num_ctx && run.truncate == Some(false) {
        return ended(call, reply::error(StatusCode::BAD_REQUEST, TOO_LONG));
    }
    if let Some(mask) = script.mask {
        return ended(call, masked::reply(mask));
    }
    let answer = compose(&script, &run);
    if script.first_ms > 0 {
        sleep(Duration::from_millis(script.first_ms)).await;
    }
    if let Some((0, fault)) = script.fault
        && !matches!(fault, Fault::Garbage | Fault::Long)
    {
        return before_the_first(fault, call).await;
    }
    let start = Start { at: start, load, prompt_tokens: prompt_tokens.min(num_ctx) };
    let lines = LineWriter::new(dialect, &run.model);
    if run.stream == Some(false) {
        return whole(&script, answer, lines, start, call).await;
    }
    let how = Performance {
        pace: script.pace,
        fault: script.fault,
        chopped: script.chopped,
        drip_ms: script.drip_ms,
    };
    let hold = script.hold.map(|at| -> Hold { (at, Box::pin(shared.held())) });
    reply::lines(ReplyBody::Answer(Box::new(Playback::new(answer, lines, how, start, call).held(hold))))
}

/// Everything that the real server checks before it schedules a request.
fn admit(run: &Run<'_>, dialect: Dialect, catalogue: &Catalogue) -> Result<Script, Refusal> {
    if run.model.is_empty() {
        return Err(Box::new(match dialect {
            Dialect::Chat => reply::error(StatusCode::BAD_REQUEST, "model is required"),
            Dialect::Generate => reply::not_found(""),
        }));
    }
    let script = resolve(&run.model, catalogue)?;
    let able = capabilities(&script);
    if run.think() == Some(true) && !able.contains(&"thinking") {
        let text = format!("{:?} does not support thinking", run.model);
        return Err(reply::refuse(StatusCode::BAD_REQUEST, &text));
    }
    if run.tools.as_ref().is_some_and(|t| !t.is_empty()) && !able.contains(&"tools") {
        let text = format!("registry.ollama.ai/library/{} does not support tools", run.model);
        return Err(reply::refuse(StatusCode::BAD_REQUEST, &text));
    }
    if catalogue.busy(&run.model, &script) {
        return Err(reply::refuse(StatusCode::SERVICE_UNAVAILABLE, BUSY));
    }
    Ok(script)
}

/// The script behind a name, or the refusal.
pub(crate) fn resolve(model: &str, catalogue: &Catalogue) -> Result<Script, Refusal> {
    catalogue.resolve(model).map_err(|e| match e {
        Unplayable::NotFound => Box::new(reply::not_found(model)),
        Unplayable::BadScript(text) => reply::refuse(StatusCode::BAD_REQUEST, &text),
    })
}

/// A request body, or 400 with what is wrong with it.
pub(crate) fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    if body.is_empty() {
        return Err(reply::refuse(StatusCode::BAD_REQUEST, "missing request body"));
    }
    serde_json::from_slice(body).map_err(|e| reply::refuse(StatusCode::BAD_REQUEST, &e.to_string()))
}

fn ended(mut call: OpenCall, reply: Reply) -> Reply {
    call.end();
    reply
}

/// A fault where not even one token came.
async fn before_the_first(fault: Fault, mut call: OpenCall) -> Reply {
    match fault {
        Fault::Stall => pending().await,
        Fault::Cut => {
            call.end();
            reply::lines(ReplyBody::Cut(io::ErrorKind::ConnectionAborted))
        }
        Fault::Reset => {
            call.end();
            reply::lines(ReplyBody::Cut(io::ErrorKind::ConnectionReset))
        }
        Fault::Error | Fault::Garbage | Fault::Long => {
            ended(call, reply::error(StatusCode::INTERNAL_SERVER_ERROR, &error_text(0)))
        }
    }
}

/// The answer in one object, after as long as the stream would have taken.
async fn whole(
    script: &Script,
    answer: Answer,
    mut lines: LineWriter,
    start: Start,
    call: OpenCall,
) -> Reply {
    let first_token = Instant::now();
    let tokens = script.fault.map_or(answer.len(), |(at, _)| answer.len().min(at as usize));
    if script.pace != Pace::Fixed(0) {
        sleep(duration(script.pace, tokens)).await;
    }
    call.tokens(tokens as u64);
    match script.fault {
        None => {}
        Some((_, Fault::Garbage)) => {
            return ended(call, reply::raw_json(StatusCode::OK, "<html>502 Bad Gateway</html>"));
        }
        Some((_, Fault::Error)) => {
            return ended(call, reply::error(StatusCode::INTERNAL_SERVER_ERROR, &error_text(tokens)));
        }
        Some((_, fault)) => return before_the_first(fault, call).await,
    }
    lines.stamp();
    let (thinking, content) = (answer.joined(true, tokens), answer.joined(false, tokens));
    let bytes = lines.complete(&thinking, &content, &answer.tool_calls, &totals(&answer, start, first_token));
    ended(call, reply::raw_json(StatusCode::OK, bytes))
}

/// `/api/embed`: vectors of length 1 that depend on the text only.
pub(crate) fn embed(body: &[u8], catalogue: &Catalogue, counters: &Arc<Counters>) -> Reply {
    let start = Instant::now();
    let call = counters.begin();
    let reply = parse(body).and_then(|request: Embed<'_>| vectors(&request, catalogue, start));
    ended(call, reply.unwrap_or_else(|refusal| *refusal))
}

fn vectors(request: &Embed<'_>, catalogue: &Catalogue, start: Instant) -> Result<Reply, Refusal> {
    let script = match catalogue.resolve(&request.model) {
        // The real server's words here differ from those of chat.
        Err(Unplayable::NotFound) => {
            let text = format!("model {:?} not found, try pulling it first", request.model);
            return Err(reply::refuse(StatusCode::NOT_FOUND, &text));
        }
        _ => resolve(&request.model, catalogue)?,
    };
    if catalogue.busy(&request.model, &script) {
        return Err(reply::refuse(StatusCode::SERVICE_UNAVAILABLE, BUSY));
    }
    let invalid = || reply::refuse(StatusCode::BAD_REQUEST, "invalid input type");
    let input: Vec<String> = match request.input.map(|raw| serde_json::from_str(raw.get())) {
        None => Vec::new(),
        Some(Ok(Value::String(one))) => vec![one],
        Some(Ok(value @ Value::Array(_))) => serde_json::from_value(value).map_err(|_| invalid())?,
        Some(_) => return Err(invalid()),
    };
    let num_ctx = request.options.as_ref().map_or(4096, |o| o.num_ctx());
    if request.truncate == Some(false) && input.iter().any(|text| text.len() as u64 / 4 > num_ctx) {
        return Err(reply::refuse(StatusCode::BAD_REQUEST, TOO_LONG));
    }
    let length = request.dimensions.filter(|d| *d > 0).unwrap_or(EMBEDDING_LENGTH).min(EMBEDDING_LENGTH);
    let embeddings: Vec<Vec<f32>> = input.iter().map(|text| vector(text, length)).collect();
    let tokens: usize = input.iter().map(|text| text.len() / 4 + 1).sum();
    Ok(reply::json(&json!({
        "model": request.model, "embeddings": embeddings,
        "total_duration": u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
        "load_duration": 0, "prompt_eval_count": tokens,
    })))
}

fn vector(text: &str, length: usize) -> Vec<f32> {
    let mut state = hash(&[text]);
    let raw: Vec<f32> = (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect();
    let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    raw.into_iter().map(|x| x / norm).collect()
}
