//! Two cores joined by an ordered channel.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use proptest::prelude::*;

use super::*;
use crate::relay::link::limits::{MAX_DATAGRAMS, MAX_STREAM_WINDOW, UNREAD_OVERHEAD};
use crate::wire::AddressRef;

const HEARTBEAT: Duration = Duration::from_secs(20);

/// What one side sends on a stream, and what it has received.
#[derive(Default)]
struct Ends {
    to_send: VecDeque<u8>,
    /// `to_send` is complete.
    complete: bool,
    heard: Vec<u8>,
    unread: usize,
    /// What was read and was not worth a Window frame.
    consumed: usize,
    credit: u64,
    finished: bool,
    reset: bool,
    closed: bool,
}

/// The local side of a core.
#[derive(Default)]
struct Local {
    streams: HashMap<u64, Ends>,
    opened: Vec<u64>,
    datagrams: Vec<Vec<u8>>,
}

impl Sink for Local {
    fn data(&mut self, id: u64, bytes: &[u8]) {
        let stream = self.streams.get_mut(&id).unwrap();
        assert!(!stream.finished, "nothing comes after the end");
        stream.heard.extend_from_slice(bytes);
        stream.unread += bytes.len();
    }

    fn credit(&mut self, id: u64, bytes: u64) {
        self.streams.entry(id).or_default().credit = bytes;
    }

    fn take_consumed(&mut self, id: u64) -> usize {
        let stream = self.streams.get_mut(&id).unwrap();
        std::mem::take(&mut stream.consumed)
    }

    fn grow(&mut self, _: u64, _: usize) {}

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Frame(Frame::Connect { id, .. }) => {
                self.opened.push(id);
                self.streams.entry(id).or_default();
            }
            Event::Frame(Frame::Fin { id }) => self.streams.get_mut(&id).unwrap().finished = true,
            Event::Frame(Frame::Reset { id }) => self.streams.get_mut(&id).unwrap().reset = true,
            Event::Closed { id } => self.streams.get_mut(&id).unwrap().closed = true,
            Event::Frame(Frame::Datagram { payload, .. }) => self.datagrams.push(payload.to_vec()),
            _ => {}
        }
    }
}

impl Source for Local {
    fn read(&mut self, id: u64, out: &mut [u8]) -> Read {
        let stream = self.streams.get_mut(&id).unwrap();
        if stream.to_send.is_empty() {
            return if stream.complete {
                Read::End
            } else {
                Read::Empty
            };
        }
        let count = stream.to_send.len().min(out.len());
        for (place, byte) in out.iter_mut().zip(stream.to_send.drain(..count)) {
            *place = byte;
        }
        Read::Bytes(count)
    }
}

struct Side {
    core: Core,
    local: Local,
    /// Bytes on their way to the other side.
    wire: VecDeque<u8>,
}

impl Side {
    fn new(role: LinkRole) -> Self {
        Self {
            core: Core::new(role, HEARTBEAT, Duration::ZERO),
            local: Local::default(),
            wire: VecDeque::new(),
        }
    }

    fn transmit(&mut self, room: usize) -> bool {
        let mut out = vec![0; room];
        let len = self.core.transmit(&mut out, &mut self.local);
        self.wire.extend(&out[..len]);
        len > 0
    }

    fn hear(&mut self, from: &mut Self, now: Duration, count: usize) -> Result<(), CoreError> {
        let count = count.min(from.wire.len());
        let bytes: Vec<u8> = from.wire.drain(..count).collect();
        self.core.receive(now, &bytes, &mut self.local)
    }

    fn consume(&mut self, now: Duration, id: u64, count: usize) {
        let stream = self.local.streams.get_mut(&id).unwrap();
        let count = count.min(stream.unread);
        if count > 0 {
            stream.unread -= count;
            self.core.consumed(now, id, count);
        }
    }

    fn say(&mut self, id: u64, bytes: &[u8]) {
        self.local
            .streams
            .entry(id)
            .or_default()
            .to_send
            .extend(bytes);
        self.core.wake(id);
    }

    fn finish(&mut self, id: u64) {
        self.local.streams.get_mut(&id).unwrap().complete = true;
        self.core.wake(id);
    }

