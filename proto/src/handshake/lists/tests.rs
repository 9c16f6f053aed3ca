use rcgen::KeyUsagePurpose;

use super::*;
use crate::clock;
use crate::handshake::test_ca::{Listing, TestCa};
use crate::handshake::{PeerIdentity, Revocations, RevokedBecause, Svid, Trust, VerifyError, list_signers};
use crate::spiffe::{TrustBundle, certificate_handle};

const HOUR: Duration = Duration::from_secs(3600);

/// A list that is good for an hour.
fn naming<'a>(number: u64, names: &'a [&'a [u8]]) -> Listing<'a> {
    let now = clock::now();
    Listing { number, made: now - HOUR, until: now + HOUR, names }
}

fn ended<'a>(number: u64, names: &'a [&'a [u8]]) -> Listing<'a> {
    let now = clock::now();
    Listing { number, made: now - HOUR * 2, until: now - HOUR, names }
}

fn authorities(bundles: &[TrustBundle]) -> Vec<ListSigner> {
    bundles.iter().flat_map(list_signers).collect()
}

/// These lists, one after the other, as a proxy with these bundles takes them.
fn taken(bundles: &[TrustBundle], lists: Vec<RevocationList>) -> Lists {
    let intake = Lists::default().with(lists, &authorities(bundles), clock::now());
    assert_eq!(intake.refused, []);
    intake.lists
}

fn trust(bundles: &[TrustBundle], lists: Lists) -> Trust {
    Trust::new(bundles.to_vec(), Revocations::default()).with_lists(lists)
}

/// What a new peer with this SVID is told; `None` if it is let in.
fn verdict(trust: &Trust, svid: &Svid) -> Option<&'static str> {
    let (leaf, above) = svid.chain().split_first().unwrap();
    let verified = trust.verify(leaf, above, clock::now(), crate::handshake::trust::Role::Client);
    verified.err().map(|error| error.reason())
}

/// What becomes of an open connection.
fn cut(trust: &Trust, svid: &Svid) -> Option<RevokedBecause> {
    trust.revoked(&PeerIdentity::from_verified(Some(svid.chain())).unwrap())
}

fn serial(svid: &Svid) -> Vec<u8> {
    svid.profile().serial.clone()
}

#[test]
fn list_of_an_intermediate_counts_once_a_peer_shows_who_that_is() {
    let ca = TestCa::new("td");
    let (gone, other) = (ca.svid("/gone"), ca.svid("/other"));
    let lists = taken(&[ca.bundle()], vec![naming(1, &[&serial(&gone)]).signed_by(ca.issuer())]);
    let list = Arc::clone(lists.all().next().unwrap());
    let trust = trust(&[ca.bundle()], lists);
    assert_eq!(list.state(), ListState::Waiting);
    assert_eq!(verdict(&trust, &other), None);
    assert_eq!(list.state(), ListState::Used);
    assert_eq!(verdict(&trust, &gone), Some("revoked_certificate"));
    assert_eq!(cut(&trust, &gone), Some(RevokedBecause::Certificate));
    assert_eq!(cut(&trust, &other), None);
}

#[test]
fn every_element_is_held_against_the_list_of_its_own_issuer() {
    let ca = TestCa::new("td");
    let svid = ca.svid("/a");
    let intermediate = certificate_handle(&svid.chain()[1]).unwrap().serial;
    let by_root = taken(&[ca.bundle()], vec![naming(1, &[&intermediate]).signed_by(ca.root_issuer())]);
    assert_eq!(by_root.all().next().unwrap().state(), ListState::Used, "a root is known at once");
    let revoking = trust(&[ca.bundle()], by_root);
    assert_eq!(verdict(&revoking, &svid), Some("revoked_certificate"));
    assert_eq!(cut(&revoking, &svid), Some(RevokedBecause::Certificate));

    // The same serials in the list of the other issuer say nothing.
    let crossed = vec![
        naming(1, &[&serial(&svid)]).signed_by(ca.root_issuer()),
        naming(1, &[&intermediate]).signed_by(ca.issuer()),
    ];
    let crossed = trust(&[ca.bundle()], taken(&[ca.bundle()], crossed));
    assert_eq!((verdict(&crossed, &svid), cut(&crossed, &svid)), (None, None));
}

#[test]
fn list_of_an_authority_with_the_same_name_in_another_domain_says_nothing() {
    let (ours, theirs) = (TestCa::named("ours", "acme", |_| {}), TestCa::named("theirs", "acme", |_| {}));
    let bundles = [ours.bundle(), theirs.bundle()];
    let svid = ours.svid("/a");
    let intermediate = certificate_handle(&svid.chain()[1]).unwrap().serial;
    let lists = vec![
        naming(1, &[&serial(&svid)]).signed_by(theirs.issuer()),
        naming(1, &[&intermediate]).signed_by(theirs.root_issuer()),
    ];
    let trust = trust(&bundles, taken(&bundles, lists));
    assert_eq!((verdict(&trust, &svid), cut(&trust, &svid)), (None, None));
    assert_eq!(verdict(&trust, &theirs.svid("/b")), None);
    // Nor does it make up for one that is out of date.
    let both =
        vec![ended(1, &[]).signed_by(ours.root_issuer()), naming(2, &[]).signed_by(theirs.root_issuer())];
    let stale = self::trust(&bundles, taken(&bundles, both));
    assert_eq!(verdict(&stale, &svid), Some("crl_expired"));
    assert_eq!(verdict(&stale, &theirs.svid("/b")), None);
}

#[test]
fn list_of_a_domain_that_is_not_believed_counts_for_nobody_until_it_is() {
    let (ours, theirs) = (TestCa::new("ours"), TestCa::new("theirs"));
    let svid = theirs.svid("/b");
    let intermediate = certificate_handle(&svid.chain()[1]).unwrap().serial;
    let lists = taken(&[ours.bundle()], vec![naming(1, &[&intermediate]).signed_by(theirs.root_issuer())]);
    assert_eq!(lists.all().next().unwrap().state(), ListState::Waiting);
    let both = trust(&[ours.bundle(), theirs.bundle()], lists.clone());
    assert_eq!(lists.all().next().unwrap().state(), ListState::Used, "its bundle came later");
    assert_eq!(verdict(&both, &svid), Some("revoked_certificate"));
    let gone = trust(&[ours.bundle()], lists);
    assert_eq!(verdict(&gone, &svid), Some("unknown_trust_domain"));
    assert_eq!(cut(&gone, &svid), None, "that its bundle is gone is another reason");
}

#[test]
fn lists_are_replaced_by_newer_ones_only() {
    let ca = TestCa::new("td");
    let (one, two) = (ca.svid("/one"), ca.svid("/two"));
    let bundles = [ca.bundle()];
    let now = clock::now();
    let take = |lists: &Lists, list: RevocationList| {
        let intake = lists.with(vec![list], &authorities(&bundles), now);
        (intake.lists, intake.refused)
    };
    let first = taken(&bundles, vec![naming(0x10, &[&serial(&one)]).signed_by(ca.issuer())]);
    // Who signs it is known from now on.
    assert_eq!(verdict(&trust(&bundles, first.clone()), &one), Some("revoked_certificate"));

    let stranger = TestCa::new("td");
    for (case, list, reason) in [
        ("a lower number", naming(0xf, &[]).signed_by(ca.issuer()), "older"),
        ("the same number", naming(0x10, &[]).signed_by(ca.issuer()), "older"),
        (
            "of the future",
            Listing { made: now + HOUR, until: now + HOUR * 2, ..naming(0x11, &[]) }.signed_by(ca.issuer()),
            "future",
        ),
    ] {
        let (next, refused) = take(&first, list);
        assert_eq!(refused.iter().map(ListRefused::reason).collect::<Vec<_>>(), [reason], "{case}");
        assert_eq!(
            verdict(&trust(&bundles, next), &one),
            Some("revoked_certificate"),
            "{case}: the one before stays"
        );
    }
    // A stranger of the same name has another key; a list that says it is by the right one is found out.
    let mut by_stranger = naming(0x11, &[]).signed_by(stranger.issuer());
    let (next, _) = take(&first, by_stranger.clone());
    assert_eq!(verdict(&trust(&bundles, next), &one), Some("revoked_certificate"));
    by_stranger = by_stranger.claiming_key_of(first.all().next().unwrap().content());
    let (next, refused) = take(&first, by_stranger);
    assert_eq!(refused.iter().map(ListRefused::reason).collect::<Vec<_>>(), ["signature"]);
    assert_eq!(verdict(&trust(&bundles, next), &one), Some("revoked_certificate"));

    // The same again is no news, and what is not there any more is not taken back.
    let (same, refused) = take(&first, first.all().next().unwrap().content().clone());
    assert_eq!((refused.len(), same.all().count()), (0, 1));
    let kept = first.with(Vec::new(), &authorities(&bundles), now).lists;
    assert_eq!(verdict(&trust(&bundles, kept), &one), Some("revoked_certificate"));

    let (next, refused) = take(&first, naming(0x11, &[&serial(&two)]).signed_by(ca.issuer()));
    assert_eq!((refused.len(), next.all().count()), (0, 1));
    let trust = trust(&bundles, next);
    assert_eq!((verdict(&trust, &one), verdict(&trust, &two)), (None, Some("revoked_certificate")));
}

#[test]
fn list_by_whom_its_name_does_not_belong_or_who_may_not_sign_is_refused() {
    let ca = TestCa::new("td");
    let bundles = [ca.bundle()];
    let forged = naming(1, &[])
        .signed_by(TestCa::new("td").root_issuer())
        .claiming_key_of(&naming(1, &[]).signed_by(ca.root_issuer()));
    let Intake { lists, refused, .. } =
        Lists::default().with(vec![forged], &authorities(&bundles), clock::now());
    assert_eq!((refused[0].reason(), refused[0].is_missed()), ("signature", false));
    let doubtful = trust(&bundles, lists.clone());
    assert_eq!(verdict(&doubtful, &ca.svid("/a")), Some("crl_unusable"), "what it was made of, nobody knows");
    let genuine =
        lists.with(vec![naming(1, &[]).signed_by(ca.root_issuer())], &authorities(&bundles), clock::now());
    assert_eq!((genuine.refused.len(), verdict(&trust(&bundles, genuine.lists), &ca.svid("/a"))), (0, None));

    let mute = TestCa::named("td", "td", |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    let svid = mute.svid("/a");
    let bundle = TrustBundle::new("td".parse().unwrap(), vec![svid.chain()[1].clone()], 1).unwrap();
    let list = || naming(1, &[]).signed_by(mute.issuer());
    let Intake { lists, refused, .. } =
        Lists::default().with(vec![list()], &authorities(&[bundle]), clock::now());
    assert_eq!(
        (lists.all().next().unwrap().state(), refused[0].reason()),
        (ListState::Unusable, "may_not_sign")
    );
    // An intermediate of which that is seen only later: nobody can tell whether it revoked whom it certified.
    let waiting = taken(&[mute.bundle()], vec![list()]);
    let trust = trust(&[mute.bundle()], waiting.clone());
    assert_eq!(verdict(&trust, &svid), Some("crl_unusable"));
    assert_eq!(waiting.all().next().unwrap().state(), ListState::Unusable);
    assert_eq!(cut(&trust, &svid), None);
}

#[test]
fn expired_list_refuses_new_peers_cuts_nobody_and_may_be_used_if_told_so() {
    let ca = TestCa::new("td");
    let (gone, other) = (ca.svid("/gone"), ca.svid("/other"));
    let bundles = [ca.bundle()];
    let stale = taken(&bundles, vec![ended(1, &[&serial(&gone)]).signed_by(ca.issuer())]);
    let refusing = trust(&bundles, stale.clone());
    assert_eq!(verdict(&refusing, &other), Some("crl_expired"));
    assert_eq!(verdict(&refusing, &gone), Some("revoked_certificate"), "what is known stays known");
    assert_eq!((cut(&refusing, &gone), cut(&refusing, &other)), (Some(RevokedBecause::Certificate), None));
    let using = trust(&bundles, stale.clone().when_expired(ExpiredLists::Use));
    assert_eq!((verdict(&using, &other), verdict(&using, &gone)), (None, Some("revoked_certificate")));

    let fresh = vec![naming(2, &[]).signed_by(ca.issuer())];
    let fresh = stale.with(fresh, &authorities(&bundles), clock::now()).lists;
    let fresh = trust(&bundles, fresh);
    assert_eq!((verdict(&fresh, &other), verdict(&fresh, &gone)), (None, None));
}

#[test]
fn svid_of_our_own_is_not_thrown_away_for_a_list_that_is_out_of_date() {
    let ca = TestCa::new("td");
    let svid = ca.svid("/a");
    let bundles = [ca.bundle()];
    let stale = trust(&bundles, taken(&bundles, vec![ended(1, &[]).signed_by(ca.issuer())]));
    assert_eq!(verdict(&stale, &svid), Some("crl_expired"));
    svid.check(&stale, clock::now()).unwrap();
    let named = taken(&bundles, vec![naming(1, &[&serial(&svid)]).signed_by(ca.issuer())]);
    let error = svid.check(&trust(&bundles, named), clock::now()).unwrap_err();
    assert!(matches!(error, VerifyError::Revoked { because: RevokedBecause::Certificate, .. }));
}

#[test]
fn lists_are_bounded_in_number() {
    let ca = TestCa::new("td");
    let (mut lists, mut refused) = (Lists::default(), Vec::new());
    for number in 0..=MAX_WAITING {
        let other = TestCa::named("td", &number.to_string(), |_| {});
        let list = naming(1, &[]).signed_by(other.issuer());
        let intake = lists.with(vec![list], &authorities(&[ca.bundle()]), clock::now());
        lists = intake.lists;
        refused.extend(intake.refused);
    }
    assert_eq!((lists.all().count(), refused.len()), (MAX_WAITING, 1));
    assert_eq!((refused[0].reason(), refused[0].is_missed()), ("too_many", true));
    // They keep none out that somebody signed.
    let known = lists.with(
        vec![naming(1, &[]).signed_by(ca.root_issuer())],
        &authorities(&[ca.bundle()]),
        clock::now(),
    );
    assert_eq!((known.refused.len(), known.lists.all().count()), (0, MAX_WAITING + 1));
}

#[test]
fn list_that_nobody_is_known_to_have_signed_replaces_none_and_keeps_none_out() {
    let (ca, junk) = (TestCa::new("td"), TestCa::new("td"));
    let (gone, bundles) = (ca.svid("/gone"), [ca.bundle()]);
    let named = serial(&gone);
    let genuine = || naming(1, &[&named]).signed_by(ca.issuer());
    // Of the same name, with a higher number; also one that says it is signed with the same key.
    let others = || {
        let plain = naming(u64::MAX, &[]).signed_by(junk.issuer());
        [plain.clone().claiming_no_key(), plain.clone().claiming_key_of(&genuine()), plain]
    };
    for other in others() {
        for lists in [vec![genuine(), other.clone()], vec![other, genuine()]] {
            let lists = Lists::default().with(lists, &authorities(&bundles), clock::now()).lists;
            assert_eq!(verdict(&trust(&bundles, lists), &gone), Some("revoked_certificate"));
        }
    }
    // Nor if the authority is known before.
    let root = |number| {
        naming(number, &[&certificate_handle(&gone.chain()[1]).unwrap().serial]).signed_by(ca.root_issuer())
    };
    let first = Lists::default().with(
        vec![naming(9, &[]).signed_by(junk.root_issuer()).claiming_no_key()],
        &[],
        clock::now(),
    );
    let lists = first.lists.with(vec![root(1)], &authorities(&bundles), clock::now());
    assert_eq!(lists.refused, []);
    assert_eq!(verdict(&trust(&bundles, lists.lists), &gone), Some("revoked_certificate"));
}

#[test]
fn authority_of_another_domain_with_the_same_name_and_key_identifier_takes_no_list_away() {
    let ours = TestCa::new("ours");
    let theirs = TestCa::imitating(&ours, "theirs");
    let (gone, bundles) = (ours.svid("/gone"), [ours.bundle(), theirs.bundle()]);
    let intermediate = certificate_handle(&gone.chain()[1]).unwrap().serial;
    let genuine = || naming(1, &[&intermediate]).signed_by(ours.root_issuer());
    let theirs = || naming(9, &[]).signed_by(theirs.root_issuer()).claiming_key_of(&genuine());
    for lists in [vec![genuine(), theirs()], vec![theirs(), genuine()]] {
        let lists = Lists::default().with(lists, &authorities(&bundles), clock::now()).lists;
        assert_eq!(verdict(&trust(&bundles, lists), &gone), Some("revoked_certificate"));
    }
}

#[test]
fn of_several_lists_of_a_key_that_becomes_known_the_newest_counts() {
    let ca = TestCa::new("td");
    let (back, gone) = (ca.svid("/back"), ca.svid("/gone"));
    let lists = vec![
        naming(2, &[&serial(&gone)]).signed_by(ca.issuer()),
        naming(1, &[&serial(&back), &serial(&gone)]).signed_by(ca.issuer()),
    ];
    let lists = taken(&[ca.bundle()], lists);
    let trust = trust(&[ca.bundle()], lists.clone());
    assert_eq!((verdict(&trust, &back), verdict(&trust, &gone)), (None, Some("revoked_certificate")));
    assert_eq!((cut(&trust, &back), cut(&trust, &gone)), (None, Some(RevokedBecause::Certificate)));
    assert_eq!(lists.all().count(), 1);
}

#[test]
fn what_a_peer_shows_beside_its_path_signs_no_list() {
    let (ca, other) = (TestCa::new("td"), TestCa::new("td"));
    let svid = ca.svid("/a");
    let lists = taken(&[ca.bundle()], vec![naming(1, &[&serial(&svid)]).signed_by(other.issuer())]);
    let trust = trust(&[ca.bundle()], lists.clone());
    let shown: Vec<_> = svid.chain().iter().cloned().chain([other.svid("/b").chain()[1].clone()]).collect();
    let peer = PeerIdentity::from_verified(Some(&shown)).unwrap();
    assert_eq!(trust.revoked(&peer), None);
    assert_eq!(lists.all().next().unwrap().state(), ListState::Waiting);
}

#[test]
fn expired_list_does_not_keep_us_from_whom_we_cannot_do_without() {
    let ca = TestCa::new("td");
    let (gone, control) = (ca.svid("/gone"), ca.svid("/control"));
    let stale = taken(&[ca.bundle()], vec![ended(1, &[&serial(&gone)]).signed_by(ca.issuer())]);
    let trust = Arc::new(trust(&[ca.bundle()], stale));
    assert_eq!(verdict(&trust, &control), Some("crl_expired"));
    let needed = trust.using_expired_lists();
    assert_eq!((verdict(&needed, &control), verdict(&needed, &gone)), (None, Some("revoked_certificate")));
}
