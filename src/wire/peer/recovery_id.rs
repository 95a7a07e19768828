//! `recovery_id`: an incarnation and a nonce, `<decimal>.<32 hex digits>`, in their only spelling.
//! There is a life after each, so the incarnation is below 2⁶³.

use arrayvec::ArrayString;

use crate::base::ids::Incarnation;
use crate::base::limits::POSITION_END;
use crate::nopaxos::message::RecoveryId;

/// Twenty digits, a point, 32 digits.
const SIZE_BYTES_MAX: usize = 20 + 1 + NONCE_DIGIT_COUNT;
const NONCE_DIGIT_COUNT: usize = 32;

/// How an attempt to recover is written.
pub(super) fn text(attempt: RecoveryId) -> ArrayString<SIZE_BYTES_MAX> {
    use std::fmt::Write as _;
    let mut text = ArrayString::new();
    write!(text, "{}.{:032x}", attempt.incarnation, attempt.nonce).expect("the longest one fits");
    text
}

/// The attempt that `text` names; `None`: it names none.
#[must_use]
pub fn parse(text: &str) -> Option<RecoveryId> {
    let (incarnation, nonce) = text.split_once('.')?;
    let is_canonical = incarnation == "0" || !incarnation.starts_with('0');
    let is_decimal = incarnation.bytes().all(|byte| byte.is_ascii_digit());
    let is_hex = nonce.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_canonical || !is_decimal || !is_hex || nonce.len() != NONCE_DIGIT_COUNT {
        return None;
    }
    let incarnation = incarnation.parse().ok().filter(|life| *life < POSITION_END)?;
    let nonce = u128::from_str_radix(nonce, 16).ok()?;
    Some(RecoveryId { incarnation: Incarnation(incarnation), nonce })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_back() {
        for (incarnation, nonce) in [(0, 0), (7, 0xABC), ((1 << 63) - 1, u128::MAX)] {
            let attempt = RecoveryId { incarnation: Incarnation(incarnation), nonce };
            assert_eq!(parse(&text(attempt)), Some(attempt));
        }
        let attempt = RecoveryId { incarnation: Incarnation(7), nonce: 0xABC };
        assert_eq!(&*text(attempt), "7.00000000000000000000000000000abc");
    }

    #[test]
    fn other_spellings_are_refused() {
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            zeros.clone(),
            format!(".{zeros}"),
            format!("00.{zeros}"),
            format!("07.{zeros}"),
            format!("+7.{zeros}"),
            format!("-7.{zeros}"),
            format!("7 .{zeros}"),
            format!("9223372036854775808.{zeros}"),
            format!("18446744073709551616.{zeros}"),
            format!("7.{zeros}0"),
            format!("7.{}", &zeros[1..]),
            format!("7.+{}", &zeros[1..]),
            format!("7.A{}", &zeros[1..]),
            format!("7.g{}", &zeros[1..]),
            format!("7.{zeros}."),
            format!("7.{zeros}\0"),
        ] {
            assert_eq!(parse(&text), None, "{text:?}");
        }
    }
}
