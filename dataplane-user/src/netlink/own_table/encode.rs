//! The parts of a table as the kernel takes them.

use std::collections::{BTreeMap, BTreeSet};

use super::{comment, message, rule_comment};
use crate::{
    model::{OwnChain, OwnCount, OwnRule, OwnSet, OwnTable, Place, Step},
    netlink::{
        netfilter::terminated,
        nft::{
            ACCEPT, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, DATA_VALUE, DROP, ELEMENT_KEY, ELEMENTS,
            LIST_ELEMENT, NESTED, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NLM_F_APPEND,
            NLM_F_CREATE, RULE_CHAIN, RULE_EXPRESSIONS, SET_ID, SET_KEY_LENGTH, SET_KEY_TYPE, SET_NAME, attributes,
            expression, number, part, verdict,
        },
        socket::Part,
    },
};

pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_DESCRIPTION: u16 = 9;
pub(super) const SET_TIMEOUT: u16 = 11;
const SET_USERDATA: u16 = 13;
const LIST_SET_ID: u16 = 4;
/// nft's own numbers: of the type of an interface index, and of orders of bytes.
const TYPE_INTERFACE: u32 = 20;
const HOST_ORDER: u32 = 1;
const NETWORK_ORDER: u32 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_KEY_END: u16 = 10;
const RULE_USERDATA: u16 = 7;
/// `NFT_SET_*`.
pub(super) const ANONYMOUS: u32 = 1 | 2;
const INTERVAL: u32 = 4;
const TIMES_OUT: u32 = 0x10;
const EVALUATED: u32 = 0x20;
const CONCATENATION: u32 = 0x80;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;
/// Elements in one message, whose attributes have 16 bits for their length.
pub(super) const CHUNK: usize = 256;
/// What the kernel calls a set without a name.
const UNNAMED: &str = "__set%d";
/// `NFT_RT_TCPMSS`, `NFT_PAYLOAD_CSUM_INET`, `NFT_EXTHDR_OP_TCPOPT`; TCP's option of the segment size (RFC 9293, section 3.1).
const RT_SEGMENT: u32 = 3;
const CHECKSUM_INET: u32 = 1;
const EXTHDR_TCP: u32 = 1;
const TCP_SEGMENT: u8 = 2;
const NFT_MSG_NEWOBJ: u16 = 18;
pub(super) const OBJECT_NAME: u16 = 2;
pub(super) const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
/// `NFT_OBJECT_CT_HELPER`, `NFTA_CT_HELPER_*`.
pub(super) const OBJECT_HELPER: u32 = 3;
const HELPER_NAME: u16 = 1;
const HELPER_PROTOCOL: u16 = 3;
/// Bits for the number of a type in that of several fields.
const TYPE_BITS: u32 = 6;

type Counts = BTreeMap<(String, u64), OwnCount>;

/// Numbers of sets within a transaction.
#[derive(Default)]
struct Encoder {
    parts: Vec<Part>,
    sets: u32,
}

/// All that is in a table, without the sets that are there and stay.
pub(super) fn parts(table: &OwnTable, counts: &Counts, kept: impl Fn(&OwnSet) -> bool) -> Vec<Part> {
    let mut encoder = Encoder::default();
    for set in table.sets.iter().filter(|set| !kept(set)) {
        encoder.set(set);
    }
    let steps = table.chains.iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.steps);
    let helpers: BTreeSet<_> = steps
        .filter_map(|step| if let Step::Helper(name, protocol) = step { Some((*name, *protocol)) } else { None })
        .collect();
    for (name, protocol) in helpers {
        encoder.helper(name, protocol);
    }
    for chain in &table.chains {
        encoder.chain(chain);
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            let key = rule.handle.map(|handle| (chain.name.clone(), handle));
            let count = key.and_then(|key| counts.get(&key)).copied().unwrap_or_default();
            encoder.rule(&chain.name, rule, count);
        }
    }
    encoder.parts
}

fn value(bytes: &[u8]) -> Vec<u8> {
    attributes(&[(DATA_VALUE, bytes.to_vec())])
}

