//! Expressions of nftables (`include/uapi/linux/netfilter/nf_tables.h`), as far as they matter for established connections.

use super::{
    attribute::{Attributes, text},
    netfilter::number,
};
use crate::model::{Comparison, Expression, Extension, NetfilterVerdict, ObstacleKind, Register, Source};

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// `NFT_META_*`.
const META_PRIORITY: u32 = 2;
const META_TRACE: u32 = 12;
/// `NFT_EXTHDR_OP_TCPOPT`, and the option of the largest segment, which only a SYN has.
const TCP_OPTION: u32 = 1;
const MAXSEG: u8 = 2;
/// `NFT_EXTHDR_F_PRESENT`.
const PRESENCE: u32 = 1;
/// `NFT_LOOKUP_F_INV`.
const INVERTED: u32 = 1;

/// The attributes of one expression.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn get(&self, wanted: u16) -> Option<&'a [u8]> {
        Attributes::within(self.0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    fn number(&self, kind: u16) -> Option<u32> {
        number(self.get(kind)?)
    }

    fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }

    fn register(&self, kind: u16) -> Option<Register> {
        register(self.number(kind)?)
    }

    /// A value of a register.
    fn value(&self, kind: u16) -> Option<Vec<u8>> {
        value(self.get(kind)?)
    }
}

/// `NFT_REG_1` to `4` are four of `NFT_REG32_00` to `15` each.
fn register(number: u32) -> Option<Register> {
    match number {
        1..=4 => Some((number as u8 - 1) * 4),
        8..=23 => Some(number as u8 - 8),
        _ => None,
    }
}

/// The value in `struct nft_data`.
pub(super) fn value(data: &[u8]) -> Option<Vec<u8>> {
    Attributes::within(data).find(|(kind, _)| *kind == DATA_VALUE).map(|(_, value)| value.to_vec())
}

/// The verdict in it.
pub(super) fn verdict(data: &[u8]) -> Option<NetfilterVerdict> {
    let nested = Fields(Attributes::within(data).find(|(kind, _)| *kind == DATA_VERDICT)?.1);
    let code = nested.number(VERDICT_CODE)?;
    let chain = || nested.text(VERDICT_CHAIN);
    Some(match code.cast_signed() {
        // `NFT_CONTINUE`, `NFT_BREAK`.
        -1 | -2 => NetfilterVerdict::Continue,
        -3 => NetfilterVerdict::Jump(chain()?),
        -4 => NetfilterVerdict::Goto(chain()?),
        -5 => NetfilterVerdict::Return,
        0 | 2 => NetfilterVerdict::Drop,
        1 => NetfilterVerdict::Accept,
        _ if code & 0xff == 3 => NetfilterVerdict::Queue,
        _ => return None,
    })
}

/// The expressions of a list.
pub(super) fn expressions(list: &[u8]) -> Vec<Expression> {
    Attributes::within(list).map(|(_, one)| expression(one)).collect()
}

/// One expression; what is not as it should be is unknown.
pub(super) fn expression(nested: &[u8]) -> Expression {
    let outer = Fields(nested);
    let name = outer.text(EXPRESSION_NAME).unwrap_or_default();
    let fields = Fields(outer.get(EXPRESSION_DATA).unwrap_or_default());
    read(&name, &fields).unwrap_or(Expression::Unknown(name))
}

