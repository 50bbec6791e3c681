//! Scratch files in a folder: they have no name, so nothing of them is left whatever ends the process.

use std::{io, path::PathBuf};

use deia_actors::ports::scratch::{Scratch, ScratchFile};

/// A folder for scratch files; made where it is missing, once a file is wanted.
#[derive(Debug, Clone)]
pub struct ScratchFolder(pub PathBuf);

impl Scratch for ScratchFolder {
    fn file(&self) -> io::Result<Box<dyn ScratchFile>> {
        std::fs::create_dir_all(&self.0)?;
        Ok(Box::new(tempfile::tempfile_in(&self.0)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::SeekFrom;

    use super::*;

    #[test]
    fn a_scratch_file_keeps_what_is_written_and_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("not/there/yet");
        let [mut one, mut other] = [(); 2].map(|()| ScratchFolder(folder.clone()).file().unwrap());
        one.write_all(b"some text").unwrap();
        one.seek(SeekFrom::Start(5)).unwrap();
        let mut read = String::new();
        one.read_to_string(&mut read).unwrap();
        assert_eq!(read, "text");
        assert_eq!(other.read_to_string(&mut read).unwrap(), 0);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
}
