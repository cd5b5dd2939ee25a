//! The autoscaler at work here: what it has to know of a service, and who may leave the path when it says so.

use super::service::Service;
use crate::metrics::AutoscaleMetrics;
use crate::scale::autoscale::{Outcome, Path};
use crate::scale::autoscaler::{Around, Autoscaler, Company, Pod};
use crate::scale::scaler::Scaler;
use crate::scale::stats::Report;
use std::sync::Arc;

struct Here(Arc<Service>);

impl Around for Here {
    fn pods(&self) -> Option<Vec<Pod>> {
        self.0.listed_pods()
    }

    fn buffered(&self) -> Option<Report> {
        self.0.report()
    }

    fn path(&self) -> Path {
        self.0.path()
    }

    fn decided(&self, outcome: &Outcome) {
        self.0.decided(outcome.mode);
    }
}

/// The service's autoscaler, where it has one here.
pub fn open(
    service: &Arc<Service>,
    scaler: Option<Arc<dyn Scaler>>,
    metrics: &AutoscaleMetrics,
) -> Option<Arc<Autoscaler>> {
    let (settings, scaler) = (service.config.autoscale.as_ref()?.settings.clone(), scaler?);
    let company = Company { scaler, around: Arc::new(Here(service.clone())), metrics: metrics.clone() };
    let autoscaler = Autoscaler::new(&service.config.name, settings, company);
    service.autoscaled(autoscaler.clone());
    Some(autoscaler)
}
