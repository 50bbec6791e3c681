//! `GET /metrics`: what the process counts, in Prometheus' text format.

use deia_actors::domain::problem::{Code, Problem};
use http::{HeaderValue, Method, header::CONTENT_TYPE};
use warp::{Filter, reply::Response};

use super::{
    Api,
    problem::refuse,
    route::{Endpoint, PathValues},
};

/// Prometheus' text format.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) fn endpoints(api: &Api) -> Vec<Endpoint> {
    let metrics = api.metrics.clone();
    vec![Endpoint::new(Method::GET, "/metrics", |at| {
        at.map(move |_: PathValues| match &metrics {
            Some(metrics) => page(metrics()),
            None => refuse(Problem::new(Code::NotFound, "this process records no metrics")),
        })
        .boxed()
    })]
}

fn page(text: String) -> Response {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}
