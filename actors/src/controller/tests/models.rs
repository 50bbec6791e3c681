//! Orders about models that several servers have.
#![allow(clippy::unwrap_used)]

use super::servers::{House, failed, limits};
use crate::{
    controller::*, domain::model_name::ModelName, ports::chat_model::ModelError,
    testkit::fakes::moody_model::Mood,
};

fn other() -> ModelName {
    "other".parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_one_of_several_servers_fails_is_carried_out_at_the_others_and_says_so() {
    let house = House::new(&[&["other"], &["other"], &["other"]], limits(512)).await;
    house.servers[1].is_now(Mood::Fails(ModelError::Refused { status: 403, message: "no".into() }));
    let done = house.tree.delete_model(&other(), None, false).await.unwrap();
    assert_eq!(done.servers, ["s0", "s2"]);
    let [not] = &done.failed[..] else { panic!("{done:?}") };
    assert_eq!((not.server.as_str(), not.problem.code), ("s1", Code::UpstreamError));
    let told = house.store.events().into_iter().find(|e| &*e.name == "model_deleted").expect("the event");
    assert!(told.data.contains(r#"["s0","s2"]"#), "{}", told.data);
    let done = house.tree.unload_model(&other(), None).await.unwrap();
    assert_eq!((done.servers.len(), done.failed.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_every_server_fails_is_a_problem_that_names_them_all() {
    let house = House::new(&[&["other"], &["other"]], limits(512)).await;
    house.servers.iter().for_each(|server| server.is_now(Mood::Fails(failed())));
    let problem = house.tree.delete_model(&other(), None, false).await.unwrap_err();
    let named: Vec<_> = problem.errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!((problem.code, &named[..]), (Code::UpstreamError, &["server:s0", "server:s1"][..]));
    assert!(house.store.events().iter().all(|e| &*e.name != "model_deleted"));
}
