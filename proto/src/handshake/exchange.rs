//! A handshake, in either role. Sans-I/O: what the peer sent goes in, what it has to be sent comes out, until there
//! is a [`Session`].
//!
//! rustls takes every record that it is shown, so it is shown one at a time: what follows the last one of the
//! handshake is for the session.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig, SupportedCipherSuite};
use rustls_pki_types::CertificateDer;

use super::config::server_name;
use super::secrets::Heard;
use super::session::{Role, Session};
use crate::record::HEADER_BYTES;

/// What a peer may send before the handshake goes on: the longest message, as rustls has it.
const MOST_INPUT: usize = 0xffff;

/// A handshake that goes on.
pub struct Exchange {
    connection: Connection,
    input: Vec<u8>,
    /// So much of the input was shown to rustls.
    shown: usize,
    /// So much of that is whole records.
    whole: usize,
    output: Vec<u8>,
    heard: Heard,
}

// As short-lived as the handshake, and always in a place of its own.
#[allow(clippy::large_enum_variant)]
enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What a handshake needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More of the peer, once what there is to send was sent.
    Blocked,
    /// Nothing: call [`Exchange::finish`], once what there is to send was sent.
    Done,
}

/// What a handshake came to.
pub struct Finished {
    /// The connection.
    pub session: Session,
    /// What the peer sent after its handshake: the beginning of what the session opens.
    pub input: Vec<u8>,
}

/// What one look of rustls came to.
enum Step {
    Again,
    Blocked,
    Done,
}

impl Exchange {
    /// Begins as the caller.
    ///
    /// # Errors
    /// When rustls does not take the configuration.
    pub fn call(config: &Arc<ClientConfig>) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new(Arc::clone(config), server_name())?;
        Ok(Self::new(Connection::Client(connection), Vec::new()))
    }

    /// Begins as the called side; `input` is what the caller has sent so far.
    ///
    /// # Errors
    /// When rustls does not take the configuration.
    pub fn answer(config: Arc<ServerConfig>, input: Vec<u8>) -> Result<Self, Error> {
        Ok(Self::new(Connection::Server(UnbufferedServerConnection::new(config)?), input))
    }

    fn new(connection: Connection, input: Vec<u8>) -> Self {
        Self { connection, input, shown: 0, whole: 0, output: Vec::new(), heard: Heard::default() }
    }

    /// Where what the peer sends is appended; none while there is too much of it that rustls cannot use.
    pub fn input(&mut self) -> Option<&mut Vec<u8>> {
        (self.input.len() < MOST_INPUT).then_some(&mut self.input)
    }

    /// What the peer has to be sent now, also after an error: the alert that says so.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Goes as far as it can with what the peer has sent.
    ///
    /// # Errors
    /// When the handshake has failed.
    pub fn advance(&mut self) -> Result<Progress, Error> {
        loop {
            match self.step() {
                Ok(Step::Again) => {}
                Ok(Step::Done) => return Ok(Progress::Done),
                Ok(Step::Blocked) if self.show_next() => {}
                Ok(Step::Blocked) => return Ok(Progress::Blocked),
                Err(error) => {
                    // What is left to be said is the alert. rustls is not asked for anything else: it would go on with
                    // what the peer sent.
                    while self.common().wants_write() && matches!(self.step(), Ok(Step::Again)) {}
                    return Err(error);
                }
            }
        }
    }

    /// What the peer proved itself with.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.common().peer_certificates()
    }

    /// What will be spoken.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// Takes the keys.
    ///
    /// # Errors
    /// When the handshake is not done.
    pub fn finish(mut self) -> Result<Finished, Error> {
        let ((keys, suite), role) = match self.connection {
            Connection::Client(connection) => {
                let (keys, connection) = connection.dangerous_into_kernel_connection()?;
                ((keys, connection.negotiated_cipher_suite()), Role::Client)
            }
            Connection::Server(connection) => {
                let (keys, connection) = connection.dangerous_into_kernel_connection()?;
                ((keys, connection.negotiated_cipher_suite()), Role::Server)
            }
        };
        let SupportedCipherSuite::Tls13(suite) = suite;
        let session = Session::new(role, &keys, &self.heard, suite.common.confidentiality_limit)
            .map_err(|error| Error::General(error.to_string()))?;
        self.input.drain(..self.whole.min(self.input.len()));
        Ok(Finished { session, input: self.input })
    }

    fn common(&self) -> &CommonState {
        match &self.connection {
            Connection::Client(connection) => connection,
            Connection::Server(connection) => connection,
        }
    }

    /// Shows rustls one more record, or the beginning of one, as it may be refused by its header. Never more.
    fn show_next(&mut self) -> bool {
        let next = self.input.get(self.whole..).unwrap_or_default();
        let end = match next.first_chunk::<HEADER_BYTES>() {
            Some(&[_, _, _, high, low]) => {
                self.whole + HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]))
            }
            None => usize::MAX,
        };
        if end <= self.input.len() {
            (self.whole, self.shown) = (end, end);
            return true;
        }
        std::mem::replace(&mut self.shown, self.input.len()) < self.input.len()
    }

    fn step(&mut self) -> Result<Step, Error> {
        let Self { connection, input, shown, whole, output, heard } = self;
        let visible = input.get_mut(..*shown).unwrap_or_default();
        let (discard, step) = heard.during(|| match connection {
            Connection::Client(connection) => outcome(connection.process_tls_records(visible), output),
            Connection::Server(connection) => outcome(connection.process_tls_records(visible), output),
        });
        let discard = discard.min(*shown);
        input.drain(..discard);
        (*shown, *whole) = (*shown - discard, whole.saturating_sub(discard));
        match step {
            Ok(Step::Done) if self.common().is_handshaking() => Ok(Step::Blocked),
            step => step,
        }
    }
}

fn outcome<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    output: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let step = match status.state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, output).map(|()| Step::Again),
        // It is sent before anything else happens.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
            Err(Error::AlertReceived(rustls::AlertDescription::CloseNotify))
        }
        Ok(_) => Err(Error::General("bytes of the stream before the end of the handshake".into())),
        Err(error) => Err(error),
    };
    (status.discard, step)
}

fn encode<Data>(
    data: &mut rustls::unbuffered::EncodeTlsData<'_, Data>,
    output: &mut Vec<u8>,
) -> Result<(), Error> {
    use rustls::unbuffered::{EncodeError, InsufficientSizeError};
    let begin = output.len();
    let needed = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => required_size,
        _ => 0,
    };
    output.resize(begin + needed, 0);
    match data.encode(output.get_mut(begin..).unwrap_or_default()) {
        Ok(written) => output.truncate(begin + written),
        Err(error) => return Err(Error::General(error.to_string())),
    }
    Ok(())
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("input", &self.input.len()).finish_non_exhaustive()
    }
}
