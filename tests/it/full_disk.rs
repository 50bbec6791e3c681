//! A full disk: nothing is acknowledged that is not stored, and there is service again once there is room.

use std::{fs, process::Command};

use serde_json::json;

use crate::support::{Home, Stage, eventually};

/// A small file system of its own, gone with its handle.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// None where this user may not mount.
    fn mount(at: std::path::PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).ok()?;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&at).output().ok()?;
        mounted.status.success().then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_on_sqlite_acknowledges_nothing_and_serves_again_once_there_is_room() {
    let stage = Stage::at(Home::on_sqlite("the disk that fills up is the one of the file"), &[]).await;
    let Some(disk) = SmallDisk::mount(stage.home.data()) else {
        println!("skipped: mounting a small file system needs root");
        return;
    };
    let deia = stage.start().await;
    let api = deia.api();
    api.launch("ada", "sim:tokens=2").await;
    let before = api.send("ada", "there is room").await.expect(200);
    let ballast = disk.0.join("ballast");
    // Everything that is left; the write ends with "no space left on device".
    assert!(fs::write(&ballast, vec![0; 8 << 20]).is_err(), "the disk is full");
    let refused = eventually("a send is refused", async || {
        let answer = api.send_without_waiting("ada", &"no room ".repeat(800)).await;
        match answer.status.as_u16() {
            202 => None,
            _ => Some(answer),
        }
    })
    .await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.expect_problem(503, "storage_unavailable");
    let history = api.history("ada").await;
    assert_eq!(history[0]["id"], before["message"]["id"], "reads go on");
    let ready = api.get("/ready").await;
    assert_ne!(ready.status.as_u16(), 500, "{}", ready.body);
    fs::remove_file(&ballast).unwrap();
    let again = eventually("service again", async || {
        let answer = api.send("ada", "room again").await;
        (answer.status.as_u16() == 200).then_some(answer.body)
    })
    .await;
    assert_eq!(again["turn"]["state"], "completed");
    let last = api.history("ada").await.pop().unwrap();
    assert_eq!(last["id"], again["reply"]["id"]);
    let pending = api.history("ada").await.into_iter().filter(|m| m["state"] == json!("pending")).count();
    assert_eq!(pending, 0, "nothing is stored half");
    assert_eq!(deia.terminate().await.code(), Some(0));
}
