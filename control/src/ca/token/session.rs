//! Open sessions of a module's tokens, and what is done in them.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use zeroize::Zeroizing;

use super::place::Attribute as Wanted;
use super::{Answer, Ask, KeyId, TokenError, TokenPlace};
use crate::ca::KeyCurve;

/// Longer ones are none.
const LONGEST_PIN: u64 = 256;

/// The session, and with it everything that was known of its token, is gone.
pub(super) struct Lost(pub(super) TokenError);

/// Digests of PINs that a token refused.
pub(super) type Refused = HashMap<TokenPlace, ([u8; 32], String)>;

/// One session for each token.
pub(super) struct Sessions<'a> {
    context: &'a Pkcs11,
    refused: &'a mut Refused,
    open: HashMap<TokenPlace, Open>,
}

struct Open {
    session: Session,
    info: TokenInfo,
    /// Private keys that were looked for.
    keys: HashMap<KeyId, ObjectHandle>,
}

impl<'a> Sessions<'a> {
    pub(super) fn new(context: &'a Pkcs11, refused: &'a mut Refused) -> Self {
        Self { context, refused, open: HashMap::new() }
    }

    /// Does it, in a session that is opened if need be.
    pub(super) fn answer(
        &mut self,
        place: &TokenPlace,
        ask: &Ask,
    ) -> Result<Result<Answer, TokenError>, Lost> {
        if !self.open.contains_key(place) {
            match self.login(place) {
                Ok(open) => drop(self.open.insert(place.clone(), open)),
                Err(error @ (TokenError::PinFile { .. } | TokenError::PinRefused { .. })) => {
                    return Ok(Err(error));
                }
                // Modules look for tokens when they begin.
                Err(error) => return Err(Lost(error)),
            }
        }
        let Some(open) = self.open.get_mut(place) else {
            return Err(Lost(away(place)));
        };
        match open.answer(place, ask) {
            Ok(answer) => Ok(Ok(answer)),
            Err(Problem::Token(error)) => Ok(Err(error)),
            Err(Problem::Module(error)) => {
                let lost = is_lost(&error);
                let error = TokenError::Failed { token: place.to_string(), error: error.to_string() };
                if lost { Err(Lost(error)) } else { Ok(Err(error)) }
            }
        }
    }

