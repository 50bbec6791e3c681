//! Port: room for what is too much for memory while something long is checked.

use std::{
    fmt,
    io::{self, Cursor, Read, Seek, Write},
};

/// What is written can be read again from anywhere. Dropping it gives the room back.
pub trait ScratchFile: Read + Write + Seek + Send {}
impl<T: Read + Write + Seek + Send> ScratchFile for T {}

/// * A new file MUST be empty, and MUST be nobody else's.
/// * Nothing of it may be left once it is dropped or the process has ended.
pub trait Scratch: fmt::Debug + Send + Sync + 'static {
    /// A new file.
    ///
    /// # Errors
    /// Where there is no room, or no right to it.
    fn file(&self) -> io::Result<Box<dyn ScratchFile>>;
}

/// Room in memory, where nothing better is given.
#[derive(Debug, Clone, Copy, Default)]
pub struct InMemory;

impl Scratch for InMemory {
    fn file(&self) -> io::Result<Box<dyn ScratchFile>> {
        Ok(Box::new(Cursor::new(vec![])))
    }
}
