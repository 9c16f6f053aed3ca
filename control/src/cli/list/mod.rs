//! Lists of what there is: one way to filter, sort, page, print and watch them. A list says its columns and how to ask
//! for a page; everything else is here.
//!
//! Control sorts by what it has an index for, and then rows are printed as they come, however many. Any other column is
//! sorted here, of all rows that match, and they must not be too many for that.

mod certificates;
mod column;
mod connections;
mod instances;
mod outsiders;
mod print;
mod watch;
mod workloads;

use std::cmp::Ordering;

use signet_proto::v1;
use signet_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

use super::args::Listing;
use super::connect::Session;
use super::error::CliError;
use super::output::Output;

pub(super) use certificates::Certificates;
pub(super) use column::{Column, Field, object};
pub(super) use connections::Connections;
pub(super) use instances::{Identities, Instances};
pub(super) use outsiders::Outsiders;
pub(super) use workloads::COLUMNS as WORKLOAD_COLUMNS;
pub(super) use workloads::Workloads;

use print::Printer;

/// Rows of a table, unless more are asked for: nobody reads more.
const IN_A_TABLE: usize = 500;
/// Rows that are sorted here, at most.
const SORTED_HERE: usize = 100_000;
const PAGE: usize = 1000;

/// A list that can be asked for.
pub(super) trait List {
    /// One of its rows.
    type Row: 'static;

    /// All that is known of a row, in the order of the table.
    const COLUMNS: &'static [Column<Self::Row>];

    /// The orders that control has; the first is the usual one for these filters.
    fn orders(&self) -> Vec<Order>;

    /// What tells a row from others.
    fn key(row: &Self::Row) -> String;

    /// A page, and where the next one begins.
    async fn page(
        &self,
        client: &mut AdminClient<Channel>,
        page: v1::Page,
    ) -> Result<(Vec<Self::Row>, String), CliError>;
}

/// An order that control has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    /// As it is called in the request.
    pub(super) name: &'static str,
    /// Of this column.
    pub(super) column: &'static str,
    /// The usual direction.
    pub(super) descending: bool,
}

/// Prints the list, or goes on printing it.
pub(super) async fn run<L: List>(
    list: &L,
    asked: &Listing,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let sorting = Sorting::of(list, asked)?;
    if asked.watch {
        return watch::run(list, asked, &sorting, session, output).await;
    }
    let mut client = session.admin().await?;
    let mut printer = Printer::new(output);
    let mut left = asked.limit.or(output.is_for_people().then_some(IN_A_TABLE));
    match sorting {
        Sorting::There(_) => {
            let mut pages = Pages::new(list, &sorting);
            while let Some(mut rows) = pages.next(&mut client, left).await? {
                if let Some(left) = &mut left {
                    pages.is_cut |= rows.len() > *left;
                    rows.truncate(*left);
                    *left -= rows.len();
                }
                printer.rows(L::COLUMNS, &rows)?;
                if left == Some(0) {
                    break;
                }
            }
            printer.end(L::COLUMNS, pages.is_cut || pages.goes_on())
        }
        Sorting::Here(..) => {
            let (rows, cut) = all(list, &sorting, &mut client, left).await?;
            printer.rows(L::COLUMNS, &rows)?;
            printer.end(L::COLUMNS, cut)
        }
    }
}

/// Where rows are put in order.
enum Sorting<R: 'static> {
    /// At control.
    There(Order),
    /// Here, by this column; true: from the end.
    Here(Order, &'static Column<R>, bool),
}

impl<R: 'static> Sorting<R> {
    fn of<L: List<Row = R>>(list: &L, asked: &Listing) -> Result<Self, CliError> {
        let orders = list.orders();
        let usual = orders.first().copied();
        let usual =
            usual.ok_or_else(|| CliError::failed("this list has no order: a defect of this program"))?;
        let turned = |order: Order| Order { descending: order.descending != asked.reverse, ..order };
        let Some(wanted) = &asked.sort else { return Ok(Self::There(turned(usual))) };
        let Some(column) = L::COLUMNS.iter().find(|column| column.is_called(wanted)) else {
            let names: Vec<String> = L::COLUMNS.iter().map(Column::word).collect();
            return Err(CliError::usage(format!("--sort: expected one of {}", names.join(", "))));
        };
        Ok(match orders.into_iter().find(|order| order.column == column.name) {
            Some(order) => Self::There(turned(order)),
            None => Self::Here(usual, column, asked.reverse),
        })
    }

    fn order(&self) -> Order {
        match self {
            Self::There(order) | Self::Here(order, ..) => *order,
        }
    }
}

/// The pages of a list, one after the other.
struct Pages<'l, L> {
    list: &'l L,
    order: Order,
    /// `None`: there are no more.
    after: Option<String>,
    is_cut: bool,
}

impl<'l, L: List> Pages<'l, L> {
    fn new(list: &'l L, sorting: &Sorting<L::Row>) -> Self {
        Self { list, order: sorting.order(), after: Some(String::new()), is_cut: false }
    }

    async fn next(
        &mut self,
        client: &mut AdminClient<Channel>,
        left: Option<usize>,
    ) -> Result<Option<Vec<L::Row>>, CliError> {
        let Some(after) = self.after.take() else { return Ok(None) };
        let limit = left.unwrap_or(PAGE).clamp(1, PAGE);
        let page = v1::Page {
            order: self.order.name.to_owned(),
            descending: self.order.descending,
            limit: u32::try_from(limit).unwrap_or_default(),
            after,
        };
        let (rows, next) = self.list.page(client, page).await?;
        self.after = (!next.is_empty()).then_some(next);
        Ok(Some(rows))
    }

    fn goes_on(&self) -> bool {
        self.after.is_some()
    }
}

/// So many rows, in order; and whether there are more.
async fn all<L: List>(
    list: &L,
    sorting: &Sorting<L::Row>,
    client: &mut AdminClient<Channel>,
    limit: Option<usize>,
) -> Result<(Vec<L::Row>, bool), CliError> {
    let most = match sorting {
        Sorting::There(_) => limit.unwrap_or(SORTED_HERE),
        Sorting::Here(..) => SORTED_HERE,
    };
    let mut pages = Pages::new(list, sorting);
    let mut rows = Vec::new();
    while rows.len() <= most
        && let Some(page) = pages.next(client, Some(PAGE)).await?
    {
        rows.extend(page);
    }
    let more = pages.goes_on();
    if let Sorting::Here(_, column, descending) = sorting {
        if rows.len() > SORTED_HERE || more {
            return Err(CliError::failed(format!(
                "more than {SORTED_HERE} rows match, too many to sort by `{}`",
                column.name
            ))
            .with_hint("narrow the list, or leave out `--sort`"));
        }
        rows.sort_by_cached_key(|row| Sorted { field: (column.field)(row), descending: *descending });
    }
    let limit = limit.unwrap_or(most);
    let cut = more || rows.len() > limit;
    rows.truncate(limit);
    Ok((rows, cut))
}

/// A field as a place in an order; what is not there comes last.
#[derive(PartialEq, Eq)]
struct Sorted {
    field: Field,
    descending: bool,
}

impl Ord for Sorted {
    fn cmp(&self, other: &Self) -> Ordering {
        let (mine, theirs) = (&self.field, &other.field);
        mine.is_nothing().cmp(&theirs.is_nothing()).then_with(|| match self.descending {
            true => theirs.rank(mine),
            false => mine.rank(theirs),
        })
    }
}

impl PartialOrd for Sorted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
