//! A tree into settings: the schema of `kind: Mesh`, and its bounds.

use super::{Exception, KIND, MAX_EXCEPTIONS, MAX_PORTS, Mode, Settings, UnknownDestinations};
use crate::document::{Node, ParseError, Place};

const WHAT: &str = "a mesh document";
const FIELDS: &[&str] = &["kind", "mode", "permissive", "strict", "unknownDestinations"];

/// Reads the document; `file` is for messages only.
pub(super) fn settings(file: &str, node: &Node) -> Result<Settings, ParseError> {
    let place = Place::new(file, node);
    place.kind(WHAT, &[KIND])?;
    let fields = place.fields(WHAT, FIELDS)?;
    fields.required("kind")?;
    let list = |key: &str| fields.list(key, "a list of workloads and ports", MAX_EXCEPTIONS, exception);
    Ok(Settings {
        mode: mode(&fields.required("mode")?)?,
        permissive: list("permissive")?.unwrap_or_default(),
        strict: list("strict")?.unwrap_or_default(),
        unknown_destinations: fields
            .optional("unknownDestinations")
            .map(|place| unknown_destinations(&place))
            .transpose()?,
    })
}

fn exception(place: &Place<'_>) -> Result<Exception, ParseError> {
    let fields = place.fields(
        "a mapping with `target`, and `ports` or `until` if need be",
        &["target", "ports", "until"],
    )?;
    Ok(Exception {
        target: fields
            .required("target")?
            .parsed("a SPIFFE ID, or one that ends in `/*` for all below it")?,
        ports: fields.list("ports", "a list of ports", MAX_PORTS, Place::port)?,
        until: fields.optional("until").map(|place| place.time()).transpose()?,
    })
}

fn mode(place: &Place<'_>) -> Result<Mode, ParseError> {
    const EXPECTED: &str = "`strict` or `permissive`";
    match place.text(EXPECTED)? {
        "strict" => Ok(Mode::Strict),
        "permissive" => Ok(Mode::Permissive),
        _ => Err(place.expected(EXPECTED)),
    }
}

fn unknown_destinations(place: &Place<'_>) -> Result<UnknownDestinations, ParseError> {
    const EXPECTED: &str = "`refuse` or `passthrough`";
    match place.text(EXPECTED)? {
        "refuse" => Ok(UnknownDestinations::Refuse),
        "passthrough" => Ok(UnknownDestinations::Passthrough),
        _ => Err(place.expected(EXPECTED)),
    }
}
