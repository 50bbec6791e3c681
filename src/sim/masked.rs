//! Answers that are none: what stands between a client and its model server may say anything.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;

use super::{
    reply::{self, Reply, ReplyBody},
    script::Mask,
};

const PAGE: &str = "<!doctype html><title>Sign in</title><p>Please sign in to use this network.</p>\n";
/// Rounds of [`bomb`]: 1 MiB that would unpack to 160.
const ROUNDS: usize = (1 << 20) / 13;

pub(crate) fn reply(mask: Mask) -> Reply {
    match mask {
        Mask::Html => whole(StatusCode::OK, "text/html; charset=utf-8", PAGE.into()),
        Mask::Gzip => {
            let mut reply = whole(StatusCode::OK, "application/x-ndjson", bomb());
            reply.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            reply
        }
        Mask::Redirect(port) => {
            let mut reply = whole(StatusCode::TEMPORARY_REDIRECT, "text/plain", Bytes::new());
            let to = HeaderValue::try_from(format!("http://127.0.0.1:{port}/api/chat"));
            reply.headers_mut().extend(to.map(|to| (header::LOCATION, to)));
            reply
        }
    }
}

fn whole(status: StatusCode, kind: &'static str, bytes: Bytes) -> Reply {
    reply::with(status, kind, ReplyBody::Whole(Full::new(bytes)))
}

/// A gzip stream of one byte and then, 13 bits each, "the last byte 258 times more".
fn bomb() -> Bytes {
    let mut bits = vec![];
    let mut push = |value: u16, count: u32| bits.extend((0..count).rev().map(|at| value >> at & 1 == 1));
    // A last block with the fixed codes, written from the lowest bit on; then the code of a zero byte.
    push(0b110, 3);
    push(0b0011_0000, 8);
    // Eight repeats are 13 whole bytes.
    let begin = 11;
    for _ in 0..8 {
        push(0b1100_0101, 8);
        push(0, 5);
    }
    let round = bits.split_off(begin);
    (0..ROUNDS).for_each(|_| bits.extend_from_slice(&round));
    let packed = bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |sum, bit| sum << 1 | u8::from(*bit)));
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff].into_iter().chain(packed).collect()
}
