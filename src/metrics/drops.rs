//! Everything that is discarded is counted with the reason.

use super::table::{Kind, Row, Unit};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Why a connection, a frame or an answer was discarded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        const REASONS: &[DropReason] = &[$(DropReason::$variant,)*];

        const ROWS: &[Row] = &[$(Row {
            name: concat!("drop_", $name),
            family: "drops_total",
            label: Some(("reason", $name)),
            kind: Kind::Counter,
            unit: Unit::One,
            help: &[],
        },)*];
    };
}

reasons! {
    /// The shard has as many connections as it may.
    ConnectionLimit => "connection_limit",
    /// A connection said nothing for too long after it was opened.
    SniffTimeout => "sniff_timeout",
    /// The first bytes are of no protocol that is spoken here.
    UnknownProtocol => "unknown_protocol",
    /// The first bytes are an HTTP/1 request.
    Http1 => "http1",
    /// A frame announces more than the limit.
    FrameTooLong => "frame_too_long",
    /// A frame has the flag of a compressed one.
    FrameCompressed => "frame_compressed",
    /// A frame is a member's greeting and the connection isn't a member's.
    HelloRefused => "hello_refused",
    /// A frame has a flag without meaning.
    FrameFlagUnknown => "frame_flag_unknown",
    /// The peer closed its side in the middle of a frame.
    CutMidFrame => "cut_mid_frame",
    /// The peer reset the connection, or it failed otherwise.
    ConnectionFailed => "connection_failed",
    /// The peer left its answers unread for too long.
    Unread => "unread",
    /// A member closed its side of a connection.
    MemberLeft => "member_left",
    /// A member didn't greet, prove itself or answer a greeting in time.
    MemberGreetingTimeout => "member_greeting_timeout",
    /// A member's greeting was refused, or it has refused ours.
    MemberRefused => "member_refused",
    /// A member has sent what no member can.
    MemberMalformed => "member_malformed",
    /// A member gave no sign of life.
    MemberSilent => "member_silent",
    /// A later connection has taken the place of a member's connection, or of its other lane.
    MemberReplaced => "member_replaced",
    /// A connection was only made to see whether a member is there.
    MemberProbed => "member_probed",
    /// All connections together hold as many undelivered bytes as they may.
    HeldLimit => "held_limit",
    /// The service ended the stream.
    EndedByService => "ended_by_service",
    /// The connection had not closed by itself when the shutdown's time was up.
    ShutdownTimeout => "shutdown_timeout",
    /// An answer's connection was gone.
    AnswerWithoutConnection => "answer_without_connection",
    /// An answer's stream was gone; its connection wasn't.
    AnswerWithoutStream => "answer_without_stream",
    /// A gRPC client broke HTTP/2's rules or our bounds, or said that we did.
    Http2 => "http2",
    /// A gRPC client gave no sign of life.
    Silent => "silent",
}

/// A counter for each reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drops([u64; REASONS.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; REASONS.len()])
    }
}

impl Drops {
    /// One more for `reason`.
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// How many for `reason`.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// How many for all reasons together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Takes each reason's count from `next`, in the order of [`Drops::each`].
    pub fn fill(&mut self, next: &mut impl FnMut() -> u64) {
        for place in &mut self.0 {
            *place = next();
        }
    }

    /// Calls `visit` with each reason's row and count.
    pub fn each(&self, visit: &mut impl FnMut(&'static Row, u64)) {
        for (row, count) in ROWS.iter().zip(self.0) {
            visit(row, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_apart() {
        let mut drops = Drops::default();
        drops.count(DropReason::Unread);
        drops.count(DropReason::Unread);
        assert_eq!(drops.of(DropReason::Unread), 2);
        let mut seen = Vec::new();
        drops.each(&mut |row, count| seen.extend((count > 0).then_some((row.name, count))));
        assert_eq!(seen, [("drop_unread", 2)]);
    }
}
