//! Connections: who talks to whom, as proxies reported it.

use std::time::SystemTime;

use signet_proto::policy::Pattern;

use super::{Cursor, CursorError, Key, Listed, Page, Scan, number, text};
use crate::inventory::Edge;
use crate::store::sightings;
use crate::store::{Store, StoreError};

/// An order in which they can be asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConnectionOrder {
    /// By when something was last seen.
    #[default]
    Last,
    /// By when something was last denied or not reached: only those where that was.
    Refused,
    /// By who is called.
    Destination,
    /// By who calls.
    Source,
}

/// Which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionQuery {
    /// In which order.
    pub order: ConnectionOrder,
    /// Only from these; `None`: from all.
    pub source: Option<Pattern>,
    /// Only to these; `None`: to all.
    pub destination: Option<Pattern>,
    /// Only those last seen after this.
    pub since: Option<SystemTime>,
    /// Which page.
    pub page: Page,
}

const BY_LAST: [Key; 4] = [number("last_at_ms"), text("destination"), text("source"), number("port")];
const BY_REFUSAL: [Key; 4] = [number("refused_at_ms"), text("destination"), text("source"), number("port")];
const BY_DESTINATION: [Key; 3] = [text("destination"), text("source"), number("port")];
const BY_SOURCE: [Key; 3] = [text("source"), text("destination"), number("port")];

impl ConnectionOrder {
    fn keys(self) -> &'static [Key] {
        match self {
            Self::Last => &BY_LAST,
            Self::Refused => &BY_REFUSAL,
            Self::Destination => &BY_DESTINATION,
            Self::Source => &BY_SOURCE,
        }
    }

    /// A place in this order.
    ///
    /// # Errors
    /// When it is none.
    pub fn place(self, text: &str) -> Result<Cursor, CursorError> {
        Cursor::parse(text, self.keys())
    }
}

impl Store {
    /// One page of the connections; `take` says what becomes of each, or that it is passed over.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn connections<T: Send + 'static>(
        &self,
        query: ConnectionQuery,
        mut take: impl FnMut(Edge) -> Option<T> + Send + 'static,
    ) -> Result<Listed<T>, StoreError> {
        self.read(move |sql| {
            let ConnectionQuery { order, source, destination, since, page } = query;
            // The keys first, then what is read.
            let keys: Vec<&str> = order.keys().iter().map(|key| key.column).collect();
            let select = format!("SELECT {}, {} FROM edge", keys.join(", "), sightings::COLUMNS);
            let mut scan = Scan::new(select, order.keys());
            match order {
                ConnectionOrder::Last => {
                    if let Some(since) = since {
                        scan.only("last_at_ms > ?", since);
                    }
                }
                ConnectionOrder::Refused => {
                    scan.only("refused_at_ms IS NOT NULL AND refused_at_ms > ?", 0_i64);
                }
                ConnectionOrder::Destination => {
                    if let Some(destination) = &destination {
                        scan.within("destination", destination);
                    }
                }
                ConnectionOrder::Source => {
                    if let Some(source) = &source {
                        scan.within("source", source);
                    }
                }
            }
            let keys = order.keys().len();
            scan.page(sql, &page, |row| {
                let edge = sightings::read(row, keys)?;
                let meant = source.as_ref().is_none_or(|source| source.matches(&edge.link.source))
                    && destination.as_ref().is_none_or(|wanted| wanted.matches(&edge.link.destination))
                    && since.is_none_or(|since| edge.last_at > since);
                Ok(if meant { take(edge) } else { None })
            })
        })
        .await
    }
}
