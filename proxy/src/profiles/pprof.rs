//! The format of `pprof` (`profile.proto`), which `go tool pprof`, Grafana, Parca and speedscope read: tables of strings,
//! functions and places, and samples that refer to them by number.

use std::collections::HashMap;
use std::time::SystemTime;

use prost::Message;

use super::{Place, Profile};

#[derive(Clone, PartialEq, Message)]
struct Encoded {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

/// Each string once; the first is the empty one.
struct Strings {
    known: HashMap<String, i64>,
    table: Vec<String>,
}

impl Strings {
    fn number(&mut self, text: &str) -> i64 {
        if let Some(number) = self.known.get(text) {
            return *number;
        }
        let number = i64::try_from(self.table.len()).unwrap_or_default();
        self.known.insert(text.to_owned(), number);
        self.table.push(text.to_owned());
        number
    }
}

impl Profile {
    /// As `pprof` reads it.
    #[must_use]
    pub fn pprof(&self) -> Vec<u8> {
        let mut strings = Strings { known: HashMap::new(), table: Vec::new() };
        strings.number("");
        let mut encoded = Encoded::default();
        for (kind, unit) in self.counts {
            encoded.sample_type.push(ValueType { kind: strings.number(kind), unit: strings.number(unit) });
        }
        for (number, mapping) in (1..).zip(&self.mappings) {
            encoded.mapping.push(Mapping {
                id: number,
                memory_start: mapping.start,
                memory_limit: mapping.end,
                file_offset: mapping.offset,
                filename: strings.number(&mapping.path),
                // The program has its own names, and no file with lines may be at hand.
                has_functions: true,
            });
        }
        let (mut functions, mut locations) = (HashMap::new(), HashMap::new());
        for (stack, counts) in &self.stacks {
            let mut location_id = Vec::with_capacity(stack.len());
            for place in stack {
                let Place { address, mapping, function } = place;
                let next = functions.len() as u64 + 1;
                let function_id = *functions.entry(function).or_insert_with(|| {
                    encoded.function.push(Function { id: next, name: strings.number(function) });
                    next
                });
                let next = locations.len() as u64 + 1;
                location_id.push(*locations.entry(*address).or_insert_with(|| {
                    encoded.location.push(Location {
                        id: next,
                        mapping_id: mapping.map_or(0, |mapping| mapping as u64 + 1),
                        address: *address,
                        line: vec![Line { function_id }],
                    });
                    next
                }));
            }
            encoded.sample.push(Sample { location_id, value: counts.clone() });
        }
        let (kind, unit, period) = self.period;
        encoded.period_type = Some(ValueType { kind: strings.number(kind), unit: strings.number(unit) });
        encoded.period = period;
        let began = self.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        encoded.time_nanos = i64::try_from(began.as_nanos()).unwrap_or_default();
        encoded.duration_nanos = i64::try_from(self.lasted.as_nanos()).unwrap_or_default();
        let main = self.counts.get(self.main).map_or("", |(kind, _)| *kind);
        encoded.default_sample_type = strings.number(main);
        if self.lost > 0 {
            encoded.comment.push(strings.number(&format!("{} samples found no room", self.lost)));
        }
        encoded.string_table = strings.table;
        encoded.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles::tests::small;

    #[test]
    fn samples_refer_to_places_and_places_to_functions() {
        let read = Encoded::decode(small().pprof().as_slice()).unwrap();
        let text = |number: i64| read.string_table[usize::try_from(number).unwrap()].as_str();
        assert_eq!(text(0), "");
        let kinds: Vec<_> = read.sample_type.iter().map(|kind| (text(kind.kind), text(kind.unit))).collect();
        assert_eq!(kinds, [("samples", "count"), ("cpu", "nanoseconds")]);
        let stacks = read.sample.iter().map(|sample| {
            let names = sample.location_id.iter().map(|id| {
                let location = read.location.iter().find(|location| location.id == *id).unwrap();
                let function = location.line[0].function_id;
                text(read.function.iter().find(|known| known.id == function).unwrap().name)
            });
            (names.collect::<Vec<_>>().join(" < "), sample.value.clone())
        });
        let stacks: Vec<_> = stacks.collect();
        assert_eq!(stacks[0], ("leaf < [a; 2] < main".to_owned(), vec![2, 20]));
        assert_eq!(stacks[1], ("[a; 2] < main".to_owned(), vec![1, 10]));
        assert_eq!((read.location.len(), read.function.len()), (3, 3), "each once");
        assert_eq!((read.duration_nanos, read.time_nanos), (2_000_000_000, 1_000_000_000));
        assert_eq!(
            (text(read.default_sample_type), text(read.comment[0])),
            ("cpu", "3 samples found no room")
        );
    }
}
