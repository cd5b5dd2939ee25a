//! What wgpu reports from the side: errors no call returns, and the loss of the device. Never panics on either.

use std::sync::{Arc, Mutex, PoisonError};

use crate::device::DeviceError;

#[derive(Default)]
struct Reported {
    /// Sticky: a lost device stays lost.
    lost: Option<String>,
    out_of_memory: bool,
    refused: Option<String>,
}

/// The first unread report of each kind, shared with the device's callbacks.
#[derive(Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Reported>>);

impl Faults {
    /// Listens to a device. Without a handler of ours, wgpu panics on an error that no scope catches.
    pub(super) fn listen(device: &wgpu::Device) -> Faults {
        let faults = Faults::default();
        let (errors, loss) = (faults.clone(), faults.clone());
        device.on_uncaptured_error(Arc::new(move |error| errors.report(error)));
        device.set_device_lost_callback(move |reason, message| loss.lose(format!("{reason:?}: {message}")));
        faults
    }

    fn with<T>(&self, f: impl FnOnce(&mut Reported) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn report(&self, error: wgpu::Error) {
        self.with(|reported| match error {
            wgpu::Error::OutOfMemory { .. } => reported.out_of_memory = true,
            other => _ = reported.refused.get_or_insert(other.to_string()),
        });
    }

    pub(super) fn lose(&self, reason: String) {
        self.with(|reported| _ = reported.lost.get_or_insert(reason));
    }

    /// The error behind what was reported since the last check, if any: `what` and `bytes` say what was being made.
    pub(super) fn check(&self, what: &'static str, bytes: u64) -> Result<(), DeviceError> {
        self.with(|reported| {
            let (out_of_memory, refused) = (std::mem::take(&mut reported.out_of_memory), reported.refused.take());
            match (&reported.lost, out_of_memory, refused) {
                (Some(reason), _, _) => Err(DeviceError::Lost { reason: reason.clone() }),
                (None, true, _) => Err(DeviceError::OutOfMemory { what, bytes }),
                (None, false, Some(reason)) => {
                    Err(DeviceError::Lost { reason: format!("the driver refused {what}: {reason}") })
                }
                (None, false, None) => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_is_a_fault_remembered() {
        let faults = Faults::default();
        assert!(faults.check("values", 1).is_ok());
        faults.report(wgpu::Error::OutOfMemory { source: "full".into() });
        assert!(matches!(faults.check("values", 7), Err(DeviceError::OutOfMemory { what: "values", bytes: 7 })));
        assert!(faults.check("values", 1).is_ok(), "an error is told once");
        faults.lose("unplugged".to_owned());
        for _ in 0..2 {
            assert!(matches!(faults.check("values", 1), Err(DeviceError::Lost { .. })), "a lost device stays lost");
        }
    }
}
