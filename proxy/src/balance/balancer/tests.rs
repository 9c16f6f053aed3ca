use proptest::prelude::*;

use super::*;

fn endpoint(number: u8, locality: Option<&str>) -> Endpoint {
    Endpoint {
        address: ([10, 0, 0, number], 15443).into(),
        app_port: 80,
        instance: None,
        locality: locality.map(|locality| locality.parse().unwrap()),
    }
}

fn endpoints(count: u8) -> Vec<Endpoint> {
    (0..count).map(|number| endpoint(number, None)).collect()
}

fn balancer(seed: u64, endpoints: &[Endpoint], now: Instant) -> Balancer {
    let mut balancer = Balancer::new(None, Random::seeded(seed), now);
    balancer.update(endpoints, now);
    balancer
}

fn ejected(balancer: &Balancer, now: Instant) -> usize {
    balancer.statuses(now).iter().filter(|status| status.ejected_for.is_some()).count()
}

#[derive(Debug, Clone)]
enum Step {
    Call {
        fails: bool,
        millis: u64,
    },
    Wait(u64),
    /// The endpoints whose bit is set are there.
    There(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<bool>(), 0..2000_u64).prop_map(|(fails, millis)| Step::Call { fails, millis }),
        2 => (0..20_000_u64).prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::There),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_someone_is_chosen_and_not_more_than_half_are_ejected_at_once(
        seed in any::<u64>(), count in 1..8_u8, steps in proptest::collection::vec(step(), 0..300),
    ) {
        let mut now = Instant::now();
        let mut there = endpoints(count);
        let mut balancer = balancer(seed, &there, now);
        for step in steps {
            match step {
                Step::Call { fails, millis } => {
                    let Some((slot, chosen)) = balancer.choose(&[], now) else {
                        prop_assert!(there.is_empty());
                        continue;
                    };
                    prop_assert!(there.contains(&chosen));
                    let took = Duration::from_millis(millis);
                    let before = ejected(&balancer, now);
                    let outcome = if fails { Outcome::Failed(took) } else { Outcome::Answered(took) };
                    if balancer.ended(slot, outcome, now).is_some() {
                        let after = ejected(&balancer, now);
                        prop_assert!(after > before && after * 2 <= there.len(), "{after} of {}", there.len());
                    }
                    balancer.released(slot);
                }
                Step::Wait(millis) => now += Duration::from_millis(millis),
                Step::There(bits) => {
                    there = (0..8).filter(|bit| bits >> bit & 1 == 1).map(|bit| endpoint(bit, None)).collect();
                    balancer.update(&there, now);
                }
            }
            let statuses = balancer.statuses(now);
            prop_assert_eq!(statuses.len(), there.len());
            prop_assert!(statuses.iter().all(|status| status.outstanding == 0));
        }
        // Every ejection ends by itself.
        now += Duration::from_secs(301);
        balancer.choose(&[], now);
        prop_assert_eq!(ejected(&balancer, now), 0);
    }

    #[test]
    fn what_was_tried_is_not_chosen_again_until_all_were(
        seed in any::<u64>(), count in 1..8_u8, failing in any::<bool>(),
    ) {
        let now = Instant::now();
        let mut balancer = balancer(seed, &endpoints(count), now);
        for _ in 0..if failing { 100 } else { 0 } {
            let (slot, _) = balancer.choose(&[], now).unwrap();
            balancer.ended(slot, Outcome::Failed(Duration::ZERO), now);
        }
        let mut tried = Vec::new();
        while let Some((slot, _)) = balancer.choose(&tried, now) {
            prop_assert!(!tried.contains(&slot));
            tried.push(slot);
        }
        prop_assert_eq!(tried.len(), usize::from(count), "the ejected are the last resort");
    }
}

/// Calls of `latency` each, several at a time. How many each endpoint got.
fn run(
    balancer: &mut Balancer,
    start: Instant,
    calls: usize,
    latency: impl Fn(&Endpoint) -> u64,
) -> Vec<usize> {
    const AT_ONCE: usize = 8;
    let mut open: Vec<(Instant, Instant, Slot)> = Vec::new();
    let mut counts: HashMap<Endpoint, usize> = HashMap::new();
    let mut now = start;
    for _ in 0..calls {
        if open.len() == AT_ONCE {
            open.sort_by_key(|(ends, ..)| *ends);
            let (ends, began, slot) = open.remove(0);
            now = now.max(ends);
            balancer.ended(slot, Outcome::Answered(ends - began), now);
            balancer.released(slot);
        }
        let (slot, endpoint) = balancer.choose(&[], now).unwrap();
        open.push((now + Duration::from_millis(latency(&endpoint)), now, slot));
        *counts.entry(endpoint).or_default() += 1;
    }
    for (_, _, slot) in open {
        balancer.released(slot);
    }
    balancer.statuses(now).iter().map(|status| counts.get(&status.endpoint).copied().unwrap_or(0)).collect()
}

