//! The one table that says who may send what, and when.
//!
//! ```text
//!                 OPEN              ACCEPT               END, END
//!   Idle ───────────────▶ Asked ───────────▶ Accepted ───────────▶ Idle
//!                           │ REFUSE                   END
//!                           └──────────────▶ Refused ────────────▶ Idle
//!   any of them ──RESET──▶ Closed
//! ```
//!
//! Each end keeps a [`State`], and moves it by what it sends and by what it receives, with the same rules.
//! The two differ only by what is on its way. Two rules cover that: RESET is legal in every state, as it may
//! cross the frame that made the stream end; and an acceptor that has refused still takes DATA, which the
//! initiator may have sent before it knew.

use super::FrameType;

/// Most bytes of DATA that the initiator sends before it has an answer. So a refused stream costs no more,
/// an acceptor knows how much may come before it has an app to give it to, and an initiator that keeps
/// these bytes may try again elsewhere.
pub const MAX_EARLY_BYTES: usize = 65_536;

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Dialed the connection and opens the streams.
    Initiator,
    /// Accepted the connection and answers.
    Acceptor,
}

impl Role {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Acceptor,
            Self::Acceptor => Self::Initiator,
        }
    }
}

/// A frame, with all that the rules depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Open { understood: bool },
    Accept,
    Refuse,
    Data { length: usize },
    End,
    Reset,
}

impl Step {
    /// What a frame of this type will be, as far as its header tells.
    pub(super) const fn announced(frame: FrameType, length: usize) -> Self {
        match frame {
            FrameType::Open => Self::Open { understood: true },
            FrameType::Accept => Self::Accept,
            FrameType::Refuse => Self::Refuse,
            FrameType::Data => Self::Data { length },
            FrameType::End => Self::End,
            FrameType::Reset => Self::Reset,
        }
    }

    pub(super) const fn frame(self) -> FrameType {
        match self {
            Self::Open { .. } => FrameType::Open,
            Self::Accept => FrameType::Accept,
            Self::Refuse => FrameType::Refuse,
            Self::Data { .. } => FrameType::Data,
            Self::End => FrameType::End,
            Self::Reset => FrameType::Reset,
        }
    }
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Between streams.
    Idle,
    /// Carrying one.
    Busy(Stream),
    /// Never again.
    Closed,
}

/// The stream that is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) answer: Answer,
    /// The initiator has sent END.
    pub(super) initiator_ended: bool,
    /// The acceptor has sent END or REFUSE.
    pub(super) acceptor_ended: bool,
    /// Bytes of DATA that the initiator sent without an ACCEPT.
    pub(super) early: usize,
}

/// What the acceptor has said to OPEN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing yet.
    Pending,
    /// Nothing yet, and it can but refuse, as it does not understand all of the preamble.
    PendingRefusal,
    /// ACCEPT.
    Accepted,
    /// REFUSE.
    Refused,
}

impl Answer {
    pub(super) const fn is_pending(self) -> bool {
        matches!(self, Self::Pending | Self::PendingRefusal)
    }
}

/// Why a frame may not be sent in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Illegal {
    /// Not this frame. These may be.
    OutOfState(&'static str),
    /// More DATA before an answer than there may be.
    TooEarly { length: usize, room: usize },
}

impl State {
    /// The state after `sender` has sent this frame.
    pub(super) fn after(self, sender: Role, step: Step) -> Result<Self, Illegal> {
        use Role::{Acceptor, Initiator};
        let out_of_state = || Illegal::OutOfState(self.expected_of(sender));
        let stream = match (self, step) {
            (Self::Closed, _) => return Err(out_of_state()),
            (_, Step::Reset) => return Ok(Self::Closed),
            (Self::Idle, Step::Open { understood }) if sender == Initiator => {
                let answer = if understood { Answer::Pending } else { Answer::PendingRefusal };
                return Ok(Self::Busy(Stream {
                    answer,
                    initiator_ended: false,
                    acceptor_ended: false,
                    early: 0,
                }));
            }
            (Self::Idle, _) => return Err(out_of_state()),
            (Self::Busy(stream), _) => stream,
        };
        let next = match (sender, step) {
            (Acceptor, Step::Accept) if stream.answer == Answer::Pending => {
                Stream { answer: Answer::Accepted, ..stream }
            }
            (Acceptor, Step::Refuse) if stream.answer.is_pending() => {
                Stream { answer: Answer::Refused, acceptor_ended: true, ..stream }
            }
            (_, Step::Data { length }) if stream.is_open_for(sender) => stream.with_data(sender, length)?,
            (Initiator, Step::End) if stream.is_open_for(sender) => {
                Stream { initiator_ended: true, ..stream }
            }
            (Acceptor, Step::End) if stream.is_open_for(sender) => Stream { acceptor_ended: true, ..stream },
            _ => return Err(out_of_state()),
        };
        let over = next.initiator_ended && next.acceptor_ended;
        Ok(if over { Self::Idle } else { Self::Busy(next) })
    }

