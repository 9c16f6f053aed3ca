//! The calls of the service definition as a type, generated from it.
//!
//! Rights are decided by call. A decision is a `match` over [`Verb`] without a catch-all, so that a call that is
//! added to the definition has to be decided on before anything compiles.

include!(concat!(env!("OUT_DIR"), "/verbs.rs"));

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The definition, read another way than the generator does.
    #[test]
    fn every_call_of_the_definition_is_there_once_with_its_path() {
        let mut defined = BTreeSet::new();
        for file in [
            include_str!("../signet/v1/identity.proto"),
            include_str!("../signet/v1/mesh.proto"),
            include_str!("../signet/v1/report.proto"),
            include_str!("../signet/v1/admin.proto"),
        ] {
            let mut service = "";
            for line in file.lines().map(str::trim) {
                if let Some(name) = line.strip_prefix("service ").and_then(|rest| rest.split(' ').next()) {
                    service = name;
                }
                if let Some(name) = line.strip_prefix("rpc ").and_then(|rest| rest.split('(').next()) {
                    defined.insert(format!("/signet.v1.{service}/{name}"));
                }
            }
        }
        let generated: BTreeSet<_> = Verb::ALL.iter().map(|verb| verb.path().to_owned()).collect();
        assert_eq!(generated, defined);
        assert_eq!(Verb::ALL.len(), defined.len());
    }

    #[test]
    fn path_and_verb_name_each_other() {
        for &verb in Verb::ALL {
            assert_eq!(Verb::from_path(verb.path()), Some(verb));
            assert_eq!(verb.path(), format!("/signet.v1.{}/{}", verb.service(), verb.method()));
            for other in [&verb.path()[1..], &format!("{}/", verb.path()), &verb.path().to_lowercase()] {
                assert_eq!(Verb::from_path(other), None, "{other}");
            }
        }
        assert_eq!(Verb::from_path(""), None);
    }
}
