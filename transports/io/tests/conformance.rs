//! One suite for every driver, over TCP and Unix sockets: what `shmesh_io::driver` promises is what is held here.
//!
//! A new driver joins by a line in the macro at the end. Where the system refuses io_uring, its half says so on stderr
//! and checks nothing.

#[path = "conformance/bells.rs"]
mod bells;
#[path = "conformance/bytes.rs"]
mod bytes;
#[path = "conformance/connections.rs"]
mod connections;
#[path = "conformance/harness.rs"]
mod harness;
#[path = "conformance/landing.rs"]
mod landing;
#[path = "conformance/resources.rs"]
mod resources;
#[path = "conformance/rest.rs"]
mod rest;
#[path = "conformance/stage.rs"]
mod stage;
#[path = "conformance/unawaited.rs"]
mod unawaited;

use harness::{Family, Kind};

/// In how many simulated worlds each test runs.
const SIM_WORLDS: u64 = 4;

/// Every test for every driver, over the families that are named before it.
macro_rules! conformance {
    ($($families:ident { $($name:ident: $test:path;)* })*) => {
        mod epoll { $(conformance!(@$families Epoll { $($name: $test;)* });)* }
        mod uring { $(conformance!(@$families Uring { $($name: $test;)* });)* }
        mod sim { $(conformance!(@$families Sim { $($name: $test;)* });)* }
    };
    (@both $kind:ident { $($name:ident: $test:path;)* }) => {
        mod tcp { $(#[test] fn $name() { crate::run($test, crate::Kind::$kind, crate::Family::Tcp); })* }
        mod unix { $(#[test] fn $name() { crate::run($test, crate::Kind::$kind, crate::Family::Unix); })* }
    };
    (@unix_only $kind:ident { $($name:ident: $test:path;)* }) => {
        mod unix_only { $(#[test] fn $name() { crate::run($test, crate::Kind::$kind, crate::Family::Unix); })* }
    };
}

fn run(test: fn(Kind, Family), kind: Kind, family: Family) {
    if kind == Kind::Sim {
        for seed in 0..SIM_WORLDS {
            eprintln!("world {seed}");
            stage::reset(seed);
            test(kind, family);
        }
    } else if kind.is_possible() {
        test(kind, family);
    }
}

conformance! {
    both {
        echoes_any_size_both_ways_at_once: crate::bytes::echoes_any_size_both_ways_at_once;
        keeps_the_order_of_more_chunks_than_one_call_takes: crate::bytes::keeps_the_order_of_more_chunks_than_one_call_takes;
        tells_the_end_that_follows_bytes_at_once: crate::bytes::tells_the_end_that_follows_bytes_at_once;
        tells_the_end_behind_much_that_waited: crate::bytes::tells_the_end_behind_much_that_waited;
        loses_nothing_when_receiving_stops_and_starts: crate::bytes::loses_nothing_when_receiving_stops_and_starts;
        holds_back_a_sender_while_receiving_is_stopped: crate::bytes::holds_back_a_sender_while_receiving_is_stopped;
        receives_after_its_own_half_is_closed: crate::bytes::receives_after_its_own_half_is_closed;
        sends_after_the_peer_closed_its_half: crate::bytes::sends_after_the_peer_closed_its_half;
        shuts_down_after_the_send_in_flight: crate::bytes::shuts_down_after_the_send_in_flight;
        refuses_a_second_send_and_finishes_the_first: crate::bytes::refuses_a_second_send_and_finishes_the_first;
        completes_an_empty_send: crate::bytes::completes_an_empty_send;
        reports_the_end_only_after_start: crate::bytes::reports_the_end_only_after_start;
        lands_blocks_among_other_bytes: crate::landing::lands_blocks_among_other_bytes;
        lands_all_when_the_next_block_comes_in_time: crate::landing::lands_all_when_the_next_block_comes_in_time;
        receives_one_slot_where_a_block_may_follow: crate::landing::receives_one_slot_where_a_block_may_follow;
        lands_a_trickle_in_part_and_once: crate::landing::lands_a_trickle_in_part_and_once;
        tells_what_it_had_before_a_block: crate::landing::tells_what_it_had_before_a_block;
        lands_while_it_sends: crate::landing::lands_while_it_sends;
        ends_while_a_block_waits: crate::landing::ends_while_a_block_waits;
        is_reset_while_a_block_waits: crate::landing::is_reset_while_a_block_waits;
        gives_a_block_back_when_closed: crate::landing::gives_a_block_back_when_closed;
        gives_a_block_back_when_dropped: crate::landing::gives_a_block_back_when_dropped;
        gives_a_block_back_when_stopped: crate::landing::gives_a_block_back_when_stopped;
        drops_what_it_cannot_land: crate::landing::drops_what_it_cannot_land;
        loses_nothing_whatever_is_done_with_blocks: crate::landing::loses_nothing_whatever_is_done_with_blocks;
        unawaited_sends_are_told_with_what_comes_next: crate::unawaited::are_told_with_what_comes_next;
        unawaited_sends_are_told_without_a_wait: crate::unawaited::are_told_without_a_wait;
        unawaited_sends_that_find_no_room_are_sent_on: crate::unawaited::that_find_no_room_are_sent_on;
        unawaited_sends_that_fail_say_so: crate::unawaited::that_fail_say_so;
        unawaited_sends_are_told_apart: crate::unawaited::are_told_apart;
        goes_on_after_a_rest: crate::rest::goes_on_after_a_rest;
        another_driver_goes_on: crate::rest::another_driver_goes_on;
        drivers_take_over_from_each_other: crate::rest::drivers_take_over_from_each_other;
        a_send_is_cut_off_and_gone_on_with: crate::rest::a_send_is_cut_off_and_gone_on_with;
        what_had_arrived_comes_first: crate::rest::what_had_arrived_comes_first;
        what_is_set_aside_receives_all_the_same: crate::rest::what_is_set_aside_receives_all_the_same;
        what_is_severed_ends_for_its_peer: crate::rest::what_is_severed_ends_for_its_peer;
        accepts_after_a_rest: crate::rest::accepts_after_a_rest;
        connects_while_it_rests: crate::rest::connects_while_it_rests;
        accepts_with_tag_and_peer: crate::connections::accepts_with_tag_and_peer;
        connects: crate::connections::connects;
        reports_a_refused_connect_once: crate::connections::reports_a_refused_connect_once;
        stops_and_resumes_accepting: crate::connections::stops_and_resumes_accepting;
        reports_a_reset: crate::connections::reports_a_reset;
        sends_a_reset: crate::connections::sends_a_reset;
        reports_a_send_to_a_closed_peer_once: crate::connections::reports_a_send_to_a_closed_peer_once;
        reports_nothing_of_a_closed_socket: crate::connections::reports_nothing_of_a_closed_socket;
        ignores_stale_names: crate::connections::ignores_stale_names;
        refuses_to_send_before_it_is_connected: crate::connections::refuses_to_send_before_it_is_connected;
        gives_everything_back_after_a_close_in_flight: crate::resources::gives_everything_back_after_a_close_in_flight;
        gives_everything_back_when_dropped: crate::resources::gives_everything_back_when_dropped;
        releases_shared_blocks_when_sent_or_closed: crate::resources::releases_shared_blocks_when_sent_or_closed;
        keeps_going_when_slices_hold_the_whole_pool: crate::resources::keeps_going_when_slices_hold_the_whole_pool;
        pauses_when_descriptors_run_out: crate::resources::pauses_when_descriptors_run_out;
    }
    unix_only {
        connects_when_the_backlog_has_room_again: crate::connections::connects_when_the_backlog_has_room_again;
        wakes_from_another_thread: crate::bells::wakes_from_another_thread;
        hears_every_ring_after_quiet: crate::bells::hears_every_ring_after_quiet;
        stops_watching_a_shared_descriptor: crate::bells::stops_watching_a_shared_descriptor;
        never_blocks_on_a_doorbell: crate::bells::never_blocks_on_a_doorbell;
        rings_a_bell_that_is_dropped_at_once: crate::bells::rings_a_bell_that_is_dropped_at_once;
        waits_as_long_as_told: crate::bells::waits_as_long_as_told;
    }
}
