//! What the rules leave alone: ports, networks and users that were excluded, each by itself.

use signet_tests::apps::Nginx;
use signet_tests::place::Place;
use signet_tests::pods::Family;

use crate::captured::{Pods, assert_no_answer, capture, install, opened, page, page_as};

#[tokio::test(flavor = "multi_thread")]
async fn excluded_ports_networks_and_users_of_the_app_are_not_captured() {
    const EXEMPT_USER: u32 = 4711;
    for family in [Family::V4, Family::V6] {
        let pods = Pods::new(family);
        let stranger = Nginx::start_at(Place::Pod(&pods.outside)).await;
        let captured = pods.proxies(&[], &[]).await;
        let (ip, bits) = (pods.outside.ip(), if family == Family::V4 { 32 } else { 128 });
        let (network, port) = (format!("{ip}/{bits}"), stranger.address.port().to_string());
        let (other_network, other_port) = (format!("{}/{bits}", pods.app.ip()), "8081".to_owned());
        let user = EXEMPT_USER.to_string();
        let cases = [
            ("--exclude-outbound-port", &port, true, true),
            ("--exclude-outbound-port", &other_port, false, false),
            ("--exclude-outbound-cidr", &network, true, true),
            ("--exclude-outbound-cidr", &other_network, false, false),
            ("--exclude-uid", &user, false, true),
        ];
        for (option, value, app_passes, exempt_passes) in cases {
            install(&pods.caller, &["--proxy-uid", "0", option, value]).await;
            let before = opened(&captured.caller, "outbound").await;
            let as_app = page(&pods.caller, stranger.address, "/charge/1").await;
            let as_exempt = page_as(&pods.caller, EXEMPT_USER, stranger.address, "/charge/1").await;
            for (answer, passes) in [(&as_app, app_passes), (&as_exempt, exempt_passes)] {
                if passes {
                    assert_eq!(answer.as_deref(), Ok("GET /charge/1"), "{family:?} {option} {value}");
                } else {
                    assert_no_answer(answer, &format!("{family:?} {option} {value}"));
                }
            }
            let caught = u64::from(!app_passes) + u64::from(!exempt_passes);
            assert_eq!(opened(&captured.caller, "outbound").await - before, caught, "{option} {value}");
        }
        let _ = capture(&pods.caller, "remove").run().await.succeeded();
        let answer = page(&pods.caller, stranger.address, "/charge/1").await;
        assert_eq!(answer.as_deref(), Ok("GET /charge/1"), "rules that are removed capture nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn excluded_ports_and_networks_reach_the_app_as_they_are() {
    for mode in ["redirect", "tproxy"] {
        let pods = Pods::new(Family::V4);
        let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
        let captured = pods.proxies(&[nginx.address], &[]).await;
        let (caller, outside) = (format!("{}/32", pods.caller.ip()), format!("{}/32", pods.outside.ip()));
        let both = format!("{}/24", pods.outside.ip());
        let port = nginx.address.port().to_string();
        let cases = [
            ("--exclude-inbound-port", port.as_str(), true, true),
            ("--exclude-inbound-port", "8081", false, false),
            ("--exclude-inbound-cidr", &caller, true, false),
            ("--exclude-inbound-cidr", &outside, false, true),
            ("--exclude-inbound-cidr", &both, true, true),
        ];
        for (option, value, caller_passes, outside_passes) in cases {
            install(&pods.app, &["--proxy-uid", "0", "--inbound-mode", mode, option, value]).await;
            let before = opened(&captured.server, "inbound").await;
            for (pod, passes) in [(&pods.caller, caller_passes), (&pods.outside, outside_passes)] {
                let answer = page(pod, nginx.address, "/charge/1").await;
                if passes {
                    assert_eq!(answer.as_deref(), Ok("GET /charge/1"), "{mode} {option} {value} {pod}");
                } else {
                    assert_no_answer(&answer, &format!("{mode} {option} {value} {pod}"));
                }
            }
            let caught = u64::from(!caller_passes) + u64::from(!outside_passes);
            let seen = opened(&captured.server, "inbound").await - before;
            assert_eq!(seen, caught, "{mode} {option} {value}");
        }
    }
}