#[test]
fn equal_endpoints_get_equal_parts() {
    for (seed, count) in [(1, 2), (2, 3), (3, 5), (4, 10)] {
        let now = Instant::now();
        let mut balancer = balancer(seed, &endpoints(count), now);
        let fair = 4000 / usize::from(count);
        for got in run(&mut balancer, now, 4000, |_| 5) {
            assert!(got > fair * 3 / 4 && got < fair * 5 / 4, "{got} of {fair}, {count} endpoints");
        }
    }
}

#[test]
fn a_slow_one_gets_less() {
    let now = Instant::now();
    let slow = endpoint(1, None);
    let mut balancer = balancer(5, &endpoints(3), now);
    let counts = run(&mut balancer, now, 3000, |endpoint| if *endpoint == slow { 200 } else { 5 });
    assert!(counts[1] < 300 && counts[1] > 0, "{counts:?}");
}

#[test]
fn who_comes_new_gets_its_load_slowly() {
    let start = Instant::now();
    let mut balancer = balancer(6, &endpoints(3), start);
    run(&mut balancer, start, 300, |_| 5);
    let later = start + Duration::from_secs(60);
    balancer.update(&endpoints(4), later);
    let early = run(&mut balancer, later, 400, |_| 1)[3];
    assert!(early > 0 && early < 60, "{early} of 400 at once");
    let warm = later + SLOW_START;
    let full = run(&mut balancer, warm, 4000, |_| 1)[3];
    assert!(full > 700, "{full} of 4000 later");
}

#[test]
fn nearest_ones_are_preferred_while_enough_of_them_are_well() {
    let now = Instant::now();
    let near = [endpoint(0, Some("eu-1/a")), endpoint(1, Some("eu-1/a")), endpoint(2, Some("eu-1/a"))];
    let region = [endpoint(3, Some("eu-1/b"))];
    let far = [endpoint(4, Some("us-1/a")), endpoint(5, None)];
    let all: Vec<_> = near.iter().chain(&region).chain(&far).cloned().collect();
    let mut balancer = Balancer::new(Some("eu-1/a".parse().unwrap()), Random::seeded(7), now);
    balancer.update(&all, now);
    let chosen = |balancer: &mut Balancer, now| -> HashSet<Endpoint> {
        (0..500).map(|_| balancer.choose(&[], now).unwrap().1).collect()
    };
    assert_eq!(chosen(&mut balancer, now), HashSet::from(near.clone()));
    // One of three fails: two are not enough, and the next nearest help.
    let (slot, _) =
        std::iter::from_fn(|| balancer.choose(&[], now)).find(|(_, one)| *one == near[0]).unwrap();
    while balancer.ended(slot, Outcome::Failed(Duration::ZERO), now).is_none() {}
    let helped = HashSet::from([near[1].clone(), near[2].clone(), region[0].clone()]);
    assert_eq!(chosen(&mut balancer, now), helped);
    // Without any near, those of the region; without those, all.
    balancer.update(&[region.as_slice(), &far].concat(), now);
    assert_eq!(chosen(&mut balancer, now), HashSet::from(region));
    balancer.update(&far, now);
    assert_eq!(chosen(&mut balancer, now), HashSet::from(far));
}

#[test]
fn if_more_than_half_of_those_left_are_ejected_none_counts_as_ejected() {
    let now = Instant::now();
    let all = endpoints(4);
    let mut balancer = balancer(8, &all, now);
    for bad in &all[..2] {
        let (slot, _) = std::iter::from_fn(|| balancer.choose(&[], now)).find(|(_, one)| one == bad).unwrap();
        while balancer.ended(slot, Outcome::Failed(Duration::ZERO), now).is_none() {}
    }
    assert_eq!(ejected(&balancer, now), 2);
    balancer.update(&all[..3], now);
    let chosen: HashSet<_> = (0..500).map(|_| balancer.choose(&[], now).unwrap().1).collect();
    assert_eq!(chosen.len(), 3, "panic: all get load");
}