    fn open(&mut self, now: Duration, id: u64) {
        self.local.streams.entry(id).or_default();
        assert!(self.core.connect(now, id, visitor()));
    }
}

fn visitor() -> Connect<'static> {
    Connect {
        service: 1,
        source: AddressRef::Domain("visitor.example", 4711),
        destination: AddressRef::Domain("public.example", 80),
    }
}

/// Sends everything that one side can send, and receives it.
fn deliver(from: &mut Side, to: &mut Side, now: Duration) {
    while from.transmit(20_000) {}
    to.hear(from, now, usize::MAX).unwrap();
}

/// Lets both sides send, receive and consume everything.
fn settle(a: &mut Side, b: &mut Side, now: Duration) {
    let mut busy = true;
    while busy {
        busy = false;
        while a.transmit(20_000) || b.transmit(20_000) {
            busy = true;
        }
        b.hear(a, now, usize::MAX).unwrap();
        a.hear(b, now, usize::MAX).unwrap();
        for side in [&mut *a, &mut *b] {
            for id in side.local.streams.keys().copied().collect::<Vec<_>>() {
                side.consume(now, id, usize::MAX);
            }
        }
    }
}

fn pattern(id: u64, server: bool, len: usize) -> Vec<u8> {
    let seed = id * 31 + u64::from(server);
    (0..len)
        .map(|at| (seed + at as u64 * 7 + (at as u64 >> 8)) as u8)
        .collect()
}

/// One step of a test.
#[derive(Clone, Debug)]
enum Step {
    Transmit(bool, usize),
    Hear(bool, usize),
    Consume(bool, u64, usize),
    Add(bool, u64, usize),
    Finish(bool, u64),
    Wait(u64),
}

