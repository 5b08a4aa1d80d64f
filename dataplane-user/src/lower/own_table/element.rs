//! Elements of sets that rules fill, as the kernel has them.

use super::list::{Kind, alternatives_of};
use crate::rule::{Element, Item, ItemKind, LinkPattern, Mark, Port, Protocol, Range, SetType, Value};

/// The bytes of an element's fields; none of what is more than one value.
pub fn key(element: &Element) -> Option<Vec<Vec<u8>>> {
    let field = |item: &Item| {
        let spans = alternatives_of(item, &|pattern| vec![pattern.as_str().to_owned()]);
        let [(low, high)] = spans[..] else { return None };
        (low == high).then(|| Kind::of(item.kind()).bytes(low))
    };
    element.0.iter().map(field).collect()
}

/// The element that the bytes of a key stand for.
pub fn element(kind: &SetType, key: &[u8]) -> Option<Element> {
    fn single<T: Value>(bytes: &[u8]) -> Range<T> {
        let number = bytes.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
        Range::single(T::from_bits(number))
    }
    let mut rest = key;
    let mut items = Vec::new();
    for kind in kind.kinds() {
        let of = Kind::of(*kind);
        let (bytes, _) = rest.split_at_checked(of.1)?;
        rest = rest.get(of.places() as usize * 4..).unwrap_or_default();
        items.push(match kind {
            ItemKind::Ipv4 => Item::Ipv4(single(bytes)),
            ItemKind::Ipv6 => Item::Ipv6(single(bytes)),
            ItemKind::Ether => Item::Ether(single(bytes)),
            ItemKind::Protocol => Item::Protocol(single::<Protocol>(bytes)),
            ItemKind::Service => Item::Service(single::<Port>(bytes)),
            ItemKind::Mark => Item::Mark(single::<Mark>(bytes)),
            ItemKind::Link => {
                let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                Item::Link(LinkPattern::new(std::str::from_utf8(name).ok()?)?)
            }
        });
    }
    Some(Element(items))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{parse_element, parse_set_type};

    #[test]
    fn elements_become_keys_and_keys_elements() {
        for (kind, text, bytes) in [
            ("ipv4_addr", "192.0.2.1", Some(vec![vec![192, 0, 2, 1]])),
            ("inet_service", "443", Some(vec![vec![1, 187]])),
            ("ipv4_addr . inet_service", "192.0.2.1 . 443", Some(vec![vec![192, 0, 2, 1], vec![1, 187]])),
            ("ether_addr . inet_proto", "02:00:00:00:00:01 . tcp", Some(vec![vec![2, 0, 0, 0, 0, 1], vec![6]])),
            ("ipv4_addr", "192.0.2.0/24", None),
            ("ifname", "eth*", None),
        ] {
            let kind = parse_set_type(kind).expect("a type");
            let parsed = parse_element(&kind, text).expect("an element");
            let found = key(&parsed);
            assert_eq!(found, bytes, "{text}");
            let Some(fields) = found else { continue };
            let alone = fields.len() == 1;
            let padded = fields.into_iter().flat_map(|mut field| {
                let length = if alone { field.len() } else { field.len().next_multiple_of(4) };
                field.resize(length, 0);
                field
            });
            assert_eq!(element(&kind, &padded.collect::<Vec<_>>()), Some(parsed), "{text}");
        }
    }
}
