//! Whether the buffer may leave the path, and how many buffers there should be.

/// There are at least so many: one may be restarted.
const BUFFERS_MIN: u32 = 2;

/// Requests at once that could come on top of what runs and of the burst that is planned for. Less than nothing: the
/// buffer is needed. By what was seen just now, not over the long window: who leaves the path must not have to come back.
pub fn excess(ready: u32, total: f64, target_burst_capacity: f64, panic_load: f64) -> i64 {
    if target_burst_capacity == 0.0 {
        0
    } else if target_burst_capacity < 0.0 {
        -1
    } else {
        (f64::from(ready) * total - target_burst_capacity - panic_load).floor() as i64
    }
}

/// Who is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The pods.
    Serve,
    /// The buffer.
    Proxy,
}

/// `want`: what the scale is to be, if anybody knows.
pub fn mode(want: Option<u32>, excess: i64) -> Mode {
    if want.is_some_and(|want| want > 0) && excess >= 0 { Mode::Serve } else { Mode::Proxy }
}

/// How many buffers carry all that the pods can have and the burst on top.
pub fn buffers(ready: u32, total: f64, target_burst_capacity: f64, activator_capacity: f64) -> u32 {
    if target_burst_capacity == 0.0 {
        return BUFFERS_MIN;
    }
    let load = f64::from(ready) * total + target_burst_capacity.max(0.0);
    ((load / activator_capacity).ceil() as u32).max(BUFFERS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_buffers() {
        let rows = [(0, 200.0, 2), (1, 200.0, 3), (100, 0.0, 2), (5, -1.0, 5), (15, 200.0, 17)];
        for (pods, burst, expected) in rows {
            assert_eq!(buffers(pods, 100.0, burst, 100.0), expected, "{pods} pods, burst {burst}");
        }
    }

    #[test]
    fn how_many_idle_pods_before_the_buffer_leaves() {
        for (total, expected) in [(100.0, 3), (10.0, 22), (1.0, 211)] {
            let pods = (1..).find(|pods| excess(*pods, total, 211.0, 0.0) >= 0);
            assert_eq!(pods, Some(expected), "{total} each");
        }
    }

    #[test]
    fn who_is_asked_first() {
        use Mode::{Proxy, Serve};
        let rows =
            [(None, 10, Proxy), (Some(0), 10, Proxy), (Some(1), -1, Proxy), (Some(1), 0, Serve), (Some(3), 9, Serve)];
        for (want, excess, expected) in rows {
            assert_eq!(mode(want, excess), expected, "{want:?} {excess}");
        }
    }
}