fn steps(streams: u64) -> impl Strategy<Value = Vec<Step>> {
    let id = (1..=streams).prop_map(|n| 2 * n);
    let step = prop_oneof![
        4 => (any::<bool>(), prop_oneof![Just(20_000usize), 0usize..600]).prop_map(|(s, n)| Step::Transmit(s, n)),
        4 => (any::<bool>(), prop_oneof![Just(usize::MAX), 1usize..5000]).prop_map(|(s, n)| Step::Hear(s, n)),
        2 => (any::<bool>(), id.clone(), 1usize..400_000).prop_map(|(s, i, n)| Step::Consume(s, i, n)),
        3 => (any::<bool>(), id.clone(), 1usize..200_000).prop_map(|(s, i, n)| Step::Add(s, i, n)),
        1 => (any::<bool>(), id).prop_map(|(s, i)| Step::Finish(s, i)),
        1 => (0u64..5000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..250)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_stream_arrives_in_order_whatever_the_interleaving(steps in steps(5)) {
        let (mut server, mut client) = (Side::new(LinkRole::Server), Side::new(LinkRole::Client));
        let mut now = Duration::ZERO;
        for id in (1..=5).map(|n| 2 * n) {
            server.open(now, id);
        }
        // The client may use a stream only after its Connect has arrived.
        deliver(&mut server, &mut client, now);
        let mut sent: HashMap<(bool, u64), usize> = HashMap::new();
        let mut done: HashMap<(bool, u64), bool> = HashMap::new();
        for step in &steps {
            let (is_server, id, count) = match *step {
                Step::Wait(micros) => {
                    now += Duration::from_micros(micros);
                    continue;
                }
                Step::Transmit(side, count) | Step::Hear(side, count) => (side, 0, count),
                Step::Consume(side, id, count) | Step::Add(side, id, count) => (side, id, count),
                Step::Finish(side, id) => (side, id, 0),
            };
            let (side, other) = if is_server {
                (&mut server, &mut client)
            } else {
                (&mut client, &mut server)
            };
            match step {
                Step::Transmit(..) => {
                    side.transmit(count);
                }
                Step::Hear(..) => side.hear(other, now, count).unwrap(),
                Step::Consume(..) => side.consume(now, id, count),
                Step::Add(..) => {
                    if !done.contains_key(&(is_server, id)) {
                        let begin = *sent.entry((is_server, id)).or_default();
                        let bytes = pattern(id, is_server, begin + count);
                        side.say(id, &bytes[begin..]);
                        sent.insert((is_server, id), begin + count);
                    }
                }
                Step::Finish(..) => {
                    done.insert((is_server, id), true);
                    side.finish(id);
                }
                Step::Wait(_) => {}
            }
        }
        settle(&mut server, &mut client, now);
        for (side, from_server) in [(&client, true), (&server, false)] {
            for (id, ends) in &side.local.streams {
                let expected = sent.get(&(from_server, *id)).copied().unwrap_or_default();
                prop_assert!(!ends.reset);
                prop_assert_eq!(&ends.heard, &pattern(*id, from_server, expected));
                prop_assert_eq!(ends.finished, done.contains_key(&(from_server, *id)));
                let both = done.contains_key(&(true, *id)) && done.contains_key(&(false, *id));
                prop_assert_eq!(ends.closed, both);
            }
        }
        let open = (1..=5).filter(|n| {
            !(done.contains_key(&(true, 2 * n)) && done.contains_key(&(false, 2 * n)))
        });
        let open = open.count();
        prop_assert_eq!(server.core.streams(), open);
        prop_assert_eq!(client.core.streams(), open);
        let of_open = |core: &Core| core.streams.values().map(|s| s.window.unread()).sum::<u64>();
        prop_assert_eq!(client.core.unread, of_open(&client.core));
        prop_assert_eq!(server.core.unread, of_open(&server.core));
    }
}

fn joined() -> (Side, Side) {
    let (mut server, mut client) = (Side::new(LinkRole::Server), Side::new(LinkRole::Client));
    server.open(Duration::ZERO, 2);
    settle(&mut server, &mut client, Duration::ZERO);
    assert_eq!(client.local.opened, [2]);
    (server, client)
}

#[test]
fn stream_waits_for_its_window_and_others_do_not() {
    let (mut server, mut client) = joined();
    server.open(Duration::ZERO, 4);
    server.say(2, &vec![1; 1 << 20]);
    server.say(4, &[2; 1000]);
    deliver(&mut server, &mut client, Duration::ZERO);
    assert_eq!(
        client.local.streams[&2].heard.len(),
        INITIAL_WINDOW as usize
    );
    assert_eq!(client.local.streams[&4].heard.len(), 1000);
    // Consumed bytes may be sent again.
    client.consume(Duration::ZERO, 2, 1000);
    deliver(&mut client, &mut server, Duration::ZERO);
    deliver(&mut server, &mut client, Duration::ZERO);
    assert_eq!(
        client.local.streams[&2].heard.len(),
        INITIAL_WINDOW as usize + 1000
    );
}

#[test]
fn streams_take_turns_and_control_goes_first() {
    let (mut server, _) = joined();
    server.open(Duration::ZERO, 4);
    server.say(2, &[1; 100_000]);
    server.say(4, &[2; 100_000]);
    let mut order = Vec::new();
    let mut out = vec![0; 20_000];
    while order.len() < 5 {
        let len = server.core.transmit(&mut out, &mut server.local);
        assert!(len <= HEADER_LEN + MAX_PAYLOAD);
        order.push((out[1], out[7]));
    }
    assert_eq!(order, [(8, 4), (3, 2), (3, 4), (3, 2), (3, 4)]);
    server.core.reset(2);
    server.core.transmit(&mut out, &mut server.local);
    assert_eq!((out[1], out[7]), (4, 2));
}

#[test]
fn more_than_the_window_resets_that_stream_alone() {
    let (mut server, mut client) = joined();
    server.open(Duration::ZERO, 4);
    server.core.streams.get_mut(&2).unwrap().send_credit = u64::MAX;
    server.say(2, &vec![1; INITIAL_WINDOW as usize + 1]);
    server.say(4, b"fine");
    deliver(&mut server, &mut client, Duration::ZERO);
    assert!(client.local.streams[&2].reset);
    assert_eq!(client.local.streams[&4].heard, b"fine");
    deliver(&mut client, &mut server, Duration::ZERO);
    assert!(server.local.streams[&2].reset);
    assert!(!server.local.streams[&4].reset);
}

#[test]
fn full_link_resets_a_stream_that_is_backed_up() {
    let (mut server, mut client) = joined();
    let stalled = MAX_LINK_WINDOW / (u64::from(INITIAL_WINDOW) + UNREAD_OVERHEAD) + 1;
    let stalled: Vec<_> = (0..stalled).map(|number| 2 * number + 2).collect();
    let visitor = 2 * (stalled.len() as u64) + 2;
    for id in &stalled {
        if !server.local.streams.contains_key(id) {
            server.open(Duration::ZERO, *id);
        }
        server.say(*id, &vec![1; INITIAL_WINDOW as usize]);
    }
    server.open(Duration::ZERO, visitor);
    server.say(visitor, b"fine");
    deliver(&mut server, &mut client, Duration::ZERO);
    assert_eq!(client.local.streams[&visitor].heard, b"fine");
    let was_reset = |id: &&u64| client.local.streams[id].reset;
    assert_eq!(stalled.iter().filter(was_reset).count(), 1);
    assert!(client.core.unread <= MAX_LINK_WINDOW);
}

#[test]
fn streams_that_are_read_are_not_reset_because_there_are_many() {
    let (mut server, mut client) = joined();
    client.core.limit_unread(1 << 20);
    let ids: Vec<u64> = (1..200).map(|number| 2 * number).collect();
    for id in &ids {
        if !server.local.streams.contains_key(id) {
            server.open(Duration::ZERO, *id);
        }
        // Less than what is worth a Window frame.
        server.say(*id, &[1; 10_000]);
        deliver(&mut server, &mut client, Duration::ZERO);
        let stream = client.local.streams.get_mut(id).unwrap();
        stream.consumed += std::mem::take(&mut stream.unread);
    }
    assert!(ids.iter().all(|id| !client.local.streams[id].reset));
    deliver(&mut client, &mut server, Duration::ZERO);
    assert!(server.core.send_credit(ids[0]) == u64::from(INITIAL_WINDOW));
    assert_eq!(
        server.local.streams[&ids[0]].credit,
        u64::from(INITIAL_WINDOW)
    );
    // One byte of each takes memory too.
    for id in &ids {
        server.say(*id, &[1]);
        deliver(&mut server, &mut client, Duration::ZERO);
    }
    assert!(client.core.unread_streams * UNREAD_OVERHEAD <= 1 << 20);
}

#[test]
fn window_grows_to_twice_what_a_round_trip_delivers() {
    let (mut server, mut client) = joined();
    // A path of 100 ms with unlimited bandwidth.
    client.core.round_trip = RoundTrip::default();
    client
        .core
        .round_trip
        .record(Duration::ZERO, Duration::from_millis(100));
    let mut now = Duration::ZERO;
    let mut sizes = Vec::new();
    for _ in 0..12 {
        now += Duration::from_millis(100);
        server.say(2, &vec![1; 32 << 20]);
        deliver(&mut server, &mut client, now);
        client.consume(now, 2, usize::MAX);
        client.core.outstanding_ping = None;
        deliver(&mut client, &mut server, now);
        sizes.push(u64::from(INITIAL_WINDOW) + client.core.window_growth);
    }
    assert!(sizes[0] > u64::from(INITIAL_WINDOW), "{sizes:?}");
    assert_eq!(*sizes.last().unwrap(), MAX_STREAM_WINDOW, "{sizes:?}");
    client.core.reset(2);
    assert_eq!((client.core.window_growth, client.core.unread), (0, 0));
}

#[test]
fn silence_of_three_heartbeats_ends_the_link() {
    let mut core = Core::new(LinkRole::Server, HEARTBEAT, Duration::ZERO);
    let mut pings = 0;
    let (now, error) = loop {
        let now = core.timeout();
        let before = core.control.len();
        match core.tick(now) {
            Ok(()) => pings += core.control.len() - before,
            Err(error) => break (now, error),
        }
    };
    assert_eq!(error, CoreError::Timeout(3 * HEARTBEAT));
    assert_eq!((now, pings), (3 * HEARTBEAT, 2));
}

#[test]
fn probe_without_an_answer_ends_the_link() {
    let (mut server, mut client) = joined();
    let second = Duration::from_secs(1);
    server.core.probe(second);
    deliver(&mut server, &mut client, second);
    deliver(&mut client, &mut server, 2 * second);
    assert_eq!(server.core.tick(10 * second), Ok(()));
    server.core.probe(10 * second);
    assert!(server.core.tick(12 * second).is_ok());
    assert!(server.core.tick(13 * second).is_err());
}

#[test]
fn unexpected_frame_ends_the_link() {
    let encode = |frame: Frame<'_>| {
        let mut out = vec![0; 1000];
        let len = frame.encode(&mut out).unwrap();
        out.truncate(len);
        out
    };
    let hello = encode(Frame::Hello(Hello {
        own_streams: OwnStreams::No,
        window: 1,
        max_payload: 1,
    }));
    let connect = |id| Frame::Connect {
        id,
        connect: visitor(),
    };
    let fin = Frame::Fin { id: 2 };
    let dial_back = Frame::DialBack {
        id: 2,
        nonce: [0; 16],
    };
    for (greeted, frame, error) in [
        (
            false,
            Frame::InitialRemoteServer { name: "a" },
            Error::TunnelV0,
        ),
        (false, Frame::Heartbeat, Error::TunnelV0),
        (false, fin, Error::FrameUnexpected),
        (
            true,
            Frame::Hello(Hello {
                own_streams: OwnStreams::No,
                window: 1,
                max_payload: 1,
            }),
            Error::FrameUnexpected,
        ),
        (true, fin, Error::FrameUnexpected),
        (true, dial_back, Error::FrameUnexpected),
        (true, connect(1), Error::FrameUnexpected),
        (
            true,
            Frame::Data {
                id: 8,
                payload: b"x",
            },
            Error::FrameUnexpected,
        ),
    ] {
        let mut side = Side::new(LinkRole::Client);
        if greeted {
            side.core
                .receive(Duration::ZERO, &hello, &mut side.local)
                .unwrap();
        }
        let result = side
            .core
            .receive(Duration::ZERO, &encode(frame), &mut side.local);
        assert_eq!(result, Err(CoreError::Wire(error)), "{frame:?}");
    }
}

