//! What the requests of one connection are counted by: to find a counter by its labels costs more than to count.

use metrics::Counter;
use parking_lot::Mutex;
use signet_proto::spiffe::SpiffeId;

use super::{Direction, metrics as named};

/// Statuses whose counters are kept. Apps answer with few.
const MOST_STATUSES: usize = 16;

/// The counters of one connection. Boxed: most connections carry bytes, and have none.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<Option<Box<Known>>>);

/// Those of the requests between these two.
#[derive(Debug)]
struct Known {
    source: Option<SpiffeId>,
    destination: SpiffeId,
    by_status: Vec<(u16, Counter)>,
}

impl Requests {
    /// Counts one.
    pub(super) fn count(
        &self,
        direction: Direction,
        status: u16,
        source: Option<&SpiffeId>,
        destination: &SpiffeId,
    ) {
        let mut known = self.0.lock();
        let same =
            |known: &&mut Box<Known>| known.source.as_ref() == source && known.destination == *destination;
        let known = match known.as_mut().filter(same) {
            Some(known) => known,
            None => {
                let (source, destination) = (source.cloned(), destination.clone());
                known.insert(Box::new(Known { source, destination, by_status: Vec::new() }))
            }
        };
        if let Some((_, counter)) = known.by_status.iter().find(|(known, _)| *known == status) {
            counter.increment(1);
            return;
        }
        let counter = named::requests(direction, status, source, destination);
        counter.increment(1);
        if known.by_status.len() < MOST_STATUSES {
            known.by_status.push((status, counter));
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn each_is_counted_by_its_status_and_its_ends() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (one, other) = ("spiffe://td/one".parse().unwrap(), "spiffe://td/other".parse().unwrap());
        metrics::with_local_recorder(&recorder, || {
            let requests = Requests::default();
            for destination in [&one, &one, &other, &one] {
                requests.count(Direction::Outbound, 200, Some(&other), destination);
            }
            requests.count(Direction::Outbound, 200, None, &one);
            for status in 200..=200 + MOST_STATUSES as u16 {
                requests.count(Direction::Outbound, status, Some(&other), &one);
            }
        });
        let text = recorder.handle().render();
        let counted = |status: u16, source: &str, destination: &str| {
            let labels = format!(
                "{{direction=\"outbound\",status=\"{status}\",source=\"{source}\",destination=\"{destination}\"}}"
            );
            let line = text.lines().find_map(|line| line.split_once(&labels));
            line.and_then(|(_, count)| count.trim().parse::<u64>().ok())
        };
        assert_eq!(counted(200, "spiffe://td/other", "spiffe://td/one"), Some(4), "{text}");
        assert_eq!(counted(200, "spiffe://td/other", "spiffe://td/other"), Some(1));
        assert_eq!(counted(200, "none", "spiffe://td/one"), Some(1));
        assert_eq!(
            counted(216, "spiffe://td/other", "spiffe://td/one"),
            Some(1),
            "beyond those that are kept"
        );
    }
}
