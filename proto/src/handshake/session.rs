//! A TLS connection after its handshake: what comes in becomes bytes of the stream, what goes out becomes records.
//! Sans-I/O.
//!
//! The first keys come from rustls, the next ones are made here; the records are [`crate::record`]'s. Beyond the bytes
//! of the stream a peer may send key updates, tickets if it is the server, and alerts; everything else ends the
//! connection, as does more of these in a row than any honest peer sends. Tickets are not kept: nothing is resumed.

use rustls::{AlertDescription, ConnectionTrafficSecrets, ExtractedSecrets};

use super::secrets::Heard;
use crate::record::{
    Content, HEADER_BYTES, Key, KeyError, MAX_CONTENT, OVERHEAD, Opener, Pieces, RecordError, SealError,
    Sealer, Secret, Suite,
};

/// Records in a row that bring no byte of the stream.
const MOST_IDLE_RECORDS: u8 = 32;
/// The longest message after the handshake: a ticket. As rustls has it.
const MAX_MESSAGE: usize = 0xffff;
const MESSAGE_HEADER_BYTES: usize = 4;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const KEY_UPDATE_BYTES: usize = MESSAGE_HEADER_BYTES + 1;
/// Room for whatever goes before bytes of the stream.
const BEFORE_DATA: usize = OVERHEAD + KEY_UPDATE_BYTES;
/// So many records before the limit of a key it is replaced: enough for what cannot wait.
const RESERVE: u64 = 16;