fn read(name: &str, fields: &Fields<'_>) -> Option<Expression> {
    let effect = |kind| Some(Expression::Effect(kind, None));
    match name {
        "meta" => meta(fields),
        "ct" => match fields.register(1) {
            Some(to) => Some(Expression::Load(to, Source::Ct(fields.number(2)?))),
            None => effect(ObstacleKind::Ct),
        },
        "payload" => match fields.register(1) {
            Some(to) => {
                let source = Source::Payload(fields.number(2)?, fields.number(3)?, fields.number(4)?);
                Some(Expression::Load(to, source))
            }
            None => effect(ObstacleKind::Payload),
        },
        "exthdr" => exthdr(fields),
        "cmp" => {
            let comparison = match fields.number(2)? {
                0 => Comparison::Equal,
                1 => Comparison::Unequal,
                _ => Comparison::Order,
            };
            Some(Expression::Compare(fields.register(1)?, comparison, fields.value(3)?))
        }
        "range" => Some(Expression::Uncertain(fields.register(1)?)),
        "bitwise" => {
            let mask = fields.value(4).zip(fields.value(5));
            let mask = mask.filter(|_| fields.number(6).unwrap_or_default() == 0);
            Some(Expression::Bitwise { from: fields.register(1)?, to: fields.register(2)?, mask })
        }
        "byteorder" => Some(Expression::Bitwise { from: fields.register(1)?, to: fields.register(2)?, mask: None }),
        "immediate" => match fields.number(1)? {
            0 => verdict(fields.get(2)?).map(Expression::Verdict),
            to => Some(Expression::Load(register(to)?, Source::Fixed)),
        },
        "lookup" => Some(Expression::Lookup {
            set: fields.text(1)?,
            key: fields.register(2)?,
            inverted: fields.number(5).unwrap_or_default() & INVERTED != 0,
            to: fields.register(3),
            verdicts: fields.number(3) == Some(0),
        }),
        "objref" => match fields.text(4) {
            Some(set) => Some(Expression::ObjectOf(fields.register(3)?, set)),
            None => Some(Expression::Object(fields.number(1)?)),
        },
        "hash" => hash(fields),
        "numgen" => Some(Expression::Load(fields.register(1)?, Source::Random)),
        "match" => Some(Expression::Match(extension(fields)?)),
        "target" => Some(Expression::Target(extension(fields)?)),
        "queue" => Some(Expression::Verdict(NetfilterVerdict::Queue)),
        "reject" => Some(Expression::Verdict(NetfilterVerdict::Drop)),
        // What they read follows from the connection, or from routes, which the lease covers.
        "socket" | "tunnel" => Some(Expression::Load(fields.register(2)?, Source::Fixed)),
        "fib" | "osf" | "rt" | "xfrm" => Some(Expression::Load(fields.register(1)?, Source::Fixed)),
        "nat" | "masq" | "redir" => Some(Expression::Nothing),
        other => effect(acting(other)?),
    }
}

/// Expressions that read nothing and act.
fn acting(name: &str) -> Option<ObstacleKind> {
    Some(match name {
        "counter" | "last" => ObstacleKind::Counter,
        "limit" => ObstacleKind::Limit,
        "quota" => ObstacleKind::Quota,
        "connlimit" => ObstacleKind::Connlimit,
        "dup" => ObstacleKind::Dup,
        "fwd" => ObstacleKind::Fwd,
        "dynset" => ObstacleKind::Dynset,
        "log" => ObstacleKind::Log,
        "notrack" => ObstacleKind::Notrack,
        "synproxy" => ObstacleKind::Synproxy,
        "tproxy" => ObstacleKind::Tproxy,
        "flow_offload" => ObstacleKind::Flowtable,
        _ => return None,
    })
}

fn meta(fields: &Fields<'_>) -> Option<Expression> {
    let key = fields.number(2)?;
    if let Some(to) = fields.register(1) {
        return Some(Expression::Load(to, Source::Meta(key)));
    }
    fields.register(3)?;
    Some(Expression::Effect(
        match key {
            META_PRIORITY => ObstacleKind::Priority,
            META_TRACE => ObstacleKind::Trace,
            // The mark; and what else travels with the packet.
            _ => ObstacleKind::Mark,
        },
        None,
    ))
}

fn exthdr(fields: &Fields<'_>) -> Option<Expression> {
    let header = fields.get(2)?.first().copied()?;
    let operation = fields.number(6).unwrap_or_default();
    if let Some(to) = fields.register(1) {
        let presence = fields.number(5).unwrap_or_default() & PRESENCE != 0;
        return Some(Expression::Load(to, Source::Exthdr(operation, header, presence)));
    }
    let of_a_syn = (operation, header) == (TCP_OPTION, MAXSEG);
    Some(if of_a_syn { Expression::Nothing } else { Expression::Effect(ObstacleKind::Payload, None) })
}

/// Of a register; or of what makes the flow (`symhash`), which is the same for all packets of a connection.
fn hash(fields: &Fields<'_>) -> Option<Expression> {
    let to = fields.register(2)?;
    Some(Expression::Load(to, fields.register(1).map_or(Source::Fixed, Source::Derived)))
}

