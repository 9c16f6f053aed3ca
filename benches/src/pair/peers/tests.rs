use super::*;

#[test]
fn every_program_comes_from_somewhere() {
    let plan = Plan {
        peers: vec![Peer::None, Peer::Signet],
        loads: Vec::new(),
        rounds: 1,
        effort: super::super::Effort::quick(),
        signet: Some((PathBuf::from("signet-proxy"), PathBuf::from("signet-control"))),
    };
    let programs = Programs::find(&plan).unwrap();
    assert_eq!(programs.of(Peer::Signet).unwrap(), Path::new("signet-proxy"));
    assert!(programs.of(Peer::Envoy).unwrap_err().to_string().contains("Envoy takes no part"));
}