/// The least room for which [`Session::seal`] makes a record.
pub const LEAST_ROOM: usize = BEFORE_DATA + OVERHEAD + 1;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Not a record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The peer gave up.
    #[error("received fatal alert: {0:?}")]
    Alert(AlertDescription),
    /// What it may not send, or not now.
    #[error("peer sent {0}")]
    Unexpected(&'static str),
    /// What is malformed.
    #[error("peer sent a malformed {0}")]
    Malformed(&'static str),
    /// It keeps us busy with nothing.
    #[error("peer sent more than {MOST_IDLE_RECORDS} records in a row without a byte of data")]
    Flood,
    /// Ours failed.
    #[error("cannot seal: {0}")]
    Seal(#[from] SealError),
    /// Not caused by the peer.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// After our `close_notify`, or after a failure.
    #[error("the connection is closed for writing")]
    Closed,
}

impl SessionError {
    /// What the peer is told, if it is (RFC 8446, section 6.2).
    #[must_use]
    pub const fn alert(&self) -> Option<AlertDescription> {
        Some(match self {
            Self::Record(RecordError::Type(_) | RecordError::Content(_)) | Self::Unexpected(_) => {
                AlertDescription::UnexpectedMessage
            }
            Self::Flood => AlertDescription::UnexpectedMessage,
            Self::Record(RecordError::Overflow(_)) => AlertDescription::RecordOverflow,
            Self::Record(RecordError::Forged) => AlertDescription::BadRecordMac,
            Self::Malformed(_) => AlertDescription::DecodeError,
            Self::Record(_) | Self::Key(_) => AlertDescription::InternalError,
            Self::Alert(_) | Self::Seal(_) | Self::Closed => return None,
        })
    }
}

/// What a record was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// So many bytes of the stream.
    Data(usize),
    /// Nothing that concerns the stream.
    Nothing,
    /// The peer has finished: what follows does not count.
    Closed,
}

/// A connection of which the handshake is done.
pub struct Session {
    opener: Opener,
    sealer: Sealer,
    /// Where the next keys come from.
    secrets: Secrets,
    role: Role,
    /// Records that a key may seal.
    limit: u64,
    idle_records: u8,
    /// The peer wants our key replaced before our next byte.
    update_owed: bool,
    closed: bool,
    /// A message of the peer that is not complete.
    message: Vec<u8>,
}

/// Which end we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// What the keys in use were made of.
struct Secrets {
    ours: Secret,
    peers: Secret,
}

/// The key after the one in use. What that was made of is wiped: who learns of today's cannot read what was.
fn next_key(secret: &mut Secret) -> Result<Key, KeyError> {
    *secret = secret.next()?;
    secret.key()
}

impl Session {
    /// The connection that `heard` and rustls' `keys`, each for `limit` records, come from.
    pub(super) fn new(
        role: Role,
        keys: &ExtractedSecrets,
        heard: &Heard,
        limit: u64,
    ) -> Result<Self, KeyError> {
        let ((ours_suite, ours), (peers_suite, peers)) = (key(&keys.tx)?, key(&keys.rx)?);
        let (our_secret, peers_secret) = match role {
            Role::Client => (&heard.client, &heard.server),
            Role::Server => (&heard.server, &heard.client),
        };
        let secrets = Secrets {
            ours: Secret::new(ours_suite, our_secret)?,
            peers: Secret::new(peers_suite, peers_secret)?,
        };
        Ok(Self {
            opener: Opener::new(peers),
            sealer: Sealer::new(ours),
            secrets,
            role,
            limit,
            idle_records: 0,
            update_owed: false,
            closed: false,
            message: Vec::new(),
        })
    }

    /// Gives back what the next record has made again: nothing moved for a while.
    pub fn rest(&mut self) {
        self.opener.rest();
        self.sealer.rest();
    }

    /// Opens a whole record into the beginning of `out`, which has at least [`Opener::room`] for it.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<Opened, SessionError> {
        let (content, length) = self.opener.open(record, out)?;
        self.judge(content, out.get(..length).unwrap_or_default())
    }

    /// Opens a whole record where it is: bytes of the stream begin at [`HEADER_BYTES`].
    ///
    /// # Errors
    /// When the connection is over.
    pub fn open_in_place(&mut self, record: &mut [u8]) -> Result<Opened, SessionError> {
        let (content, length) = self.opener.open_in_place(record)?;
        self.judge(content, record.get(HEADER_BYTES..HEADER_BYTES + length).unwrap_or_default())
    }

    /// Makes records of `pieces` at the beginning of `out`, as many as fit: how much of `out` they take. Less than
    /// [`LEAST_ROOM`] may be too little for any.
    ///
    /// # Errors
    /// When nothing can be sent any more.
    pub fn seal(&mut self, pieces: &mut Pieces<'_>, out: &mut [u8]) -> Result<usize, SessionError> {
        if self.closed {
            return Err(SessionError::Closed);
        }
        let sealed = self.seal_all(pieces, out);
        // Records of it may be lost, with their numbers.
        self.closed = sealed.is_err();
        sealed
    }

    fn seal_all(&mut self, pieces: &mut Pieces<'_>, out: &mut [u8]) -> Result<usize, SessionError> {
        let (mut used, mut sealed) = (0, false);
        while pieces.left() > 0 {
            let rest = out.get_mut(used..).unwrap_or_default();
            let updated = if self.wants_update() {
                if rest.len() < LEAST_ROOM {
                    break;
                }
                self.update(rest)?
            } else {
                0
            };
            used += updated;
            let rest = out.get_mut(used..).unwrap_or_default();
            // After the first one a short record is the last one: there would be one for each scrap of room.
            let whole = pieces.left().min(MAX_CONTENT) + OVERHEAD;
            if rest.len() <= OVERHEAD || (sealed && rest.len() < whole) {
                break;
            }
            used += self.sealer.seal_next(pieces, rest)?;
            sealed = true;
        }
        Ok(used)
    }

    /// Says that nothing more will come, once: the length of `close_notify` at the beginning of `out`.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn close(&mut self, out: &mut [u8]) -> Result<usize, SessionError> {
        self.alert(AlertDescription::CloseNotify, out)
    }

    /// Says why the connection is over. Nothing can be sent after it, so the second time there is nothing to say.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn alert(&mut self, alert: AlertDescription, out: &mut [u8]) -> Result<usize, SessionError> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(0);
        }
        let level = if alert == AlertDescription::CloseNotify { 1 } else { 2 };
        Ok(self.sealer.seal(Content::Alert, &[level, alert.into()], out)?)
    }

    /// Ends our direction because of `error`, and says so if the peer is told: how much of `out` that takes.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn give_up(&mut self, error: &SessionError, out: &mut [u8]) -> Result<usize, SessionError> {
        match error.alert() {
            Some(alert) => self.alert(alert, out),
            None => {
                self.closed = true;
                Ok(0)
            }
        }
    }

    /// Has a key seal no more than `records`.
    #[cfg(test)]
    pub(super) const fn limit_keys(&mut self, records: u64) {
        self.limit = records;
    }

    fn judge(&mut self, content: Content, bytes: &[u8]) -> Result<Opened, SessionError> {
        if content == Content::Data && !bytes.is_empty() && self.message.is_empty() {
            self.idle_records = 0;
            return Ok(Opened::Data(bytes.len()));
        }
        self.idle_records += 1;
        if self.idle_records > MOST_IDLE_RECORDS {
            return Err(SessionError::Flood);
        }
        match content {
            // Section 5.1: nothing comes between the pieces of a message.
            Content::Data | Content::Alert if !self.message.is_empty() => {
                Err(SessionError::Unexpected("another record amid a message"))
            }
            Content::Data => Ok(Opened::Nothing),
            Content::Alert => self.alerted(bytes),
            Content::Handshake => self.messages(bytes),
        }
    }

    fn alerted(&self, bytes: &[u8]) -> Result<Opened, SessionError> {
        let &[_, code] = bytes else { return Err(SessionError::Malformed("alert")) };
        match AlertDescription::from(code) {
            AlertDescription::CloseNotify => Ok(Opened::Closed),
            AlertDescription::UserCanceled => Ok(Opened::Nothing),
            alert => Err(SessionError::Alert(alert)),
        }
    }

    fn messages(&mut self, bytes: &[u8]) -> Result<Opened, SessionError> {
        if bytes.is_empty() {
            return Err(SessionError::Unexpected("an empty piece of a message"));
        }
        // Whole messages are read where they are; a piece of one is kept, and no more of it than was announced.
        let mut message = std::mem::take(&mut self.message);
        message.extend_from_slice(bytes);
        let mut rest = message.as_slice();
        while let Some(&[kind, high, middle, low]) = rest.first_chunk::<MESSAGE_HEADER_BYTES>() {
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if kind != KEY_UPDATE && !(kind == NEW_SESSION_TICKET && self.role == Role::Client) {
                return Err(SessionError::Unexpected("a message of the handshake, which is over"));
            }
            if length > MAX_MESSAGE || (kind == KEY_UPDATE && length != 1) {
                return Err(SessionError::Malformed("message"));
            }
            let end = MESSAGE_HEADER_BYTES + length;
            let Some(payload) = rest.get(MESSAGE_HEADER_BYTES..end) else { break };
            let after = rest.get(end..).unwrap_or_default();
            match payload {
                payload if kind == NEW_SESSION_TICKET => {
                    ticket(payload).ok_or(SessionError::Malformed("ticket"))?;
                }
                // Section 5.1: what follows it is sealed with another key.
                _ if !after.is_empty() => {
                    return Err(SessionError::Unexpected("more in the record of a key update"));
                }
                [wanted @ (0 | 1)] => {
                    self.opener = Opener::new(next_key(&mut self.secrets.peers)?);
                    self.update_owed |= *wanted == 1;
                }
                _ => return Err(SessionError::Malformed("key update")),
            }
            rest = after;
        }
        self.message = rest.to_vec();
        Ok(Opened::Nothing)
    }

    fn wants_update(&self) -> bool {
        self.update_owed || self.sealer.records() >= self.limit.saturating_sub(RESERVE).max(1)
    }

    /// Section 4.6.3: said with the key that ends, and however often the peer asked.
    fn update(&mut self, out: &mut [u8]) -> Result<usize, SessionError> {
        let message = [KEY_UPDATE, 0, 0, 1, 0];
        let used = self.sealer.seal(Content::Handshake, &message, out)?;
        self.sealer = Sealer::new(next_key(&mut self.secrets.ours)?);
        self.update_owed = false;
        Ok(used)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("opener", &self.opener)
            .field("sealer", &self.sealer)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// A key of rustls, which goes on where the handshake left it.
fn key((sequence, secrets): &(u64, ConnectionTrafficSecrets)) -> Result<(Suite, Key), KeyError> {
    let (suite, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::Chacha20Poly1305, key, iv),
        _ => return Err(KeyError),
    };
    let iv = iv.as_ref().try_into().map_err(|_| KeyError)?;
    Ok((suite, Key::new(suite, key.as_ref(), iv, *sequence)?))
}

/// Section 4.6.1: lifetime and age, then a nonce, a ticket and extensions, and nothing after them.
fn ticket(payload: &[u8]) -> Option<()> {
    let (_lifetime_and_age, rest) = payload.split_at_checked(8)?;
    let (&nonce, rest) = rest.split_first()?;
    let (_nonce, rest) = rest.split_at_checked(nonce.into())?;
    let (ticket, rest) = announced(rest)?;
    let (mut extensions, after) = announced(rest)?;
    while !extensions.is_empty() {
        let (_kind, rest) = extensions.split_at_checked(2)?;
        (_, extensions) = announced(rest)?;
    }
    (!ticket.is_empty() && after.is_empty()).then_some(())
}

/// As many bytes as the first two say, and the rest.
fn announced(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

const _: () = assert!(LEAST_ROOM < MAX_CONTENT);

#[cfg(test)]
mod tests;