    fn login(&mut self, place: &TokenPlace) -> Result<Open, TokenError> {
        let token = place.to_string();
        let failed = |error: Error| TokenError::Failed { token: token.clone(), error: error.to_string() };
        let (slot, info) = self.find(place).map_err(failed)?.ok_or_else(|| away(place))?;
        let pin = pin(&place.pin)?;
        let digest = crate::sha256(&pin);
        let path = place.pin.clone();
        if let Some((before, reason)) = self.refused.get(place)
            && *before == digest
        {
            return Err(TokenError::PinRefused { token, path, reason: reason.clone() });
        }
        self.refused.remove(place);
        let session = self.context.open_rw_session(slot).map_err(failed)?;
        match session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(pin.to_vec()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(Error::Pkcs11(
                error @ (RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinLocked
                | RvError::PinExpired
                | RvError::UserPinNotInitialized),
                _,
            )) => {
                let reason = format!("{error:?}");
                self.refused.insert(place.clone(), (digest, reason.clone()));
                return Err(TokenError::PinRefused { token, path, reason });
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(Open { session, info, keys: HashMap::new() })
    }

    /// The first token that has all that was asked for.
    fn find(&self, place: &TokenPlace) -> Result<Option<(Slot, TokenInfo)>, Error> {
        for slot in self.context.get_slots_with_token()? {
            let Ok(info) = self.context.get_token_info(slot) else { continue };
            let fits = place.wanted.iter().all(|(attribute, value)| {
                value
                    == match attribute {
                        Wanted::Token => info.label(),
                        Wanted::Serial => info.serial_number(),
                        Wanted::Model => info.model(),
                        Wanted::Manufacturer => info.manufacturer_id(),
                    }
            });
            if fits {
                return Ok(Some((slot, info)));
            }
        }
        Ok(None)
    }
}

fn away(place: &TokenPlace) -> TokenError {
    TokenError::Away { token: place.to_string(), reason: "no slot holds it".to_owned() }
}

enum Problem {
    Token(TokenError),
    Module(Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Module(error)
    }
}

impl Open {
    fn answer(&mut self, place: &TokenPlace, ask: &Ask) -> Result<Answer, Problem> {
        match ask {
            Ask::Probe => {
                self.session.get_session_info()?;
                Ok(Answer::There(self.info.serial_number().to_owned(), self.info.label().to_owned()))
            }
            Ask::Generate(id, curve, label) => self.generate(place, *id, *curve, label),
            Ask::Sign(id, digest) => {
                let key = self.private(place, *id)?;
                let signature = self.session.sign(&Mechanism::Ecdsa, key, digest);
                if signature.is_err() {
                    self.keys.remove(id);
                }
                Ok(Answer::Signature(signature?))
            }
            Ask::Destroy(id) => {
                self.keys.remove(id);
                for key in self.session.find_objects(&[Attribute::Id(id.0.to_vec())])? {
                    self.session.destroy_object(key)?;
                }
                Ok(Answer::Destroyed)
            }
        }
    }

    /// What a token says of a key is believed: whether it can be taken out is asked of it.
    fn generate(
        &mut self,
        place: &TokenPlace,
        id: KeyId,
        curve: KeyCurve,
        label: &str,
    ) -> Result<Answer, Problem> {
        let (name, label) = (Attribute::Id(id.0.to_vec()), Attribute::Label(label.as_bytes().to_vec()));
        let public = [
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(curve.parameters().to_vec()),
            name.clone(),
            label.clone(),
        ];
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
            name,
            label,
        ];
        let (public, private) =
            self.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
        let asked = [AttributeType::AlwaysSensitive, AttributeType::NeverExtractable];
        let told = self.session.get_attributes(private, &asked)?;
        let stays = told.contains(&Attribute::AlwaysSensitive(true))
            && told.contains(&Attribute::NeverExtractable(true));
        let point = self.session.get_attributes(public, &[AttributeType::EcPoint])?;
        let point = point.into_iter().find_map(|attribute| match attribute {
            Attribute::EcPoint(point) => Some(point),
            _ => None,
        });
        let problem = match (stays, point) {
            (true, Some(point)) => {
                self.keys.insert(id, private);
                return Ok(Answer::Made(point));
            }
            (false, _) => "the key that it made could be taken out",
            (true, None) => "it does not tell the public half of the key that it made",
        };
        for key in [public, private] {
            self.session.destroy_object(key)?;
        }
        Err(Problem::Token(TokenError::Unfit { token: place.to_string(), problem }))
    }

    fn private(&mut self, place: &TokenPlace, id: KeyId) -> Result<ObjectHandle, Problem> {
        if let Some(key) = self.keys.get(&id) {
            return Ok(*key);
        }
        let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(id.0.to_vec())];
        let found = self.session.find_objects(&wanted)?.into_iter().next();
        let missing = || TokenError::NoKey { token: place.to_string(), name: crate::hex::encode(&id.0) };
        let key = found.ok_or_else(|| Problem::Token(missing()))?;
        self.keys.insert(id, key);
        Ok(key)
    }
}

/// Whether a new session could do better.
fn is_lost(error: &Error) -> bool {
    match error {
        Error::Pkcs11(error, _) => !matches!(
            error,
            RvError::MechanismInvalid
                | RvError::MechanismParamInvalid
                | RvError::CurveNotSupported
                | RvError::AttributeTypeInvalid
                | RvError::AttributeValueInvalid
                | RvError::AttributeReadOnly
                | RvError::TemplateIncomplete
                | RvError::TemplateInconsistent
                | RvError::KeyFunctionNotPermitted
                | RvError::ActionProhibited
                | RvError::TokenWriteProtected
                | RvError::DeviceMemory
        ),
        _ => false,
    }
}

/// Without the end of its line.
fn pin(path: &Path) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    let wrong = |problem: String| TokenError::PinFile { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mode = file.metadata().map_err(|error| wrong(error.to_string()))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(wrong(format!("it can be read by others (mode {mode:o}): `chmod 600` it")));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST_PIN as usize));
    file.take(LONGEST_PIN).read_to_end(&mut text).map_err(|error| wrong(error.to_string()))?;
    while text.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
        text.pop();
    }
    if text.is_empty() { Err(wrong("expected a PIN, found nothing".into())) } else { Ok(text) }
}