    /// What `sender` may send now, in words.
    pub(super) const fn expected_of(self, sender: Role) -> &'static str {
        match (self, sender) {
            (Self::Closed, _) => "nothing, as the connection is over",
            (Self::Idle, Role::Initiator) => "OPEN or RESET, as no stream is open",
            (Self::Idle, Role::Acceptor) => "nothing but RESET, as no stream is open",
            (Self::Busy(Stream { initiator_ended: true, .. }), Role::Initiator)
            | (Self::Busy(Stream { acceptor_ended: true, .. }), Role::Acceptor) => {
                "nothing but RESET until the other end has ended the stream too"
            }
            (Self::Busy(Stream { answer: Answer::Pending, .. }), Role::Acceptor) => "ACCEPT, REFUSE or RESET",
            (Self::Busy(Stream { answer: Answer::PendingRefusal, .. }), Role::Acceptor) => {
                "REFUSE or RESET, as the preamble is not understood"
            }
            (Self::Busy(_), _) => "DATA, END or RESET",
        }
    }

    /// How many bytes of DATA `sender` may send now in one go, apart from the bound of a frame.
    pub(super) const fn room_of(self, sender: Role) -> usize {
        match self {
            Self::Busy(stream) if stream.is_open_for(sender) => stream.room_of(sender),
            _ => 0,
        }
    }

    /// Whether `sender` has a direction of a stream to send on.
    pub(super) const fn is_open_for(self, sender: Role) -> bool {
        matches!(self, Self::Busy(stream) if stream.is_open_for(sender))
    }

    /// Whether this is a refused stream, whose initiator has yet to end it.
    pub(super) const fn is_refused(self) -> bool {
        matches!(self, Self::Busy(Stream { answer: Answer::Refused, .. }))
    }

    /// Whether a stream is open that has no answer.
    pub(super) const fn is_unanswered(self) -> bool {
        matches!(self, Self::Busy(stream) if stream.answer.is_pending())
    }

    pub(super) fn check_invariants(self) -> Result<(), &'static str> {
        let Self::Busy(stream) = self else { return Ok(()) };
        if stream.initiator_ended && stream.acceptor_ended {
            return Err("a stream that both have ended is still open");
        }
        if stream.early > MAX_EARLY_BYTES {
            return Err("more early data than there may be");
        }
        match stream.answer {
            Answer::Pending | Answer::PendingRefusal if stream.acceptor_ended => {
                Err("the acceptor has ended without an answer")
            }
            Answer::Refused if !stream.acceptor_ended => Err("a refusal left the acceptor's direction open"),
            _ => Ok(()),
        }
    }
}

impl Stream {
    const fn is_open_for(self, sender: Role) -> bool {
        match sender {
            Role::Initiator => !self.initiator_ended,
            Role::Acceptor => !self.acceptor_ended && matches!(self.answer, Answer::Accepted),
        }
    }

    const fn room_of(self, sender: Role) -> usize {
        match (sender, self.answer) {
            (Role::Acceptor, _) | (_, Answer::Accepted) => usize::MAX,
            _ => MAX_EARLY_BYTES.saturating_sub(self.early),
        }
    }

