//! Lists of both families.

use super::Error;
use super::attribute::u8_at;
use super::socket::{Message, Requester};
use crate::model::Family;

/// A dump of one family's entries. A kernel without IPv6 has none of them.
fn dump<T>(
    requester: &mut Requester,
    what: &'static str,
    kind: u16,
    header: usize,
    family: u8,
    parse: impl Fn(&Message<'_>) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut request = vec![0; header];
    request[0] = family;
    let ours = |message: &Message<'_>| (u8_at(message.payload, 0)? == family).then(|| parse(message)).flatten();
    match requester.dump(what, kind, &request, ours) {
        Err(error) if family == u128::NUMBER && is_foreign(&error) => Ok(Vec::new()),
        other => other,
    }
}

/// The entries of both families.
pub(super) fn both<T>(
    requester: &mut Requester,
    what: &'static str,
    kind: u16,
    header: usize,
    parse: impl Fn(&Message<'_>) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut found = dump(requester, what, kind, header, u32::NUMBER, &parse)?;
    found.extend(dump(requester, what, kind, header, u128::NUMBER, &parse)?);
    Ok(found)
}

/// Whether the kernel does not know the requested family.
pub(super) fn is_foreign(error: &Error) -> bool {
    let Error::Refused { source, .. } = error else { return false };
    matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}
