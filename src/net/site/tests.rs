#![allow(clippy::unwrap_used, reason = "tests")]
//! What needs no sockets: which web server gets a request.

use std::net::{IpAddr, Ipv4Addr};

use super::upstreams::{Running, Strategy, Upstreams};

fn upstreams(strategy: Strategy) -> Upstreams {
    let addresses = ["a.example:80", "b.example:80", "[2001:db8::1]:8080"];
    let addresses = addresses.map(|text| text.parse().unwrap());
    Upstreams::new(addresses.to_vec(), strategy)
}

fn visitor(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(number).into()
}

fn first(upstreams: &Upstreams, number: u32) -> String {
    upstreams.order(visitor(number))[0].authority.to_string()
}

#[test]
fn round_robin_asks_each_in_turn() {
    let upstreams = upstreams(Strategy::RoundRobin);
    let asked: Vec<_> = (0..4).map(|_| first(&upstreams, 1)).collect();
    let all = ["a.example:80", "b.example:80", "[2001:db8::1]:8080"];
    assert_eq!(asked, [all[0], all[1], all[2], all[0]]);
}

#[test]
fn least_connections_asks_the_one_with_the_fewest_requests() {
    let upstreams = upstreams(Strategy::LeastConnections);
    let _busy = [0, 0, 1].map(|index| Running::begin(&upstreams.all[index]));
    assert_eq!(first(&upstreams, 1), "[2001:db8::1]:8080");
}

#[test]
fn hash_moves_only_the_visitors_of_a_server_that_is_down() {
    let upstreams = upstreams(Strategy::Hash);
    let before: Vec<_> = (0..300).map(|number| first(&upstreams, number)).collect();
    let lost = &upstreams.all[1];
    assert!(lost.note_failure(), "it was well");
    for (number, before) in (0..300).zip(&before) {
        let now = first(&upstreams, number);
        assert_ne!(now, lost.authority.as_str());
        assert!(now == *before || before == lost.authority.as_str());
    }
    lost.note_answer();
    let after: Vec<_> = (0..300).map(|number| first(&upstreams, number)).collect();
    assert_eq!(after, before);
}

#[test]
fn server_that_a_check_found_sick_is_asked_last() {
    let upstreams = upstreams(Strategy::RoundRobin);
    assert!(upstreams.all[0].note_check(false), "that is new");
    assert!(!upstreams.all[0].note_check(false), "that is not");
    for _ in 0..3 {
        let order = upstreams.order(visitor(1));
        assert_eq!(order.len(), 3);
        assert_eq!(order[2].authority.as_str(), "a.example:80");
    }
    assert!(upstreams.all[0].note_check(true), "that is new");
}
