//! The codec beside hickory's.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

use hickory_resolver::proto::op::{Edns as HickoryEdns, Message, Query as HickoryQuery};
use hickory_resolver::proto::rr::rdata::{A, CNAME, SOA, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record as HickoryRecord, RecordType};
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 65_535;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(text: &str, kind: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(HickoryQuery::query(name(text), kind));
    if let Some(size) = edns {
        let mut opt = HickoryEdns::new();
        opt.set_max_payload(size);
        message.set_edns(opt);
    }
    message
}

fn record(owner: &str, ttl: u32, data: RData) -> HickoryRecord {
    HickoryRecord::from_rdata(name(owner), ttl, data)
}

fn address(owner: &str, ttl: u32) -> HickoryRecord {
    record(owner, ttl, RData::A(A::new(192, 0, 2, 1)))
}

fn soa(ttl: u32, minimum: u32) -> HickoryRecord {
    let data = SOA::new(name("ns.test."), name("mail.test."), 1, 1, 1, 1, minimum);
    record("test.", ttl, RData::SOA(data))
}

/// The answer to a query for the address of `www.test.`, changed by `change`.
fn answer(change: impl FnOnce(&mut Message)) -> Answer {
    let asked = query("www.test.", RecordType::A, Some(1232));
    let mut response = Message::response(7, asked.metadata.op_code);
    response.add_query(asked.queries[0].clone());
    change(&mut response);
    Answer::parse(&response.to_vec().unwrap()).unwrap()
}

fn encoded(answer: &Answer, asked: &Message, age: u32, limit: usize) -> Vec<u8> {
    let bytes = asked.to_vec().unwrap();
    let mut out = Vec::new();
    answer.encode(&Query::parse(&bytes).unwrap(), age, limit, 1232, &mut out);
    out
}

#[test]
fn query_for_a_name_server_is_the_same_question() {
    let mut asked = query("WWW.Example.test.", RecordType::AAAA, Some(4096));
    asked.edns.as_mut().unwrap().set_dnssec_ok(true);
    asked.metadata.checking_disabled = true;
    let bytes = asked.to_vec().unwrap();
    let parsed = Query::parse(&bytes).unwrap();
    assert_eq!(parsed.question.text(), "www.example.test");
    let sent = parsed.encode(99, [0x5a; 32], Some(1232));
    let read = Message::from_vec(&sent).unwrap();
    assert_eq!(read.metadata.id, 99);
    assert!(read.metadata.recursion_desired && read.metadata.checking_disabled);
    assert_eq!(read.queries[0].name(), asked.queries[0].name());
    assert_eq!(read.queries[0].query_type(), RecordType::AAAA);
    let edns = read.edns.unwrap();
    assert!(edns.flags().dnssec_ok);
    assert_eq!(edns.max_payload(), 1232);
    assert_ne!(sent[12..], bytes[12..][..sent.len() - 12]);
    assert!(
        Message::from_vec(&parsed.encode(1, [0; 32], None))
            .unwrap()
            .edns
            .is_none()
    );
    let bare = parsed.bare();
    assert_eq!(Query::parse(&bare).unwrap(), parsed);
}

#[test]
fn key_is_the_same_for_the_same_question() {
    let key = |message: &Message| {
        let mut key = Vec::new();
        Query::parse(&message.to_vec().unwrap())
            .unwrap()
            .key(&mut key);
        key
    };
    let asked = query("www.test.", RecordType::A, None);
    assert_eq!(
        key(&asked),
        key(&query("WwW.test.", RecordType::A, Some(4096)))
    );
    assert_ne!(
        key(&asked),
        key(&query("www.test.", RecordType::AAAA, None))
    );
    assert_ne!(key(&asked), key(&query("ww.test.", RecordType::A, None)));
    let mut dnssec = query("www.test.", RecordType::A, Some(4096));
    dnssec.edns.as_mut().unwrap().set_dnssec_ok(true);
    assert_ne!(key(&asked), key(&dnssec));
}

