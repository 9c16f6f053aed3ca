//! The figures: a table for people, JSON for comparisons.

use std::thread;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::Plan;
use crate::numbers::number;

/// What an aim asks for.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

/// One measured number.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    measure: &'static str,
    figure: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<Aim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// Everything that one run measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    version: &'static str,
    measured_at: String,
    store: String,
    cores: usize,
    proxies: usize,
    policy_documents: usize,
    upstreams: usize,
    figures: Vec<Figure>,
}

impl Report {
    pub(super) fn new(plan: &Plan) -> Self {
        let now = jiff::Timestamp::try_from(signet_proto::clock::now());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            measured_at: now.map(|now| now.to_string()).unwrap_or_default(),
            store: format!("{:?}", plan.store).to_lowercase(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            proxies: plan.proxies,
            policy_documents: plan.documents,
            upstreams: plan.upstreams,
            figures: Vec::new(),
        }
    }

    pub(super) fn add(
        &mut self,
        measure: &'static str,
        figure: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) {
        self.figures.push(Figure { measure, figure: figure.into(), value, unit, aim: None, met: None });
    }

    /// The aim of the figure that was added last.
    pub(super) fn aim_at_least(&mut self, least: f64) {
        self.aim(Aim::AtLeast(least));
    }

    /// The aim of the figure that was added last.
    pub(super) fn aim_at_most(&mut self, most: f64) {
        self.aim(Aim::AtMost(most));
    }

    fn aim(&mut self, aim: Aim) {
        if let Some(figure) = self.figures.last_mut() {
            figure.met = Some(match aim {
                Aim::AtLeast(least) => figure.value >= least,
                Aim::AtMost(most) => figure.value <= most,
            });
            figure.aim = Some(aim);
        }
    }

    /// As a table, with what it was measured on above it.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["measure", "figure", "measured", "aim", ""]);
        for figure in &self.figures {
            let aim = match figure.aim {
                Some(Aim::AtLeast(least)) => format!(">= {} {}", number(least), figure.unit),
                Some(Aim::AtMost(most)) => format!("<= {} {}", number(most), figure.unit),
                None => String::new(),
            };
            let met = figure.met.map_or("", |met| if met { "met" } else { "missed" });
            let measured = format!("{} {}", number(figure.value), figure.unit);
            table.add_row([figure.measure, &figure.figure, &measured, &aim, met]);
        }
        for column in [2, 3] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let Self { proxies, store, cores, policy_documents, upstreams, measured_at, .. } = self;
        format!(
            "{proxies} proxies, store {store}, {policy_documents} policy documents, {upstreams} upstreams each, \
             {cores} cores shared with the simulation, {measured_at}\n\n{table}"
        )
    }
}
