//! The raw limit of an acknowledgement: what any durable server has to do for one. A thread per connection reads the request
//! and wakes the one that writes; that appends a page for each request that waits, syncs once for all, and wakes those who
//! answer. Nothing is parsed, looked up or stored.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

const ANSWER: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
const PAGE: [u8; 4096] = [7; 4096];

/// Whoever waits for a sync.
type Waiting = SyncSender<()>;

/// Requests that may wait for the writer: one per connection, and there are fewer.
const WAITING: usize = 1024;

/// Serves requests of this length for as long as the process lives.
pub fn serve(folder: &Path, length: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (writer, queue) = sync_channel(WAITING);
    let file = File::create(folder.join("acks")).unwrap();
    thread::spawn(move || write(file, &queue));
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let writer = writer.clone();
            thread::spawn(move || answer(stream, length, &writer));
        }
    });
    address
}

fn write(mut file: File, queue: &Receiver<Waiting>) {
    while let Ok(first) = queue.recv() {
        let group: Vec<_> = [first].into_iter().chain(queue.try_iter()).collect();
        group.iter().for_each(|_| file.write_all(&PAGE).unwrap());
        file.sync_data().unwrap();
        for waiting in group {
            // Whoever went away needs no answer.
            let _ = waiting.send(());
        }
    }
}

/// One connection, to its end.
fn answer(mut stream: TcpStream, length: usize, writer: &SyncSender<Waiting>) {
    stream.set_nodelay(true).unwrap();
    let mut request = vec![0; length];
    let (synced, sync) = sync_channel(1);
    while stream.read_exact(&mut request).is_ok() {
        writer.send(synced.clone()).unwrap();
        sync.recv().unwrap();
        stream.write_all(ANSWER).unwrap();
    }
}