#[test]
fn only_the_answer_to_a_query_matches() {
    let asked = query("www.test.", RecordType::A, Some(1232))
        .to_vec()
        .unwrap();
    let query = Query::parse(&asked).unwrap();
    let sent = query.encode(5, [0xff; 32], Some(1232));
    let mut response = sent.clone();
    assert_eq!(answers(&response, &sent), Match::No, "a query is no answer");
    response[2] |= 0x80;
    assert_eq!(answers(&response, &sent), Match::Yes);
    response[13] ^= 0x20;
    assert_eq!(answers(&response, &sent), Match::Case);
    response[13] ^= 0x01;
    assert_eq!(answers(&response, &sent), Match::No, "another name");
    let mut other = sent.clone();
    other[2] |= 0x80;
    other[0] ^= 1;
    assert_eq!(answers(&other, &sent), Match::No, "another id");
}

#[test]
fn times_count_down_and_options_are_the_clients() {
    let answer = answer(|response| {
        let alias = RData::CNAME(CNAME(name("alias.test.")));
        response.add_answer(record("www.test.", 300, alias));
        response.add_answer(address("alias.test.", 60));
        response.add_additional(address("extra.test.", 90));
        response.set_edns(HickoryEdns::new());
        response.metadata.authentic_data = true;
        response.metadata.authoritative = true;
    });
    assert_eq!(answer.lifetime(), Some(60));
    let plain = query("WWW.test.", RecordType::A, None);
    let read = Message::from_vec(&encoded(&answer, &plain, 25, LIMIT)).unwrap();
    assert_eq!(read.metadata.id, plain.metadata.id);
    assert_eq!(read.queries[0].name().to_ascii(), "WWW.test.");
    let ttls: Vec<u32> = read.all_sections().map(|record| record.ttl).collect();
    assert_eq!(ttls, [275, 35, 65]);
    assert!(read.edns.is_none() && read.metadata.recursion_available);
    assert!(!read.metadata.authentic_data && !read.metadata.authoritative);
    let mut with_ad = query("www.test.", RecordType::A, Some(4096));
    with_ad.metadata.authentic_data = true;
    let read = Message::from_vec(&encoded(&answer, &with_ad, 0, LIMIT)).unwrap();
    assert!(read.metadata.authentic_data);
    assert_eq!(read.edns.unwrap().max_payload(), 1232);
}

#[test]
fn what_does_not_fit_is_left_out_whole() {
    let answer = answer(|response| {
        let text = TXT::new(vec!["x".repeat(250); 4]);
        response.add_answer(record("www.test.", 60, RData::TXT(text)));
    });
    for edns in [None, Some(512)] {
        let asked = query("www.test.", RecordType::A, edns);
        let cut = encoded(&answer, &asked, 1, 512);
        assert!(cut.len() <= 512 && is_truncated(&cut));
        let read = Message::from_vec(&cut).unwrap();
        assert!(read.answers.is_empty() && read.queries.len() == 1);
        assert_eq!(read.edns.is_some(), edns.is_some());
        let whole = encoded(&answer, &asked, 1, LIMIT);
        assert!(!is_truncated(&whole));
        assert_eq!(encoded(&answer, &asked, 1, whole.len()), whole);
        assert!(is_truncated(&encoded(&answer, &asked, 1, whole.len() - 1)));
    }
}

#[test]
fn denials_are_kept_as_their_soa_says() {
    let nxdomain = |response: &mut Message| {
        response.metadata.response_code = hickory_resolver::proto::op::ResponseCode::NXDomain;
    };
    let lifetime = |ttl, minimum| {
        answer(|response| {
            nxdomain(response);
            response.add_authority(soa(ttl, minimum));
        })
        .lifetime()
    };
    assert_eq!(lifetime(300, 60), Some(60));
    assert_eq!(lifetime(30, 60), Some(30));
    assert_eq!(lifetime(86_400, 86_400), Some(LONGEST_DENIAL_SECONDS));
    assert_eq!(lifetime(0, 60), None);
    assert_eq!(answer(nxdomain).lifetime(), None, "without SOA");
    let shown = answer(|response| {
        response.add_authority(soa(300, 60));
    });
    let asked = query("www.test.", RecordType::A, None);
    let read = Message::from_vec(&encoded(&shown, &asked, 10, LIMIT)).unwrap();
    assert_eq!(read.authorities[0].ttl, 50);
    let refused = answer(|response| {
        response.metadata.response_code = hickory_resolver::proto::op::ResponseCode::Refused;
        response.add_authority(soa(300, 60));
    });
    assert_eq!(refused.lifetime(), None);
}

