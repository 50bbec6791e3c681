//! Bounds on shorter runs of what `benches/gate.rs` prints.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// The plan, and the same with first come first served; in neither is anybody lost.
fn both(plan: Plan) -> (Outcome, Outcome) {
    let (fair, fifo) = (simulate(plan), simulate(Plan { fair: false, ..plan }));
    assert_eq!((fair.accounted(), fifo.accounted()), (fair.arrived, fifo.arrived));
    (fair, fifo)
}

fn wait(outcome: &Outcome, class: Class, percent: f64) -> f64 {
    percentile(&outcome.waits[class as usize], percent)
}

#[test]
fn the_same_plan_has_the_same_outcome() {
    let plan = Plan { bots: 50, servers: 3, ..Plan::new(Load::Offered(1.2), MINUTE) };
    assert_eq!(simulate(plan), simulate(plan));
}

#[test]
fn a_thousand_bots_that_always_want_more_share_ten_servers_alike_whatever_the_size_of_their_requests() {
    let plan = Plan::new(Load::Backlog, 4 * MINUTE);
    let (fair, fifo) = both(plan);
    for (class, bound) in [(Class::Interactive, 0.97), (Class::Api, 0.93), (Class::Background, 0.8)] {
        let (mean, without) = (fair.jain(class, plan.servers).1, fifo.jain(class, plan.servers).1);
        println!("{class:?}: {mean:.3}, first come first served {without:.3}");
        assert!(mean >= bound && without < 0.65, "{class:?}: {mean} and {without}");
    }
}

#[test]
fn under_too_much_work_who_sits_and_waits_goes_first_and_the_others_still_come_up() {
    let (fair, fifo) = both(Plan::new(Load::Offered(1.1), 2 * MINUTE));
    for class in Class::ALL {
        let [p50, p99] = [50.0, 99.0].map(|percent| wait(&fair, class, percent));
        println!("{class:?}: {p50:.1} {p99:.1}, first come first served {:.1}", wait(&fifo, class, 99.0));
    }
    assert!(wait(&fair, Class::Interactive, 50.0) < wait(&fifo, Class::Interactive, 50.0) / 2.0);
    assert!(wait(&fair, Class::Interactive, 99.0) < wait(&fifo, Class::Interactive, 99.0) / 1.5);
    let flooding = percentile(&fair.waits_of_floods, 99.0);
    assert!(
        flooding > 2.0 * wait(&fair, Class::Interactive, 99.0),
        "who floods waits for itself: {flooding}"
    );
    let answered = |class: Class| fair.waits[class as usize].len() as f64;
    assert!(answered(Class::Background) > 0.05 * answered(Class::Interactive), "nobody starves");
}

#[test]
fn with_room_to_spare_a_dying_and_a_busy_server_cost_only_what_ran_on_them() {
    let mut waits = vec![];
    for seed in 5..9 {
        let plan = Plan { seed, ..Plan::new(Load::Offered(0.8), 2 * MINUTE) };
        let fair = simulate(plan);
        println!("{} {} {} {}", fair.cut, fair.busy, fair.opened, fair.failovers);
        assert!(fair.cut <= plan.slots.into() && fair.cut > 0, "{} cut", fair.cut);
        assert_eq!((fair.refused, fair.expired), (0, 0));
        assert!(fair.opened > 0 && fair.failovers > 0 && fair.busy > 0);
        assert!(fair.busy < fair.arrived / 100, "busy is not asked for again and again: {}", fair.busy);
        waits.extend_from_slice(&fair.waits[Class::Interactive as usize]);
    }
    // One seed says little: where the dying server's turns go to is chance.
    let long = percentile(&waits, 99.0);
    println!("{long:.1}");
    assert!(long < 10.0, "{long}");
}
