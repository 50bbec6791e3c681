//! Large bodies over HTTP, straight from and to files, on a connection of their own; and files compared.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write, copy},
    net::{SocketAddr, TcpStream},
    path::Path,
};

const CHUNK: usize = 256 * 1024;

/// Asks as HTTP/1.0, whose answer ends with its connection, and writes the body to a file. Answers with its bytes.
pub fn download(address: SocketAddr, path: &str, body: &str, to: &Path) -> u64 {
    let mut stream = ask(address, path, body.len() as u64);
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = answer(stream);
    copy(&mut answer, &mut File::create(to).unwrap()).unwrap()
}

/// Sends a file as JSON. Answers with what came back.
pub fn upload(address: SocketAddr, path: &str, from: &Path) -> String {
    let mut file = File::open(from).unwrap();
    let mut stream = ask(address, path, file.metadata().unwrap().len());
    copy(&mut file, &mut stream).unwrap();
    let mut text = String::new();
    answer(stream).read_to_string(&mut text).unwrap();
    text
}

fn ask(address: SocketAddr, path: &str, length: u64) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// The body of an answer that must be a good one.
fn answer(stream: TcpStream) -> impl Read {
    let mut stream = BufReader::with_capacity(CHUNK, stream);
    let (mut head, mut line) = (String::new(), String::new());
    while line != "\r\n" {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "it ended in its head: {head}");
        head.push_str(&line);
    }
    let good = head.split(' ').nth(1) == Some("200");
    assert!(good, "{head}{}", std::io::read_to_string(&mut stream).unwrap_or_default());
    stream
}

/// Whether two files are the same bytes.
pub fn same(a: &Path, b: &Path) -> bool {
    let (a, b) = (File::open(a).unwrap(), File::open(b).unwrap());
    if a.metadata().unwrap().len() != b.metadata().unwrap().len() {
        return false;
    }
    let (mut a, mut b) = (BufReader::with_capacity(CHUNK, a), BufReader::with_capacity(CHUNK, b));
    loop {
        let (one, other) = (a.fill_buf().unwrap(), b.fill_buf().unwrap());
        let shared = one.len().min(other.len());
        if shared == 0 {
            return one.is_empty() && other.is_empty();
        }
        if one.get(..shared) != other.get(..shared) {
            return false;
        }
        a.consume(shared);
        b.consume(shared);
    }
}