const LONGEST_DENIAL_SECONDS: u32 = 10_800;

#[test]
fn refusals_are_no_longer_than_what_they_refuse() {
    let good = query("www.test.", RecordType::A, Some(4096))
        .to_vec()
        .unwrap();
    let refusal = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let refusal = Query::parse(&bytes).unwrap_err();
        let reply = refusal.encode(&bytes);
        let reply = reply.inspect(|reply| assert!(reply.len() <= bytes.len()));
        (
            refusal,
            reply.map(|reply| Message::from_vec(&reply).unwrap()),
        )
    };
    let code = |reply: Option<Message>| u16::from(reply.unwrap().metadata.response_code);
    assert_eq!(refusal(&|bytes| bytes.truncate(11)).0, Refusal::Ignore);
    assert_eq!(refusal(&|bytes| bytes[2] |= 0x80), (Refusal::Ignore, None));
    assert_eq!(code(refusal(&|bytes| bytes.truncate(20)).1), 1);
    assert_eq!(code(refusal(&|bytes| bytes[5] = 2).1), 1);
    assert_eq!(code(refusal(&|bytes| bytes[12] = 0xc0).1), 1);
    assert_eq!(code(refusal(&|bytes| bytes[2] |= 0x28).1), 4);
    assert_eq!(code(refusal(&|bytes| bytes[2] &= 0xfe).1), 4);
    let version_at = good.len() - 5;
    let (refused, reply) = refusal(&|bytes| bytes[version_at] = 1);
    assert_eq!(refused, Refusal::Version);
    assert_eq!(reply.unwrap().edns.unwrap().rcode_high(), 1);
}

#[test]
fn options_of_one_hop_do_not_pass() {
    let mut bytes = query("www.test.", RecordType::A, Some(4096))
        .to_vec()
        .unwrap();
    let cookie = [0, 10, 0, 2, 1, 2];
    let subnet = [0, 8, 0, 4, 0, 1, 0, 0];
    let end = bytes.len();
    bytes[end - 1] = 6;
    bytes.extend(cookie);
    let query = Query::parse(&bytes).unwrap();
    assert!(!query.is_private());
    assert_eq!(query.edns.unwrap().options, cookie);
    assert!(query.encode(1, [0; 32], Some(1232)).ends_with(&[0, 0]));
    bytes[end - 1] = 14;
    bytes.extend(subnet);
    let query = Query::parse(&bytes).unwrap();
    assert!(query.is_private());
    assert!(query.encode(1, [0; 32], Some(1232)).ends_with(&subnet));
    bytes[end - 1] = 13;
    bytes.pop();
    assert_eq!(Query::parse(&bytes), Err(Refusal::Malformed));
}

#[test]
fn failure_says_so() {
    let asked = query("www.test.", RecordType::A, Some(4096));
    let bytes = asked.to_vec().unwrap();
    let failure = Answer::failure(&Query::parse(&bytes).unwrap());
    let read = Message::from_vec(&encoded(&failure, &asked, 0, 512)).unwrap();
    assert_eq!(u16::from(read.metadata.response_code), 2);
    assert_eq!(failure.lifetime(), Some(1));
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(
        noise in proptest::collection::vec(any::<u8>(), 0..200),
        at in 0_usize..80,
        value: u8,
    ) {
        let asked = query("www.test.", RecordType::A, Some(1232));
        let mut response = Message::response(7, asked.metadata.op_code);
        response.add_query(asked.queries[0].clone());
        response.add_answer(address("www.test.", 60));
        response.add_authority(soa(300, 60));
        let mut changed = response.to_vec().unwrap();
        changed[at] = value;
        let asked = asked.to_vec().unwrap();
        let asked = Query::parse(&asked).unwrap();
        for message in [&noise, &changed] {
            if let Err(refusal) = Query::parse(message) {
                let reply = refusal.encode(message).unwrap_or_default();
                prop_assert!(reply.len() <= message.len());
            }
            let _ = answers(message, message);
            if let Some(answer) = Answer::parse(message) {
                let mut out = Vec::new();
                answer.encode(&asked, 1, 512, 1232, &mut out);
                prop_assert!(out.len() <= 512);
            }
        }
    }
}