#[test]
fn oldest_datagrams_are_lost_first() {
    let (mut server, mut client) = joined();
    for number in 0..MAX_DATAGRAMS + 3 {
        server.core.datagram(2, number.to_be_bytes().into());
    }
    deliver(&mut server, &mut client, Duration::ZERO);
    assert_eq!(client.local.datagrams.len(), MAX_DATAGRAMS);
    assert_eq!(client.local.datagrams[0], 3usize.to_be_bytes());
}

#[test]
fn visitors_are_refused_while_the_peer_does_not_read() {
    let mut server = Side::new(LinkRole::Server);
    let ids = (1..MAX_ID / 2).map(|number| 2 * number);
    let refused = ids.clone().find(|id| {
        let connected = server.core.connect(Duration::ZERO, *id, visitor());
        // The visitor leaves at once, so the number of streams does not limit them.
        server.core.reset(*id);
        !connected
    });
    let refused = refused.unwrap();
    assert_eq!(server.core.check_backlog(), Ok(()));
    assert!(server.core.control_bytes > MAX_CONTROL_BYTES / 2);
    while server.transmit(20_000) {}
    assert_eq!(server.core.control_bytes, 0);
    assert!(server.core.connect(Duration::ZERO, refused, visitor()));
}

#[test]
fn peer_that_does_not_read_ends_the_link() {
    let (mut server, _) = joined();
    let flood = (0..).find_map(|service| {
        let message = "x".repeat(500);
        let bound = AddressRef::Domain("public.example", 80);
        server.core.send(Frame::RegisterResult {
            service,
            code: Code::DENIED,
            bound,
            message: &message,
        });
        server
            .core
            .receive(Duration::ZERO, &[], &mut server.local)
            .err()
    });
    assert!(matches!(flood, Some(CoreError::Overloaded(_))));
    assert!(server.core.control_bytes < MAX_CONTROL_BYTES + MAX_CONTROL_LEN);
}