fn extension(fields: &Fields<'_>) -> Option<Extension> {
    let info = fields.get(3).unwrap_or_default().to_vec();
    Some(Extension { name: fields.text(1)?, revision: fields.number(2).unwrap_or_default(), info })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute::put;

    fn built(name: &str, fields: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let (mut outer, mut data) = (Vec::new(), Vec::new());
        for (kind, value) in fields {
            put(&mut data, *kind, value);
        }
        put(&mut outer, EXPRESSION_NAME, &[name.as_bytes(), &[0]].concat());
        put(&mut outer, EXPRESSION_DATA, &data);
        outer
    }

    fn big(number: u32) -> Vec<u8> {
        number.to_be_bytes().to_vec()
    }

    fn data(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut nested = Vec::new();
        put(&mut nested, kind, value);
        nested
    }

    #[test]
    fn expressions_are_read() {
        let mut jump = Vec::new();
        put(&mut jump, VERDICT_CODE, &big((-3_i32).cast_unsigned()));
        put(&mut jump, VERDICT_CHAIN, b"other\0");
        let state = vec![6, 0, 0, 0];
        let effect = |kind| Expression::Effect(kind, None);
        let rows = [
            ("ct", vec![(2, big(0)), (1, big(1))], Expression::Load(0, Source::Ct(0))),
            ("ct", vec![(2, big(3)), (4, big(1))], effect(ObstacleKind::Ct)),
            ("meta", vec![(2, big(16)), (1, big(9))], Expression::Load(1, Source::Meta(16))),
            ("meta", vec![(2, big(3)), (3, big(1))], effect(ObstacleKind::Mark)),
            ("meta", vec![(2, big(2)), (3, big(1))], effect(ObstacleKind::Priority)),
            ("payload", vec![(5, big(1)), (2, big(1)), (3, big(1)), (4, big(1))], effect(ObstacleKind::Payload)),
            ("exthdr", vec![(7, big(1)), (2, vec![2]), (6, big(1))], Expression::Nothing),
            ("exthdr", vec![(7, big(1)), (2, vec![8]), (6, big(1))], effect(ObstacleKind::Payload)),
            (
                "bitwise",
                vec![(1, big(1)), (2, big(2)), (4, data(1, &state)), (5, data(1, &[0; 4])), (6, big(0))],
                Expression::Bitwise { from: 0, to: 4, mask: Some((state.clone(), vec![0; 4])) },
            ),
            (
                "cmp",
                vec![(1, big(1)), (2, big(1)), (3, data(1, &[0; 4]))],
                Expression::Compare(0, Comparison::Unequal, vec![0; 4]),
            ),
            (
                "immediate",
                vec![(1, big(0)), (2, data(2, &jump))],
                Expression::Verdict(NetfilterVerdict::Jump("other".to_owned())),
            ),
            (
                "lookup",
                vec![(1, b"__map0\0".to_vec()), (2, big(1)), (3, big(0))],
                Expression::Lookup { key: 0, set: "__map0".to_owned(), inverted: false, to: None, verdicts: true },
            ),
            ("queue", vec![], Expression::Verdict(NetfilterVerdict::Queue)),
            ("limit", vec![], effect(ObstacleKind::Limit)),
            ("objref", vec![(1, big(2)), (2, b"q\0".to_vec())], Expression::Object(2)),
            ("inner", vec![], Expression::Unknown("inner".to_owned())),
            // Cut off.
            ("cmp", vec![(1, big(1))], Expression::Unknown("cmp".to_owned())),
        ];
        for (name, fields, wanted) in rows {
            assert_eq!(expression(&built(name, &fields)), wanted, "{name} {fields:?}");
        }
    }

    #[test]
    fn a_queue_is_seen_with_its_number() {
        for (code, wanted) in [
            (3, Some(NetfilterVerdict::Queue)),
            (3 | 7 << 16 | 0x8000, Some(NetfilterVerdict::Queue)),
            (1, Some(NetfilterVerdict::Accept)),
            (0, Some(NetfilterVerdict::Drop)),
            (9, None),
        ] {
            let mut nested = Vec::new();
            put(&mut nested, VERDICT_CODE, &big(code));
            assert_eq!(verdict(&data(DATA_VERDICT, &nested)), wanted, "{code:#x}");
        }
    }
}