    fn with_data(self, sender: Role, length: usize) -> Result<Self, Illegal> {
        let room = self.room_of(sender);
        if length > room {
            return Err(Illegal::TooEarly { length, room });
        }
        let counted = if room == usize::MAX { 0 } else { length };
        Ok(Self { early: self.early + counted, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNDERSTOOD: Step = Step::Open { understood: true };
    const STEPS: [Step; 7] = [
        UNDERSTOOD,
        Step::Open { understood: false },
        Step::Accept,
        Step::Refuse,
        Step::Data { length: 1 },
        Step::End,
        Step::Reset,
    ];

    fn walk(steps: &[(Role, Step)]) -> State {
        steps.iter().fold(State::Idle, |state, &(sender, step)| {
            let next = state.after(sender, step).unwrap_or_else(|_| panic!("{step:?} in {state:?}"));
            next.check_invariants().unwrap();
            next
        })
    }

    /// Every state but for counts, with what the initiator may send and what the acceptor may send.
    #[test]
    fn every_transition_is_legal_or_illegal_as_specified() {
        use Role::{Acceptor as A, Initiator as I};
        let open = (I, UNDERSTOOD);
        let accept = (A, Step::Accept);
        let refuse = (A, Step::Refuse);
        for (name, state, initiator, acceptor) in [
            ("idle", walk(&[]), "OPEN RESET", "RESET"),
            ("asked", walk(&[open]), "DATA END RESET", "ACCEPT REFUSE RESET"),
            ("asked, initiator ended", walk(&[open, (I, Step::End)]), "RESET", "ACCEPT REFUSE RESET"),
            (
                "asked for what is unknown",
                walk(&[(I, Step::Open { understood: false })]),
                "DATA END RESET",
                "REFUSE RESET",
            ),
            ("accepted", walk(&[open, accept]), "DATA END RESET", "DATA END RESET"),
            ("initiator ended", walk(&[open, accept, (I, Step::End)]), "RESET", "DATA END RESET"),
            ("ended, then accepted", walk(&[open, (I, Step::End), accept]), "RESET", "DATA END RESET"),
            ("acceptor ended", walk(&[open, accept, (A, Step::End)]), "DATA END RESET", "RESET"),
            ("refused", walk(&[open, refuse]), "DATA END RESET", "RESET"),
            ("both ended", walk(&[open, accept, (I, Step::End), (A, Step::End)]), "OPEN RESET", "RESET"),
            (
                "both ended, acceptor first",
                walk(&[open, accept, (A, Step::End), (I, Step::End)]),
                "OPEN RESET",
                "RESET",
            ),
            ("refused and ended", walk(&[open, refuse, (I, Step::End)]), "OPEN RESET", "RESET"),
            ("ended, then refused", walk(&[open, (I, Step::End), refuse]), "OPEN RESET", "RESET"),
            ("closed", walk(&[open, (A, Step::Reset)]), "", ""),
        ] {
            for (sender, legal) in [(I, initiator), (A, acceptor)] {
                for step in STEPS {
                    let frame = step.frame().to_string();
                    let found = state.after(sender, step);
                    assert_eq!(
                        found.is_ok(),
                        legal.split(' ').any(|legal| legal == frame),
                        "{name}: {frame} by {sender:?}"
                    );
                    if let Err(illegal) = found {
                        assert_eq!(illegal, Illegal::OutOfState(state.expected_of(sender)));
                    }
                    // The words name exactly what is legal.
                    assert_eq!(
                        state.expected_of(sender).split([' ', ',']).any(|word| word == frame),
                        found.is_ok(),
                        "{name}: the words on {frame} by {sender:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn early_data_is_bounded_until_accepted() {
        let data = |length| (Role::Initiator, Step::Data { length });
        let open = (Role::Initiator, UNDERSTOOD);
        let asked = walk(&[open, data(60_000), data(5_000)]);
        assert_eq!(asked.room_of(Role::Initiator), 536);
        assert_eq!(
            asked.after(Role::Initiator, Step::Data { length: 537 }),
            Err(Illegal::TooEarly { length: 537, room: 536 })
        );
        let full = walk(&[open, data(60_000), data(5_000), data(536)]);
        assert_eq!(full.room_of(Role::Initiator), 0);
        assert_eq!(
            full.after(Role::Initiator, Step::Data { length: 1 }),
            Err(Illegal::TooEarly { length: 1, room: 0 })
        );
        let accepted = full.after(Role::Acceptor, Step::Accept).unwrap();
        assert_eq!(accepted.room_of(Role::Initiator), usize::MAX);
        assert!(accepted.after(Role::Initiator, Step::Data { length: 65_536 }).is_ok());
        let refused = full.after(Role::Acceptor, Step::Refuse).unwrap();
        assert_eq!(
            refused.after(Role::Initiator, Step::Data { length: 1 }),
            Err(Illegal::TooEarly { length: 1, room: 0 })
        );
        assert_eq!(refused.after(Role::Initiator, Step::End), Ok(State::Idle));
    }

    #[test]
    fn early_data_of_one_stream_does_not_count_for_the_next() {
        let data = (Role::Initiator, Step::Data { length: MAX_EARLY_BYTES });
        let (open, end) = ((Role::Initiator, UNDERSTOOD), (Role::Initiator, Step::End));
        let refuse = (Role::Acceptor, Step::Refuse);
        walk(&[open, data, refuse, end, open, data, end, refuse, open, data]);
    }
}