/// Fields side by side, each beginning at four bytes.
fn key(fields: impl Iterator<Item = Vec<u8>>, alone: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend(field);
        if !alone {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

/// The number of a set's type, and the bytes of a key.
pub(super) fn key_of(set: &OwnSet) -> (u32, u32) {
    let kind = set.fields.iter().fold(0, |all, (kind, _)| all << TYPE_BITS | kind);
    let alone = set.fields.len() == 1;
    let length: usize =
        set.fields.iter().map(|(_, bytes)| if alone { *bytes } else { bytes.next_multiple_of(4) }).sum();
    (kind, length as u32)
}

/// `NFT_SET_*` of a set.
pub(super) fn flags_of(set: &OwnSet) -> u32 {
    if let Some(dynamic) = set.dynamic {
        return EVALUATED | if dynamic.times_out { TIMES_OUT } else { 0 };
    }
    let mut flags = if set.name.is_none() { ANONYMOUS } else { 0 };
    flags |= if set.intervals { INTERVAL } else { 0 };
    flags | if set.fields.len() == 1 { 0 } else { CONCATENATION }
}

/// Elements of a set, none a range.
pub(super) fn elements(name: &str, keys: &[Vec<Vec<u8>>]) -> Vec<(u16, Vec<u8>)> {
    let element = |fields: &Vec<Vec<u8>>| {
        let key = value(&key(fields.iter().cloned(), fields.len() == 1));
        (LIST_ELEMENT | NESTED, attributes(&[(ELEMENT_KEY | NESTED, key)]))
    };
    let list = attributes(&keys.iter().map(element).collect::<Vec<_>>());
    vec![(SET_NAME, terminated(name)), (ELEMENTS | NESTED, list)]
}

/// The first value behind these; none behind the last.
fn behind(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut next = bytes.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

impl Encoder {
    /// Writes a set with its elements; its number and name for those who look something up there.
    fn set(&mut self, set: &OwnSet) -> (u32, String) {
        self.sets += 1;
        let (id, alone) = (self.sets, set.fields.len() == 1);
        let name = set.name.clone().unwrap_or_else(|| UNNAMED.to_owned());
        let (kind, length) = key_of(set);
        let mut more = vec![
            (SET_NAME, terminated(&name)),
            (SET_KEY_TYPE, number(kind)),
            (SET_KEY_LENGTH, number(length)),
            (SET_ID, number(id)),
            (SET_FLAGS, number(flags_of(set))),
        ];
        let mut description = Vec::new();
        if let Some(dynamic) = set.dynamic {
            description.push((1, number(dynamic.size)));
            more.extend(dynamic.timeout.map(|timeout| (SET_TIMEOUT, large(timeout))));
        } else if !alone {
            let field = |(_, bytes): &(u32, usize)| (LIST_ELEMENT | NESTED, attributes(&[(1, number(*bytes as u32))]));
            let fields = attributes(&set.fields.iter().map(field).collect::<Vec<_>>());
            description.push((2 | NESTED, fields));
        } else if !set.intervals && !set.elements.is_empty() {
            // A set that does not grow can be the faster one of the kernel's kinds.
            description.push((1, number(set.elements.len() as u32)));
        }
        if !description.is_empty() {
            more.push((SET_DESCRIPTION | NESTED, attributes(&description)));
        }
        // By which nft shows numbers: of links they are in the host's order.
        let order = if set.fields[0].0 == TYPE_INTERFACE { HOST_ORDER } else { NETWORK_ORDER };
        more.push((SET_USERDATA, [&[0, 4], &order.to_ne_bytes()[..]].concat()));
        self.parts.push(part(NFT_MSG_NEWSET, NLM_F_CREATE, message(&more)));
        let elements: Vec<_> = set.elements.iter().flat_map(|element| encoded(element, set.intervals, alone)).collect();
        for chunk in elements.chunks(CHUNK) {
            let list = attributes(&chunk.iter().map(|one| (LIST_ELEMENT | NESTED, one.clone())).collect::<Vec<_>>());
            let more = [(SET_NAME, terminated(&name)), (LIST_SET_ID, number(id)), (ELEMENTS | NESTED, list)];
            self.parts.push(part(NFT_MSG_NEWSETELEM, NLM_F_CREATE, message(&more)));
        }
        (id, name)
    }

    /// An object that rules give to connections.
    fn helper(&mut self, name: &str, protocol: u8) {
        let data = attributes(&[(HELPER_NAME, terminated(name)), (HELPER_PROTOCOL, vec![protocol])]);
        let more =
            [(OBJECT_NAME, terminated(name)), (OBJECT_TYPE, number(OBJECT_HELPER)), (OBJECT_DATA | NESTED, data)];
        self.parts.push(part(NFT_MSG_NEWOBJ, NLM_F_CREATE, message(&more)));
    }

    fn chain(&mut self, chain: &OwnChain) {
        let hook = attributes(&[(1, number(chain.hook)), (2, number(chain.priority.cast_unsigned()))]);
        let more = [
            (CHAIN_NAME, terminated(&chain.name)),
            (CHAIN_HOOK | NESTED, hook),
            (CHAIN_POLICY, number(if chain.drops { DROP } else { ACCEPT })),
            (CHAIN_TYPE, terminated(chain.kind.word())),
        ];
        self.parts.push(part(NFT_MSG_NEWCHAIN, NLM_F_CREATE, message(&more)));
    }

    fn rule(&mut self, chain: &str, rule: &OwnRule, count: OwnCount) {
        let expressions: Vec<_> =
            rule.steps.iter().map(|step| (LIST_ELEMENT | NESTED, self.step(step, count))).collect();
        let mut more = vec![(RULE_CHAIN, terminated(chain)), (RULE_EXPRESSIONS | NESTED, attributes(&expressions))];
        if let Some(handle) = rule.handle {
            more.push((RULE_USERDATA, comment(&rule_comment(handle))));
        }
        self.parts.push(part(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, message(&more)));
    }

    fn step(&mut self, step: &Step, count: OwnCount) -> Vec<u8> {
        match step {
            Step::Meta(key, to) => expression("meta", &[(1, number(*to)), (2, number(*key))]),
            Step::Connection(key, direction, to) => {
                let mut data = vec![(1, number(*to)), (2, number(*key))];
                data.extend(direction.map(|direction| (3, vec![direction])));
                expression("ct", &data)
            }
            Step::Route(result, flags, to) => {
                let numbers = [*to, *result, *flags].map(number);
                expression("fib", &(1..).zip(numbers).collect::<Vec<_>>())
            }
            Step::Payload(base, offset, length, to) => {
                let numbers = [*to, *base, *offset, *length].map(number);
                expression("payload", &(1..).zip(numbers).collect::<Vec<_>>())
            }
            Step::Mask(at, mask) => bitwise(*at, mask, &vec![0; mask.len()]),
            Step::Flip(at, keep, flip) => bitwise(*at, keep, flip),
            Step::Swap(at, bytes) => {
                let numbers = [*at, *at, 1, *bytes, *bytes].map(number);
                expression("byteorder", &(1..).zip(numbers).collect::<Vec<_>>())
            }
            Step::Compare(at, negated, bytes) => {
                expression("cmp", &[(1, number(*at)), (2, number((*negated).into())), (3 | NESTED, value(bytes))])
            }
            Step::Within(at, negated, low, high) => expression(
                "range",
                &[
                    (1, number(*at)),
                    (2, number((*negated).into())),
                    (3 | NESTED, value(low)),
                    (4 | NESTED, value(high)),
                ],
            ),
            Step::In(at, negated, set) => {
                let (id, name) = self.set(set);
                lookup(*at, *negated, &name, Some(id))
            }
            Step::InSet(at, negated, name) => lookup(*at, *negated, name, None),
            Step::Update(update) => {
                let mut data =
                    vec![(1, terminated(&update.set)), (3, number(update.operation)), (4, number(update.key))];
                data.extend(update.timeout.map(|timeout| (6, large(timeout))));
                if let Some(condition) = &update.condition {
                    data.push((7 | NESTED, act(condition)));
                }
                expression("dynset", &data)
            }
            Step::Count => expression("counter", &[(1, large(count.bytes)), (2, large(count.packets))]),
            acting => act(acting),
        }
    }
}

/// Keeps some bits of what is in a place, and turns others.
fn bitwise(at: Place, keep: &[u8], flip: &[u8]) -> Vec<u8> {
    let bytes = number(keep.len() as u32);
    let [mask, turn] = [keep, flip].map(value);
    expression("bitwise", &[(1, number(at)), (2, number(at)), (3, bytes), (4 | NESTED, mask), (5 | NESTED, turn)])
}

fn lookup(at: Place, negated: bool, name: &str, id: Option<u32>) -> Vec<u8> {
    let mut data = vec![(1, terminated(name)), (2, number(at))];
    data.extend(id.map(|id| (4, number(id))));
    data.push((5, number(negated.into())));
    expression("lookup", &data)
}

fn large(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// What does something to the packet.
fn act(step: &Step) -> Vec<u8> {
    let ports = |ports: &Option<(Place, Place)>, at: u16| {
        // One port alone needs no second.
        let ends = ports
            .iter()
            .flat_map(move |(low, high)| [(at, *low), (at + 1, *high)].into_iter().take(1 + usize::from(low != high)));
        ends.map(|(at, place)| (at, number(place))).collect::<Vec<_>>()
    };
    match step {
        Step::Limit { over, bytes, amount, seconds, burst } => expression(
            "limit",
            &[
                (1, large(*amount)),
                (2, large(*seconds)),
                (3, number(*burst)),
                (4, number((*bytes).into())),
                (5, number((*over).into())),
            ],
        ),
        Step::Helper(name, _) => expression("objref", &[(1, number(OBJECT_HELPER)), (2, terminated(name))]),
        Step::Connections(over, count) => expression("connlimit", &[(1, number(*count)), (2, number((*over).into()))]),
        Step::Log { prefix, level, group } => {
            let mut data = Vec::new();
            data.extend(group.map(|group| (1, group.to_be_bytes().to_vec())));
            data.extend(prefix.as_ref().map(|prefix| (2, terminated(prefix))));
            data.extend(level.map(|level| (5, number(level))));
            expression("log", &data)
        }
        Step::Reject(kind, code) => expression("reject", &[(1, number(*kind)), (2, vec![*code])]),
        Step::Put(to, bytes) => expression("immediate", &[(1, number(*to)), (2 | NESTED, value(bytes))]),
        Step::Masquerade(between, flags) => {
            expression("masq", &[vec![(1, number(*flags))], ports(between, 2)].concat())
        }
        Step::Redirect(between, flags) => expression("redir", &[ports(between, 1), vec![(3, number(*flags))]].concat()),
        Step::Nat { destination, family, addresses, ports: between, flags } => {
            let mut data = vec![(1, number((*destination).into())), (2, number(*family))];
            data.extend(ports(&Some(*addresses), 3));
            data.extend(ports(between, 5));
            if *flags != 0 {
                data.push((7, number(*flags)));
            }
            expression("nat", &data)
        }
        Step::RouteSegment(to) => expression("rt", &[(1, number(*to)), (2, number(RT_SEGMENT))]),
        Step::SetMeta(key, from) => expression("meta", &[(2, number(*key)), (3, number(*from))]),
        Step::SetConnection(key, from) => expression("ct", &[(2, number(*key)), (4, number(*from))]),
        Step::Write(base, offset, length, checksum, from) => {
            let mut data = vec![(2, number(*base)), (3, number(*offset)), (4, number(*length)), (5, number(*from))];
            data.extend(checksum.iter().flat_map(|at| [(6, number(CHECKSUM_INET)), (7, number(*at))]));
            expression("payload", &data)
        }
        Step::SetSegment(from) => {
            let of_tcp = [(6, number(EXTHDR_TCP)), (2, vec![TCP_SEGMENT]), (3, number(2)), (4, number(2))];
            expression("exthdr", &[&of_tcp[..], &[(7, number(*from))]].concat())
        }
        Step::Extension(header, offset, length, to) => {
            expression("exthdr", &[(1, number(*to)), (2, vec![*header]), (3, number(*offset)), (4, number(*length))])
        }
        Step::Transparent(to) => expression("socket", &[(1, number(0)), (2, number(*to))]),
        Step::Proxy(family, address, port) => {
            let places = [(2, *address), (3, *port)].into_iter().filter_map(|(at, place)| Some((at, number(place?))));
            expression("tproxy", &[(1, number(*family))].into_iter().chain(places).collect::<Vec<_>>())
        }
        Step::Drop => verdict(DROP),
        // All that reads and compares is encoded before.
        _ => verdict(ACCEPT),
    }
}

/// The elements that stand for one: a range within a single field is two, its first value and the one behind its last.
fn encoded(element: &[(Vec<u8>, Vec<u8>)], intervals: bool, alone: bool) -> Vec<Vec<u8>> {
    let low = key(element.iter().map(|(low, _)| low.clone()), alone);
    let high = key(element.iter().map(|(_, high)| high.clone()), alone);
    let first = (ELEMENT_KEY | NESTED, value(&low));
    if !alone {
        return vec![attributes(&[first, (ELEMENT_KEY_END | NESTED, value(&high))])];
    }
    let mut all = vec![attributes(&[first])];
    if intervals && let Some(end) = behind(&high) {
        all.push(attributes(&[(ELEMENT_KEY | NESTED, value(&end)), (ELEMENT_FLAGS, number(INTERVAL_END))]));
    }
    all
}
